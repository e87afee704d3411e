"""The winner's luck is taken off; probabilities are held against what happened."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from cotune.evaluate.stats.calibration import expected_calibration_error, reliability_bins
from cotune.evaluate.stats.racing import successive_halving_schedule
from cotune.evaluate.stats.selection import winners_curse


def _dev(true: np.ndarray, rows: int, generator) -> np.ndarray:
    margin = np.sqrt(0.5) * generator.normal(size=rows) + np.sqrt(0.5) * generator.normal(size=(len(true), rows))
    return (margin < special.ndtri(true)[:, None]).astype(float)


def _halved(scores: np.ndarray) -> np.ndarray:
    scores, active = scores.copy(), np.arange(len(scores))
    for step in successive_halving_schedule(*scores.shape):
        order = np.argsort(-scores[active, : step.rows].mean(axis=1), kind="stable")
        scores[active[order[step.keep :]], step.rows :] = np.nan
        active = active[order[: step.keep]]
    return scores


def _best(scores: np.ndarray) -> tuple[int, float]:
    means = scores.mean(axis=1)  # NaN for those not scored on all rows
    return int(np.nanargmax(means)), float(np.nanmax(means))


@pytest.mark.parametrize("halving", [False, True])
@pytest.mark.parametrize(
    "true", [np.full(16, 0.7), np.linspace(0.6, 0.8, 16), np.r_[0.85, np.full(15, 0.55)]], ids=["equal", "spread", "one"]
)
def test_the_correction_takes_off_most_of_the_luck(true, halving):
    generator, luck, left = np.random.default_rng(0), [], []
    for run in range(120):
        scores = _dev(true, 150, generator)
        scores = _halved(scores) if halving else scores
        winner, dev = _best(scores)
        luck.append(dev - true[winner])
        left.append(winners_curse(scores, seed=run, draws=200) - true[winner])
    # What may remain is documented: a third where rounds of a race dropped most, else less.
    assert abs(np.mean(left)) <= max((0.35 if halving else 0.25) * np.mean(luck), 0.006)
    if len(set(true)) == 1:
        assert np.mean(luck) > 0.03


@pytest.mark.parametrize(("groups", "size"), [(30, 5), (12, 25)])
def test_the_correction_takes_off_most_of_the_luck_of_groups(groups, size):
    generator, luck, left, by_rows = np.random.default_rng(groups), [], [], []
    ids = np.repeat(np.arange(groups), size)
    for run in range(150):
        # Rows of a group are one row, nearly: few of them can be right by chance for one candidate alone.
        scores = _dev(np.full(12, 0.7), groups, generator)[:, ids]
        luck.append(_best(scores)[1] - 0.7)
        left.append(winners_curse(scores, seed=run, draws=200, groups=ids) - 0.7)
        by_rows.append(winners_curse(scores, seed=run, draws=200) - 0.7)
    assert np.mean(luck) > 0.06
    assert abs(np.mean(left)) <= 0.25 * np.mean(luck)
    assert np.mean(by_rows) > 0.4 * np.mean(luck), "rows taken for independent hide the luck"


def test_the_luck_of_a_single_group_cannot_be_told():
    assert np.isnan(winners_curse(_dev(np.full(3, 0.6), 20, np.random.default_rng(5)), seed=0, groups=["a"] * 20))


def test_selection_is_seeded_and_plain_where_nothing_was_chosen():
    scores = _dev(np.full(5, 0.6), 80, np.random.default_rng(1))
    assert winners_curse(scores, seed=3) == winners_curse(scores, seed=3)
    assert winners_curse(scores[:1], seed=0) == pytest.approx(scores[0].mean())
    winner, dev = _best(scores)
    optimism = dev - winners_curse(scores, seed=0)
    assert optimism > 0 and winners_curse(scores, seed=0, winner=winner) == winners_curse(scores, seed=0)
    assert winners_curse(scores, seed=0, winner=2) + optimism == pytest.approx(scores[2].mean())
    copies = np.repeat(scores[:1], 4, axis=0)
    assert winners_curse(copies, seed=0) == pytest.approx(scores[0].mean(), abs=0.005)
    assert winners_curse(scores, seed=0, groups=np.arange(80) // 8) <= dev


def test_selection_needs_a_finalist():
    scores = _dev(np.full(3, 0.6), 20, np.random.default_rng(2))
    scores[:, 10:] = np.nan
    with pytest.raises(ValueError, match="all rows"):
        winners_curse(scores, seed=0)
    scores[0] = 1.0
    assert winners_curse(scores, seed=0) == winners_curse(scores, seed=0, winner=0)
    with pytest.raises(ValueError, match="winner 1"):
        winners_curse(scores, seed=0, winner=1)


def test_calibration_error_is_near_zero_for_a_calibrated_model_and_the_gap_for_another():
    generator = np.random.default_rng(4)
    confidence = generator.uniform(0.4, 1.0, 20_000)
    correct = generator.random(20_000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.015
    boasting = expected_calibration_error(np.minimum(confidence + 0.2, 1.0), correct)
    assert boasting == pytest.approx(np.mean(np.minimum(confidence + 0.2, 1.0) - confidence), abs=0.02)


def test_reliability_bins_hold_every_row_once():
    confidence = np.array([0.0, 0.1, 0.1, 0.55, 0.999, 1.0])
    bins = reliability_bins(confidence, [0, 0, 1, 1, 1, 1])
    assert [group.count for group in bins] == [1, 2, 1, 2]
    assert bins[1].accuracy == 0.5 and 0.5 in bins[1].ci and bins[1].confidence == pytest.approx(0.1)
    assert (bins[-1].low, bins[-1].high) == (0.9, 1.0)
    assert reliability_bins([], []) == []
    assert np.isnan(expected_calibration_error([], []))
    with pytest.raises(ValueError, match="outside"):
        reliability_bins([1.2], [1])
