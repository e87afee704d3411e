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

_NUMBERS_FROM = 20
"""Minimum count of different numbers; fewer are taken for labels, such as stars from 1 to 5."""


class NumberKind(OutputKind):
    """The kind of numbers."""

    name = "number"
    samples = ("51", "-12.5", "1,234,567", "0.25")
    about = "a number"
    has_schema = True
    styled = True
    misfit = "hold no number"

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

    def schema_of(self, outputs: Sequence[str], given: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """A schema that says whether all outputs are integers."""
        whole = all(Decimal(output) == Decimal(output).to_integral_value() for output in outputs)
        return {"type": "integer" if whole else "number"}

    def canonical(self, text: str, bounds: Bounds) -> str:
        number = number_in(text)
        return text.strip() if number is None else number_text(number)

    def value(self, text: str) -> Decimal | None:
        return number_in(text)

    def same(self, reference: str, answer: str) -> bool:
        """Whether both are equal up to rounding errors of doubles."""
        right, answered = number_in(reference), number_in(answer)
        return right is not None and answered is not None and equal_numbers(answered, right, absolute=0.0, relative=1e-9)

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
        return Constraint(integer=bounds.schema == {"type": "integer"})

    def unwritable_hint(self, *, schema_given: bool) -> str:
        return "Shorten the numbers, or set output.type to text."


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
