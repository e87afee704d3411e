"""Intervals of one score cover where rows of a group are alike, down to a handful of groups."""

from __future__ import annotations

import numpy as np
import pytest
from dependent import GROUPED, STRONG, Floats, ids_of, margins
from scipy import special

from cotune.evaluate.stats.clusters import FEW_GROUPS, correlation_bound, effective_rows, group_sums
from cotune.evaluate.stats.intervals import mean_interval, proportion_interval, wilson, wilson_limits
from cotune.evaluate.stats.resampling import resample, weighted_mean

SHARES = (0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95)


def _limits(values: Floats, ids: np.ndarray) -> tuple[Floats, Floats]:
    """Limits of many samples (samples, rows) at once, as :func:`mean_interval` gives them for one."""
    if not np.isin(values, (0, 1)).all() and ids.max() + 1 >= FEW_GROUPS:
        return resample(weighted_mean(values.T), len(ids), seed=1, draws=800, groups=ids, widened=True)[1](0.95)
    return wilson_limits(values.mean(axis=1), effective_rows(values, ids))


def _held(low: Floats, truth: float, high: Floats) -> float:
    return float(np.mean((low <= truth + 1e-12) & (truth <= high + 1e-12)))


@pytest.mark.parametrize("shape", GROUPED)
def test_shares_of_grouped_rows_are_covered(shape: tuple[int, int]) -> None:
    groups, size = GROUPED[shape]
    generator, ids, held, ignored = np.random.default_rng(size * groups), ids_of(groups, size), [], []
    for alike in STRONG:
        for share in SHARES:
            right = (margins(generator, np.array([share]), 150, groups, size, alike)[:, 0] > 0).astype(float)
            held.append(_held(*_around(share, _limits(right, ids))))
            ignored.append(_held(*_around(share, wilson_limits(right.mean(axis=1), np.full(150, float(len(ids)))))))
    assert np.mean(held) >= 0.94
    assert np.mean(ignored) < 0.9


def _around(truth: float, limits: tuple[Floats, Floats]) -> tuple[Floats, float, Floats]:
    return limits[0], truth, limits[1]


@pytest.mark.parametrize("shape", GROUPED)
def test_shares_of_groups_that_have_shares_of_their_own_are_covered(shape: tuple[int, int]) -> None:
    groups, size = GROUPED[shape]
    generator, ids, held = np.random.default_rng(size * groups + 1), ids_of(groups, size), []
    for alike in (0.05, 0.3, 0.6, 0.9):
        strength = 1 / alike - 1
        for share in SHARES:
            centres = generator.beta(share * strength, (1 - share) * strength, size=(110, groups)).repeat(size, axis=1)
            right = (generator.random(centres.shape) < centres).astype(float)
            held.append(_held(*_around(share, _limits(right, ids))))
    assert np.mean(held) >= 0.94


@pytest.mark.parametrize("shape", GROUPED)
def test_means_of_grouped_rows_are_covered(shape: tuple[int, int]) -> None:
    groups, size = GROUPED[shape]
    generator, ids, held = np.random.default_rng(size * groups + 2), ids_of(groups, size), []
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    for alike in STRONG:
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            scores = special.ndtr(1.5 * margins(generator, np.array([share]), 200, groups, size, alike)[:, 0])
            truth = float(weights @ special.ndtr(1.5 * (special.ndtri(share) + points)) / weights.sum())
            held.append(_held(*_around(truth, _limits(scores, ids))))
    assert np.mean(held) >= 0.94


def test_many_samples_at_once_are_what_one_is() -> None:
    generator = np.random.default_rng(0)
    for groups in (8, 30):
        ids = ids_of(groups, 4)
        for values in (generator.random((2, 4 * groups)).round(), generator.random((2, 4 * groups))):
            low, high = _limits(values, ids)
            one = mean_interval(values[1], seed=1, draws=800, groups=ids)
            assert (one.low, one.high) == pytest.approx((low[1], high[1]))
    right = generator.random(60).round()
    assert mean_interval(right, seed=0, groups=np.arange(60) // 4) == proportion_interval(right, groups=np.arange(60) // 4)


def test_rows_that_are_alone_cost_little_and_rows_that_are_one_count_once() -> None:
    generator, ids = np.random.default_rng(1), ids_of(200, 5)
    alone = (generator.random((40, 1000)) < 0.7).astype(float)
    assert 700 < effective_rows(alone, ids).mean() <= 1000
    same = alone[:, :200].repeat(5, axis=1)
    assert np.all((effective_rows(same, ids) > 180) & (effective_rows(same, ids) < 215))
    # A group with three errors says too little: the rows might as well come in blocks.
    few = np.ones(500)
    few[:3] = 0
    assert float(effective_rows(few, ids_of(20, 25))) < 60


def test_a_perfect_score_counts_a_group_as_a_row_and_a_single_group_as_one() -> None:
    assert proportion_interval(np.ones(50), groups=np.arange(50) // 10).low == pytest.approx(wilson(5, 5).low, abs=0.05)
    assert proportion_interval(np.ones(50), groups=np.arange(50) // 10).high == 1.0
    lone = proportion_interval([1, 0, 1, 1], groups=["a"] * 4)
    assert lone == wilson(0.75, 1)


def test_sums_by_group_and_order_do_not_matter() -> None:
    generator = np.random.default_rng(2)
    ids, values = generator.integers(0, 7, 60).astype(str), generator.random((3, 60))
    expected = np.stack([values[:, ids == name].sum(axis=1) for name in np.unique(ids)], axis=1)
    np.testing.assert_allclose(group_sums(values, ids), expected)
    order = generator.permutation(60)
    np.testing.assert_allclose(effective_rows(values, ids), effective_rows(values[:, order], ids[order]))


def test_the_bound_of_the_correlation_is_above_it_about_as_often_as_it_says() -> None:
    generator, above = np.random.default_rng(3), []
    for alike in (0.1, 0.3, 0.6):
        strength = 1 / alike - 1
        shares = generator.dirichlet(np.array([0.5, 0.3, 0.2]) * strength, size=(400, 15))
        counts = np.stack([[generator.multinomial(6, share) for share in sample] for sample in shares]).astype(float)
        above.append(np.mean(correlation_bound(counts) >= alike))
    assert 0.85 <= np.mean(above) <= 0.99
