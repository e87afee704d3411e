"""The bootstrap of all intervals in this package: seeded resampling weights and bias-corrected limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Maps weights (how often each resample holds each row), shape (draws, rows), to values, shape (draws, statistics)."""
LimitsAt = Callable[[float], tuple[Floats, Floats]]
"""Maps a level such as 0.95 to lower and upper limits, each of shape (statistics,)."""


@dataclass(frozen=True, eq=False)
class OfSums:
    """A statistic of sums over rows, such as a mean or an F1.

    With each unit left out it is computed from the sums less that unit's, in linear time; as a :data:`Statistic` of weights it
    would take all other units each time.

    Attributes:
        table: what is summed, shape (rows, columns).
        of: maps sums, shape (samples, columns), to values, shape (samples, statistics).
    """

    table: Floats
    of: Callable[[Floats], Floats]

    def __call__(self, weights: Floats) -> Floats:
        return self.of(weights @ self.table)

    def without_each(self, groups: npt.ArrayLike | None) -> Floats:
        """The values without each row, or each group, in turn; shape (units, statistics)."""
        parts = self.table
        if groups is not None:
            index = group_index(groups)
            parts = np.zeros((int(index.max()) + 1, self.table.shape[1]))
            np.add.at(parts, index, self.table)
        return self.of(self.table.sum(axis=0) - parts)


_CELLS_AT_ONCE = 4_000_000
_FEW_UNITS = 20


def group_index(groups: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Number the groups 0, 1, ... in order of their sorted ids; shape (rows,)."""
    _, index = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    return np.asarray(index, dtype=np.int64).reshape(-1)


def resampling_weights(rows: int, draws: int, seed: int, groups: npt.ArrayLike | None = None) -> Iterator[Floats]:
    """Yield how often each resample draws each row, in chunks of shape (some draws, rows).

    Rows are drawn with replacement; with ``groups``, whole groups are drawn (the cluster bootstrap). The same seed and shape
    give the same resamples, so all statistics of the same rows are resampled alike.
    """
    index = np.arange(rows) if groups is None else group_index(groups)
    units = int(index.max()) + 1 if rows else 0
    if not units:
        raise ValueError("nothing to resample: there are no rows")
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS_AT_ONCE // max(rows, units))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        chosen = generator.integers(0, units, size=(count, units)) + np.arange(count)[:, None] * units
        weights = np.bincount(chosen.ravel(), minlength=count * units).reshape(count, units).astype(np.float64)
        yield weights if groups is None else weights[:, index]


def leave_one_out_weights(rows: int, groups: npt.ArrayLike | None = None) -> Iterator[Floats]:
    """Yield the weights of the jackknife in chunks: each unit (row or group) is left out once."""
    index = np.arange(rows) if groups is None else group_index(groups)
    units = int(index.max()) + 1
    step = max(1, _CELLS_AT_ONCE // rows)
    for start in range(0, units, step):
        left_out = np.arange(start, min(start + step, units))
        yield (index[None, :] != left_out[:, None]).astype(np.float64)


def evaluate_over(statistic: Statistic, weights: Iterator[Floats]) -> Floats:
    """Evaluate a statistic on every resample; shape (draws, statistics)."""
    return np.concatenate([np.asarray(statistic(chunk)).reshape(len(chunk), -1) for chunk in weights])


def without_each(statistic: Statistic, rows: int, groups: npt.ArrayLike | None = None) -> Floats:
    """The jackknife: a statistic with each row, or each group, left out; shape (units, statistics)."""
    if isinstance(statistic, OfSums):
        return statistic.without_each(groups)
    return evaluate_over(statistic, leave_one_out_weights(rows, groups))


def weighted_mean(values: npt.ArrayLike) -> OfSums:
    """The mean as a statistic of resampling weights; values are (rows,) or (rows, columns)."""
    columns = np.asarray(values, dtype=np.float64)
    columns = columns.reshape(len(columns), -1)
    return OfSums(np.column_stack([columns, np.ones(len(columns))]), lambda sums: sums[:, :-1] / sums[:, -1:])


def bca_limits(estimate: Floats, replicates: Floats, jackknife: Floats, level: float) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated limits with expanded percentiles.

    Args:
        estimate: statistics of all rows, shape (statistics,).
        replicates: statistics of each resample, shape (draws, statistics).
        jackknife: statistics with each unit left out, shape (units, statistics), at least two.
        level: confidence level, such as 0.95.

    Returns:
        Lower and upper limits, each of shape (statistics,).

    Source: Efron, Better Bootstrap Confidence Intervals (JASA 1987); the percentiles are widened by the t quantile
    and n/(n-1), as the bootstrap's own spread is too small on few rows (Hesterberg, arXiv 1411.5279, section 3.3).
    """
    units, draws = len(jackknife), len(replicates)
    rounding = 1e-12 * np.maximum(1.0, np.abs(estimate))
    below = np.mean(replicates < estimate - rounding, axis=0)
    equal = np.mean(np.abs(replicates - estimate) <= rounding, axis=0)
    bias = special.ndtri(np.clip(below + equal / 2, 0.5 / draws, 1 - 0.5 / draws))
    deviations = jackknife.mean(axis=0) - jackknife
    squared = deviations**2
    squares = np.sum(squared, axis=0)
    scale = np.where(squares > 1e-24, squares, 1.0) ** 1.5
    # A third power is many times slower than a product.
    acceleration = np.where(squares > 1e-24, np.sum(squared * deviations, axis=0) / (6 * scale), 0.0)
    reach = np.sqrt(units / (units - 1)) * special.stdtrit(units - 1, (1 + level) / 2)
    ordered = np.sort(replicates, axis=0)
    limits = []
    for quantile in (-reach, reach):
        shifted = bias + quantile
        denominator = np.maximum(1 - acceleration * shifted, 1e-3)
        positions = special.ndtr(bias + shifted / denominator) * (draws - 1)
        limits.append(_interpolate(ordered, np.clip(positions, 0, draws - 1)))
    return limits[0], limits[1]


def resample(
    statistic: Statistic,
    rows: int,
    *,
    seed: int,
    draws: int,
    groups: npt.ArrayLike | None = None,
    widened: bool | npt.NDArray[np.bool_] = False,
) -> tuple[Floats, LimitsAt]:
    """Estimate of one or several statistics of the same rows, and their limits at any level from the same resamples.

    Limits are those of :func:`bca_limits`; statistics that are ``widened`` take the wider ends of these and of
    :func:`jackknife_limits`. If there is a single row or group, limits are infinite.
    """
    estimate = evaluate_over(statistic, iter([np.ones((1, rows))]))[0]
    if not several_units(rows, groups):
        return estimate, lambda level: (np.full(np.shape(estimate), -np.inf), np.full(np.shape(estimate), np.inf))
    replicates = evaluate_over(statistic, resampling_weights(rows, draws, seed, groups))
    jackknife = without_each(statistic, rows, groups)

    def limits(level: float) -> tuple[Floats, Floats]:
        low, high = bca_limits(estimate, replicates, jackknife, level)
        if np.any(widened):
            symmetric_low, symmetric_high = jackknife_limits(estimate, jackknife, level)
            low = np.where(widened, np.minimum(low, symmetric_low), low)
            high = np.where(widened, np.maximum(high, symmetric_high), high)
        return low, high

    return estimate, limits


def several_units(rows: int, groups: npt.ArrayLike | None) -> bool:
    """Whether there are at least two rows, or groups if rows are grouped."""
    return rows > 1 and (groups is None or bool(group_index(groups).any()))


def jackknife_limits(estimate: Floats, jackknife: Floats, level: float) -> tuple[Floats, Floats]:
    """The estimate plus and minus a t quantile times the jackknife's standard error.

    It fails on other samples than the bootstrap. If a sample misses a long tail, so do its resamples, and the bootstrap moves
    both ends away from the tail. With few units a degree of freedom is subtracted, because the spread of skewed values is less
    certain than that of normal ones. Args as for :func:`bca_limits`.

    Source: Tukey's jackknife; for groups: Bell and McCaffrey (Survey Methodology 2002).
    """
    units = len(jackknife)
    spread = np.sqrt((units - 1) / units * np.sum((jackknife - jackknife.mean(axis=0)) ** 2, axis=0))
    reach = float(special.stdtrit(max(1, units - (2 if units < _FEW_UNITS else 1)), (1 + level) / 2)) * spread
    return np.asarray(estimate - reach), np.asarray(estimate + reach)


def influence_values(statistic: Statistic, rows: int) -> Floats:
    """Influence of each row on the statistics, on the scale of a mean of rows; shape (rows, statistics).

    They are computed by the jackknife; for a mean they are the values minus their mean.
    """
    without = without_each(statistic, rows)
    return np.asarray((rows - 1) * (without.mean(axis=0) - without), dtype=np.float64)


def _interpolate(ordered: Floats, positions: Floats) -> Floats:
    columns: Any = np.arange(ordered.shape[1])
    floor = np.floor(positions).astype(np.int64)
    ceiling = np.minimum(floor + 1, len(ordered) - 1)
    share = positions - floor
    return np.asarray(ordered[floor, columns] * (1 - share) + ordered[ceiling, columns] * share, dtype=np.float64)
