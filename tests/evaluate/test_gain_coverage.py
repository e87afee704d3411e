"""Each reported gain's interval holds the true gain as often as it says; tests of grouped pairs keep their level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from dependent import ALONE, GROUPED, STRONG, Floats, f1_counts, f1_metric, ids_of, margins
from scipy import special

from cotune.evaluate.arms import ArmScores
from cotune.evaluate.attribution import attribute
from cotune.evaluate.frozen_arms import ARMS, GAINS
from cotune.evaluate.stats.intervals import FEW_DIFFERING
from cotune.evaluate.stats.paired import contrasts, grouped_tango_limits, sign_flip_test, tango_limits
from cotune.evaluate.stats.resampling import resample, weighted_mean

ACCURACIES = ((0.4, 0.5, 0.45, 0.8, 0.95), (0.6, 0.6, 0.6, 0.7, 0.7), (0.9, 0.9, 0.92, 0.95, 0.97), (0.2, 0.5, 0.5, 0.85, 0.9))
"""Of the five arms, in the order of ``ARMS``."""
COEFFICIENTS = np.zeros((len(GAINS), len(ARMS)))
for _row, _pairs in enumerate(GAINS.values()):
    for _one, _two in _pairs:
        COEFFICIENTS[_row, ARMS.index(_one)] += 1
        COEFFICIENTS[_row, ARMS.index(_two)] -= 1
DRAWS = 400
"""Fewer than are reported with: they make the ends less certain, so that intervals hold the truth no more often."""
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def _loss(margin: Floats) -> Floats:
    return np.logaddexp(0.0, -2 * margin)


def _soft(margin: Floats) -> Floats:
    return np.asarray(special.ndtr(1.5 * margin))


def _truth(of: Callable[[Floats], Floats], accuracies: tuple[float, ...]) -> Floats:
    values = of(special.ndtri(np.array(accuracies))[:, None] + _POINTS)
    return np.asarray(COEFFICIENTS @ (values @ _WEIGHTS / _WEIGHTS.sum()))


def _limits(changes: Floats, ids: np.ndarray | None, *, zero_one: bool, level: float = 0.95) -> tuple[Floats, Floats]:
    """Limits of many samples' differences (samples, rows), as ``attribute`` takes them for one."""
    if zero_one and ids is not None:
        return grouped_tango_limits(changes, ids, level)
    _, limits = contrasts(weighted_mean(changes.T), changes.T != 0, seed=1, draws=DRAWS, groups=ids, widened=not zero_one)
    low, high = limits(level)
    if zero_one:
        gained, lost = (changes > 0).sum(axis=1), (changes < 0).sum(axis=1)
        score, few = tango_limits(gained, lost, changes.shape[1], level), gained + lost < FEW_DIFFERING
        low, high = np.where(few, score[0], low), np.where(few, score[1], high)
    return low, high


def _limits_of_gains(changes: Floats, ids: np.ndarray | None, *, scale: str) -> tuple[Floats, Floats]:
    """Limits of each gain, (gains, samples); all samples of all gains are resampled alike, so one call does them at once."""
    low, high = np.empty(changes.shape[:2]), np.empty(changes.shape[:2])
    shares = np.array([scale == "score" and name != "synergy" for name in GAINS])
    for zero_one in {*shares.tolist()}:
        chosen = changes[shares == zero_one]
        ends = _limits(chosen.reshape(-1, changes.shape[-1]), ids, zero_one=zero_one)
        low[shares == zero_one], high[shares == zero_one] = (end.reshape(chosen.shape[:2]) for end in ends)
    return low, high


def _coverage(groups: int, size: int, scale: str, *, counted: bool = True, least: int = 3000) -> dict[str, float]:
    """Of each gain, over arms, how much they share, and (in groups) how alike rows are: so many samples or more."""
    generator, ids = np.random.default_rng(groups * size), ids_of(groups, size) if size > 1 and counted else None
    held: list[Floats] = []
    kinds = [(alike, shared) for alike in (STRONG if size > 1 else (0.0,)) for shared in (0.3, 0.8)]
    samples = -(-least // (len(kinds) * len(ACCURACIES)))
    of = {"score": lambda margin: (margin > 0).astype(float), "soft": _soft, "log_loss": lambda m: -_loss(m)}[scale]
    for accuracies in ACCURACIES:
        truth = (COEFFICIENTS @ np.array(accuracies) if scale == "score" else _truth(of, accuracies))[:, None]
        for alike, shared in kinds:
            margin = margins(generator, np.array(accuracies), samples, groups, size, alike, shared)
            changes = np.tensordot(COEFFICIENTS, of(margin), axes=(1, 1))
            low, high = _limits_of_gains(changes, ids, scale=scale)
            held.append(((low <= truth + 1e-9) & (truth - 1e-9 <= high)).mean(axis=1))
    return dict(zip(GAINS, np.mean(held, axis=0).tolist(), strict=True))


@pytest.mark.parametrize("scale", ["score", "soft", "log_loss"])
@pytest.mark.parametrize("n", ALONE)
def test_each_gain_is_covered(n: int, scale: str) -> None:
    held = _coverage(*ALONE[n], scale)
    assert min(held.values()) >= 0.94, held


@pytest.mark.parametrize("n", [30, 200])
def test_all_gains_are_covered_at_once(n: int) -> None:
    """Five gains on the score and synergy on the log-loss, as a run reports them together."""
    generator, level = np.random.default_rng(n), 1 - 0.05 / 6
    together, alone = [], []
    for accuracies in ACCURACIES:
        for shared in (0.3, 0.8):
            margin = margins(generator, np.array(accuracies), 250, n, 1, 0.0, shared)
            right, loss = (margin > 0).astype(float), -_loss(margin)
            truths = [*(COEFFICIENTS @ np.array(accuracies)), _truth(lambda m: -_loss(m), accuracies)[-1]]
            held = {level: np.ones(len(margin), dtype=bool), 0.95: np.ones(len(margin), dtype=bool)}
            for place, name in enumerate([*GAINS, "synergy_log_loss"]):
                coefficients, values = COEFFICIENTS[min(place, len(GAINS) - 1)], right if name in GAINS else loss
                changes = np.einsum("a,sar->sr", coefficients, values)
                for one in held:
                    low, high = _limits(changes, None, zero_one=name in GAINS and name != "synergy", level=one)
                    held[one] &= (low <= truths[place] + 1e-9) & (truths[place] - 1e-9 <= high)
            together.append(held[level].mean())
            alone.append(held[0.95].mean())
    # 2,000 samples: two standard errors are a point.
    assert np.mean(together) >= 0.95, np.mean(together)
    assert np.mean(alone) < 0.9, "intervals that stand alone do not hold all at once"


@pytest.mark.parametrize("scale", ["score", "soft", "log_loss"])
@pytest.mark.parametrize("shape", GROUPED)
def test_each_gain_of_grouped_rows_is_covered(shape: tuple[int, int], scale: str) -> None:
    held = _coverage(*GROUPED[shape], scale)
    assert min(held.values()) >= 0.94, held


def test_ignoring_the_groups_would_fail_that() -> None:
    # 480 samples: whatever the coverage, five standard errors are at most 11 points.
    held = _coverage(*GROUPED[500, 25], "score", counted=False, least=480)
    assert max(held.values()) < 0.8, held


@pytest.mark.parametrize("shape", [(30, 5), (100, 5), (100, 25), (500, 25)])
def test_tests_of_grouped_pairs_keep_their_level(shape: tuple[int, int]) -> None:
    groups, size = GROUPED[shape]
    generator, ids, wrong, by_rows = np.random.default_rng(groups), ids_of(groups, size), [], []
    for alike in STRONG:
        for scale in (lambda margin: (margin > 0).astype(float), _loss):
            margin = margins(generator, np.array([0.7, 0.7]), 200, groups, size, alike)
            for changes in scale(margin[:, 1]) - scale(margin[:, 0]):
                wrong.append(sign_flip_test(changes, seed=len(wrong), draws=199, groups=ids) <= 0.05)
                by_rows.append(sign_flip_test(changes, seed=len(wrong), draws=199) <= 0.05)
    # Two standard errors of 1,200 tests are 1.3 points.
    assert np.mean(wrong) <= 0.063
    assert np.mean(by_rows) > 0.15


@pytest.mark.parametrize("groups", [6, 24])
def test_what_is_reported_is_what_was_simulated(groups: int) -> None:
    ids = ids_of(groups, 5)
    margin = margins(np.random.default_rng(5), np.array(ACCURACIES[0]), 1, groups, 5, 0.5)[0]
    arms = {name: ArmScores((margin[i] > 0).astype(float), _loss(margin[i]), None, name) for i, name in enumerate(ARMS)}
    for grouping in (None, ids):
        result = attribute(arms, groups=grouping, draws=DRAWS, seed=1, permutations=10)
        for place, name in enumerate(GAINS):
            for gain, values in ((result.gains[name], margin > 0), (result.log_loss[name], -_loss(margin))):
                changes = (COEFFICIENTS[place] @ values)[None]
                zero_one = values.dtype == bool and name != "synergy"
                low, high = _limits(changes, grouping, zero_one=zero_one)
                if gain.p_single >= 0.05:
                    low, high = np.minimum(low, 0), np.maximum(high, 0)
                assert (gain.ci_single.low, gain.ci_single.high) == pytest.approx((low[0], high[0]))


def test_the_difference_of_two_shares_is_the_bootstraps_alone() -> None:
    margin = margins(np.random.default_rng(5), np.array(ACCURACIES[0]), 1, 120, 1, 0.0)[0]
    arms = {name: ArmScores((margin[i] > 0).astype(float), None, None, name) for i, name in enumerate(ARMS)}
    gain = attribute(arms, draws=1000, seed=1, permutations=10).gains["tuning"]
    changes = (COEFFICIENTS[list(GAINS).index("tuning")] @ (margin > 0))[:, None]
    limits = {
        wide: resample(weighted_mean(changes[:, 0]), 120, seed=1, draws=1000, widened=wide)[1](0.95) for wide in (False, True)
    }
    assert (gain.ci_single.low, gain.ci_single.high) == pytest.approx((limits[False][0][0], limits[False][1][0]))
    assert gain.ci_single.width < limits[True][1][0] - limits[True][0][0]
    assert gain.method == "paired BCa bootstrap"


def test_arms_that_hardly_differ_get_width_whatever_the_metric() -> None:
    gold = np.tile([0, 1, 2], 60)
    one = np.where(np.arange(180) % 5 == 0, (gold + 1) % 3, gold)
    other = one.copy()
    other[:2] = gold[:2]
    arms = {name: ArmScores((one == gold).astype(float), None, f1_counts(gold, one), name) for name in ARMS}
    arms["best_tuned"] = ArmScores((other == gold).astype(float), None, f1_counts(gold, other), "other")
    for ids in (None, np.arange(180) // 6):
        gain = attribute(arms, metric=f1_metric("macro_f1"), groups=ids, draws=300, permutations=50).gains["both"]
        assert gain.ci.low < 0 < gain.value < gain.ci.high and gain.ci.width > 0.02
