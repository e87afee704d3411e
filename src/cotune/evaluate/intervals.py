"""Intervals for one score: a proportion, a mean, an F1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.evaluate.resampling import Floats, bootstrap_limits, group_index, weighted_mean

Average = Literal["macro", "weighted"]
DRAWS = 4000


@dataclass(frozen=True, slots=True)
class Interval:
    """A range of values that the data are compatible with.

    Attributes:
        low: lower end; minus infinity where nothing bounds it.
        high: upper end.
    """

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def width(self) -> float:
        """Upper end minus lower end."""
        return self.high - self.low

    def as_list(self) -> list[float | None]:
        """``[low, high]`` for JSON, None in place of an end that is not finite."""
        return [end if math.isfinite(end) else None for end in (self.low, self.high)]


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion: the default for accuracy at every n.

    Args:
        successes: how many of the rows are right; may be fractional together with an effective ``n``.
        n: how many rows there are, at least 1.
        level: such as 0.95.

    Raises:
        ValueError: ``n`` is not positive or ``successes`` lies outside 0 to ``n``.

    Source: Wilson (JASA 1927); recommended by Brown, Cai and DasGupta (Statistical Science 2001).
    """
    _check_counts(successes, n)
    z = float(special.ndtri((1 + level) / 2))
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(0.0 if successes == 0 else max(0.0, middle - reach), 1.0 if successes == n else middle + reach)


def clopper_pearson(successes: float, n: float, level: float = 0.95) -> Interval:
    """The exact interval of a proportion: never below its level, wider than Wilson's.

    Args and errors are those of :func:`wilson`.

    Source: Clopper and Pearson (Biometrika 1934), by quantiles of the beta distribution.
    """
    _check_counts(successes, n)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(special.betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(special.betaincinv(successes + 1, n - successes, 1 - tail))
    return Interval(low, high)


def bca_bootstrap(
    values: npt.ArrayLike,
    seed: int,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    groups: npt.ArrayLike | None = None,
) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of a mean.

    Args:
        values: one score a row, shape (rows,), at least one.
        seed: of the resampling.
        level: such as 0.95.
        draws: how many resamples.
        groups: group id of each row; whole groups are drawn then, and the group is the unit of evidence.

    Returns:
        The interval; infinite with fewer than two rows or groups. Values that are all equal give an interval without
        width, so for 0/1 scores use :func:`proportion_interval`.

    Source: see :func:`cotune.evaluate.resampling.bca_limits`; clusters: Field and Welsh (JRSS B 2007).
    """
    scores = _checked(values)
    _, low, high = bootstrap_limits(
        weighted_mean(scores), len(scores), seed=seed, draws=draws, level=level, groups=groups
    )
    return Interval(float(low[0]), float(high[0]))


def proportion_interval(
    correct: npt.ArrayLike, *, groups: npt.ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """The interval of a share of right rows that cotune reports: Wilson's; by effective rows where they are grouped.

    With ``groups``, the rows are discounted by the design effect that the groups show (never below 1), with a t
    instead of a normal quantile, so that few groups give a wide interval. Where the spread between groups cannot be
    told (all rows right, or all wrong, or a single group) each group counts as one row.

    Args:
        correct: right or wrong, shape (rows,).
        groups: group id of each row.
        level: such as 0.95.

    Source: Korn and Graubard (Survey Methodology 1998), applied to Wilson's interval as in Franco et al. (JSSAM 2019).
    """
    scores = _checked(correct)
    n, successes = len(scores), float(scores.sum())
    if groups is None:
        return wilson(successes, n, level)
    index = group_index(groups)
    units = int(index.max()) + 1
    share = successes / n
    if units < 2 or share in (0.0, 1.0):
        return wilson(share * units, units, level)
    residuals = np.bincount(index, weights=scores - share, minlength=units)
    variance = units / (units - 1) * float(np.sum(residuals**2)) / n**2
    effective = n / max(1.0, variance * n / (share * (1 - share)))
    narrowed = float(special.ndtri((1 + level) / 2) / special.stdtrit(units - 1, (1 + level) / 2)) ** 2
    effective *= narrowed
    return wilson(share * effective, effective, level)


def mean_interval(
    values: npt.ArrayLike,
    *,
    seed: int,
    groups: npt.ArrayLike | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Interval:
    """The interval of a mean that cotune reports: :func:`proportion_interval` for 0/1 scores, else the BCa bootstrap.

    No normal approximation at any number of rows. Args as for :func:`bca_bootstrap`.
    """
    scores = _checked(values)
    if np.all((scores == 0) | (scores == 1)):
        return proportion_interval(scores, groups=groups, level=level)
    return bca_bootstrap(scores, seed, level=level, draws=draws, groups=groups)


def _check_counts(successes: float, n: float) -> None:
    if not n > 0:
        raise ValueError(f"an interval needs at least one row, not {n}")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")


def _checked(values: npt.ArrayLike) -> Floats:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores must be one value a row and at least one row, not of shape {scores.shape}")
    if not np.all(np.isfinite(scores)):
        raise ValueError("scores hold NaN or infinity")
    return scores
