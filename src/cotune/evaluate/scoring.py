"""From label scores to the numbers that are compared: per-row correctness and log-loss, and the task's metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotune.errors import DivergedError
from cotune.evaluate.decision import Decision
from cotune.task.metrics import Metric

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """A candidate on labelled rows.

    Attributes:
        predicted: ``[rows]`` chosen label.
        correct: ``[rows]`` 1 where it is right.
        log_losses: ``[rows]`` minus the log-probability of the right label, in nats, bias applied.
        score: the task's metric.
    """

    predicted: NDArray[np.int64]
    correct: Floats
    log_losses: Floats
    score: float

    @property
    def log_loss(self) -> float:
        """Mean log-loss a row, in nats."""
        return float(self.log_losses.mean())

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.correct)


def evaluate(
    scores: Floats, gold: Sequence[int] | NDArray[np.int64], decision: Decision, metric: Metric, labels: Sequence[str]
) -> Evaluation:
    """Judge label scores by a decision rule.

    Args:
        scores: ``[rows, labels]`` log-probabilities.
        gold: ``[rows]`` index of the right label.
        decision: how to choose.
        metric: the task's metric.
        labels: names, in score order.

    Raises:
        DivergedError: a log-loss is not a number or infinite.
    """
    truth = np.asarray(gold, dtype=np.int64)
    log_probs = decision.log_probs(scores)
    predicted = log_probs.argmax(axis=1)
    losses = -log_probs[np.arange(len(truth)), truth]
    if not np.isfinite(losses).all():
        raise DivergedError("a log-loss is not finite")
    value = metric([labels[i] for i in truth], [labels[i] for i in predicted], labels)
    return Evaluation(predicted, (predicted == truth).astype(np.float64), losses, float(value))
