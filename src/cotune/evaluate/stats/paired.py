"""Comparing two arms on the same rows: tests, intervals, and what can be told apart at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.evaluate.stats.clusters import effective_rows, group_sums
from cotune.evaluate.stats.intervals import DRAWS, Interval
from cotune.evaluate.stats.resampling import (
    Floats,
    Statistic,
    group_index,
    influence_values,
    resample,
    weighted_mean,
)
from cotune.evaluate.stats.together import IntervalAt, read_together

FEW_DIFFERING = 10
"""Below this many rows or groups that tell arms apart, resampling them understates what is not known."""
_ENUMERATED = 14
_CELLS_AT_ONCE = 4_000_000


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided McNemar test: are two arms right equally often?

    Args:
        first_only: rows that only the first arm has right.
        second_only: rows that only the second arm has right.

    Returns:
        The p-value; 1.0 where no row tells the arms apart.

    Source: McNemar (Psychometrika 1947), with the binomial distribution instead of its approximation.
    """
    discordant = first_only + second_only
    if min(first_only, second_only) < 0:
        raise ValueError("counts of rows cannot be negative")
    if not discordant:
        return 1.0
    return float(min(1.0, 2 * special.bdtr(min(first_only, second_only), discordant, 0.5)))


def discordant_rows(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[int, int]:
    """Count the rows that only the first, and that only the second of two arms has right."""
    one, two = np.asarray(first).astype(bool), np.asarray(second).astype(bool)
    if one.shape != two.shape:
        raise ValueError(f"paired arms need the same rows, not {one.shape} and {two.shape}")
    return int(np.sum(one & ~two)), int(np.sum(~one & two))


def sign_flip_test(differences: npt.ArrayLike, *, seed: int, draws: int = 10_000, groups: npt.ArrayLike | None = None) -> float:
    """Two-sided permutation test that paired differences have mean zero.

    Under the null hypothesis that the arms are exchangeable on each row, each difference could as well have had the
    other sign. All sign patterns are enumerated for up to 14 rows that differ; else ``draws`` random ones are
    drawn and the observed one is counted in, so that the p-value is valid at any number of draws.

    Args:
        differences: one paired difference a row, shape (rows,).
        seed: of the random sign patterns.
        draws: how many there are.
        groups: group id of each row; the signs of a group's rows are flipped together.

    Source: Fisher, The Design of Experiments (1935); Phipson and Smyth (2010) for counting the observed pattern.
    """
    sizes: Floats = np.asarray(differences, dtype=np.float64)
    if not np.all(np.isfinite(sizes)):
        raise ValueError("differences hold NaN or infinity")
    if groups is not None:
        sizes = np.bincount(group_index(groups), weights=sizes).astype(np.float64)
    sizes = sizes[sizes != 0]
    if not len(sizes):
        return 1.0
    observed = abs(float(sizes.sum())) - 1e-9 * float(np.abs(sizes).sum())
    if len(sizes) <= _ENUMERATED:
        patterns = (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes))) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ sizes) >= observed))
    generator = np.random.default_rng(seed)
    step, reached, total = max(1, _CELLS_AT_ONCE // len(sizes)), 0, float(sizes.sum())
    for start in range(0, draws, step):
        flipped = generator.integers(0, 2, size=(min(step, draws - start), len(sizes)), dtype=np.int8)
        reached += int(np.sum(np.abs(total - 2 * (flipped @ sizes)) >= observed))
    return (1 + reached) / (1 + draws)


def paired_proportion_interval(first_only: int, second_only: int, n: int, level: float = 0.95) -> Interval:
    """Tango's score interval of the difference of two proportions on the same rows, second minus first.

    It has width where no row tells the arms apart, and it agrees with McNemar's test.

    Args:
        first_only: rows that only the first arm has right.
        second_only: rows that only the second arm has right.
        n: all rows.
        level: such as 0.95.

    Source: Tango (Statistics in Medicine 1998).
    """
    if min(first_only, second_only) < 0 or n < 1 or first_only + second_only > n:
        raise ValueError(f"{first_only} and {second_only} discordant rows do not fit {n} rows")
    low, high = tango_limits(np.array([second_only]), np.array([first_only]), n, level)
    return Interval(float(low[0]), float(high[0]))


def tango_limits(gained: npt.ArrayLike, lost: npt.ArrayLike, n: npt.ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Limits of :func:`paired_proportion_interval` for many tables at once, by bisection of the score statistic.

    Rows may be parts of rows, as effective rows are; all arrays of one shape, or ``n`` a number.
    """
    plus, minus, n = (np.asarray(counts, dtype=np.float64) for counts in (gained, lost, n))
    z = float(special.ndtri((1 + level) / 2))

    def statistic(difference: Floats) -> Floats:
        slope = -plus - minus + (2 * n - plus + minus) * difference
        constant = -minus * difference * (1 - difference)
        nuisance = (np.sqrt(np.maximum(slope**2 - 8 * n * constant, 0.0)) - slope) / (4 * n)
        variance = n * (2 * nuisance + difference * (1 - difference))
        return np.asarray((plus - minus - n * difference) / np.sqrt(np.maximum(variance, 1e-12)), dtype=np.float64)

    estimate = (plus - minus) / n
    limits = []
    for outer, target in ((-1.0, z), (1.0, -z)):
        near, far = estimate.copy(), np.full_like(estimate, outer)
        for _ in range(50):
            middle = (near + far) / 2
            inside = np.abs(statistic(middle)) < abs(target)
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        limits.append(near)
    return limits[0], limits[1]


def grouped_tango_limits(differences: npt.ArrayLike, groups: npt.ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Tango's limits on as many rows as grouped ones are worth, see :func:`cotune.evaluate.stats.clusters.effective_rows`.

    Args:
        differences: of two arms on each row, from -1 to 1, shape (..., rows).
        groups: group id of each row.
        level: such as 0.95.

    Returns:
        Lower and upper limits, each of shape (...).
    """
    changes = np.asarray(differences, dtype=np.float64)
    gained, lost = np.maximum(changes, 0.0), np.maximum(-changes, 0.0)
    rows = effective_rows(changes, groups, np.stack([gained, lost, 1 - gained - lost], axis=-1), level=level)
    return tango_limits(gained.mean(axis=-1) * rows, lost.mean(axis=-1) * rows, rows, level)


LimitsAt = Callable[[float], tuple[Floats, Floats]]
"""A level such as 0.95 to lower and upper limits."""


def contrasts(
    statistic: Statistic,
    differs: npt.NDArray[np.bool_],
    *,
    seed: int,
    draws: int = DRAWS,
    groups: npt.ArrayLike | None = None,
    widened: bool | npt.NDArray[np.bool_] = True,
) -> tuple[Floats, LimitsAt]:
    """Estimate and limits of differences between arms that are no difference of two shares of right rows.

    The wider ends of the paired BCa bootstrap and of a t interval by the jackknife, of whole groups where there are any:
    each alone is too short on few rows, the one where differences are skewed, the other where they are not. Where fewer than
    10 rows or groups tell the arms apart, neither knows what was not met, and :func:`tango_limits` join in, on the
    differences as parts of the largest one.

    Args:
        statistic: the differences as statistics of resampling weights, a column each.
        differs: whether a row tells the arms apart, shape (rows, columns).
        seed: of the resampling.
        draws: how many resamples.
        groups: group id of each row.
        widened: for which columns the t interval counts.

    Returns:
        The estimates, shape (columns,), and a function that gives their limits at any level from the same resamples.
    """
    rows = len(differs)
    found = resample(statistic, rows, seed=seed, draws=draws, groups=groups, widened=widened)
    units = differs.sum(axis=0) if groups is None else (group_sums(differs.T, groups) > 0).sum(axis=-1)
    scarce = (units < FEW_DIFFERING) & np.isfinite(found.limits(0.5)[0])
    changes = np.where(differs, found.estimate + influence_values(statistic, rows), 0.0).T[scarce] if scarce.any() else None

    def limits(level: float) -> tuple[Floats, Floats]:
        low, high = found.limits(level)
        if changes is None:
            return low, high
        largest = np.abs(changes).max(axis=-1)
        # Where nothing differs, a row could have made a difference of one.
        largest = np.where(largest > 0, largest, 1.0)
        parts = changes / largest[:, None]
        if groups is None:
            gained, lost = np.maximum(parts, 0.0).sum(axis=-1), np.maximum(-parts, 0.0).sum(axis=-1)
            ends = tango_limits(gained, lost, rows, level)
        else:
            ends = grouped_tango_limits(parts, groups, level)
        low[scarce] = np.minimum(low[scarce], largest * ends[0])
        high[scarce] = np.maximum(high[scarce], largest * ends[1])
        return low, high

    return found.estimate, limits


def paired_interval(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    seed: int,
    level: float = 0.95,
    draws: int = DRAWS,
    groups: npt.ArrayLike | None = None,
) -> Interval:
    """The interval of a paired difference, second minus first: Tango's for 0/1 scores, on effective rows where they are
    grouped; else :func:`contrasts`. Infinite for other scores of a single group."""
    return paired_intervals(first, second, seed=seed, draws=draws, groups=groups)(level)


def paired_intervals(
    first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, draws: int = DRAWS, groups: npt.ArrayLike | None = None
) -> IntervalAt:
    """:func:`paired_interval` at any level, from the same resamples."""
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != two.shape:
        raise ValueError(f"paired arms need the same rows, not {one.shape} and {two.shape}")
    both, changes = np.concatenate([one, two]), two - one
    if not np.all((both == 0) | (both == 1)):
        limits = contrasts(weighted_mean(changes), changes[:, None] != 0, seed=seed, draws=draws, groups=groups)[1]
        return lambda level: interval_of(limits(level))
    if groups is None:
        lost, gained = discordant_rows(one, two)
        return lambda level: paired_proportion_interval(lost, gained, len(one), level)
    ids = groups
    return lambda level: interval_of(grouped_tango_limits(changes, ids, level))


def interval_of(limits: tuple[Floats, Floats], column: int = 0) -> Interval:
    """One column of limits as an interval."""
    low, high = (float(np.ravel(ends)[column]) for ends in limits)
    return Interval(low, high)


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, groups: npt.ArrayLike | None = None
) -> tuple[Interval, float]:
    """Interval and p-value of a paired difference, second minus first: :func:`paired_interval`, with exact McNemar for
    ungrouped 0/1 scores and a permutation test for others, by whole groups where ``groups`` says which rows belong together;
    both agree about zero, see :func:`cotune.evaluate.stats.together.read_together`.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    both = np.concatenate([one, two])
    exact = groups is None and bool(np.all((both == 0) | (both == 1)))
    p = mcnemar(*discordant_rows(one, two)) if exact else sign_flip_test(two - one, seed=seed, groups=groups)
    p, interval = read_together(p, paired_intervals(one, two, seed=seed, groups=groups))
    return interval, p
