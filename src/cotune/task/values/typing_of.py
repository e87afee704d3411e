"""From the cells of the output column to outputs: the type guessed, the schema settled, rows in one form."""

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
    """The type of outputs that look like these, and why, in a few words.

    JSON where all are JSON objects or lists; numbers where all are numbers, more than twenty differ and they are no numbering
    from 0 or 1; else labels where the values recur, half as many of them as rows at most; else text.

    Args:
        cells: the filled cells of the output column, at least one.
    """
    return next((cast(OutputType, name), why) for name, kind in KINDS.items() if (why := kind.recognise(cells)))


def settle(type: OutputType, rows: Rows, labels: tuple[str, ...], schema: Mapping[str, Any] | None) -> Output:
    """The task's output; a schema that was not given is inferred from rows that may be looked at, train and dev."""
    found = KINDS[type].schema_of([row.output for row in rows], schema)
    return Output(type, labels, "" if found is None else json_text(found))


def kept_schema(known: Known | None, rows: Rows) -> Mapping[str, Any] | None:
    """The JSON Schema of an earlier bundle, where all rows fit it; None where there is none, or one does not."""
    return None if known is None else known.output.kind.kept_schema(known.output.schema, [row.output for row in rows])


def in_one_form(rows: Rows, output: Output) -> Rows:
    """The rows with their outputs written the one way; of JSON that is the schema's order of keys."""
    written = (output.kind.in_one_form(row.output, output.schema) for row in rows)
    return tuple(row if text == row.output else replace(row, output=text) for row, text in zip(rows, written, strict=True))


def check_outputs(rows: Rows, where: str) -> None:
    """Refuse outputs that are all the same.

    Raises:
        InputError: they are.
    """
    counts = Counter(row.output for row in rows)
    if len(counts) < 2:
        raise InputError(
            f"every row has the same output, {shortened(next(iter(counts)))!r}",
            where=where,
            hint="Name another output column, or add rows with other outputs.",
        )
