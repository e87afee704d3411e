"""Whether a text copies rows, or tells the answers to them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from cotune.task.example import Example

GRAM = 8
"""Consecutive words that a prompt may not share with a row."""
_EXCERPT = 4
# Scripts without spaces have no words to count, so each of their characters counts as one.
_SCRIPTS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SCRIPTS}]|[^\W_{_SCRIPTS}]+")
_CLAUSE = re.compile(r"[\n;]|(?<=[.!?])\s")


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, without case, punctuation, spacing and invisible characters."""
    plain = unicodedata.normalize("NFKC", text)
    plain = "".join(character for character in plain if unicodedata.category(character) != "Cf")
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", plain.casefold())))


class RowGrams:
    """The word 8-grams of rows, for looking up whether a text copies one.

    A row with fewer words counts as a whole from four words on: shorter ones are phrases that any instruction may hold.

    Args:
        rows: that may not be copied.
        n: words in a gram.
    """

    def __init__(self, rows: Iterable[Example], n: int = GRAM) -> None:
        self.n = n
        self._grams: set[tuple[str, ...]] = set()
        for row in rows:
            for text in row.fields.values():
                words = words_of(text)
                if len(words) >= _EXCERPT:
                    self._grams.update(_grams(words, min(n, len(words))))

    def copied(self, text: str) -> str | None:
        """The first words that a row has too; None where there are none."""
        words = words_of(text)
        for size in range(_EXCERPT, self.n + 1):
            for gram in _grams(words, size):
                if gram in self._grams:
                    return " ".join(gram)
        return None


def told_answer(text: str, rows: Sequence[Example], names: Mapping[str, Sequence[str]]) -> str | None:
    """The excerpt of a row that a text tells the answer to: row and label stand in one sentence or line.

    An excerpt is four consecutive words of the row, or the whole row where it has fewer.

    Args:
        text: of a prompt.
        rows: that its author was shown.
        names: label to what it may be called in the text.
    """
    clauses = [words_of(clause) for clause in _CLAUSE.split(text)]
    for row in rows:
        called = [words for name in names.get(row.output, (row.output,)) if (words := words_of(name))]
        for field in row.fields.values():
            words = words_of(field)
            size = min(_EXCERPT, len(words))
            if size == 0 or any(words == name for name in called):
                continue
            excerpts = set(_grams(words, size))
            for clause in clauses:
                for place in range(len(clause) - size + 1):
                    if (found := clause[place : place + size]) not in excerpts:
                        continue
                    # What is quoted may itself hold the label's name, which tells nothing.
                    rest = (clause[:place], clause[place + size :])
                    if any(name in _grams(part, len(name)) for part in rest for name in called):
                        return " ".join(found)
    return None


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]
