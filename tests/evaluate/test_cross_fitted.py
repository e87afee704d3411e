"""The test of cross-fitted losses keeps its level where candidates are equal, and finds those that are worse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from cotune.evaluate.stats.cross_fitted import corrected_error, probably_worse
from cotune.probe import fit_logistic, fold_numbers
from cotune.probe.cross_fitting import standardised

LOOKS = (40, 80, 160)
CANDIDATES = 8
ALPHA = 0.05


def losses(states: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """``[rows]`` five-fold cross-fitted log-loss of a small logistic regression."""
    folds = fold_numbers(labels, 5, seed=seed)
    masks = np.stack([folds != fold for fold in range(5)])
    features = standardised(states)[0]
    fitted = fit_logistic(features, labels, 2, strengths=[0.1], masks=masks, tolerance=1e-3)
    logits = fitted.logits(features)[folds, np.arange(len(labels))]
    found: np.ndarray = np.logaddexp(logits[:, 0], logits[:, 1]) - logits[np.arange(len(labels)), labels]
    return found


def race(draw: int, apart: list[float]) -> set[int]:
    """Who is dropped when candidates with states of their own are compared with the leader after each look."""
    rng = np.random.default_rng([draw, 3])
    labels = rng.integers(0, 2, LOOKS[-1])
    sign = np.where(labels, 1.0, -1.0)[:, None]
    states = [(sign * apart_one / math.sqrt(6) + rng.normal(size=(LOOKS[-1], 6))).astype(np.float32) for apart_one in apart]
    active, dropped = list(range(len(apart))), set()
    for rows in LOOKS:
        seen = {i: losses(states[i][:rows], labels[:rows], draw) for i in active}
        leader = min(active, key=lambda i: seen[i].mean())
        for i in list(active):
            gap = seen[i] - seen[leader]
            if i != leader and probably_worse(gap, alpha=ALPHA, comparisons=len(LOOKS) * (len(apart) - 1)):
                active.remove(i)
                dropped.add(i)
    return dropped


def test_the_best_of_equals_is_dropped_in_at_most_alpha_of_races() -> None:
    draws = 60
    # All are equally good, so that dropping any one given candidate is the error.
    wrong = sum(0 in race(draw, [1.0] * CANDIDATES) for draw in range(draws))
    assert wrong <= binom.ppf(0.995, draws, ALPHA)


def test_the_best_is_hardly_ever_dropped_and_the_worst_nearly_always() -> None:
    found = [race(draw, [1.6, *[1.4] * 3, 0.2]) for draw in range(30)]
    assert sum(0 in dropped for dropped in found) <= 1 and sum(4 in dropped for dropped in found) >= 25


def test_the_corrected_test_keeps_its_level_where_the_naive_one_does_not() -> None:
    """The worst case: one comparison of two equal candidates on few rows."""
    draws, corrected, naive = 300, 0, 0
    for draw in range(draws):
        rng = np.random.default_rng([draw, 5])
        labels = rng.permutation(np.arange(30) % 2)
        sign = np.where(labels, 1.0, -1.0)[:, None]
        one, two = (losses((0.3 * sign + rng.normal(size=(30, 6))).astype(np.float32), labels, draw) for _ in range(2))
        gap = one - two
        corrected += probably_worse(gap, alpha=ALPHA)
        naive += gap.mean() / (gap.std(ddof=1) / math.sqrt(30)) > norm.isf(ALPHA)
    assert corrected <= binom.ppf(0.995, draws, ALPHA) and naive > corrected


def test_the_error_is_the_naive_one_times_the_correction() -> None:
    gap = np.random.default_rng(0).normal(size=50)
    naive = gap.std(ddof=1) / math.sqrt(50)
    assert corrected_error(gap) == pytest.approx(1.5 * naive)
    assert corrected_error(gap[:1]) == math.inf


def test_what_cannot_be_told_is_not_told() -> None:
    assert not probably_worse(np.array([5.0]))
    assert not probably_worse(np.zeros(10))
    # Equal differences leave no doubt.
    assert probably_worse(np.full(10, 0.25)) and not probably_worse(np.full(10, -0.25))
    gap = np.random.default_rng(1).normal(0.5, 1, 60)
    assert probably_worse(gap) and not probably_worse(-gap)
    assert not probably_worse(gap, comparisons=10**6)


def test_rows_that_belong_together_do_not_make_a_difference_look_sure() -> None:
    """60 groups of equal rows, and two candidates that are equally good."""
    rng, draws = np.random.default_rng(2), 400
    units = np.repeat(np.arange(60), 5)
    gaps = [np.repeat(rng.normal(size=60), 5) for _ in range(draws)]
    wrong = [sum(probably_worse(gap, own, alpha=ALPHA) for gap in gaps) for own in (units, None)]
    assert wrong[0] <= binom.ppf(0.995, draws, ALPHA) < wrong[1]
    one = gaps[0][::5]
    assert corrected_error(gaps[0], units) == pytest.approx(corrected_error(one))
    # A difference that is there is still seen.
    assert probably_worse(gaps[0] + 1.0, units) and corrected_error(gaps[0], np.zeros(300)) == math.inf
