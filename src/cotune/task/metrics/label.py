"""Metrics of labels: accuracy and F1 over labels."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cotune.task.answered import Answered, Floats

Average = Literal["macro", "weighted"]


def label_counts(answered: Answered) -> Floats:
    """Counts ``[rows, 3 labels]``: for each label whether it is both right and answered, right, and answered.

    Raises:
        ValueError: a reference or an answer is not among the labels.
    """
    labels = answered.output.labels
    index = {label: position for position, label in enumerate(labels)}
    if unknown := sorted({*answered.references, *answered.answers} - set(index)):
        raise ValueError(f"{unknown[0]!r} is not among the labels")
    eye = np.eye(len(labels))
    support = eye[[index[label] for label in answered.references]]
    predicted = eye[[index[label] for label in answered.answers]]
    return np.concatenate([support * predicted, support, predicted], axis=1)


def f1_from_counts(hits: Floats, support: Floats, predicted: Floats, average: Average) -> Floats:
    """F1 averaged over labels, from counts by label.

    Args:
        hits: number of rows of each label that were predicted as it, shape (..., labels).
        support: number of rows of each label, shape (..., labels).
        predicted: number of rows predicted as each label, shape (..., labels).
        average: "macro" (equal weights, without labels that are neither in the references nor in the predictions, because a
            label without rows would always lower the mean) or "weighted" (by rows of the label).

    Returns:
        Shape (...); the same as scikit-learn's ``f1_score`` with ``zero_division=0``.
    """
    seen = (support + predicted) > 0
    scores = np.where(seen, 2 * hits / np.where(seen, support + predicted, 1.0), 0.0)
    weights = seen.astype(np.float64) if average == "macro" else support
    return np.asarray((scores * weights).sum(axis=-1) / np.maximum(weights.sum(axis=-1), 1e-300), dtype=np.float64)


def macro_f1(sums: Floats) -> Floats:
    """Macro average from sums of :func:`label_counts`, ``[..., 3 labels]`` to ``[...]``."""
    return f1_from_counts(*_by_label(sums), "macro")


def weighted_f1(sums: Floats) -> Floats:
    """Average weighted by the labels' rows, from the same sums."""
    return f1_from_counts(*_by_label(sums), "weighted")


def _by_label(sums: Floats) -> tuple[Floats, Floats, Floats]:
    hits, support, predicted = np.split(np.asarray(sums, dtype=np.float64), 3, axis=-1)
    return hits, support, predicted
