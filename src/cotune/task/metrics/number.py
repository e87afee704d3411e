"""Metrics of numbers for which near is nearly right, from sums over rows.

Definitions follow scikit-learn's ``r2_score`` and ``d2_absolute_error_score`` and SciPy's ``pearsonr`` and ``spearmanr``, but a
score below 0, worse than a constant answer, is 0; :func:`signed_r2` and its like do not cut it. An answer without a number
counts as the mean of the right ones.
"""

from __future__ import annotations

import numpy as np

from cotune.task.answered import Answered, Floats

_FARTHEST = 1e100
"""Largest answer that is not cut, in about the size of the largest right number."""


def closeness(answered: Answered) -> Floats:
    """``[rows]`` one minus the error in standard deviations of the right numbers; 0 from one on, and without a number.

    So a row counts as right if its answer is within half a standard deviation.
    """
    right, given = _numbers(answered)
    spread = float(right.std()) if np.ptp(right) else 1.0
    errors = np.where(np.isnan(given), np.inf, np.abs(given - right))
    return np.asarray(np.clip(1.0 - errors / spread, 0.0, 1.0), dtype=np.float64)


def squares(answered: Answered) -> Floats:
    """``[rows, 4]``: 1, and of the right numbers less their mean: each, its square, and the squared error."""
    right, given = _centred(answered)
    return np.stack([np.ones(len(right)), right, right**2, (given - right) ** 2], axis=1)


def r2(sums: Floats) -> Floats:
    """Share of the variance of the right numbers that the answers explain, from sums of :func:`squares`."""
    return _from_0_to_1(signed_r2(sums))


def signed_r2(sums: Floats) -> Floats:
    """As :func:`r2`, but below 0 where the answers are worse than the mean."""
    rows, total, squared, errors = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    return _skill(errors, squared - total**2 / np.maximum(rows, 1.0))


def absolutes(answered: Answered) -> Floats:
    """``[rows, 2]``: absolute errors of the answers and of the median of the right numbers."""
    right, given = _centred(answered)
    return np.stack([np.abs(given - right), np.abs(right - np.median(right))], axis=1)


def d2_absolute_error(sums: Floats) -> Floats:
    """One minus the absolute error as a share of the median's, from sums of :func:`absolutes`."""
    return _from_0_to_1(signed_d2(sums))


def signed_d2(sums: Floats) -> Floats:
    """As :func:`d2_absolute_error`, but below 0 where the answers are worse than the median."""
    errors, reference = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    return _skill(errors, reference)


def products(answered: Answered) -> Floats:
    """:func:`moments`, both less the mean of the right numbers."""
    return moments(*_centred(answered))


def rank_products(answered: Answered) -> Floats:
    """As :func:`products`, of the ranks among all rows; equal numbers have their mean rank."""
    from scipy.stats import rankdata

    right, given = ((rankdata(numbers) - (len(numbers) + 1) / 2) / len(numbers) for numbers in _centred(answered))
    return moments(right, given)


def correlation(sums: Floats) -> Floats:
    """Pearson's correlation from sums of :func:`products` or :func:`rank_products`; 0 where either side does not vary."""
    return _from_0_to_1(signed_correlation(sums))


def signed_correlation(sums: Floats) -> Floats:
    """As :func:`correlation`, but below 0 where answers fall as the right numbers rise."""
    rows, right, given, right_2, given_2, both = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    rows = np.maximum(rows, 1.0)
    spread = np.sqrt(np.maximum(right_2 - right**2 / rows, 0.0) * np.maximum(given_2 - given**2 / rows, 0.0))
    scale = np.sqrt(np.maximum(right_2 * given_2, 0.0))
    known = spread > 1e-12 * np.maximum(scale, 1e-300)
    found = np.where(known, (both - right * given / rows) / np.where(known, spread, 1.0), 0.0)
    return np.asarray(np.clip(found, -1.0, 1.0), dtype=np.float64)


def _numbers(answered: Answered) -> tuple[Floats, Floats]:
    """Right and given numbers, ``[rows]`` each; NaN for an answer without one, or one that is too large.

    A task's right answers are numbers; any other counts as 0. Both are divided by a power of two, which is exact and keeps
    squares within the range of doubles.
    """
    pairs = [[float("nan") if value is None else float(value) for value in pair] for pair in answered.pairs]
    right, given = np.array(pairs, dtype=np.float64).T
    right, given = np.where(np.isfinite(right), right, 0.0), np.where(np.isfinite(given), given, np.nan)
    exponent = -int(np.frexp(np.abs(right).max(initial=0.0))[1])
    with np.errstate(over="ignore"):
        return np.ldexp(right, exponent), np.clip(np.ldexp(given, exponent), -_FARTHEST, _FARTHEST)


def _centred(answered: Answered) -> tuple[Floats, Floats]:
    """Right and given numbers less the mean of the right ones, in standard deviations of these.

    Without the mean, sums of squares keep their digits. Scores do not depend on the unit, but sums over other rows of the same
    task, to which noise is carried over, are comparable in this one alone.
    """
    right, given = _numbers(answered)
    mean = right.mean()
    spread = float(right.std()) if np.ptp(right) else 1.0
    return (right - mean) / spread, np.nan_to_num((given - mean) / spread, nan=0.0)


def moments(right: Floats, given: Floats) -> Floats:
    """``[rows, 6]``: 1, right, answer, their squares and their product, for :func:`signed_correlation`."""
    return np.stack([np.ones(len(right)), right, given, right**2, given**2, right * given], axis=1)


def _skill(errors: Floats, reference: Floats) -> Floats:
    """One minus the error as a share of a constant's; 1 without an error, and 0 with one where a constant has none."""
    known = reference > 0
    found = np.where(known, 1.0 - errors / np.where(known, reference, 1.0), np.where(errors > 0, 0.0, 1.0))
    return np.asarray(found, dtype=np.float64)


def _from_0_to_1(scores: Floats) -> Floats:
    return np.asarray(np.clip(scores, 0.0, 1.0), dtype=np.float64)
