"""Numbers in plain digits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from cotune.errors import InputError, shortened
from cotune.task.values.kinds.base import Bounds, CellReader, Constraint, OutputKind
from cotune.task.values.number import equal_numbers, number_in, number_text, parse_number
from cotune.task.values.number_style import NumberStyle, number_style
from cotune.task.values.scale import Scale, scale_of

_NUMBERS_FROM = 20
_ROUNDING = 1e-14
"""Relative error of a number after some operations with doubles, which have 15 to 16 digits."""
"""Minimum count of different numbers; fewer are taken for labels, such as stars from 1 to 5."""


class NumberKind(OutputKind):
    """The kind of numbers."""

    name = "number"
    samples = ("51", "-12.5", "1,234,567", "0.25")
    about = "a number"
    has_schema = True
    styled = True
    misfit = "hold no number"
    why_no_fields = "some labelled numbers are too large, or too close together, for thresholds between them"

    def recognise(self, cells: Sequence[str]) -> str:
        """Recognized if all cells are numbers, more than twenty differ, and they are not row numbers from 0 or 1."""
        different = len({cell.strip() for cell in cells})
        if different <= _NUMBERS_FROM:
            return ""
        style = number_style(cells)
        numbers = [parse_number(cell) if style is None else style.read(cell) for cell in cells]
        if any(number is None for number in numbers):
            return ""
        values = {number for number in numbers if number is not None}
        whole = all(value == value.to_integral_value() for value in values)
        numbering = whole and min(values) in (0, 1) and len(values) == max(values) - min(values) + 1
        return "" if numbering else f"every output is a number, and {different:,} differ"

    def alike(self, cell: str) -> bool:
        return parse_number(cell) is not None

    def cell_reader(
        self, *, labels: Sequence[str] = (), schema: Mapping[str, Any] | None = None, style: NumberStyle | None = None
    ) -> CellReader:
        """A reader of numbers, plain or in the common style of the column."""
        return lambda cell, where: _number(cell, where, style)

    def usual_metric(self, outputs: Sequence[str]) -> str:
        """``r2`` for measurements, where near is nearly right: most outputs have decimals."""
        return "r2" if 2 * sum(map(_whole, outputs)) < len(outputs) else self.default_metric

    def schema_of(
        self, outputs: Sequence[str], given: Mapping[str, Any] | None, texts: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        """The given schema, else one that says whether all outputs are integers, with their :class:`Scale`."""
        if given is not None:
            return given
        scale = scale_of(outputs)
        kind = {"type": "integer" if all(map(_whole, outputs)) else "number"}
        return kind if scale is None else kind | scale.to_json()

    def kept_schema(self, schema: Mapping[str, Any] | None, outputs: Sequence[str]) -> Mapping[str, Any] | None:
        """An earlier bundle's schema if its scale suits these outputs, so that log-losses stay comparable."""
        scale = None if schema is None else Scale.from_json(schema)
        if schema is None or scale is None or not scale.suits(outputs):
            return None
        return schema if schema.get("type") == "number" or all(map(_whole, outputs)) else None

    def canonical(self, text: str, bounds: Bounds) -> str:
        number = number_in(text)
        return text.strip() if number is None else number_text(number)

    def value(self, text: str) -> Decimal | None:
        return number_in(text)

    def same(self, reference: str, answer: str) -> bool:
        """Whether both are equal up to rounding errors of doubles; whole numbers, such as order numbers, must be the same."""
        right, answered = number_in(reference), number_in(answer)
        if right is None or answered is None:
            return False
        whole = right == right.to_integral_value() and answered == answered.to_integral_value()
        return right == answered or (not whole and equal_numbers(answered, right, absolute=0.0, relative=_ROUNDING))

    def errors(self, references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
        """``mean_absolute_error`` of the rows that have a number as answer; nothing if none has."""
        pairs = [(number_in(right), number_in(answer)) for right, answer in zip(references, answers, strict=True)]
        gaps = [abs(float(answer - right)) for right, answer in pairs if right is not None and answer is not None]
        mean = sum(gaps) / len(gaps) if gaps else math.inf
        return {"mean_absolute_error": float(f"{mean:.6g}")} if math.isfinite(mean) else {}

    def plain_value(self, text: str) -> int | float | None:
        """The number; None if there is none, or if it is too large for a double."""
        value = number_in(text)
        if value is None:
            return None
        number = float(value)
        return int(value) if number.is_integer() and abs(number) < 2**53 else number if math.isfinite(number) else None

    def form(self, bounds: Bounds) -> str:
        return "Answer with a number and nothing else."

    def constraint(self, bounds: Bounds) -> Constraint:
        """Answers must be plain numbers; integers only if all outputs are."""
        return Constraint(integer=(bounds.schema or {}).get("type") == "integer")

    def unwritable_hint(self, *, schema_given: bool) -> str:
        return "Shorten the numbers, or set output.type to text."


def _whole(output: str) -> bool:
    number = Decimal(output)
    return number == number.to_integral_value()


def _number(cell: str, where: str, style: NumberStyle | None) -> str:
    number = parse_number(cell) if style is None else style.read(cell)
    if number is None:
        raise InputError(
            f"{shortened(cell.strip())!r} is not a number" + ("" if style is None else " in this column's format"),
            where=where,
            hint="Write it like -1234.5; a unit or decimal commas are read only if all cells have the same. Or set output.type "
            "to text.",
        )
    return number_text(number)
