"""Calibration of probabilities: reliability bins and calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cotune.evaluate.stats.intervals import Interval, wilson

_BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Rows whose confidence is in one range.

    Attributes:
        low: lower end of the range, inclusive.
        high: upper end of the range, inclusive only in the last bin.
        count: number of rows, at least 1.
        ci: Wilson interval of the accuracy.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    ci: Interval


def reliability_bins(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> list[ReliabilityBin]:
    """Bin rows by confidence into ten ranges of equal width for a reliability diagram; empty bins are left out.

    Args:
        confidence: probability of the predicted answer, 0 to 1, shape (rows,).
        correct: right or wrong, shape (rows,).

    Raises:
        ValueError: shapes do not fit, or a confidence is outside 0 to 1.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.shape != right.shape or sure.ndim != 1:
        raise ValueError(f"confidences of shape {sure.shape} do not fit answers of shape {right.shape}")
    if not np.all((sure >= -1e-9) & (sure <= 1 + 1e-6)):
        raise ValueError("a confidence is outside 0 to 1")
    if not len(sure):
        return []
    edges = np.linspace(0, 1, _BINS + 1)
    place = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, len(edges) - 2)
    result = []
    for number in np.unique(place):
        inside = place == number
        count = int(inside.sum())
        hits = float(right[inside].sum())
        result.append(
            ReliabilityBin(
                float(edges[number]),
                float(edges[number + 1]),
                count,
                float(sure[inside].mean()),
                hits / count,
                wilson(hits, count),
            )
        )
    return result


def expected_calibration_error(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Mean distance between confidence and accuracy over the bins, weighted by rows; 0 is perfectly calibrated.

    On few rows it is above 0 even for a calibrated model, and it grows with the number of bins. Args as for
    :func:`reliability_bins`.

    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599).
    """
    filled = reliability_bins(confidence, correct)
    rows = sum(group.count for group in filled)
    if not rows:
        return float("nan")
    return sum(group.count * abs(group.confidence - group.accuracy) for group in filled) / rows
