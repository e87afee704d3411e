"""Numbers in data and in answers: parsing and canonical text."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_PLAIN = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
# Groups of thousands never begin with a zero: "0,125" has a decimal comma.
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_ANYWHERE = re.compile(
    r"(?<![\w.,])[+-]?(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3})?(?!\w|[.,]\d)"
)
_LONGEST = 400
_PLAINEST = 40


def parse_number(text: str) -> Decimal | None:
    """Parse a text that is a number and nothing else; None for any other text.

    Blanks around it, a leading plus and commas between groups of three digits (``1,234,567.5``) are accepted, as is the
    typographic minus sign. Units, currencies, percent signs and decimal commas are not, since only the user knows their
    meaning.
    """
    plain = text.strip().replace("\u2212", "-")
    if len(plain) > _LONGEST or not plain.isascii():
        return None
    if _GROUPED.fullmatch(plain):
        plain = plain.replace(",", "")
    elif not _PLAIN.fullmatch(plain):
        return None
    try:
        return Decimal(plain)
    except InvalidOperation:
        return None


def number_in(answer: str) -> Decimal | None:
    """The number in an answer: the answer itself, else the last number in it, as in "makes 51 in all.".

    None if there is none. A minus behind a digit is a subtraction or a range, not a sign.
    """
    whole = parse_number(answer)
    if whole is not None:
        return whole
    numbers = [m[0] for m in _ANYWHERE.finditer(answer[-10 * _LONGEST :].replace("\u2212", "-"))]
    return parse_number(numbers[-1]) if numbers else None


def places_of_numbers(text: str) -> list[tuple[int, int]]:
    """Start and end of each number in a text."""
    return [match.span() for match in _ANYWHERE.finditer(text)]


def number_text(number: Decimal) -> str:
    """The shortest plain form: ``5`` for ``5.00``, ``0.5`` for ``.5``; with an exponent if it would be long."""
    if not number:
        return "0"
    # Without rounding: normalize() would round to the context's precision.
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    while len(digits) > 1 and digits[-1] == 0:
        digits, exponent = digits[:-1], exponent + 1
    shortest = Decimal((sign, digits, exponent))
    return format(shortest, "f") if abs(shortest.adjusted()) < _PLAINEST else str(shortest)


def equal_numbers(left: Decimal, right: Decimal, *, absolute: float = 0.0, relative: float = 1e-9) -> bool:
    """Whether ``left`` differs from ``right`` by at most ``absolute`` or the share ``relative``, whichever is larger."""
    if left == right:
        return True
    # As doubles, numbers above 1e308 would be infinite and all equal.
    allowed = max(Decimal(absolute), Decimal(relative) * abs(right))
    # Allow for rounding of numbers such as 0.1 at the bound itself.
    return abs(left - right) <= allowed * Decimal(1 + 1e-9)
