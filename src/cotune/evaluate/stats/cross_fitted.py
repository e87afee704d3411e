"""Comparison of cross-fitted losses, which are not independent because folds share most of their training rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.evaluate.stats.clusters import group_sums

FOLDS = 5


def standard_error(differences: NDArray[np.float64], units: NDArray[Any] | None = None) -> float:
    """Standard error of the mean of paired differences; 0 for fewer than two.

    Args:
        differences: ``[rows]`` paired differences.
        units: ``[rows]`` ids of rows that belong together, such as copies or a group; they scatter together. None if every row
            stands alone.
    """
    if units is None:
        return float(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else 0.0
    sums = group_sums(differences - differences.mean(), units)
    count = len(sums)
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(differences) if count > 1 else 0.0


def corrected_error(differences: NDArray[np.float64], units: NDArray[Any] | None = None) -> float:
    """Standard error of a mean difference between cross-fitted losses.

    Nadeau and Bengio (2003) add the ratio of held-out to training rows to the variance of a cross-validated mean. With
    five folds this multiplies the naive standard error by ``sqrt(1 + folds / (folds - 1))``, which is 1.5.

    Args:
        differences: ``[rows]`` paired differences of cross-fitted losses.
        units: as for :func:`standard_error`.
    """
    if _count(differences, units) < 2:
        return math.inf
    return standard_error(differences, units) * math.sqrt(1 + FOLDS / (FOLDS - 1))


def probably_worse(
    differences: NDArray[np.float64], units: NDArray[Any] | None = None, *, alpha: float = 0.05, comparisons: int = 1
) -> bool:
    """Whether a corrected one-sided t test shows that the first of two candidates has the larger expected loss.

    The level is divided by the number of comparisons (Bonferroni), which is candidates times looks at a growing sample.

    Args:
        differences: ``[rows]`` cross-fitted loss of the first candidate minus that of the second.
        units: as for :func:`standard_error`.
        alpha: probability of calling the better one worse, over all comparisons.
    """
    from scipy.stats import t

    error = corrected_error(differences, units)
    if not math.isfinite(error):
        return False
    if error == 0:
        return bool(differences.mean() > 0)
    return bool(differences.mean() / error > t.isf(alpha / max(1, comparisons), _count(differences, units) - 1))


def _count(differences: NDArray[np.float64], units: NDArray[Any] | None) -> int:
    return len(differences if units is None else np.unique(units))
