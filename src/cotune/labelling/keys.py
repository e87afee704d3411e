"""Which keys give labels, and which labels a typed text means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

UNDO, SKIP, QUIT = "u", "s", "q"
_KEYS = "1234567890abcdefghijklmnoprtvwxyz"
MOST_KEYED = 30
"""Labels that are given by one key each, at most; of more, one types the beginning of the label."""


def label_keys(labels: Sequence[str]) -> dict[str, str] | None:
    """Key to label, ``u``, ``s`` and ``q`` left out; None where there are too many labels for that."""
    return dict(zip(_KEYS, labels, strict=False)) if len(labels) <= MOST_KEYED else None


def matching(typed: str, shares: Mapping[str, float]) -> list[str]:
    """Labels that a typed text may mean: those that begin with it, then those with a word that does, then those that hold it.

    Args:
        typed: in any case; nothing typed means every label.
        shares: label to probability, the likeliest first, which is the order among labels that match as well.
    """
    wanted = typed.casefold().strip()

    def rank(label: str) -> int:
        name = label.casefold()
        if name.startswith(wanted):
            return 0
        words = name.replace("_", " ").replace("-", " ").split()
        return 1 if any(word.startswith(wanted) for word in words) else 2 if wanted in name else 3

    return sorted((label for label in shares if rank(label) < 3), key=rank)
