"""Words of a text, as positions of characters: the units that are tagged when values are copied from the text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

MOST_WORDS = 1000
"""Maximum number of words of a text; the rest of a longer one is not tagged."""
# Languages that are written without spaces, and Korean, which joins particles to words: each of their characters is a word.
_UNSPACED = "\uac00-\ud7a3\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTERS = rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+"
_WORD, _PLAIN_WORD, _ALONE = (
    re.compile(rf"{_LETTERS}|[^\w\s]"),
    re.compile(rf"(?=\w)(?:{_LETTERS})"),
    re.compile(f"[{_UNSPACED}]"),
)


def text_of(fields: Mapping[str, str]) -> str:
    """All input fields of a row as one text."""
    return " ".join(fields.values())


def plain_words(text: str) -> list[str]:
    """The words of a text without marks such as commas; in languages that are written without spaces each letter is a word."""
    return _PLAIN_WORD.findall(text)


def is_character(word: str) -> bool:
    """Whether a word of :func:`plain_words` is a single letter of a language that is written without spaces."""
    return _ALONE.fullmatch(word) is not None


# Words of a text of 150 words take 16 kB.
@lru_cache(maxsize=5_000)
def words_of(text: str) -> tuple[tuple[int, int], ...]:
    """Start and end of each word: letters and digits in a row, or a single other character that is no blank."""
    found: list[tuple[int, int]] = []
    for match in _WORD.finditer(text):
        if len(found) == MOST_WORDS:
            break
        found.append(match.span())
    return tuple(found)
