"""Number formats of a column: decimal commas, spaces between thousands, a unit or a currency."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cotune.task.values.number import number_text, parse_number

_CURRENCIES = "EUR|USD|GBP|CHF|JPY|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN|CZK"
# A word before a number names a thing ("room 12"), so only a currency is allowed there.
_FORM = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<before>[$€£¥₹]|(?:{_CURRENCIES})\b)?\s*(?P<inner>[+-]?)"
    r"(?P<digits>\d(?:[\d.,' ]*\d)?)\s*(?P<after>[^\W\d_][^\d,;]{0,14}|[%‰°$€£¥₹][^\d,;]{0,4})?"
)
# Groups of thousands never begin with a zero.
_POINT = re.compile(r"(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)(?:\.\d+)?")
_COMMA = re.compile(r"(?:\d+|[1-9]\d{0,2}(?:\.\d{3})+)(?:,\d+)?")
_GROUPS = re.compile(r"[1-9]\d{0,2}(?:[ ']\d{3})+(?=\D|$)")
_LONGEST = 80


@dataclass(frozen=True)
class NumberStyle:
    """The common number format of a column.

    Attributes:
        decimal_comma: ``12,5`` is twelve and a half, ``1.234`` one thousand and more.
        unit: unit or currency before or behind each number; empty if there is none.
    """

    decimal_comma: bool = False
    unit: str = ""

    def read(self, text: str) -> Decimal | None:
        """The number of a cell; None if it has another format."""
        parts = _parts(text)
        if parts is None or parts[1] != self.unit:
            return None
        digits = parts[0]
        if not (_COMMA if self.decimal_comma else _POINT).fullmatch(digits.lstrip("+-")):
            return None
        if self.decimal_comma:
            digits = digits.replace(".", "").replace(",", ".")
        return parse_number(digits)

    def fits(self, cells: Sequence[str]) -> bool:
        """Whether all cells are numbers of this format."""
        return all(self.read(cell) is not None for cell in cells)

    def to_json(self) -> dict[str, Any]:
        """For bundles."""
        return {"decimal_comma": self.decimal_comma, "unit": self.unit}

    @classmethod
    def from_json(cls, data: Any) -> NumberStyle:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: it is not a valid description.
        """
        if not isinstance(data, Mapping) or set(data) != {"decimal_comma", "unit"}:
            raise ValueError("a number format has the keys decimal_comma and unit")
        comma, unit = data["decimal_comma"], data["unit"]
        if not isinstance(comma, bool) or not isinstance(unit, str):
            raise ValueError("decimal_comma is true or false, and unit a text")
        return cls(comma, unit)

    def told(self, example: str) -> str:
        """The format in words, with a cell as an example."""
        number = self.read(example)
        kinds = ["with decimal commas"] if self.decimal_comma else []
        kinds += [f"without the unit {self.unit!r} that all of them have"] if self.unit else []
        shown = "" if number is None else f" ({example.strip()!r} is {number_text(number)})"
        return f"numbers{' ' if kinds else ''}{' and '.join(kinds)}{shown}"


def number_style(cells: Sequence[str]) -> NumberStyle | None:
    """The common format of cells; None if there is none, or if they are plain numbers.

    Ambiguous commas, as in ``1,234`` alone, separate thousands, as in plain numbers.
    """
    if not cells or all(parse_number(cell) is not None for cell in cells):
        return None
    parts = [one for cell in cells if (one := _parts(cell)) is not None]
    units = {unit for _, unit in parts}
    if len(parts) < len(cells) or len(units) > 1:
        return None
    numbers = [digits.lstrip("+-") for digits, _ in parts]
    comma = not all(_POINT.fullmatch(digits) for digits in numbers)
    if comma and not all(_COMMA.fullmatch(digits) for digits in numbers):
        return None
    return NumberStyle(comma, units.pop())


def has_decimal_comma(cell: str) -> bool:
    """Whether a cell is a number, with or without a unit, whose comma cannot separate thousands."""
    parts = _parts(cell)
    digits = "" if parts is None else parts[0].lstrip("+-")
    return "," in digits and _POINT.fullmatch(digits) is None and _COMMA.fullmatch(digits) is not None


def _parts(text: str) -> tuple[str, str] | None:
    """Sign and digits without spaces between thousands, and the unit."""
    plain = re.sub(r"[\u00a0\u2009\u202f]", " ", text.strip()).replace("\u2212", "-").replace("\u2019", "'")
    match = _FORM.fullmatch(plain) if len(plain) <= _LONGEST else None
    if match is None or (match["sign"] and match["inner"]) or (match["before"] and match["after"]):
        return None
    digits = match["digits"]
    if " " in digits or "'" in digits:
        if not (grouped := _GROUPS.match(digits)) or set(" '") & set(digits[grouped.end() :]):
            return None
        digits = digits.replace(" ", "").replace("'", "")
    return (match["sign"] or match["inner"]) + digits, (match["before"] or match["after"] or "").strip()
