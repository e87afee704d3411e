"""Overlap of rows and texts with test rows: many consecutive words in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from cotune.task.example import Example
from cotune.task.split import normalised
from cotune.task.words import is_character, plain_words

_SIZE, _LEAST, _CHARACTERS = 13, 3, 8


def overlapping_test_rows(texts: Iterable[str], test: Iterable[Example]) -> int:
    """Number of test rows that share 13 consecutive words with any of ``texts``.

    A shorter test row counts if all its words (at least three) occur consecutively in a text. In languages that are written
    without spaces each letter is a word, of which eight count as much as three others. Thirteen words were used in GPT-3's
    contamination study (Brown et al. 2020, appendix C).
    """
    shown = [plain_words(normalised(text)) for text in texts]
    grams: dict[int, set[tuple[str, ...]]] = {}

    def grams_of(width: int) -> set[tuple[str, ...]]:
        if width not in grams:
            grams[width] = {gram for words in shown for gram in _grams(words, width)}
        return grams[width]

    overlapping = 0
    for example in test:
        words = plain_words(normalised(example.text))
        width = min(_SIZE, len(words))
        if _suffice(words) and not grams_of(width).isdisjoint(_grams(words, width)):
            overlapping += 1
    return overlapping


def rows_overlapping(rows: Iterable[Example], test: Iterable[Example]) -> tuple[str, ...]:
    """Ids of the rows that overlap with a test row, by the criterion of :func:`overlapping_test_rows`."""
    grams: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    for example in test:
        words = plain_words(normalised(example.text))
        if _suffice(words):
            grams[min(_SIZE, len(words))].update(_grams(words, min(_SIZE, len(words))))
    overlapping = []
    for row in rows:
        words = plain_words(normalised(row.text))
        if any(not test_grams.isdisjoint(_grams(words, width)) for width, test_grams in grams.items()):
            overlapping.append(row.id)
    return tuple(overlapping)


def _suffice(words: Sequence[str]) -> bool:
    characters = sum(map(is_character, words))
    return (len(words) - characters) * _CHARACTERS + characters * _LEAST >= _LEAST * _CHARACTERS


def _grams(words: Sequence[str], width: int) -> Iterable[tuple[str, ...]]:
    return (tuple(words[start : start + width]) for start in range(len(words) - width + 1))
