"""Metrics, differences and p-values in words."""

from __future__ import annotations

_SPELLED = {"f1": "F1", "json": "JSON", "rouge": "ROUGE", "l": "L"}


def metric_words(metric: object) -> str:
    """A metric's name in words, such as ``JSON F1`` for ``json_f1``; ``score`` if there is none."""
    return " ".join(_SPELLED.get(word, word) for word in str(metric or "score").split("_"))


def capitalised(words: str) -> str:
    """The words at the beginning of a sentence; the other letters stay as they are."""
    return words[:1].upper() + words[1:]


def p_value(p: float) -> str:
    """``p = 0.031``, or ``p < 0.001``; ``p < 0.05`` where rounding would hide that it is below."""
    if p < 0.001:
        return "p < 0.001"
    text = f"p = {p:.3f}"
    return "p < 0.05" if p < 0.05 and text == "p = 0.050" else text


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, without one if it rounds to zero: ``+3.2``, ``-1.0``, ``0.0``."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text
