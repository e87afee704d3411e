"""Comparing cross-fitted losses, which are not independent: folds share most of the rows that their models learn from."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FOLDS = 5


def corrected_error(differences: NDArray[np.float64], folds: int = FOLDS) -> float:
    """Standard error of a mean difference between cross-fitted losses.

    Nadeau and Bengio (2003) add the share of held-out to learning rows to the variance of a cross-validated mean: with
    ``folds`` parts the naive standard error grows by ``sqrt(1 + folds / (folds - 1))``, half as much again for five.

    Args:
        differences: ``[rows]`` paired differences of held-out losses.
        folds: of the cross-fitting.
    """
    rows = len(differences)
    if rows < 2:
        return math.inf
    naive = float(np.std(differences, ddof=1)) / math.sqrt(rows)
    return naive * math.sqrt(1 + folds / (folds - 1))


def probably_worse(differences: NDArray[np.float64], *, alpha: float = 0.05, comparisons: int = 1) -> bool:
    """Whether the first of two candidates has the larger expected loss, by a corrected one-sided t test.

    The level is divided by the number of comparisons (Bonferroni): candidates times looks at growing rows.

    Args:
        differences: ``[rows]`` held-out loss of the first minus that of the second.
        alpha: chance of calling the better one worse, over all comparisons.
        comparisons: how often it is asked.
    """
    from scipy.stats import t

    error = corrected_error(differences)
    if not math.isfinite(error):
        return False
    if error == 0:
        return bool(differences.mean() > 0)
    return bool(differences.mean() / error > t.isf(alpha / max(1, comparisons), len(differences) - 1))
