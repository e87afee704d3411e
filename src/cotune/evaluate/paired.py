"""Comparing two arms on the same rows: tests, intervals, and what can be told apart at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.evaluate.intervals import DRAWS, Interval, bca_bootstrap
from cotune.evaluate.resampling import Floats, group_index

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


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that can be read together at one significance level.

    Source: Holm (Scandinavian Journal of Statistics 1979).
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted


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


def tango_limits(gained: npt.ArrayLike, lost: npt.ArrayLike, n: int, level: float = 0.95) -> tuple[Floats, Floats]:
    """Limits of :func:`paired_proportion_interval` for many tables at once, by bisection of the score statistic."""
    plus, minus = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
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


def paired_mean_interval(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    seed: int,
    level: float = 0.95,
    draws: int = DRAWS,
    groups: npt.ArrayLike | None = None,
) -> Interval:
    """BCa bootstrap interval of the mean difference of two arms on the same rows, second minus first."""
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != two.shape:
        raise ValueError(f"paired arms need the same rows, not {one.shape} and {two.shape}")
    return bca_bootstrap(two - one, seed, level=level, draws=draws, groups=groups)


def paired_interval(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    seed: int,
    level: float = 0.95,
    draws: int = DRAWS,
    groups: npt.ArrayLike | None = None,
) -> Interval:
    """The interval of a paired difference, second minus first: Tango's for ungrouped 0/1 scores, else BCa bootstrap."""
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    both = np.concatenate([one, two])
    if groups is None and np.all((both == 0) | (both == 1)):
        lost, gained = discordant_rows(one, two)
        return paired_proportion_interval(lost, gained, len(one), level)
    return paired_mean_interval(one, two, seed=seed, level=level, draws=draws, groups=groups)


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, groups: npt.ArrayLike | None = None
) -> tuple[Interval, float]:
    """Interval and p-value of a paired difference, second minus first: :func:`paired_interval`, with exact McNemar for
    ungrouped 0/1 scores and a permutation test for others, by whole groups where ``groups`` says which rows belong together.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    both = np.concatenate([one, two])
    exact = groups is None and bool(np.all((both == 0) | (both == 1)))
    p = mcnemar(*discordant_rows(one, two)) if exact else sign_flip_test(two - one, seed=seed, groups=groups)
    return paired_interval(one, two, seed=seed, groups=groups), p


def mcnemar_power(n: int, effect: float, discordant: float, alpha: float = 0.05) -> float:
    """How often exact McNemar finds a true gain of ``effect`` when a share ``discordant`` of ``n`` rows differs."""
    spread = 9 * np.sqrt(n * discordant * (1 - discordant)) + 9
    counts = np.arange(max(0, int(n * discordant - spread)), min(n, int(n * discordant + spread)) + 1)
    rejecting = _largest_rejected(counts, alpha)
    share = min(1.0, (discordant + effect) / (2 * discordant))
    lower = np.where(rejecting >= 0, special.bdtr(np.maximum(rejecting, 0), counts, 1 - share), 0.0)
    upper = np.where(rejecting >= 0, special.bdtr(np.maximum(rejecting, 0), counts, share), 0.0)
    log_choose = special.gammaln(n + 1) - special.gammaln(counts + 1) - special.gammaln(n - counts + 1)
    weights = np.exp(log_choose + special.xlogy(counts, discordant) + special.xlog1py(n - counts, -discordant))
    return float(np.sum(weights * (lower + upper)))


def _largest_rejected(discordant: npt.NDArray[np.int64], alpha: float) -> npt.NDArray[np.int64]:
    """The largest minority count that exact McNemar rejects for each number of discordant rows; -1 where none is."""
    low, high = np.full(len(discordant), -1), np.asarray(discordant // 2, dtype=np.int64)
    while np.any(low < high):
        middle = (low + high + 1) // 2
        rejected = 2 * special.bdtr(middle, discordant, 0.5) <= alpha
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle - 1)
    return low


def minimum_detectable_effect(n: int, *, discordant: float = 0.1, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true gain in accuracy that exact McNemar finds with the given power.

    Args:
        n: test rows.
        discordant: share of rows on which exactly one of the arms is right; an effect larger than it is read as one
            where all rows that differ speak for the better arm.
        power: how often the gain shall be found.
        alpha: significance level.

    Returns:
        A share, such as 0.06 for six points; 1.0 where no gain would be found.

    Source: exact unconditional power of McNemar's test (Duffy, Biometrics 1984).
    """
    if n < 1 or not 0 < discordant <= 1:
        raise ValueError(f"no effect to detect with n={n} and discordant={discordant}")
    if mcnemar_power(n, 1.0, 1.0, alpha) < power:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        found = mcnemar_power(n, middle, max(discordant, middle), alpha) >= power
        low, high = (low, middle) if found else (middle, high)
    return high


def detectable_sentence(n: int, *, discordant: float = 0.1, power: float = 0.8, alpha: float = 0.05) -> str:
    """Say before a run what its test can show: 'with 200 test rows, a gain below about 6 points ...'."""
    effect = minimum_detectable_effect(n, discordant=discordant, power=power, alpha=alpha)
    if effect >= 1.0:
        return f"With {n} test rows, no gain of any size can be told from noise."
    points = 100 * effect
    amount = f"{points:.0f}" if points >= 1.95 else f"{points:.1f}"
    return f"With {n} test rows, a gain below about {amount} points will not be told from noise."
