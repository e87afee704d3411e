"""Answers to a stream of JSON lines, as ``cotune predict`` gives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cotune.bundle.predictor import Prediction, Predictor, ending_error
from cotune.bundle.rows import checked_row, example_row
from cotune.errors import InputError, RowError
from cotune.files import decode_json
from cotune.task.reading.cells import column_of
from cotune.task.reading.sheet import json_line, plain_json
from cotune.task.reading.table import free_name
from cotune.task.values.output import Output

_Row = tuple[dict[str, Any], dict[str, str] | RowError, str]
"""A line's row, its checked input fields or the error if it cannot be answered, and its place for messages."""
_UNDECODED = re.compile("[\udc80-\udcff]")
"""Bytes that are no UTF-8, in a line that was read with ``errors="surrogateescape"``."""


@dataclass(frozen=True)
class StreamCount:
    """Numbers of rows in a stream.

    Attributes:
        rows: rows that the model answered, undecided ones included.
        truncated: rows among these whose text was too long and was cut.
        errors: other rows, which could not be answered because of their content, or which an endpoint refused.
        open: undecided rows.
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
    flush: Callable[[], object] = lambda: None,
    batch: int = 64,
    probabilities: bool = False,
    unsure: float | None = None,
    source: str = "standard input",
) -> StreamCount:
    """Read rows as JSON lines and write each row with its answer as a JSON line, in order.

    To the keys of a row are added: ``answer`` (labels in the type that they had in the data, JSON as its value);
    ``probabilities`` by label if requested, and of JSON its ``confidence``; and ``truncated`` if the row's text was too
    long and was cut. A key that the row already has is added with a number. A row whose input is blank or cannot be
    converted to text, that lacks some of the input fields, or that an endpoint refuses, gets ``answer`` null and an
    ``error``. If the task has one input field, a line may also be a JSON string. Blank lines are skipped. The rows before
    an invalid line are answered before its error is raised. If an endpoint fails, those rows of the batch that have no
    answer get an ``error`` before it is raised.

    Args:
        lines: one JSON object per line.
        write: called with each output line, line break included; for example ``sys.stdout.write``.
        flush: called after the lines of each batch; for example ``sys.stdout.flush``.
        unsure: share of rows that may be answered wrongly, as for :meth:`Predictor.predict`; undecided rows get ``answer`` null
            and the possible labels under ``possible``.
        source: name of the stream in errors.

    Raises:
        InputError: a line is no UTF-8, no JSON or no row of the task, or there are none, or none can be answered; names the
            line, from 1.
        EndpointError: the endpoint failed.
    """
    if batch < 1:
        raise InputError(f"a batch of {batch} rows is too small", where="batch", hint="Give 1 or more.")
    waiting: list[_Row] = []
    rows, truncated, left_open = 0, 0, 0
    errors: list[RowError] = []

    def answer() -> None:
        nonlocal rows, truncated, left_open
        asked = [fields for _, fields, _ in waiting if not isinstance(fields, RowError)]
        part = predictor.each(asked, probabilities=probabilities, unsure=unsure) if asked else []
        found, ended = iter(part), ending_error(part, first=not rows)
        for row, fields, where in waiting:
            one = fields if isinstance(fields, RowError) else next(found)
            if isinstance(one, Prediction):
                rows, truncated, left_open = rows + 1, truncated + one.truncated, left_open + bool(one.possible)
                write(_line(row, _added(one, predictor.output, probabilities=probabilities)))
                continue
            if not isinstance(one, RowError):
                one = RowError(str(one), where=where)
            errors.append(one)
            write(_line(row, {"answer": None, "error": one.what}))
        waiting.clear()
        flush()
        if ended is not None:
            raise ended

    for found in _rows(lines, predictor.input_fields, source):
        if isinstance(found, InputError):
            answer()
            raise found
        waiting.append(found)
        if len(waiting) == batch:
            answer()
    answer()
    if not rows and errors:
        raise errors[0]
    if not rows:
        raise InputError("there are no rows", where=source, hint=f"Give lines like {example_row(predictor.input_fields)}.")
    return StreamCount(rows, truncated, len(errors), left_open)


def _line(row: Mapping[str, Any], added: Mapping[str, Any]) -> str:
    """The output line of a row, with further keys."""
    # A number beyond a float's range was read as infinity, which JSON cannot express.
    line = {key: plain_json(value) for key, value in row.items()}
    for key, value in added.items():
        line[free_name(key, line)] = value
    return json_line(line)


def _added(found: Prediction, output: Output, *, probabilities: bool) -> dict[str, Any]:
    """The keys that an answer adds to a row."""
    added: dict[str, Any] = {"answer": None if found.answer is None else output.told(found.answer)}
    if found.possible:
        added["possible"] = [output.told(label) for label in found.possible]
    if found.confidence is not None:
        added["confidence"] = round(found.confidence, 6)
    if probabilities:
        added["probabilities"] = {label: round(share, 6) for label, share in found.probabilities.items()}
    return added | ({"truncated": True} if found.truncated else {})


def _rows(lines: Iterable[str], input_fields: tuple[str, ...], source: str) -> Iterator[_Row | InputError]:
    """The rows of the lines; a line that is none ends them with its error."""
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if _UNDECODED.search(line):
                raise _no_utf8(f"{source}, line {number}")
            text = line.removeprefix("\ufeff").strip() if number == 1 else line.strip()
            if text:
                yield _row(text, input_fields, f"{source}, line {number}")
    except InputError as error:
        yield error
    except UnicodeDecodeError:
        # A file is decoded many lines at once.
        yield _no_utf8(f"{source}, after line {number}")


def _no_utf8(where: str) -> InputError:
    hint = "Pipe in UTF-8, such as: iconv -f latin1 -t utf-8 rows.jsonl | cotune predict BUNDLE"
    return InputError("it is not UTF-8 text", where=where, hint=hint)


def _row(text: str, input_fields: tuple[str, ...], where: str) -> _Row:
    try:
        value = decode_json(text, finite=True)
    except ValueError as error:
        hint = f"Write each line like {example_row(input_fields)}, or name a CSV file: cotune predict BUNDLE rows.csv."
        raise InputError(f"the line is not JSON ({error})", where=where, hint=hint) from error
    row = value if isinstance(value, dict) else {input_fields[0]: value}
    try:
        return row, checked_row(value, input_fields, where), where
    except RowError as error:
        return row, error, where
    except InputError as error:
        # In a file of rows a field that only some rows lack does not end the command either.
        if isinstance(value, dict) and any(column_of(name, list(row)) is not None for name in input_fields):
            return row, RowError(error.what, where=where, hint=error.hint), where
        raise
