"""Detecting prompts that copy rows, or reveal the answers to them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from cotune.task.example import Example
from cotune.task.task import Task

GRAM = 8
"""Number of consecutive words that a prompt must not share with a row."""
_EXCERPT = 4
_LEAD = 2
"""Number of extra words, such as ``Input:``, in the line of a shorter row in a worked example."""
# In scripts without spaces each character counts as a word.
_SCRIPTS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SCRIPTS}]|[^\W_{_SCRIPTS}]+")
_CLAUSE = re.compile(r"[\n;]|(?<=[.!?])\s")


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, without case, punctuation, spacing and invisible characters."""
    plain = unicodedata.normalize("NFKC", text)
    plain = "".join(character for character in plain if unicodedata.category(character) != "Cf")
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", plain.casefold())))


class RowGrams:
    """The word 8-grams of a task's train and dev rows, to look up whether a text copies a row.

    Right answers count too, unless they are labels. From four words on, a shorter text counts as a whole; still shorter ones
    are phrases that any instruction may contain.
    """

    def __init__(self, task: Task) -> None:
        self._grams: set[tuple[str, ...]] = set()
        for row in (*task.train, *task.dev):
            for text in (*row.fields.values(), *([row.output] if task.output.kind.written else [])):
                words = words_of(text)
                if len(words) >= _EXCERPT:
                    self._grams.update(_grams(words, min(GRAM, len(words))))

    def copied(self, text: str) -> str | None:
        """The first copied words; None if nothing is copied."""
        words = words_of(text)
        for size in range(_EXCERPT, GRAM + 1):
            for gram in _grams(words, size):
                if gram in self._grams:
                    return " ".join(gram)
        return None


def told_answer(text: str, rows: Sequence[Example], names: Mapping[str, Sequence[str]]) -> str | None:
    """Find a row whose answer the text reveals: row and label occur in one line or sentence, or in adjacent ones.

    Adjacent ones count because a worked example has two lines (``Input: ...``, ``Output: ...``), but only if the line next to
    the row's names its label and no other (a list of labels reveals nothing) and the row's own line names no label. A row
    occurs if the text has four consecutive words of it, possibly across lines. A shorter row must occur whole; next to a
    label's line, its own line may then contain at most two other words.

    Args:
        rows: rows that its author was shown.
        names: label to its possible names in the text.

    Returns:
        The words of the row; None if the text reveals no answer.
    """
    clauses = [words for clause in _CLAUSE.split(text) if (words := words_of(clause))]
    said = tuple(word for clause in clauses for word in clause)
    starts = [0, *accumulate(map(len, clauses))]
    within = [number for number, clause in enumerate(clauses) for _ in clause]
    for row in rows:
        called = _words_of_all(names.get(row.output, (row.output,)))
        others = _words_of_all(name for label, more in names.items() if label != row.output for name in more)
        # A label's name may be part of another's.
        others = [other for other in others if not any(_names_any(name, [other]) for name in called)]
        for field in row.fields.values():
            words = words_of(field)
            size = min(_EXCERPT, len(words))
            if size == 0 or any(words == name for name in called):
                continue
            excerpts = set(_grams(words, size))
            for place in range(len(said) - size + 1):
                if (found := said[place : place + size]) not in excerpts:
                    continue
                first, last = within[place], within[place + size - 1]
                start, end = starts[first], starts[last + 1]
                # The quoted row may itself contain the label's name, which reveals nothing.
                rest = (said[start:place], said[place + size : end])
                beside = [clauses[number] for number in (first - 1, last + 1) if 0 <= number < len(clauses)]
                if any(_names_any(part, others) for part in rest) or (size < _EXCERPT and end - start > size + _LEAD):
                    beside = []
                telling = [*rest, *(part for part in beside if not _names_any(part, others))]
                if any(_names_any(part, called) for part in telling):
                    return " ".join(found)
    return None


def _words_of_all(names: Iterable[str]) -> list[tuple[str, ...]]:
    return [words for name in names if (words := words_of(name))]


def _names_any(words: Sequence[str], names: Sequence[tuple[str, ...]]) -> bool:
    """Whether a part of a text contains any of the names."""
    return any(name in _grams(words, len(name)) for name in names)


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]
