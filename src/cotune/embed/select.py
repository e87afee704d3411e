"""Selecting points: closest pairs, removal of near-duplicates, and farthest-first order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cotune.embed.standardize import unit

_BLOCK = 1000
"""Number of points whose distances to all other points are in memory at the same time."""


def distances(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine distances ``[points, points]``, 0 for equal and 2 for opposite directions."""
    wide = unit(vectors).astype(np.float64)
    result: NDArray[np.float64] = 1.0 - np.clip(wide @ wide.T, -1.0, 1.0)
    return result


def without_near_duplicates(vectors: NDArray[np.float32], threshold: float, *, keep: Sequence[int] = ()) -> list[int]:
    """Indices that remain after removing the later one of any two points closer than the cosine distance ``threshold``.

    The indices in ``keep`` are never removed.
    """
    gaps = distances(vectors)
    staying: list[int] = sorted(keep)
    for point in range(len(vectors)):
        if point not in staying and all(gaps[point, other] >= threshold for other in staying):
            staying.append(point)
    return sorted(staying)


def farthest_first(vectors: NDArray[np.float32], *, start: Sequence[int] = (0,), count: int | None = None) -> list[int]:
    """Order points so that each is the farthest from all before it (Gonzalez 1985); ties go to the earlier point.

    The indices in ``start`` come first. Returns ``count`` indices; None returns all.
    """
    total = len(vectors)
    count = total if count is None else min(count, total)
    if count < 1:
        return []
    gaps = distances(vectors)
    order = list(dict.fromkeys(start))[:count] or [0]
    nearest = gaps[:, order].min(axis=1)
    while len(order) < count:
        nearest[order] = -1.0
        following = int(nearest.argmax())
        order.append(following)
        nearest = np.minimum(nearest, gaps[:, following])
    return order


def closest_pairs(vectors: NDArray[np.float32], first: range, second: range, count: int) -> list[tuple[int, int]]:
    """Closest pairs of a point in ``first`` and another in ``second``, the closest first; each pair once, lower index first.

    Args:
        vectors: unit vectors ``[points, width]``.
        first: indices, none larger than all of ``second``.
        second: indices; may be the same.
        count: maximum number of pairs.
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
        # Only pairs that can still be among the closest, which are few after the first block.
        best = np.flatnonzero(flat > floor)
        if len(best) > count:
            best = best[np.argpartition(-flat[best], count - 1)[:count]]
        pairs = np.stack([flat[best], rows[best // len(columns)], columns[best % len(columns)]])
        found = np.concatenate([found, pairs], axis=1)
        found = found[:, np.lexsort((found[2], found[1], -found[0]))[:count]]
        floor = float(found[0, -1]) if found.shape[1] == count else -2.0
    return [(int(left), int(right)) for left, right in found[1:].T]
