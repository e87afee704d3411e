"""Interval of an F1 averaged over labels, from the posterior of the confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cotune.evaluate.stats.clusters import effective_rows
from cotune.evaluate.stats.intervals import Interval
from cotune.evaluate.stats.resampling import Floats
from cotune.task.metrics.label import Average, f1_from_counts

_CELLS_AT_ONCE = 1_000_000
_MOST_LABELS = 100
"""Number of labels above which cells without rows are not drawn one by one, because there are far more of them than rows."""
_LEVEL = 0.95


def dirichlet_f1(
    references: npt.ArrayLike,
    predicted: npt.ArrayLike,
    *,
    average: Average = "macro",
    seed: int,
    groups: npt.ArrayLike | None = None,
    draws: int = 1000,
) -> Interval:
    """95% posterior interval of an F1 averaged over the labels that occur, from the confusion matrix.

    The cells of the matrix get a Dirichlet posterior; with more than 100 labels, cells without rows are drawn as sums of their
    rows and of their columns. With few rows per label the prior matters, so the interval covers those
    of two priors: a sparse one with next to no weight, and a widely spread one that expects the accuracy of all rows for each
    label, with the weight of three rows per label. With ``groups`` the matrix is scaled down to effective rows, computed from
    the F1's influence values and from right answers.

    Args:
        references: right answers, shape (rows,), at least one.
        predicted: predicted answers, shape (rows,).
        average: "macro" or "weighted" (by rows of the label).
        groups: group id of each row, if rows depend on each other.
        draws: number of draws from each posterior.

    Raises:
        ValueError: shapes do not fit.

    Source: Caelen, A Bayesian interpretation of the confusion matrix (2017); several priors at once as in
    Walley (JRSS B 1996); the second prior is this project's.
    """
    truth, answers = np.asarray(references).astype(str), np.asarray(predicted).astype(str)
    if truth.shape != answers.shape or truth.ndim != 1 or not len(truth):
        raise ValueError(f"references of shape {truth.shape} do not fit predictions of shape {answers.shape}")
    names = np.unique(np.concatenate([truth, answers]))
    size = len(names)
    cells = np.searchsorted(names, truth) * size + np.searchsorted(names, answers)
    counts = confusion_counts(cells[None], size)
    if groups is not None:
        counts *= effective_share(cells[None], counts, average, groups, _LEVEL)[:, None, None]
    low, high = posterior_limits(counts, (average,), seed=seed, level=_LEVEL, draws=draws)
    return Interval(float(low[0, 0]), float(high[0, 0]))


def confusion_counts(cells: npt.NDArray[np.int64], size: int) -> Floats:
    """Confusion matrices of many samples at once.

    Args:
        cells: ``right * size + predicted`` of each row, as indices of labels, shape (samples, rows).

    Returns:
        Shape (samples, labels, labels), the right label first.
    """
    offset = np.arange(len(cells))[:, None] * size * size
    counts = np.bincount((cells + offset).ravel(), minlength=len(cells) * size * size)
    return counts.reshape(len(cells), size, size).astype(np.float64)


def f1_influence(counts: Floats, average: Average) -> Floats:
    """Influence on the F1 of a row in each cell of confusion matrices (the right label first), on the scale of a mean of rows.

    Returns:
        Shape (..., labels, labels): the derivative of the F1 by the cell's share of rows; its mean over the rows is zero.
    """
    hits, support, predicted = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)
    rows, both = counts.sum(axis=(-1, -2))[..., None], support + predicted
    seen = both > 0
    scores = np.where(seen, 2 * hits / np.where(seen, both, 1.0), 0.0)
    weights = seen / seen.sum(axis=-1, keepdims=True) if average == "macro" else support / rows
    scale = np.where(seen, weights * rows / np.where(seen, both, 1.0), 0.0)
    change = -(scale * scores)[..., :, None] - (scale * scores)[..., None, :]
    change += 2 * scale[..., None] * np.eye(counts.shape[-1])
    if average == "weighted":
        change += (scores - (weights * scores).sum(axis=-1, keepdims=True))[..., :, None]
    return np.asarray(change, dtype=np.float64)


def effective_share(
    cells: npt.NDArray[np.int64], counts: Floats, average: Average, groups: npt.ArrayLike, level: float
) -> Floats:
    """Effective share of the rows if rows of a group depend on each other; shape (samples,).

    The smaller of :func:`cotune.evaluate.stats.clusters.effective_rows` of the F1's influence values and of right and wrong
    rows. Args as for :func:`confusion_counts` and :func:`dirichlet_f1`.
    """
    size, rows = counts.shape[-1], cells.shape[-1]
    influence = np.take_along_axis(f1_influence(counts, average).reshape(len(cells), -1), cells, axis=-1)
    right = (cells // size == cells % size).astype(np.float64)
    kinds = np.stack([right, 1 - right], axis=-1)
    both = effective_rows(np.stack([influence, right]), groups, kinds, level=level)
    return np.asarray(both.min(axis=0) / rows, dtype=np.float64)


def posterior_limits(
    counts: Floats, averages: Sequence[Average], *, seed: int, level: float = 0.95, draws: int = 1000
) -> tuple[Floats, Floats]:
    """Limits of :func:`dirichlet_f1` for many confusion matrices of shape (samples, labels, labels) at once.

    Returns:
        Lower and upper limits, each of shape (averages, samples).
    """
    generator = np.random.default_rng(seed)
    drawn = _drawn_sums if counts.shape[-1] > _MOST_LABELS else _drawn_cells
    ends: list[Floats] = []
    for prior in (_sparse_prior, _pooled_prior):
        scores = drawn(counts, prior, averages, draws, generator)
        ends += list(np.quantile(scores, [(1 - level) / 2, (1 + level) / 2], axis=1))
    return np.maximum(0.0, np.minimum(ends[0], ends[2])), np.minimum(1.0, np.maximum(ends[1], ends[3]))


_Prior = Callable[[Floats, int, np.random.Generator], tuple[Floats, Floats]]
"""For confusion matrices and a number of draws: weights of each label's cell on the diagonal and of each of its other cells,
both of shape (draws, samples, labels).
"""


def _sparse_prior(counts: Floats, draws: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    weights = np.full((draws, *counts.shape[:-1]), 1 / counts[0].size)
    return weights, weights


def _pooled_prior(counts: Floats, draws: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    size, right, rows = counts.shape[-1], np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-1, -2))
    if size == 1:
        return np.ones((draws, len(counts), 1)), np.ones((draws, len(counts), 1))
    pooled = generator.beta(right + 1, rows - right + 1, size=(draws, len(counts)))[..., None]
    by_label = generator.beta(np.repeat(2 * pooled, size, axis=-1), np.repeat(2 * (1 - pooled), size, axis=-1))
    return 3 * by_label, 3 * (1 - by_label) / (size - 1)


def _drawn_cells(
    counts: Floats, prior: _Prior, averages: Sequence[Average], draws: int, generator: np.random.Generator
) -> Floats:
    """F1 of each draw and sample, shape (averages, draws, samples); every cell is drawn."""
    size = counts.shape[-1]
    step = max(1, _CELLS_AT_ONCE // counts[0].size // max(1, len(counts)))
    scores: list[Floats] = []
    for start in range(0, draws, step):
        diagonal, other = (weights[..., None] for weights in prior(counts, min(step, draws - start), generator))
        table = generator.standard_gamma(counts + np.where(np.eye(size, dtype=bool), diagonal, other))
        hits = np.diagonal(table, axis1=-2, axis2=-1)
        support, predicted = table.sum(axis=-1), table.sum(axis=-2)
        scores.append(np.stack([f1_from_counts(hits, support, predicted, average) for average in averages]))
    return np.concatenate(scores, axis=1)


def _drawn_sums(
    counts: Floats, prior: _Prior, averages: Sequence[Average], draws: int, generator: np.random.Generator
) -> Floats:
    """The same, with the cells without rows drawn as sums.

    Their sums over each label's row and over each label's column are gamma variates, and their shares of the total are
    Dirichlet variates. That a cell adds to a row and to a column is only accounted for by the total.
    """
    size, columns = counts.shape[-1], list[Floats]()
    for sample in counts:
        # With the diagonal, each row and each column has a cell.
        truth, answer = np.nonzero((sample > 0) | np.eye(size, dtype=bool))
        by_answer = np.argsort(answer, kind="stable")
        rows, places = (np.searchsorted(labels, np.arange(size)) for labels in (truth, answer[by_answer]))
        right, known = np.flatnonzero(truth == answer), np.bincount(truth, minlength=size)
        step = max(1, _CELLS_AT_ONCE // len(truth))
        scores: list[Floats] = []
        for start in range(0, draws, step):
            diagonal, other = (weights[:, 0] for weights in prior(sample[None], min(step, draws - start), generator))
            weights = other[:, truth]
            table = generator.standard_gamma(sample[truth, answer] + np.where(truth == answer, diagonal[:, truth], weights))
            rest = generator.standard_gamma(other * (size - known))
            left = other.sum(axis=-1, keepdims=True) - np.add.reduceat(weights[:, by_answer], places, axis=-1)
            below = generator.standard_gamma(np.maximum(left, 0.0))
            below *= rest.sum(axis=-1, keepdims=True) / np.maximum(below.sum(axis=-1, keepdims=True), 1e-300)
            support = np.add.reduceat(table, rows, axis=-1) + rest
            predicted = np.add.reduceat(table[:, by_answer], places, axis=-1) + below
            scores.append(np.stack([f1_from_counts(table[:, right], support, predicted, average) for average in averages]))
        columns.append(np.concatenate(scores, axis=1))
    return np.stack(columns, axis=-1)
