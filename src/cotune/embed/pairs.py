"""The closest pairs among many points, block by block, so that thousands of points fit into memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1000


def closest_pairs(vectors: NDArray[np.float32], first: range, second: range, count: int) -> list[tuple[int, int]]:
    """Pairs of one point of ``first`` and another of ``second``, the closest first; each pair stands once, lower point first.

    Args:
        vectors: unit vectors ``[points, width]``.
        first: points; none of them behind ``second``'s.
        second: points; may be the same ones.
        count: pairs at most.
    """
    found, floor = np.zeros((3, 0)), -2.0
    for start in range(first.start, first.stop, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, first.stop))
        columns = np.arange(max(second.start, start), second.stop)
        if not len(columns):
            continue
        likeness = vectors[rows] @ vectors[columns].T
        likeness[columns[None, :] <= rows[:, None]] = -2.0
        flat = likeness.ravel()
        # What could still be among the closest: after the first block that is little.
        best = np.flatnonzero(flat > floor)
        if len(best) > count:
            best = best[np.argpartition(-flat[best], count - 1)[:count]]
        pairs = np.stack([flat[best], rows[best // len(columns)], columns[best % len(columns)]])
        found = np.concatenate([found, pairs], axis=1)
        found = found[:, np.lexsort((found[2], found[1], -found[0]))[:count]]
        floor = float(found[0, -1]) if found.shape[1] == count else -2.0
    return [(int(left), int(right)) for left, right in found[1:].T]
