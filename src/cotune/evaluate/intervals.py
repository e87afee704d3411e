"""Intervals for one score: a proportion, a mean, an F1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.evaluate.f1 import Average, f1_from_counts
from cotune.evaluate.resampling import Floats, Statistic, bootstrap_limits, group_index, weighted_mean

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
    _, low, high = bootstrap_limits(weighted_mean(scores), len(scores), seed=seed, draws=draws, level=level, groups=groups)
    return Interval(float(low[0]), float(high[0]))


def proportion_interval(correct: npt.ArrayLike, *, groups: npt.ArrayLike | None = None, level: float = 0.95) -> Interval:
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


def aggregate_interval(
    statistic: Statistic,
    values: npt.ArrayLike,
    *,
    seed: int,
    groups: npt.ArrayLike | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Interval:
    """The interval of a score that is no mean of rows, such as a micro F1: the BCa bootstrap of whole rows.

    Rows that are all right or all wrong leave nothing to resample; they are then counted as a share of right rows, as
    :func:`proportion_interval` does.

    Args:
        statistic: the score as a statistic of resampling weights, one column.
        values: what each row is worth, from 0 to 1, shape (rows,).
        seed: of the resampling.
        groups: group id of each row; whole groups are drawn then.
        level: such as 0.95.
        draws: how many resamples.
    """
    scores = _checked(values)
    if np.all(scores == 0) or np.all(scores == 1):
        return proportion_interval(scores, groups=groups, level=level)
    _, low, high = bootstrap_limits(statistic, len(scores), seed=seed, draws=draws, level=level, groups=groups)
    return Interval(max(0.0, float(low[0])), min(1.0, float(high[0])))


def dirichlet_f1(
    gold: npt.ArrayLike,
    predicted: npt.ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    average: Average = "macro",
    seed: int,
    level: float = 0.95,
    draws: int = 1000,
) -> Interval:
    """Posterior interval of an F1 averaged over labels, from the confusion matrix.

    The cells of the matrix get a Dirichlet posterior. On few rows a label the prior matters, so two are tried and
    the interval covers what either says: a sparse one that adds next to nothing, and one that lets each label be right
    about as often as all rows are, three rows' worth a label and widely spread.

    Args:
        gold: right answers, shape (rows,), at least one.
        predicted: answers given, shape (rows,).
        labels: those to average over, each taken to occur; None: those that occur here.
        average: "macro" or "weighted" (by gold rows).
        seed: of the posterior draws.
        level: such as 0.95.
        draws: from each posterior.

    Raises:
        ValueError: shapes do not fit, or an answer is not among ``labels``.

    Source: Caelen, A Bayesian interpretation of the confusion matrix (2017); several priors at once as in
    Walley (JRSS B 1996); the second prior is this project's.
    """
    truth, given = np.asarray(gold).astype(str), np.asarray(predicted).astype(str)
    if truth.shape != given.shape or truth.ndim != 1 or not len(truth):
        raise ValueError(f"gold of shape {truth.shape} does not fit predictions of shape {given.shape}")
    names = np.unique(np.concatenate([truth, given]) if labels is None else np.asarray(labels).astype(str))
    if not np.all(np.isin(np.concatenate([truth, given]), names)):
        raise ValueError("an answer is not among the labels")
    size = len(names)
    cells = np.searchsorted(names, truth) * size + np.searchsorted(names, given)
    counts = np.bincount(cells, minlength=size * size).reshape(size, size).astype(np.float64)
    generator = np.random.default_rng(seed)
    ends: list[float] = []
    for prior in (_sparse_prior, _pooled_prior):
        scores: list[Floats] = []
        for start in range(0, draws, 200):
            count = min(200, draws - start)
            table = generator.standard_gamma(counts + prior(counts, count, generator))
            hits = np.diagonal(table, axis1=1, axis2=2)
            scores.append(f1_from_counts(hits, table.sum(axis=2), table.sum(axis=1), average))
        ends += [float(end) for end in np.quantile(np.concatenate(scores), [(1 - level) / 2, (1 + level) / 2])]
    return Interval(max(0.0, min(ends[0], ends[2])), min(1.0, max(ends[1], ends[3])))


def _sparse_prior(counts: Floats, draws: int, generator: np.random.Generator) -> Floats:
    return np.full((draws, *counts.shape), 1 / counts.size)


def _pooled_prior(counts: Floats, draws: int, generator: np.random.Generator) -> Floats:
    size, right, rows = len(counts), float(np.trace(counts)), float(counts.sum())
    if size == 1:
        return np.full((draws, 1, 1), 1.0)
    pooled = generator.beta(right + 1, rows - right + 1, size=(draws, 1))
    by_label = generator.beta(np.repeat(2 * pooled, size, axis=1), np.repeat(2 * (1 - pooled), size, axis=1))[:, :, None]
    return np.asarray(3 * np.where(np.eye(size, dtype=bool), by_label, (1 - by_label) / (size - 1)), dtype=np.float64)


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
