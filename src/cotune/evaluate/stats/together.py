"""One correction for the tests and intervals of differences that are read together, so that they never disagree."""

from __future__ import annotations

import math
from collections.abc import Callable

from cotune.evaluate.frozen_arms import ALPHA
from cotune.evaluate.stats.intervals import Interval

IntervalAt = Callable[[float], Interval]
"""Maps a level such as 0.95 to the interval of a difference."""
_HALVINGS = 30


def read_together(p: float, interval_at: IntervalAt, count: int = 1) -> tuple[float, Interval]:
    """Correct the test and the interval of one of several differences that are read together.

    The p-value is multiplied by ``count`` and the interval is taken at the level ``1 - ALPHA / count`` (Bonferroni). All such
    intervals contain their true values at once in at least ``1 - ALPHA`` of samples, whatever the dependence between them, and
    a false difference is claimed in at most ``ALPHA`` of samples. Holm's step-down correction claims more, but has no matching
    two-sided simultaneous intervals: if it claims a difference that Bonferroni does not, the interval contains zero.

    A test and an interval of different methods can disagree about zero near the limit. Then the more cautious of the two
    decides: the interval is stretched to zero, or the p-value is raised to the level at which the interval reaches zero. So the
    interval excludes zero if and only if the p-value is below ``ALPHA``.

    Args:
        p: uncorrected p-value of the test.
        interval_at: interval of the difference at any level, wider at higher levels.
        count: number of differences that are read together, including this one.

    Returns:
        The corrected p-value, and the simultaneous interval.

    Source: Dunn, Multiple Comparisons among Means (JASA 1961). On intervals and step-down tests: Strassburger and Bretz
    (Statistics in Medicine 2008), Guilbaud (Biometrical Journal 2008).
    """
    share = ALPHA / count
    interval = interval_at(1 - share)
    if p >= share:
        return max(ALPHA, min(1.0, count * p)), Interval(min(interval.low, 0.0), max(interval.high, 0.0))
    if 0.0 not in interval:
        return min(count * p, math.nextafter(ALPHA, 0.0)), interval
    holds, leaves = share, 1.0
    for _ in range(_HALVINGS):
        middle = math.sqrt(holds * leaves)
        if 0.0 in interval_at(1 - middle):
            holds = middle
        else:
            leaves = middle
    return max(ALPHA, min(1.0, count * holds)), interval
