"""Whether probabilities mean what they say: log-loss by row, reliability, calibration error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.evaluate.stats.intervals import Interval, wilson
from cotune.evaluate.stats.resampling import Floats

Binning = Literal["width", "mass"]


def log_loss_rows(log_probabilities: npt.ArrayLike, gold: npt.ArrayLike) -> Floats:
    """Log-loss of each row in nats, without ever taking the logarithm of a rounded probability.

    Args:
        log_probabilities: log-scores of the labels, shape (rows, labels); they need not be normalised. Minus infinity
            rules a label out.
        gold: index of each row's right label, shape (rows,).

    Returns:
        Shape (rows,); infinite where the right label was ruled out.

    Raises:
        ValueError: shapes do not fit, an index is out of range, or a row holds NaN, plus infinity, or no label at all.
    """
    scores = np.asarray(log_probabilities, dtype=np.float64)
    index = np.asarray(gold, dtype=np.int64)
    if scores.ndim != 2 or index.shape != (len(scores),):
        raise ValueError(f"log-probabilities of shape {scores.shape} do not fit gold labels of shape {index.shape}")
    if len(index) and (index.min() < 0 or index.max() >= scores.shape[1]):
        raise ValueError(f"a gold label is not among the {scores.shape[1]} labels")
    total = special.logsumexp(scores, axis=1) if len(scores) else np.zeros(0)
    if not np.all(np.isfinite(total)):
        raise ValueError("a row of log-probabilities holds NaN, plus infinity, or no possible label")
    loss = total - np.take_along_axis(scores, index[:, None], axis=1)[:, 0]
    return np.asarray(np.maximum(loss, 0.0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Rows whose confidence falls into one range.

    Attributes:
        low: least confidence of the range, inclusive.
        high: its end, inclusive only in the last bin.
        count: rows in it, at least 1.
        confidence: their mean confidence.
        accuracy: share of them that is right.
        ci: Wilson interval of the accuracy.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    ci: Interval


def reliability_bins(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, *, bins: int = 10, binning: Binning = "width"
) -> list[ReliabilityBin]:
    """Bin rows by confidence, for a reliability diagram; empty bins are left out.

    Args:
        confidence: probability of the answer given, 0 to 1, shape (rows,).
        correct: right or wrong, shape (rows,).
        bins: how many at most.
        binning: "width" (ranges equally wide) or "mass" (bins of about equally many rows; rows of equal confidence
            stay together).

    Raises:
        ValueError: shapes do not fit, or a confidence is outside 0 to 1.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.shape != right.shape or sure.ndim != 1:
        raise ValueError(f"confidences of shape {sure.shape} do not fit answers of shape {right.shape}")
    if not np.all((sure >= -1e-9) & (sure <= 1 + 1e-6)):
        raise ValueError("a confidence lies outside 0 to 1")
    if not len(sure):
        return []
    edges = np.linspace(0, 1, bins + 1)
    if binning == "mass":
        edges = np.unique(np.quantile(sure, edges))
        edges = edges if len(edges) > 1 else np.array([edges[0], edges[0]])
    place = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, len(edges) - 2)
    found = []
    for number in np.unique(place):
        inside = place == number
        count = int(inside.sum())
        hits = float(right[inside].sum())
        found.append(
            ReliabilityBin(
                float(edges[number]),
                float(edges[number + 1]),
                count,
                float(sure[inside].mean()),
                hits / count,
                wilson(hits, count),
            )
        )
    return found


def expected_calibration_error(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, *, bins: int = 10, binning: Binning = "width"
) -> float:
    """Mean distance between confidence and accuracy over the bins, weighted by rows; 0 is perfectly calibrated.

    On few rows it is above 0 even for a calibrated model, the more so the more bins there are. Args as for
    :func:`reliability_bins`.

    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599); bins of equal mass: Nixon et al.
    (arXiv 1904.01685).
    """
    found = reliability_bins(confidence, correct, bins=bins, binning=binning)
    rows = sum(group.count for group in found)
    if not rows:
        return float("nan")
    return sum(group.count * abs(group.confidence - group.accuracy) for group in found) / rows
