"""Determines a task's output from its cells: guess the type, choose the schema, and normalize rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from cotune.errors import InputError, shortened
from cotune.task.known import Known
from cotune.task.split import Rows
from cotune.task.values.json_value import json_text
from cotune.task.values.kinds.registry import KINDS, OutputType
from cotune.task.values.output import Output


def guess_type(cells: Sequence[str]) -> tuple[OutputType, str]:
    """Guess the type of outputs; returns it with the reason in a few words.

    JSON if all are JSON objects or lists; numbers if all are numbers, more than twenty differ, and they are not row numbers
    from 0 or 1; else labels if there are at most half as many different values as rows; else text.

    Args:
        cells: the filled cells of the output column, at least one.
    """
    return next((cast(OutputType, name), why) for name, kind in KINDS.items() if (why := kind.recognise(cells)))


def settle(type: OutputType, rows: Rows, labels: tuple[str, ...], schema: Mapping[str, Any] | None) -> Output:
    """The task's output; if no schema is given, it is inferred from train and dev."""
    inferred = KINDS[type].schema_of([row.output for row in rows], schema)
    return Output(type, labels, "" if inferred is None else json_text(inferred))


def kept_schema(known: Known | None, rows: Rows) -> Mapping[str, Any] | None:
    """The JSON Schema of an earlier bundle if all rows fit it, else None."""
    return None if known is None else known.output.kind.kept_schema(known.output.schema, [row.output for row in rows])


def in_one_form(rows: Rows, output: Output) -> Rows:
    """The rows with normalized outputs; JSON gets the schema's order of keys."""
    written = (output.kind.in_one_form(row.output, output.schema) for row in rows)
    return tuple(row if text == row.output else replace(row, output=text) for row, text in zip(rows, written, strict=True))


def check_outputs(rows: Rows, where: str) -> None:
    """Check that outputs are not all the same.

    Raises:
        InputError: if they are.
    """
    counts = Counter(row.output for row in rows)
    if len(counts) < 2:
        raise InputError(
            f"every row has the same output, {shortened(next(iter(counts)))!r}",
            where=where,
            hint="Name another output column, or add rows with other outputs.",
        )
