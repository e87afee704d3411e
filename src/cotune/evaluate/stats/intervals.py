"""Intervals for one score: a proportion, a mean, or a statistic of sums over rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.evaluate.stats.clusters import FEW_GROUPS, effective_rows
from cotune.evaluate.stats.resampling import (
    Floats,
    Statistic,
    evaluate_over,
    group_index,
    influence_values,
    resample,
    several_units,
    weighted_mean,
)

DRAWS = 4000
LEVEL = 0.95
FEW_DIFFERING = 10
"""Number of rows or groups that differ, from the others or between arms, below which resampling understates the uncertainty."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A range of values that the data are compatible with.

    Attributes:
        low: lower end; minus infinity if it is unbounded.
    """

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def within(self, low: float, high: float) -> Interval:
        """The part between two possible values; an end that is not finite stays."""
        ends = (min(max(end, low), high) if math.isfinite(end) else end for end in (self.low, self.high))
        return Interval(*ends)

    @property
    def width(self) -> float:
        return self.high - self.low

    def as_list(self) -> list[float | None]:
        """``[low, high]`` for JSON, with None for an end that is not finite."""
        return [end if math.isfinite(end) else None for end in (self.low, self.high)]

    def rounded(self) -> list[float | None]:
        return [None if end is None else round(end, 6) for end in self.as_list()]


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion: the default for accuracy at every n.

    Args:
        successes: number of right rows; may be fractional if ``n`` is an effective number.
        n: number of rows, at least 1.

    Raises:
        ValueError: ``n`` is not positive or ``successes`` is outside 0 to ``n``.

    Source: Wilson (JASA 1927); recommended by Brown, Cai and DasGupta (Statistical Science 2001).
    """
    if not n > 0:
        raise ValueError(f"an interval needs at least one row, not {n}")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a proportion")
    low, high = wilson_limits(np.array([successes / n]), np.array([n]), level)
    return Interval(float(low[0]), float(high[0]))


def wilson_limits(shares: Floats, rows: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Limits of :func:`wilson` for many shares, each with its number of rows; all arrays have one shape."""
    z = float(special.ndtri((1 + level) / 2))
    middle = (shares + z * z / (2 * rows)) / (1 + z * z / rows)
    reach = z / (1 + z * z / rows) * np.sqrt(shares * (1 - shares) / rows + z * z / (4 * rows * rows))
    low = np.where(shares == 0, 0.0, np.maximum(0.0, middle - reach))
    return low, np.where(shares == 1, 1.0, np.minimum(1.0, middle + reach))


def proportion_interval(correct: npt.ArrayLike, *, groups: npt.ArrayLike | None = None, level: float = 0.95) -> Interval:
    """Reported interval of a share of right rows: Wilson's, on effective rows if they are grouped.

    With ``groups``, the number of rows is replaced by the cautious :func:`cotune.evaluate.stats.clusters.effective_rows`, so
    that few groups give a wide interval. If all rows are right, all are wrong, or there is a single group, each group counts as
    one row.

    Args:
        correct: 1 for a right row and 0 for a wrong one, or a share between, shape (rows,).
        groups: group id of each row.

    Source: Wilson's interval on effective rows as in Franco et al. (JSSAM 2019).
    """
    scores = _checked(correct)
    rows = float(len(scores)) if groups is None else float(effective_rows(scores, groups, level=level))
    return wilson(float(scores.mean()) * rows, rows, level)


def mean_interval(
    values: npt.ArrayLike,
    *,
    seed: int,
    groups: npt.ArrayLike | None = None,
    draws: int = DRAWS,
) -> Interval:
    """Reported 95% interval of a mean of scores from 0 to 1.

    For 0/1 scores it is :func:`proportion_interval`, otherwise the BCa bootstrap. With fewer than 20 groups it is
    :func:`proportion_interval` too, because 0/1 scores have the largest variance; with more groups it takes the wider ends of
    the bootstrap and of a t interval by groups. Ungrouped rows never use a normal approximation, whatever their number.

    If fewer than 10 rows (or groups with such rows) differ from the commonest score, resamples cannot tell how rare such rows
    are. Then Wilson's limits of what they lose and of what they win, as shares of the largest possible loss and win, hold where
    they are wider.

    Args:
        values: score of each row, shape (rows,), at least one.
        groups: group id of each row; if given, whole groups are drawn, and the group is the unit of evidence.

    Source: see :func:`cotune.evaluate.stats.resampling.bca_limits`; clusters: Field and Welsh (JRSS B 2007).
    """
    scores = _checked(values)
    if np.all((scores == 0) | (scores == 1)) or (_few(groups) and scores.min() >= 0 and scores.max() <= 1):
        return proportion_interval(scores, groups=groups)
    found = _resampled(weighted_mean(scores), len(scores), seed, groups, draws)
    if scores.min() < 0 or scores.max() > 1:
        return found
    if (common := _common_score(scores, groups)) is not None:
        found = _wider(found, _of_rare_rows(scores, common, groups))
    return found.within(0.0, 1.0)


def aggregate_interval(
    statistic: Statistic,
    values: npt.ArrayLike,
    *,
    seed: int,
    groups: npt.ArrayLike | None = None,
    draws: int = DRAWS,
    signed: bool = False,
) -> Interval:
    """Reported 95% interval of a score that is not a mean of rows, such as micro F1: the BCa bootstrap of rows.

    If the score is 0 or 1, there is nothing to resample, and the interval is :func:`proportion_interval` of rows that all have
    that score. With few groups the score is treated as a share of effective rows, whose number comes from its influence values;
    with more, the wider ends of the bootstrap of groups and of a t interval are taken. If fewer than 10 rows or groups differ
    from the commonest score, the limits of a share hold where they are wider, as in :func:`mean_interval`.

    A score that is cut at 0, such as R², is resampled before it is cut: else a score of 0, which may be one of 0.1 that drew
    unlucky rows, would look as sure as no right row at all. It always has the wider ends.

    Args:
        statistic: the score as a statistic of resampling weights, one column, from 0 to 1, or below 0 if ``signed``.
        values: score of each row, from 0 to 1, shape (rows,).
        groups: group id of each row; if given, whole groups are drawn.
        signed: whether the statistic is the score before it is cut at 0.
    """
    scores = _checked(values)
    estimate = float(evaluate_over(statistic, iter([np.ones((1, len(scores)))]))[0, 0])
    if signed and estimate < 1.0 and several_units(len(scores), groups):
        found = _resampled(statistic, len(scores), seed, groups, draws, widened=True)
        # Without width no resample differs, as for the correlation of constant answers.
        if found.width > 0:
            return found.within(0.0, 1.0)
    if signed or estimate in (0.0, 1.0):
        # Not the rows' own values: precision can be 1 although every row lacks something.
        return proportion_interval(np.full(len(scores), max(estimate, 0.0)), groups=groups)
    if groups is not None and _few(groups):
        low, high = few_groups_limits(statistic, scores[None], groups)
        return Interval(float(low[0]), float(high[0]))
    found = _resampled(statistic, len(scores), seed, groups, draws)
    if _common_score(scores, groups) is not None:
        units = np.arange(len(scores)) if groups is None else groups
        low, high = few_groups_limits(statistic, scores[None], units)
        found = _wider(found, Interval(float(low[0]), float(high[0])))
    return found.within(0.0, 1.0)


def _common_score(scores: Floats, groups: npt.ArrayLike | None) -> float | None:
    """The commonest score if fewer than :data:`FEW_DIFFERING` rows, or groups, hold others."""
    values, counts = np.unique(scores, return_counts=True)
    common = float(values[counts.argmax()])
    differs = scores != common
    units = int(differs.sum()) if groups is None else len(np.unique(group_index(groups)[differs]))
    return common if units < FEW_DIFFERING else None


def _of_rare_rows(scores: Floats, common: float, groups: npt.ArrayLike | None) -> Interval:
    """Limits of a mean of scores from 0 to 1 that equal the common one in all but a few rows."""
    rows = float(len(scores)) if groups is None else float(effective_rows(scores, groups, level=LEVEL))
    lost, won = float(np.maximum(common - scores, 0.0).mean()), float(np.maximum(scores - common, 0.0).mean())
    most_lost, most_won = common, 1.0 - common
    low = most_lost * wilson(min(lost / most_lost, 1.0) * rows, rows).high if most_lost > 0 else 0.0
    high = most_won * wilson(min(won / most_won, 1.0) * rows, rows).high if most_won > 0 else 0.0
    return Interval(common - low + won, common + high - lost)


def _wider(one: Interval, other: Interval) -> Interval:
    return Interval(min(one.low, other.low), max(one.high, other.high))


def _resampled(
    statistic: Statistic, rows: int, seed: int, groups: npt.ArrayLike | None, draws: int, *, widened: bool = False
) -> Interval:
    _, limits = resample(statistic, rows, seed=seed, draws=draws, groups=groups, widened=widened or groups is not None)
    low, high = limits(LEVEL)
    return Interval(float(low[0]), float(high[0]))


def few_groups_limits(statistic: Statistic, values: Floats, groups: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Wilson's 95% limits of a score that is not a mean of rows, on effective rows computed from its influence values.

    Wilson's limits suppose the variance of right and wrong rows. A ratio of sums whose rows hold unequal numbers of values may
    vary more; it counts as that many fewer rows.

    Args:
        statistic: scores of several samples of the same rows, one column each.
        values: score of each row, from 0 to 1, shape (samples, rows).
    """
    rows = values.shape[-1]
    kinds = np.stack([values, 1 - values], axis=-1)
    influence = influence_values(statistic, rows).T
    effective = effective_rows(influence, groups, kinds, level=LEVEL)
    shares = np.clip(evaluate_over(statistic, iter([np.ones((1, rows))]))[0], 0.0, 1.0)
    variance, of_rows = (influence**2).mean(axis=-1), shares * (1 - shares)
    fewer = np.where((of_rows > 0) & (variance > of_rows), of_rows / np.where(variance > 0, variance, 1.0), 1.0)
    return wilson_limits(shares, effective * fewer, LEVEL)


def _few(groups: npt.ArrayLike | None) -> bool:
    return groups is not None and int(group_index(groups).max()) + 1 < FEW_GROUPS


def _checked(values: npt.ArrayLike) -> Floats:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores must be one value for each of at least one row, not of shape {scores.shape}")
    if not np.all(np.isfinite(scores)):
        raise ValueError("scores hold NaN or infinity")
    return scores
