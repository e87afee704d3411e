"""What is read of a token sequence: one state of a whole row, or one state of each of its words.

Exports contain a copy of this file, so it imports nothing of cotune.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

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
    return min(read if isinstance(read, int) else min(start for start, _ in read) for read in reads)


def moved(read: Read, back: int) -> Read:
    """A read whose positions count from ``back`` tokens later on."""
    return read - back if isinstance(read, int) else tuple((start - back, end - back) for start, end in read)


def counts(reads: Sequence[Read] | None, rows: int) -> list[int]:
    """Number of states of each row."""
    return [len(words) for words in reads] if by_words(reads) else [1] * rows


def words_in_copy(
    count: int, shown: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]], *, lead: int, before: int
) -> Words:
    """The tokens of each word of a text whose copy stands behind a prompt, and then those of the whole copy.

    Words whose tokens are cut, because the text is too long, read the whole copy.

    Args:
        count: number of words of the text.
        shown: start and end of each word in the text as it is shown; if there are more or fewer, all read the whole copy.
        offsets: start and end of each token of the copy in the separator and the text behind it.
        lead: number of characters of the separator.
        before: number of tokens of the prompt. If the copy has none, the prompt's last token is read.
    """
    whole = (before, before + len(offsets)) if offsets else (before - 1, before)
    words = (whole,) * count
    # Otherwise a character of the text is not shown, which hardly ever occurs.
    if offsets and count == len(shown):
        starts, ends = (np.array(side) - lead for side in zip(*offsets, strict=True))
        first = np.searchsorted(ends, [start for start, _ in shown], side="right")
        last = np.searchsorted(starts, [end for _, end in shown], side="left")
        words = tuple(
            (before + int(a), before + int(b)) if a < b and ends[b - 1] >= end else whole
            for a, b, (_, end) in zip(first, last, shown, strict=True)
        )
    return (*words, whole)
