"""Names of metrics for people."""

from __future__ import annotations

_SPELLED = {"f1": "F1", "json": "JSON", "rouge": "ROUGE", "l": "L"}


def metric_words(metric: object) -> str:
    """A metric's name in words, such as ``JSON F1`` for ``json_f1``; ``score`` if there is none."""
    return " ".join(_SPELLED.get(word, word) for word in str(metric or "score").split("_"))


def capitalised(words: str) -> str:
    """The words at the beginning of a sentence; the other letters stay as they are."""
    return words[:1].upper() + words[1:]
