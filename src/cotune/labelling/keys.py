"""Keys for labels, and the labels that match a typed text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

UNDO, SKIP, QUIT = "u", "s", "q"
_KEYS = "1234567890abcdefghijklmnoprtvwxyz"
MOST_KEYED = 30
"""Most labels with a key each; with more labels, the beginning of a label is typed."""


def label_keys(labels: Sequence[str]) -> dict[str, str] | None:
    """Map from key to label, without ``u``, ``s`` and ``q``; None if there are too many labels."""
    return dict(zip(_KEYS, labels, strict=False)) if len(labels) <= MOST_KEYED else None


def matching(typed: str, shares: Mapping[str, float]) -> list[str]:
    """Labels that match a typed text, the best match first.

    A label that is the text comes first, then those that begin with it, those with such a word, and those that contain it.

    Args:
        typed: the text, in upper or lower case; an empty one matches every label.
        shares: label to probability, the likeliest first; also the order among labels that match equally well.
    """
    wanted = typed.casefold().strip()

    def rank(label: str) -> int:
        name = label.casefold()
        if name == wanted:
            return -1
        if name.startswith(wanted):
            return 0
        words = name.replace("_", " ").replace("-", " ").split()
        return 1 if any(word.startswith(wanted) for word in words) else 2 if wanted in name else 3

    return sorted((label for label in shares if rank(label) < 3), key=rank)
