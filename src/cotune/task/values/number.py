"""Numbers in data and in answers: which texts are numbers, and the one way in which a number is written."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_PLAIN = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_ANYWHERE = re.compile(r"(?<![\w.,])[+-]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3})?(?!\w)")
_LONGEST = 400
_PLAINEST = 40


def parse_number(text: str) -> Decimal | None:
    """The number that a text is, and nothing but that; None where it is none.

    Blanks around it, a leading plus and commas between groups of three digits (``1,234,567.5``) are taken, as is the minus
    sign of typography; units, signs of currency, percent and decimal commas are not, since what they mean is the user's to say.
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
    """The number that an answer states: the answer itself, else the last number that stands in it, as in "makes 51 in all.".

    None where there is none. A minus that stands behind a digit is read as a sign of subtraction or a range.
    """
    whole = parse_number(answer)
    if whole is not None:
        return whole
    found = [m[0] for m in _ANYWHERE.finditer(answer[-10 * _LONGEST :].replace("\u2212", "-"))]
    return parse_number(found[-1]) if found else None


def number_text(number: Decimal) -> str:
    """The shortest plain way to write it: ``5`` for ``5.00``, ``0.5`` for ``.5``; with an exponent where that would be long."""
    if not number:
        return "0"
    # Rounded nowhere: normalize() would cut at the context's precision.
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    while len(digits) > 1 and digits[-1] == 0:
        digits, exponent = digits[:-1], exponent + 1
    shortest = Decimal((sign, digits, exponent))
    return format(shortest, "f") if abs(shortest.adjusted()) < _PLAINEST else str(shortest)


def equal_numbers(left: Decimal, right: Decimal, *, absolute: float = 0.0, relative: float = 1e-9) -> bool:
    """Whether ``left`` lies within ``absolute`` or within the share ``relative`` of ``right``, whichever is more."""
    if left == right:
        return True
    gap, size = abs(float(left) - float(right)), abs(float(right))
    # Rounding of 0.1 and its like must not put a value beside the border that it lies on.
    return gap <= max(absolute, relative * size) * (1 + 1e-9)
