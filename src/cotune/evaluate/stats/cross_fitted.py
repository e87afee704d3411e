"""Comparison of cross-fitted losses, which are not independent because folds share most of their training rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FOLDS = 5


def standard_error(differences: NDArray[np.float64]) -> float:
    """Standard error of the mean of paired differences; 0 for fewer than two."""
    return float(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else 0.0


def corrected_error(differences: NDArray[np.float64]) -> float:
    """Standard error of a mean difference between cross-fitted losses.

    Nadeau and Bengio (2003) add the ratio of held-out to training rows to the variance of a cross-validated mean. With
    five folds this multiplies the naive standard error by ``sqrt(1 + folds / (folds - 1))``, which is 1.5.

    Args:
        differences: ``[rows]`` paired differences of cross-fitted losses.
    """
    return standard_error(differences) * math.sqrt(1 + FOLDS / (FOLDS - 1)) if len(differences) > 1 else math.inf


def probably_worse(differences: NDArray[np.float64], *, alpha: float = 0.05, comparisons: int = 1) -> bool:
    """Whether a corrected one-sided t test shows that the first of two candidates has the larger expected loss.

    The level is divided by the number of comparisons (Bonferroni), which is candidates times looks at a growing sample.

    Args:
        differences: ``[rows]`` cross-fitted loss of the first candidate minus that of the second.
        alpha: probability of calling the better one worse, over all comparisons.
    """
    from scipy.stats import t

    error = corrected_error(differences)
    if not math.isfinite(error):
        return False
    if error == 0:
        return bool(differences.mean() > 0)
    return bool(differences.mean() / error > t.isf(alpha / max(1, comparisons), len(differences) - 1))
