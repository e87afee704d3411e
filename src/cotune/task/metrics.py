"""Metrics of label tasks, as pure functions over gold and predicted labels."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from cotune.errors import InputError

MetricFunction = Callable[[Sequence[str], Sequence[str], Sequence[str]], float]


@dataclass(frozen=True)
class Metric:
    """A named metric, higher is better, between 0 and 1.

    Attributes:
        name: how a task names it.
        function: from gold labels, predicted labels (one each a row) and the task's labels to the score.
        per_row: whether the score is the mean of :func:`correct`, so that rows can be counted one by one.
        about: one line for people.
    """

    name: str
    function: MetricFunction
    per_row: bool
    about: str

    def __call__(self, gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> float:
        """The score of ``predicted`` against ``gold``. Raises ValueError on unequal lengths or no rows."""
        return self.function(gold, predicted, labels)


def correct(gold: Sequence[str], predicted: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each row is right, shape (rows,). Raises ValueError where the lengths differ."""
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold labels but {len(predicted)} predicted ones")
    return np.fromiter((a == b for a, b in zip(gold, predicted, strict=True)), dtype=np.bool_, count=len(gold))


def accuracy(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str] = ()) -> float:
    """Share of rows that are right. ``labels`` is not needed; all metrics take the same arguments."""
    _check_rows(gold)
    return float(correct(gold, predicted).mean())


def f1_by_label(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
    """F1 of each label, shape (labels,): 2 TP / (2 TP + FP + FN); 0 where the label is neither gold nor predicted."""
    hits, gold_counts, predicted_counts = _counts(gold, predicted, labels)
    total = gold_counts + predicted_counts
    scores: NDArray[np.float64] = 2.0 * hits / np.maximum(total, 1)
    return scores


def macro_f1(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Plain mean of F1 over the labels that occur among gold or predicted ones, as scikit-learn takes it.

    A label without a single row would otherwise pull the mean down whatever the model does.
    """
    _, gold_counts, predicted_counts = _counts(gold, predicted, labels)
    present = (gold_counts + predicted_counts) > 0
    return float(f1_by_label(gold, predicted, labels)[present].mean())


def weighted_f1(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Mean of F1 over the labels, each weighted by its number of gold rows."""
    _, gold_counts, _ = _counts(gold, predicted, labels)
    return float(np.average(f1_by_label(gold, predicted, labels), weights=gold_counts))


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", accuracy, True, "share of rows that are right"),
            Metric("macro_f1", macro_f1, False, "mean of the labels' F1, every label counting the same"),
            Metric("weighted_f1", weighted_f1, False, "mean of the labels' F1, weighted by their rows"),
        )
    }
)


def metric_named(name: str, where: str = "metric") -> Metric:
    """The metric called ``name``.

    Raises:
        InputError: there is none of that name; says which is nearest.
    """
    if name in METRICS:
        return METRICS[name]
    nearest = difflib.get_close_matches(name.lower().replace("-", "_").replace(" ", "_"), METRICS, n=1, cutoff=0.4)
    raise InputError(
        f"unknown metric {name!r}" + (f", did you mean {nearest[0]!r}?" if nearest else ""),
        where=where,
        mend=f"Known metrics: {', '.join(METRICS)}.",
    )


def _check_rows(gold: Sequence[str]) -> None:
    if len(gold) == 0:
        raise ValueError("no rows to score")


def _counts(
    gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """True positives, gold rows and predicted rows of each label, each of shape (labels,)."""
    _check_rows(gold)
    index = {label: position for position, label in enumerate(labels)}
    if unknown := sorted({*gold, *predicted} - set(index)):
        raise ValueError(f"{unknown[0]!r} is not among the labels")
    right = correct(gold, predicted)
    gold_ids = np.array([index[label] for label in gold])
    predicted_ids = np.array([index[label] for label in predicted])
    size = len(labels)
    return (
        np.bincount(gold_ids[right], minlength=size),
        np.bincount(gold_ids, minlength=size),
        np.bincount(predicted_ids, minlength=size),
    )
