"""Spellings: how values that are copied from a text are written, where that is not as they stand there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType

from cotune.task.values.number import number_text, parse_number, places_of_numbers
from cotune.task.values.output_fields import Spelling
from cotune.task.words import words_of

# Apostrophes and combining accents continue a word: "don't" is one.
_WORD = re.compile("\\w[\\w'\u2019\u0300-\u036f]*")
# Marks a word without white space before it. It counts as white space itself, so that no word has it.
_JOINED = "\x1f"

_RULES: Mapping[Spelling, Callable[[str], str]] = MappingProxyType(
    {
        "lower": str.lower,
        "upper": str.upper,
        "title": lambda text: _WORD.sub(lambda word: word[0].capitalize(), text),
        "capitalised": lambda text: text[:1].upper() + text[1:],
        "number": lambda text: text if (number := parse_number(text)) is None else number_text(number),
    }
)
SPELLINGS: Mapping[Spelling, str] = MappingProxyType(
    {
        "same": "as they stand there",
        "lower": "in lower case",
        "upper": "in upper case",
        "title": "with a capital letter at the beginning of each word",
        "capitalised": "with a capital letter at the beginning",
        "number": "without commas between thousands",
    }
)
"""All spellings, in words."""


def spelled(text: str, spelling: Spelling) -> str:
    """A copied text as it is answered. ``same`` changes nothing; the others write a blank for white space between words."""
    return text if spelling == "same" else _RULES[spelling](" ".join(text.split()))


def gives(spelling: Spelling, copy: str, value: str) -> bool:
    """Whether a copied text is answered as the value, up to white space."""
    found = spelled(copy, spelling)
    return found == value or found.split() == value.split()


def learnt_spelling(copies: Sequence[tuple[str, str]], usual: Spelling = "same") -> Spelling:
    """The spelling of labelled values, given their places in the texts and the values.

    It is the ``usual`` one, unless another gives clearly more of the values.
    """
    kept = [gives(usual, copy, value) for copy, value in copies]
    if all(kept):
        return usual

    def gained(spelling: Spelling) -> tuple[int, int]:
        """Number of values that only this spelling gives, less those that only the usual one gives; and of both together."""
        right = [gives(spelling, copy, value) for copy, value in copies]
        return sum(right) - sum(kept), sum(new != old for new, old in zip(right, kept, strict=True))

    gains = {spelling: gained(spelling) for spelling in SPELLINGS}
    best = max(gains, key=lambda spelling: gains[spelling][0])
    gain, different = gains[best]
    # As in McNemar's test, only values that one of the two gives count, and their difference has to be 1.4 of its standard
    # errors: two values if the usual spelling alone gives none, 11 if one of the two gives 60.
    return best if gain > 0 and gain**2 >= 2 * different else usual


def usual_spelling(copies: Sequence[tuple[str, str]], common: Spelling) -> Spelling:
    """The spelling of a part unless its values clearly say otherwise: the ``common`` one of all parts of an output.

    If that gives fewer of the part's values than ``same``, or is not about letters, it is ``same``.
    """
    if common in ("same", "number"):
        return "same"
    counts = [sum(gives(spelling, copy, value) for copy, value in copies) for spelling in (common, "same")]
    return common if counts[0] >= counts[1] else "same"


def places_alike(text: str, value: str) -> Iterator[tuple[int, int]]:
    """First and last word of each place of a value in a text, whatever letter case, white space and way of writing a number."""
    own, wanted = _folded(text), _folded(value.strip())
    line, sought = "".join(own), "".join(wanted)[1:]
    starts = {start: number for number, start in enumerate(accumulate(map(len, own), initial=0))}
    # Of a very long text not all words are found.
    place = line.find(sought) if sought and words_of(value.strip())[-1][1] == len(value.strip()) else -1
    while place >= 0:
        if place - 1 in starts and place + len(sought) in starts:
            yield starts[place - 1], starts[place + len(sought)] - 1
        place = line.find(sought, place + 1)
    if (number := parse_number(value)) is not None:
        begins, ends = ({span[side]: n for n, span in enumerate(words_of(text))} for side in (0, 1))
        for start, end in places_of_numbers(text):
            if start in begins and end in ends and parse_number(text[start:end]) == number:
                yield begins[start], ends[end]


def _folded(text: str) -> list[str]:
    """The words without their letter case, each behind a blank if white space stands before it, or else behind a mark."""
    words = words_of(text)
    before = (0, *(end for _, end in words))
    return [
        (" " if start > last else _JOINED) + text[start:end].casefold()
        for last, (start, end) in zip(before, words, strict=False)
    ]
