"""Error slices: regions of embedding space with many failures, and how much worse the model is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.evaluate.stats.intervals import Interval, proportion_interval

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

LEAST_FAILURES = 4
"""Minimum number of failures for clustering."""
_SMALLEST, _FAILURES_A_SLICE = 3, 8
_LARGEST, _ALPHA = 0.5, 0.05
_DIRECTIONS, _REACH = 16, 0.9
_WORDS, _DISTINCT = 3, 1.0
_WORD = re.compile(r"[^\W\d_][\w'’-]*")


@dataclass(frozen=True)
class Slice:
    """A region of the inputs with many failures.

    Attributes:
        words: words that are more frequent in its rows than in others, the most typical first; may be empty.
        rows: positions of all its rows, right and wrong ones.
        failures: positions of the wrong ones, nearest to its middle first.
        rate: share of wrong rows in it, with its 95% interval ``ci``.
        rest: share of wrong rows among all others, with ``rest_ci``.
        difference: ``rate - rest``, with ``difference_ci``.
        p: probability of finding a slice that differs as clearly if the failures were random rows, over all slices together, at
            most 0.05; None for grouped rows, where shuffling single rows is invalid.
    """

    words: tuple[str, ...]
    rows: tuple[int, ...]
    failures: tuple[int, ...]
    rate: float
    ci: Interval
    rest: float
    rest_ci: Interval
    difference: float
    difference_ci: Interval
    p: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "words": list(self.words),
            "rows": list(self.rows),
            "failures": list(self.failures),
            "rate": round(self.rate, 6),
            "ci": self.ci.rounded(),
            "rest": round(self.rest, 6),
            "rest_ci": self.rest_ci.rounded(),
            "difference": round(self.difference, 6),
            "difference_ci": self.difference_ci.rounded(),
            "p": None if self.p is None else round(self.p, 6),
        }


def error_slices(
    vectors: npt.ArrayLike,
    texts: Sequence[str],
    correct: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    most: int = 6,
    draws: int = 199,
    seed: int = 0,
) -> list[Slice]:
    """Cluster the failures, and add to each cluster the right rows that are as close to its centre.

    A slice that is searched among failures has too many of them by construction. Its interval ignores that; ``p`` accounts for
    it by repeating the search with the failures shuffled over the rows.

    Args:
        vectors: embeddings of all rows, centred, ``[rows, width]``.
        texts: the rows' inputs.
        correct: right (1) or wrong (0), ``[rows]``.
        groups: group id of each row; intervals then use the effective number of rows.
        draws: number of shuffles for ``p``.

    Returns:
        Slices of at least three failures and at most half of the rows, the clearest first, whose interval of the difference is
        above zero and whose ``p``, if any, is at most 0.05. None if fewer than four rows are wrong.

    Raises:
        ValueError: the lengths differ or a vector is not finite.

    Source: clusters by Ward (JASA 1963); the largest statistic under permutation by Westfall and Young (1993).
    """
    points, right = np.asarray(vectors, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if points.ndim != 2 or not len(points) == len(texts) == len(right):
        raise ValueError(f"vectors, texts and correct must have one row each, not {points.shape}, {len(texts)}, {right.shape}")
    if not np.isfinite(points).all():
        raise ValueError("the vectors are not all finite")
    wrong = right == 0
    if int(wrong.sum()) < LEAST_FAILURES or most < 1:
        return []
    points = _leading(points)
    regions = _regions(points, wrong, most)
    reached: Floats | None = None
    if groups is None and regions:
        rng = np.random.default_rng([seed, 21])
        drawn = (rng.permutation(wrong) for _ in range(draws))
        reached = np.array([max((_clearness(r, w) for r, _ in _regions(points, w, most)), default=0.0) for w in drawn])
    said = [set(_words(text)) for text in texts]
    slices = []
    for rows, middle in regions:
        clear = _clearness(rows, wrong)
        p = None if reached is None else (1 + int((reached >= clear).sum())) / (1 + len(reached))
        # Skip regions where most rows are right, and those explained by chance.
        if clear <= 0 or (p is not None and p > _ALPHA):
            continue
        slice_ = _described(rows, middle, points, wrong, said, groups, p)
        if slice_.difference_ci.low > 0:
            slices.append((clear, slice_))
    return [slice_ for _, slice_ in sorted(slices, key=lambda pair: -pair[0])]


def _leading(points: Floats) -> Floats:
    """The leading directions of variation: the others are mostly noise, which dominates with few failures."""
    moved = points - points.mean(axis=0)
    left, scale, _ = np.linalg.svd(moved, full_matrices=False)
    kept: Floats = left[:, :_DIRECTIONS] * scale[:_DIRECTIONS]
    return kept


def _regions(points: Floats, wrong: npt.NDArray[np.bool_], most: int) -> list[tuple[Indices, Floats]]:
    """Rows and centre of each region; right and wrong rows are assigned by the same rule, so that it does not bias the rate.

    A region with more than half of the rows is skipped: it describes the data, not the failures.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    failed = np.flatnonzero(wrong)
    count = int(np.clip(round(len(failed) / _FAILURES_A_SLICE), 1, most))
    names = fcluster(linkage(points[failed], "ward"), count, "maxclust") if count > 1 else np.ones(len(failed), dtype=int)
    members = [failed[names == name] for name in np.unique(names)]
    middles = [points[own].mean(axis=0) for own in members]
    gaps = np.linalg.norm(points[:, None, :] - np.stack(middles)[None], axis=2)
    nearest = gaps.argmin(axis=1)
    reaches = []
    for place, own in enumerate(members):
        # Measured from the centre of the others, because a failure moves the centre towards itself.
        gaps[own, place] *= len(own) / max(1, len(own) - 1)
        reaches.append(float(np.quantile(gaps[own, place], _REACH)))
    inside = gaps[np.arange(len(points)), nearest] <= np.array(reaches)[nearest] + 1e-12
    regions = [(np.flatnonzero(inside & (nearest == place)), middle) for place, middle in enumerate(middles)]
    small = [(rows, middle) for rows, middle in regions if len(rows) <= _LARGEST * len(points)]
    return [(rows, middle) for rows, middle in small if int(wrong[rows].sum()) >= _SMALLEST]


def _clearness(rows: Indices, wrong: npt.NDArray[np.bool_]) -> float:
    """Standardised difference of the error rates inside and outside; higher means worse inside."""
    inside, outside = len(rows), len(wrong) - len(rows)
    pooled = float(wrong.mean())
    if not inside or not outside or pooled in (0.0, 1.0):
        return 0.0
    hits = float(wrong[rows].sum())
    gap = hits / inside - (float(wrong.sum()) - hits) / outside
    return float(gap / np.sqrt(pooled * (1 - pooled) * (1 / inside + 1 / outside)))


def _described(
    rows: Indices,
    middle: Floats,
    points: Floats,
    wrong: npt.NDArray[np.bool_],
    said: Sequence[set[str]],
    groups: npt.ArrayLike | None,
    p: float | None,
) -> Slice:
    others = np.setdiff1d(np.arange(len(wrong)), rows)
    of_rows, of_others = (None if groups is None else np.asarray(groups)[part] for part in (rows, others))
    rate, ci = float(wrong[rows].mean()), proportion_interval(wrong[rows], groups=of_rows)
    rest, rest_ci = float(wrong[others].mean()), proportion_interval(wrong[others], groups=of_others)
    order = rows[np.argsort(np.linalg.norm(points[rows] - middle, axis=1), kind="stable")]
    return Slice(
        words=_distinctive([said[i] for i in rows], [said[i] for i in others]),
        rows=tuple(map(int, rows)),
        failures=tuple(int(i) for i in order if wrong[i]),
        rate=rate,
        ci=ci,
        rest=rest,
        rest_ci=rest_ci,
        difference=rate - rest,
        difference_ci=_difference(rate, ci, rest, rest_ci),
        p=p,
    )


def _difference(first: float, first_ci: Interval, second: float, second_ci: Interval) -> Interval:
    """Interval of a difference of two independent shares from their own (Newcombe, Statistics in Medicine 1998, method 10)."""
    gap = first - second
    low = gap - float(np.hypot(first - first_ci.low, second_ci.high - second))
    high = gap + float(np.hypot(first_ci.high - first, second - second_ci.low))
    return Interval(max(-1.0, low), min(1.0, high))


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if len(word) > 1]


def _distinctive(inside: Sequence[set[str]], outside: Sequence[set[str]]) -> tuple[str, ...]:
    """Words by their log-odds of occurring in a row, in standard deviations (Monroe et al., 2008); ties by name."""
    scored = []
    for word in sorted(set().union(*inside)) if inside else []:
        here, there = sum(word in row for row in inside), sum(word in row for row in outside)
        if here < 2:
            continue
        odds = np.log((here + 0.5) / (len(inside) - here + 0.5)) - np.log((there + 0.5) / (len(outside) - there + 0.5))
        scored.append((float(odds / np.sqrt(1 / (here + 0.5) + 1 / (there + 0.5))), word))
    return tuple(word for score, word in sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:_WORDS] if score > _DISTINCT)
