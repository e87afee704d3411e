"""F1 averaged over labels, for one confusion matrix or many resamples at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cotune.evaluate.stats.resampling import Floats, Statistic
from cotune.task.metrics.label import Average, f1_from_counts


def f1_influence(counts: Floats, average: Average) -> Floats:
    """Influence on the F1 of a row in each cell of a confusion matrix, on the scale of a mean of rows.

    Args:
        counts: confusion matrices, the right label first, shape (..., labels, labels).
        average: as for :func:`cotune.task.metrics.label.f1_from_counts`.

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
