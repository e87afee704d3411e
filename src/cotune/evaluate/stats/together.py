"""Tests and intervals of differences that are read together: one correction for both, so that they never contradict."""

from __future__ import annotations

import math
from collections.abc import Callable

from cotune.evaluate.stats.intervals import Interval

ALPHA = 0.05
"""A difference is claimed where its p-value is below this, and its interval, at one minus this, leaves out zero."""

IntervalAt = Callable[[float], Interval]
"""A level such as 0.95 to the interval of a difference."""
_HALVINGS = 30


def read_together(p: float, interval_at: IntervalAt, count: int = 1, alpha: float = ALPHA) -> tuple[float, Interval]:
    """Correct the test and the interval of one of several differences that are read together.

    The p-value is multiplied by ``count`` and the interval is taken at the level ``1 - alpha / count`` (Bonferroni). All such
    intervals hold their true values at once in at least ``1 - alpha`` of samples, whatever the dependence between them, and no
    difference is claimed that is none in more than ``alpha``. Holm's step-down correction of p-values claims more, but no
    simultaneous intervals with two ends belong to it: where it claims what Bonferroni does not, the interval would hold zero.

    A test and an interval that are made in different ways can disagree about zero near the limit. Then the more cautious of
    the two holds: the interval is stretched to zero, or the p-value is raised to the level at which the interval reaches zero.
    So the interval leaves out zero if and only if the p-value is below ``alpha``.

    Args:
        p: the test's p-value, on its own.
        interval_at: the interval of the difference at any level, wider at higher ones.
        count: how many differences are read together, this one included.
        alpha: how often a claim may be wrong.

    Returns:
        The corrected p-value, and the simultaneous interval.

    Source: Dunn, Multiple Comparisons among Means (JASA 1961). On intervals and step-down tests: Strassburger and Bretz
    (Statistics in Medicine 2008), Guilbaud (Biometrical Journal 2008).
    """
    share = alpha / count
    interval = interval_at(1 - share)
    if p >= share:
        return max(alpha, min(1.0, count * p)), Interval(min(interval.low, 0.0), max(interval.high, 0.0))
    if 0.0 not in interval:
        return min(count * p, math.nextafter(alpha, 0.0)), interval
    holds, leaves = share, 1.0
    for _ in range(_HALVINGS):
        middle = math.sqrt(holds * leaves)
        if 0.0 in interval_at(1 - middle):
            holds = middle
        else:
            leaves = middle
    return max(alpha, min(1.0, count * holds)), interval
