"""What is read of a token sequence: one state of a whole row, or one state of each of its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

Words = tuple[tuple[int, int], ...]
"""Start and end of each word's tokens, at least one token each. A word's state is the mean over its tokens."""
Read = int | Words
"""Of a whole row the position of its first own token: the state at its last token beside the mean from there to the end is
read, of twice the width. Of words their tokens. All rows of a request are read in the same way.
"""


def by_words(reads: Sequence[Read] | None) -> TypeGuard[Sequence[Words]]:
    """Whether words are read, not whole rows."""
    return bool(reads) and not isinstance(reads[0], int)  # type: ignore[index]


def first_read(reads: Sequence[Read]) -> int:
    """Position of the first token that is read in any row; it must run with its row."""
    return min(read if isinstance(read, int) else read[0][0] for read in reads)


def moved(read: Read, back: int) -> Read:
    """A read whose positions count from ``back`` tokens later on."""
    return read - back if isinstance(read, int) else tuple((start - back, end - back) for start, end in read)


def counts(reads: Sequence[Read] | None, rows: int) -> list[int]:
    """Number of states of each row."""
    return [len(words) for words in reads] if by_words(reads) else [1] * rows
