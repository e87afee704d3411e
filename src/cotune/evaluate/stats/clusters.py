"""Effective numbers of rows: how many independent rows are worth as much as grouped ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.evaluate.stats.resampling import Floats, group_index

FEW_GROUPS = 20
"""Number of groups below which resampling groups says too little about their spread."""
_CORRELATIONS: Floats = np.concatenate([[1e-4], np.linspace(0.02, 0.98, 25), [0.999]])
_SURE = 0.9


def group_sums(values: npt.ArrayLike, groups: npt.ArrayLike) -> Floats:
    """Sums over each group's rows: shape (..., rows) to (..., groups), in the order of :func:`group_index`."""
    index = group_index(groups)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(int(index.max()) + 1))
    return np.asarray(np.add.reduceat(np.asarray(values, dtype=np.float64)[..., order], starts, axis=-1))


def correlation_bound(counts: npt.ArrayLike) -> Floats:
    """Upper bound on the correlation within groups, from the counts of a few kinds of rows in each group.

    The model is Dirichlet-multinomial: each group has its own shares of the kinds, which scatter around the shares of all rows.
    The prior over correlations is uniform, so that few groups, or few rows of the rarer kind, leave room for a high correlation
    even if the observed spread shows none.

    Args:
        counts: number of rows of each kind in each group, shape (..., groups, kinds); may be fractional.

    Returns:
        Shape (...), between 0 and 1.

    Source: Mosimann (Biometrika 1962) for the model; this project takes a bound instead of an estimate.
    """
    table = np.asarray(counts, dtype=np.float64)
    sizes = table.sum(axis=-1)
    kinds = table.shape[-1]
    shares = (table.sum(axis=-2) + 0.5) / (sizes.sum(axis=-1, keepdims=True) + 0.5 * kinds)
    likelihood = np.empty((*table.shape[:-2], len(_CORRELATIONS)))
    for place, correlation in enumerate(_CORRELATIONS):
        strength = 1 / correlation - 1
        scattered: Any = (strength * shares)[..., None, :]
        by_group = special.gammaln(strength) - special.gammaln(strength + sizes)
        by_kind = special.gammaln(table + scattered) - special.gammaln(scattered)
        likelihood[..., place] = by_group.sum(axis=-1) + by_kind.sum(axis=(-1, -2))
    weights = np.exp(likelihood - likelihood.max(axis=-1, keepdims=True))
    below = (np.cumsum(weights, axis=-1) - weights / 2) / weights.sum(axis=-1, keepdims=True)
    after = np.clip((below < _SURE).sum(axis=-1, keepdims=True), 1, len(_CORRELATIONS) - 1)
    left, right = (np.take_along_axis(below, place, axis=-1)[..., 0] for place in (after - 1, after))
    start, end = _CORRELATIONS[after[..., 0] - 1], _CORRELATIONS[after[..., 0]]
    way = np.clip((_SURE - left) / np.maximum(right - left, 1e-12), 0.0, 1.0)
    return np.asarray(start + way * (end - start), dtype=np.float64)


def effective_rows(
    values: npt.ArrayLike, groups: npt.ArrayLike, kinds: npt.ArrayLike | None = None, *, level: float = 0.95
) -> Floats:
    """Cautious number of independent rows that would say as much about a mean as these rows.

    The smaller of two numbers. The first divides the rows by the observed design effect (how much more the mean scatters by
    groups than by rows, at least 1), and by how much wider the t distribution is than the normal one, because the spread is an
    estimate. The second uses :func:`correlation_bound`, which decides if few groups, or few rows that differ, show too little.
    If all values are equal, or there is a single group, each group counts as one row.

    Args:
        values: values of the mean, shape (..., rows).
        groups: group id of each row, shape (rows,).
        kinds: kind of each row, as shares that add up to 1, shape (..., rows, kinds); None treats values as shares of a right
            answer, from 0 to 1.
        level: confidence level of the interval that uses the result.

    Returns:
        Shape (...), at most the number of rows.

    Source: Korn and Graubard (Survey Methodology 1998) for the design effect with t quantiles; the second count is this
    project's.
    """
    numbers = np.asarray(values, dtype=np.float64)
    sizes = group_sums(np.ones(numbers.shape[-1]), groups)
    rows, units = float(sizes.sum()), len(sizes)
    if units < 2:
        return np.ones(numbers.shape[:-1])
    centred = numbers - numbers.mean(axis=-1, keepdims=True)
    by_row = np.mean(centred**2, axis=-1)
    by_group = units / (units - 1) * np.sum(group_sums(centred, groups) ** 2, axis=-1) / rows
    # A smaller spread is rounding.
    flat = by_row <= 1e-20
    narrowed = float(special.ndtri((1 + level) / 2) / special.stdtrit(units - 1, (1 + level) / 2)) ** 2
    shown = np.where(flat, float(units), narrowed * rows / np.maximum(1.0, by_group / np.where(flat, 1.0, by_row)))
    shares = np.stack([numbers, 1 - numbers], axis=-1) if kinds is None else np.asarray(kinds, dtype=np.float64)
    counts = np.moveaxis(group_sums(np.moveaxis(shares, -1, -2), groups), -1, -2)
    possible = rows / (1 + (float(np.sum(sizes**2)) / rows - 1) * correlation_bound(counts))
    return np.asarray(np.minimum(shown, possible), dtype=np.float64)
