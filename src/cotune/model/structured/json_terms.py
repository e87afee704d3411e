"""What may still follow the beginning of a JSON text, and the shortest way to end it: derivatives of a term by single bytes.

A library tells which tokens may come next, fast; it does not tell how few bytes would end the text. Terms do. The term that is
left after some bytes is their derivative (Brzozowski 1964), made only along texts that really occur, so a schema costs nothing
before it is used. Every text that a term accepts is valid under the schema that it was made from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cached_property

_QUOTE, _ESCAPE = ord('"'), ord("\\")
_ESCAPED = b'"\\/bfnrt'
# First bytes of UTF-8 characters: how many bytes follow, and the range of the next one (RFC 3629).
_UTF8 = (
    (0xC2, 0xDF, 1, 0x80, 0xBF),
    (0xE0, 0xE0, 2, 0xA0, 0xBF),
    (0xE1, 0xEC, 2, 0x80, 0xBF),
    (0xED, 0xED, 2, 0x80, 0x9F),
    (0xEE, 0xEF, 2, 0x80, 0xBF),
    (0xF0, 0xF0, 3, 0x90, 0xBF),
    (0xF1, 0xF3, 3, 0x80, 0xBF),
    (0xF4, 0xF4, 3, 0x80, 0x8F),
)

DECIMALS = 17
"""Of a number behind its point at most: none between 0.1 and 1 needs more to be told from every other double."""


class Term(ABC):
    """A set of byte texts, never empty."""

    @property
    def nullable(self) -> bool:
        """Whether the text may end here."""
        return self.shortest == b""

    @property
    @abstractmethod
    def shortest(self) -> bytes:
        """A shortest text of the set."""

    @abstractmethod
    def after(self, byte: int) -> Term | None:
        """What may follow ``byte``; None where no text of the set begins with it."""

    def after_all(self, text: bytes) -> Term | None:
        """What may follow a whole text."""
        term: Term | None = self
        for byte in text:
            if term is None:
                return None
            term = term.after(byte)
        return term


@dataclass(frozen=True, eq=False)
class Literal(Term):
    """One text."""

    text: bytes

    @property
    def shortest(self) -> bytes:
        return self.text

    def after(self, byte: int) -> Term | None:
        if not self.text or self.text[0] != byte:
            return None
        return Literal(self.text[1:]) if len(self.text) > 1 else END


END = Literal(b"")
"""The empty text alone."""


@dataclass(frozen=True, eq=False)
class Concatenation(Term):
    """A text of ``first`` followed by one of ``rest``."""

    first: Term
    rest: Term

    @cached_property
    def shortest(self) -> bytes:
        return self.first.shortest + self.rest.shortest

    def after(self, byte: int) -> Term | None:
        stays = self.first.after(byte)
        if stays is self.first:
            within: Term | None = self
        else:
            within = None if stays is None else then(stays, self.rest)
        passed = self.rest.after(byte) if self.first.nullable else None
        return either([term for term in (within, passed) if term is not None])


def then(first: Term, *rest: Term) -> Term:
    """One text after the other."""
    parts = [part for part in (first, *rest) if part is not END]
    result: Term = END
    for part in reversed(parts):
        result = part if result is END else Concatenation(part, result)
    return result


@dataclass(frozen=True, eq=False)
class Choice(Term):
    """A text of any of the options."""

    options: tuple[Term, ...]
    _after: dict[int, Term | None] = field(default_factory=dict)

    @cached_property
    def shortest(self) -> bytes:
        return min((option.shortest for option in self.options), key=len)

    def after(self, byte: int) -> Term | None:
        if byte not in self._after:
            found = [option.after(byte) for option in self.options]
            self._after[byte] = either([term for term in found if term is not None])
        return self._after[byte]


def either(options: Sequence[Term]) -> Term | None:
    """A text of any option; None without options."""
    if not options:
        return None
    distinct = list(dict.fromkeys(options))
    return distinct[0] if len(distinct) == 1 else Choice(tuple(distinct))


class _Unfolded(Term):
    """A term that is defined by a choice over what comes next."""

    @property
    @abstractmethod
    def _open(self) -> Term: ...

    @property
    def shortest(self) -> bytes:
        return self._open.shortest

    def after(self, byte: int) -> Term | None:
        return self._open.after(byte)


@dataclass(frozen=True, eq=False)
class Items(_Unfolded):
    """``minimum`` to ``maximum`` more items of an array (None: any number), without the closing bracket."""

    item: Term
    minimum: int
    maximum: int | None
    separator: bytes = b""

    @property
    def shortest(self) -> bytes:
        if self.minimum <= 0:
            return b""
        return self.separator + b", ".join([self.item.shortest] * self.minimum)

    @cached_property
    def _open(self) -> Term:
        options: list[Term] = [END] if self.minimum <= 0 else []
        if self.maximum is None or self.maximum > 0:
            endless = self.maximum is None and self.minimum <= 0 and self.separator
            left = None if self.maximum is None else self.maximum - 1
            rest = self if endless else Items(self.item, max(0, self.minimum - 1), left, b", ")
            options.append(then(Literal(self.separator), self.item, rest))
        found = either(options)
        assert found is not None
        return found


@dataclass(frozen=True, eq=False)
class Fields(_Unfolded):
    """The fields of an object from number ``start`` on, in their order, those not required at will; without the bracket.

    Attributes:
        fields: of the whole object: name with quotes and colon, value, whether required.
        start: the next one that may come.
        begun: whether a field stands before, so that a comma is due.
    """

    fields: tuple[tuple[bytes, Term, bool], ...]
    start: int = 0
    begun: bool = False
    _states: dict[int, Fields] = field(default_factory=dict)

    @cached_property
    def shortest(self) -> bytes:
        # In one go: field by field, a large object would be a stack of calls as deep.
        due = b", ".join(name + value.shortest for name, value, required in self.fields[self.start :] if required)
        return b", " + due if self.begun and due else due

    @cached_property
    def _open(self) -> Term:
        options: list[Term] = []
        for number in range(self.start, len(self.fields)):
            name, value, required = self.fields[number]
            options.append(then(Literal(b", " + name if self.begun else name), value, self._from(number + 1)))
            if required:
                break
        else:
            options.append(END)
        found = either(options)
        assert found is not None
        return found

    def _from(self, start: int) -> Fields:
        if start not in self._states:
            self._states[start] = Fields(self.fields, start, True, self._states)
        return self._states[start]


@dataclass(frozen=True, eq=False)
class Text(Term):
    """A JSON string from behind its opening quote on, the closing quote included.

    Attributes:
        minimum: characters that must still come.
        maximum: that may still come; None without a bound.
        escaped: whether a backslash stands before.
        following: bytes of a begun character that are due.
        low: smallest value of the next of them.
        high: largest value of the next of them.
    """

    minimum: int = 0
    maximum: int | None = None
    escaped: bool = False
    following: int = 0
    low: int = 0x80
    high: int = 0xBF

    @cached_property
    def shortest(self) -> bytes:
        begun = b"n" if self.escaped else bytes([self.low] + [0x80] * (self.following - 1)) if self.following else b""
        due = self.minimum - (1 if begun else 0)
        return begun + b"x" * max(0, due) + b'"'

    def after(self, byte: int) -> Term | None:
        if self.escaped:
            return self._next() if byte in _ESCAPED else None
        if self.following:
            if not self.low <= byte <= self.high:
                return None
            return self._next() if self.following == 1 else Text(self.minimum, self.maximum, False, self.following - 1)
        if byte == _QUOTE:
            return END if self.minimum <= 0 else None
        if byte < 0x20 or byte == 0x7F or self.maximum == 0:
            return None
        if byte == _ESCAPE:
            return Text(self.minimum, self.maximum, True)
        if byte < 0x80:
            return self._next()
        for first, last, following, low, high in _UTF8:
            if first <= byte <= last:
                return Text(self.minimum, self.maximum, False, following, low, high)
        return None

    def _next(self) -> Text:
        if self.maximum is None and self.minimum <= 0:
            return _FREE
        return Text(max(0, self.minimum - 1), None if self.maximum is None else self.maximum - 1)


_FREE = Text()


@dataclass(frozen=True, eq=False)
class Number(Term):
    """A number in plain digits, without exponent.

    Attributes:
        integer: whether it may have no fraction.
        minimum: smallest value.
        maximum: largest value.
        above: whether the minimum itself is left out.
        below: whether the maximum itself is left out.
        digits: before the point at most.
        decimals: behind it at most.
        text: what stands already.
    """

    integer: bool
    minimum: Fraction | None = None
    maximum: Fraction | None = None
    above: bool = False
    below: bool = False
    digits: int = 15
    decimals: int = DECIMALS
    text: str = ""

    @cached_property
    def _end(self) -> str | None:
        """The shortest way to end it; None where there is none."""
        if self.text == "":
            ends = [self._grown("", self.minimum, self.maximum, self.above, self.below)]
            negative = self._mirrored("")
            ends.append(None if negative is None else "-" + negative)
            found = [end for end in ends if end is not None]
            return min(found, key=len) if found else None
        if self.text.startswith("-"):
            return self._mirrored(self.text[1:])
        return self._grown(self.text, self.minimum, self.maximum, self.above, self.below)

    def _mirrored(self, text: str) -> str | None:
        low = None if self.maximum is None else -self.maximum
        high = None if self.minimum is None else -self.minimum
        return self._grown(text, low, high, self.below, self.above)

    def _grown(self, text: str, low: Fraction | None, high: Fraction | None, above: bool, below: bool) -> str | None:
        """The shortest end of an unsigned number within bounds."""
        whole, point, part = text.partition(".")
        if not point:
            for more in range(self.digits - len(whole) + 1):
                if (not whole and not more) or (whole == "0" and more):
                    continue
                # A number of several digits does not begin with 0.
                start = int(whole) * 10**more if whole else (10 ** (more - 1) if more > 1 else 0)
                end = (int(whole) + 1) * 10**more - 1 if whole else 10**more - 1
                found = _between(start, end, 1, low, high, above, below)
                if found is not None:
                    return str(found)[len(whole) :]
            # No whole number fits, so the bounds lie within one unit.
            floor = str(int(low)) if low is not None and low > 0 else "0"
            if self.integer or len(floor) > self.digits or not floor.startswith(whole):
                return None
            ends = self._grown(f"{floor}.", low, high, above, below)
            return None if ends is None else f"{floor[len(whole) :]}.{ends}"
        if len(whole) > self.digits or len(part) > self.decimals:
            return None
        for more in range(self.decimals - len(part) + 1):
            length = len(part) + more
            if not length:
                continue
            unit = 10**length
            start = int(whole + part) * 10**more
            found = _between(start, start + 10**more - 1, unit, low, high, above, below)
            if found is not None:
                digits = str(found).zfill(length)
                return digits[len(digits) - more :]
        return None

    @property
    def shortest(self) -> bytes:
        assert self._end is not None
        return self._end.encode()

    @property
    def possible(self) -> bool:
        """Whether any number fits."""
        return self._end is not None

    def after(self, byte: int) -> Term | None:
        text = self.text + chr(byte)
        unsigned = text.removeprefix("-")
        whole, point, part = unsigned.partition(".")
        digits = (whole + part).isdigit() and (whole + part).isascii() if whole + part else not point
        zero = len(whole) > 1 and whole[0] == "0"
        long = len(whole) > self.digits or len(part) > self.decimals
        if not digits or zero or long or (point and (self.integer or not whole)):
            return None
        if not unsigned and text != "-":
            return None
        grown = Number(self.integer, self.minimum, self.maximum, self.above, self.below, self.digits, self.decimals, text)
        return grown if grown.possible else None


def _between(
    start: int, end: int, unit: int, low: Fraction | None, high: Fraction | None, above: bool, below: bool
) -> int | None:
    """The smallest number of ``start`` to ``end`` that lies, over ``unit``, within the bounds."""
    if low is not None:
        scaled = low * unit
        first = -(-scaled.numerator // scaled.denominator)
        start = max(start, first + 1 if above and first == scaled else first)
    if high is not None:
        scaled = high * unit
        last = scaled.numerator // scaled.denominator
        end = min(end, last - 1 if below and last == scaled else last)
    return start if start <= end else None


def exact(value: float) -> Fraction:
    """A bound as it is written."""
    return Fraction(Decimal(str(value)))
