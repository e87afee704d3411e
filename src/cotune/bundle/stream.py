"""Answers to a stream of JSON lines, as ``cotune predict`` gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from cotune.bundle.predictor import Prediction, Predictor
from cotune.bundle.rows import checked_row, example_row
from cotune.errors import InputError, RowError
from cotune.task.reading.sheet import json_line
from cotune.task.values.output import Output

ADDED = ("answer", "possible", "probabilities", "truncated", "error")
"""Keys that an answered row gets."""


@dataclass(frozen=True)
class StreamCount:
    """What went through a stream.

    Attributes:
        rows: rows answered.
        truncated: rows among them whose text lost its end.
        errors: further rows, which could not be answered for what stands in them.
        open: rows among those answered that were left open.
    """

    rows: int
    truncated: int
    errors: int = 0
    open: int = 0


def predict_stream(
    predictor: Predictor,
    lines: Iterable[str],
    write: Callable[[str], object],
    *,
    batch: int = 64,
    probabilities: bool = False,
    unsure: float | None = None,
    source: str = "standard input",
) -> StreamCount:
    """Read rows as JSON lines and write each with its answer as a JSON line, in order, batch by batch.

    Each row is written with all its keys and ``answer`` (labels in their own type, JSON as its value), ``probabilities`` (label
    to share, six digits) where they are asked for, and ``truncated`` where its text lost its end; keys of these names that it
    had are replaced. A row whose input is blank, or no text, comes back with ``answer`` null and its ``error``. A line may be a
    bare JSON text where the task has one input field; blank lines are passed over. The rows before a broken line are answered
    before its error is raised.

    Args:
        predictor: who answers.
        lines: one JSON object each.
        write: takes one line with its line break, such as ``sys.stdout.write``.
        batch: rows that run at once.
        probabilities: whether to write them.
        unsure: share of rows that may be answered wrongly, as for :meth:`Predictor.predict`; rows that are left open have
            ``answer`` null and the labels that it may be under ``possible``.
        source: what errors call the stream.

    Raises:
        InputError: a line is no JSON or no row of the task, or there are none, or none can be answered; names the line,
            from 1.
    """
    if batch < 1:
        raise InputError(f"a batch of {batch} rows is too small", where="batch", hint="Give 1 or more.")
    waiting: list[tuple[dict[str, Any], dict[str, str] | RowError]] = []
    rows, truncated, left_open = 0, 0, 0
    errors: list[RowError] = []

    def answer() -> None:
        nonlocal rows, truncated, left_open
        asked = [fields for _, fields in waiting if not isinstance(fields, RowError)]
        found = iter(predictor.answers(asked, probabilities=probabilities, unsure=unsure) if asked else ())
        for row, fields in waiting:
            kept = {key: value for key, value in row.items() if key not in ADDED}
            if isinstance(fields, RowError):
                errors.append(fields)
                write(json_line({**kept, "answer": None, "error": fields.what}))
                continue
            one = next(found)
            rows, truncated, left_open = rows + 1, truncated + one.truncated, left_open + bool(one.possible)
            write(json_line({**kept, **_added(one, predictor.output, probabilities=probabilities)}))
        waiting.clear()

    for number, line in enumerate(lines, 1):
        text = line.removeprefix("\ufeff").strip() if number == 1 else line.strip()
        if not text:
            continue
        try:
            waiting.append(_row(text, predictor.input_fields, f"{source}, line {number}"))
        except InputError:
            answer()
            raise
        if len(waiting) == batch:
            answer()
    answer()
    if not rows and errors:
        raise errors[0]
    if not rows:
        raise InputError("there are no rows", where=source, hint=f"Give lines like {example_row(predictor.input_fields)}.")
    return StreamCount(rows, truncated, len(errors), left_open)


def _added(found: Prediction, output: Output, *, probabilities: bool) -> dict[str, Any]:
    """What a row gets with its answer."""
    added: dict[str, Any] = {"answer": None if found.answer is None else output.told(found.answer)}
    if found.possible:
        added["possible"] = [output.told(label) for label in found.possible]
    if probabilities:
        added["probabilities"] = {label: round(share, 6) for label, share in found.probabilities.items()}
    return added | ({"truncated": True} if found.truncated else {})


def _row(text: str, input_fields: tuple[str, ...], where: str) -> tuple[dict[str, Any], dict[str, str] | RowError]:
    """The row of a line, and its checked input fields or why they cannot be answered."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"this is no JSON ({error})", where=where, hint=f"Write each line like {example_row(input_fields)}."
        ) from error
    row = value if isinstance(value, dict) else {input_fields[0]: value}
    try:
        return row, checked_row(value, input_fields, where)
    except RowError as error:
        return row, error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
