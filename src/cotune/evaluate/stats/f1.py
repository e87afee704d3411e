"""F1 averaged over labels, for one confusion matrix or many resamples at once."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from cotune.evaluate.stats.resampling import Floats, Statistic

Average = Literal["macro", "weighted"]


def f1_from_counts(hits: Floats, support: Floats, predicted: Floats, average: Average) -> Floats:
    """F1 averaged over labels, from counts by label.

    Args:
        hits: number of rows of each label that were predicted as it, shape (..., labels).
        support: number of rows of each label, shape (..., labels).
        predicted: number of rows predicted as each label, shape (..., labels).
        average: "macro" (equal weights, without labels that are neither in the references nor in the predictions) or "weighted"
            (by rows of the label).

    Returns:
        Shape (...); the same as scikit-learn's ``f1_score`` with ``zero_division=0``.
    """
    seen = (support + predicted) > 0
    scores = np.where(seen, 2 * hits / np.where(seen, support + predicted, 1.0), 0.0)
    weights = seen.astype(np.float64) if average == "macro" else support
    return np.asarray((scores * weights).sum(axis=-1) / weights.sum(axis=-1), dtype=np.float64)


def f1_influence(counts: Floats, average: Average) -> Floats:
    """Influence on the F1 of a row in each cell of a confusion matrix, on the scale of a mean of rows.

    Args:
        counts: confusion matrices, the right label first, shape (..., labels, labels).
        average: as for :func:`f1_from_counts`.

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


def label_indicators(values: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """One-hot columns of the labels, shape (rows, labels)."""
    return np.asarray(np.asarray(values)[:, None] == np.asarray(labels)[None, :], dtype=np.float64)


def f1_statistic(references: npt.ArrayLike, predictions: list[npt.NDArray[np.generic]], average: Average) -> Statistic:
    """F1 of several arms on the same rows, as a statistic of resampling weights."""
    names = np.unique(np.concatenate([np.asarray(references), *predictions]))
    truth = label_indicators(references, names)
    indicators = [label_indicators(predicted, names) for predicted in predictions]
    hits = [truth * indicator for indicator in indicators]

    def statistic(weights: Floats) -> Floats:
        support = weights @ truth
        columns = [
            f1_from_counts(weights @ hit, support, weights @ indicator, average)
            for hit, indicator in zip(hits, indicators, strict=True)
        ]
        return np.stack(columns, axis=-1)

    return statistic
