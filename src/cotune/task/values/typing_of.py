"""From the cells of the output column to outputs: the type guessed, cells read and checked, the schema settled."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from cotune.errors import InputError
from cotune.task.example import Example
from cotune.task.known import Known
from cotune.task.split import Rows
from cotune.task.values.json_value import json_text, parse_json
from cotune.task.values.number import number_text, parse_number
from cotune.task.values.number_style import NumberStyle, number_style
from cotune.task.values.output import Output, OutputType
from cotune.task.values.schema import Validator, infer_schema
from cotune.task.values.schema_order import in_schema_order

_NUMBERS_FROM = 20
"""Numbers that differ from which they are not taken for labels such as stars from 1 to 5."""

CellReader = Callable[[str, str], str]
"""``reader(cell text, where)``: the canonical output. Raises InputError where the cell is none of the type."""


def guess_type(cells: Sequence[str]) -> tuple[OutputType, str]:
    """The type of outputs that look like these, and why, in a few words.

    JSON where all are JSON objects or lists; numbers where all are numbers, more than twenty differ and they are no numbering
    from 0 or 1; else labels where the values recur, half as many of them as rows at most; else text.

    Args:
        cells: the filled cells of the output column, at least one.
    """
    if all(cell.lstrip()[:1] in "{[" and _is_json(cell) for cell in cells):
        return "json", "every output is a JSON object or list"
    different = len({cell.strip() for cell in cells})
    style = number_style(cells)
    numbers = [parse_number(cell) if style is None else style.read(cell) for cell in cells]
    if different > _NUMBERS_FROM and all(number is not None for number in numbers):
        values = {number for number in numbers if number is not None}
        whole = all(value == value.to_integral_value() for value in values)
        numbering = whole and min(values) in (0, 1) and len(values) == max(values) - min(values) + 1
        if not numbering:
            return "number", f"every output is a number, and {different:,} differ"
    if different > max(2, len(cells) // 2):
        return "text", f"{different:,} of {len(cells):,} outputs differ"
    return "label", f"{different:,} values stand in {len(cells):,} rows"


def cell_reader(
    kind: OutputType,
    *,
    labels: Sequence[str] = (),
    schema: Mapping[str, Any] | None = None,
    style: NumberStyle | None = None,
) -> CellReader:
    """What reads the output cells of a type.

    Args:
        kind: the type.
        labels: the only labels that may stand there; empty allows all.
        schema: what JSON must fit; None allows all.
        style: how numbers are written; None takes plain ones alone.
    """
    if kind == "number":
        return lambda cell, where: _number(cell, where, style)
    if kind == "json":
        check = Validator(schema) if schema is not None else None
        return lambda cell, where: _json(cell, where, check)
    known = {label.strip() for label in labels}
    return lambda cell, where: _label(cell, where, known)


def settle(kind: OutputType, rows: Rows, labels: tuple[str, ...], schema: Mapping[str, Any] | None) -> Output:
    """The task's output; a schema that was not given is inferred from rows that may be looked at, train and dev."""
    if kind == "json":
        found = schema if schema is not None else infer_schema([parse_json(row.output) for row in rows])
        return Output("json", schema_text=json_text(found))
    if kind == "number":
        whole = all(Decimal(row.output) == Decimal(row.output).to_integral_value() for row in rows)
        return Output("number", schema_text=json_text({"type": "integer" if whole else "number"}))
    return Output(kind, labels if kind == "label" else ())


def kept_schema(known: Known | None, rows: Rows) -> Mapping[str, Any] | None:
    """The JSON Schema of an earlier bundle, where all rows fit it; None where there is none, or one does not."""
    schema = known.output.schema if known is not None and known.output.type == "json" else None
    if schema is None:
        return None
    check = Validator(schema)
    return schema if all(check(parse_json(row.output)) for row in rows) else None


def in_one_form(rows: Rows, output: Output) -> Rows:
    """The rows with their outputs written the one way; of JSON that is the schema's order of keys."""
    if output.type != "json" or output.schema is None:
        return rows
    schema = output.schema

    def written(row: Example) -> Example:
        return Example(row.id, row.fields, json_text(in_schema_order(parse_json(row.output), schema)), row.group)

    return tuple(map(written, rows))


def check_outputs(rows: Rows, where: str) -> None:
    """Refuse outputs that are all the same.

    Raises:
        InputError: they are.
    """
    counts = Counter(row.output for row in rows)
    if len(counts) < 2:
        raise InputError(
            f"every row has the same output, {_cut(next(iter(counts)))!r}",
            where=where,
            mend="Name another output column, or add rows with other outputs.",
        )


def _is_json(cell: str) -> bool:
    try:
        parse_json(cell)
    except ValueError:
        return False
    return True


def _label(cell: str, where: str, known: set[str]) -> str:
    output = cell.strip()
    if known and output not in known:
        near = difflib.get_close_matches(output, known, n=1, cutoff=0.5)
        raise InputError(
            f"the label {_cut(output)!r} is not among output.labels" + (f", did you mean {near[0]!r}?" if near else ""),
            where=where,
            mend="Correct the row, or add the label to output.labels.",
        )
    return output


def _number(cell: str, where: str, style: NumberStyle | None = None) -> str:
    number = parse_number(cell) if style is None else style.read(cell)
    if number is None:
        raise InputError(
            f"{_cut(cell.strip())!r} is no number" + ("" if style is None else ", written as the other cells are"),
            where=where,
            mend="Write it like -1234.5; a unit or decimal commas are read where all cells have them alike. Or set output.type "
            "to text.",
        )
    return number_text(number)


def _json(cell: str, where: str, check: Validator | None) -> str:
    try:
        value = parse_json(cell)
    except ValueError as error:
        raise InputError(
            f"the output is no JSON ({str(error).splitlines()[0]}): {_cut(cell.strip())!r}",
            where=where,
            mend="Correct it, or set output.type to text.",
        ) from error
    if check is not None and (problem := check.problem(value)):
        raise InputError(
            f"the output does not fit output.schema ({_cut(problem, 160)})", where=where, mend="Correct the row or the schema."
        )
    return json_text(value)


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
