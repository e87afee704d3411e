"""Tests and intervals for two arms on the same rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.evaluate.stats.clusters import effective_rows, group_sums
from cotune.evaluate.stats.intervals import DRAWS, FEW_DIFFERING, Interval
from cotune.evaluate.stats.resampling import (
    Floats,
    LimitsAt,
    Statistic,
    group_index,
    influence_values,
    resample,
    several_units,
    weighted_mean,
)
from cotune.evaluate.stats.together import IntervalAt, read_together

_ENUMERATED = 14
_CELLS_AT_ONCE = 4_000_000


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided McNemar test of whether two arms are right equally often, from the rows that only one of them has right.

    Returns:
        The p-value; 1.0 if the arms differ on no row.

    Source: McNemar (Psychometrika 1947), with the exact binomial distribution.
    """
    discordant = first_only + second_only
    if min(first_only, second_only) < 0:
        raise ValueError("counts of rows cannot be negative")
    if not discordant:
        return 1.0
    return float(min(1.0, 2 * special.bdtr(min(first_only, second_only), discordant, 0.5)))


def discordant_rows(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[int, int]:
    """Number of rows that only the first arm has right, and number that only the second has right."""
    one, two = np.asarray(first).astype(bool), np.asarray(second).astype(bool)
    if one.shape != two.shape:
        raise ValueError(f"paired arms need the same rows, not {one.shape} and {two.shape}")
    return int(np.sum(one & ~two)), int(np.sum(~one & two))


def sign_flip_test(differences: npt.ArrayLike, *, seed: int, draws: int = 10_000, groups: npt.ArrayLike | None = None) -> float:
    """Two-sided permutation test that paired differences have mean zero.

    If the arms are exchangeable on each row, as the null hypothesis says, both signs of a difference are equally likely. All
    sign patterns are enumerated for up to 14 rows that differ; otherwise ``draws`` random patterns are drawn and the observed
    one is added, so that the p-value is valid for any number of draws.

    Args:
        differences: paired difference of each row, shape (rows,).
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

    It has a width even if the arms differ on no row, and it agrees with McNemar's test.

    Args:
        first_only: rows that only the first arm has right.
        second_only: rows that only the second arm has right.

    Source: Tango (Statistics in Medicine 1998).
    """
    if min(first_only, second_only) < 0 or n < 1 or first_only + second_only > n:
        raise ValueError(f"{first_only} and {second_only} discordant rows do not fit {n} rows")
    low, high = tango_limits(np.array([second_only]), np.array([first_only]), n, level)
    return Interval(float(low[0]), float(high[0]))


def tango_limits(gained: npt.ArrayLike, lost: npt.ArrayLike, n: npt.ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Limits of :func:`paired_proportion_interval` for many tables at once, by bisection of the score statistic.

    Counts may be fractional, as those of effective rows are. All arrays have one shape, or ``n`` is a number.
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
    """Tango's limits for grouped rows, on :func:`cotune.evaluate.stats.clusters.effective_rows`.

    Args:
        differences: differences of two arms on each row, from -1 to 1, shape (..., rows).

    Returns:
        Lower and upper limits, each of shape (...).
    """
    changes = np.asarray(differences, dtype=np.float64)
    gained, lost = np.maximum(changes, 0.0), np.maximum(-changes, 0.0)
    rows = effective_rows(changes, groups, np.stack([gained, lost, 1 - gained - lost], axis=-1), level=level)
    return tango_limits(gained.mean(axis=-1) * rows, lost.mean(axis=-1) * rows, rows, level)


def contrasts(
    statistic: Statistic,
    differs: npt.NDArray[np.bool_],
    *,
    seed: int,
    draws: int = DRAWS,
    groups: npt.ArrayLike | None = None,
    widened: bool | npt.NDArray[np.bool_] = True,
) -> tuple[Floats, LimitsAt]:
    """Estimate and limits of differences between arms, for scores other than a share of right rows.

    Takes the wider ends of the paired BCa bootstrap and of a jackknife t interval, both by whole groups if rows are grouped.
    Each alone is too short on few rows: one if differences are skewed, the other if they are not. If the arms differ on fewer
    than 10 rows or groups, both miss rare rows that the sample does not hold; the interval is then widened to
    :func:`tango_limits` of the differences divided by the largest one.

    Args:
        statistic: the differences as statistics of resampling weights, one column each.
        differs: whether the arms differ on a row, shape (rows, columns).
        widened: columns that use the t interval.

    Returns:
        The estimates, shape (columns,), and a function that returns their limits at any level from the same resamples.
    """
    rows = len(differs)
    estimate, resampled = resample(statistic, rows, seed=seed, draws=draws, groups=groups, widened=widened)
    units = differs.sum(axis=0) if groups is None else (group_sums(differs.T, groups) > 0).sum(axis=-1)
    # Limits of a single row or group are infinite already.
    scarce = (units < FEW_DIFFERING) & several_units(rows, groups)
    changes = np.where(differs, estimate + influence_values(statistic, rows), 0.0).T[scarce] if scarce.any() else None

    def limits(level: float) -> tuple[Floats, Floats]:
        low, high = resampled(level)
        if changes is None:
            return low, high
        largest = np.abs(changes).max(axis=-1)
        # If nothing differs, a row could have made a difference of one.
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

    return estimate, limits


def paired_intervals(
    first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, groups: npt.ArrayLike | None = None
) -> IntervalAt:
    """Interval of a paired difference, second minus first, as a function of the level, from the same resamples.

    Tango's interval for 0/1 scores, on effective rows if they are grouped; otherwise :func:`contrasts`. The interval is
    infinite for other scores of a single group.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != two.shape:
        raise ValueError(f"paired arms need the same rows, not {one.shape} and {two.shape}")
    both, changes = np.concatenate([one, two]), two - one
    if not np.all((both == 0) | (both == 1)):
        limits = contrasts(weighted_mean(changes), changes[:, None] != 0, seed=seed, groups=groups)[1]
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


def paired_test(first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, groups: npt.ArrayLike | None) -> tuple[float, str]:
    """P-value of a paired difference and the name of the test.

    The test is exact McNemar for ungrouped 0/1 scores and a permutation test otherwise, by whole groups if ``groups`` is given.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    both = np.concatenate([one, two])
    if groups is None and np.all((both == 0) | (both == 1)):
        return mcnemar(*discordant_rows(one, two)), "exact McNemar"
    return sign_flip_test(two - one, seed=seed, groups=groups), "paired permutation"


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, groups: npt.ArrayLike | None = None
) -> tuple[Interval, float]:
    """Interval and p-value of a paired difference, second minus first.

    The interval is that of :func:`paired_intervals` and the test :func:`paired_test`. Both agree about zero, see
    :func:`cotune.evaluate.stats.together.read_together`.
    """
    p, _ = paired_test(first, second, seed=seed, groups=groups)
    p, interval = read_together(p, paired_intervals(first, second, seed=seed, groups=groups))
    return interval, p
