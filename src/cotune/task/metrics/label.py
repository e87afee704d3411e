"""Metrics of labels: accuracy and F1 over labels."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cotune.task.answered import Answered, Floats


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


def f1_over_labels(sums: Floats, average: Literal["macro", "weighted"]) -> Floats:
    """F1 averaged over labels from sums of :func:`label_counts`, ``[..., 3 labels]`` to ``[...]``.

    The macro average ignores labels that are neither right nor answered anywhere, as scikit-learn does: a label without rows
    would otherwise always lower the mean.
    """
    hits, support, predicted = np.split(np.asarray(sums, dtype=np.float64), 3, axis=-1)
    seen = (support + predicted) > 0
    scores = np.where(seen, 2 * hits / np.where(seen, support + predicted, 1.0), 0.0)
    weights = seen.astype(np.float64) if average == "macro" else support
    return np.asarray((scores * weights).sum(axis=-1) / np.maximum(weights.sum(axis=-1), 1e-300), dtype=np.float64)


def macro_f1(sums: Floats) -> Floats:
    """Macro average."""
    return f1_over_labels(sums, "macro")


def weighted_f1(sums: Floats) -> Floats:
    """Average weighted by the labels' rows."""
    return f1_over_labels(sums, "weighted")
