"""The spread over formats: what it says of models whose true spread is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dependent import f1_counts, f1_metric
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import norm

from cotune.evaluate.arms import ArmScores
from cotune.evaluate.robustness import MEASURES, Robustness, robustness
from cotune.evaluate.stats.intervals import Interval, proportion_interval
from cotune.task.answered import Answered
from cotune.task.metrics.metric import METRICS
from cotune.task.values.output import Output

FORMATS = 8


def drawn(rng: np.random.Generator, rows: int, accuracy: float, sd: float, own: float = 0.3) -> tuple[list[ArmScores], NDArray]:
    """Answers, right or wrong, of a model whose formats differ by ``sd``; ``own``: what a format and a row share alone."""
    effects = rng.normal(size=FORMATS)
    effects = (effects - effects.mean()) / effects.std(ddof=1) * sd
    truth = np.clip(accuracy + effects, 0.01, 0.99)
    latent = rng.normal(size=(rows, 1)) * np.sqrt(1 - own) + rng.normal(size=(rows, FORMATS)) * np.sqrt(own)
    return [ArmScores(column) for column in (latent < norm.ppf(truth)).astype(float).T], truth


def compared(rng: np.random.Generator, rows: int, base: tuple[float, float], tuned: tuple[float, float]) -> Robustness:
    return robustness(drawn(rng, rows, *base)[0], drawn(rng, rows, *tuned)[0], seed=int(rng.integers(1 << 30)), draws=400)


@pytest.mark.parametrize(("base", "tuned"), [((0.4, 0.0), (0.95, 0.0)), ((0.4, 0.05), (0.9, 0.05)), ((0.5, 0.0), (0.5, 0.0))])
def test_no_change_is_claimed_where_the_true_spreads_are_equal(base: tuple[float, float], tuned: tuple[float, float]) -> None:
    """A better model scatters less by chance; that must not pass for robustness."""
    rng = np.random.default_rng(0)
    results = [compared(rng, 60, base, tuned) for _ in range(100)]
    assert np.mean([r.significant for r in results]) <= 0.05
    if base == (0.4, 0.0):
        # What is merely counted says less sensitive nearly every time.
        assert np.mean([r.change.observed < 0 for r in results]) > 0.9


def test_a_true_change_is_found_and_told() -> None:
    rng = np.random.default_rng(1)
    results = [compared(rng, 100, (0.5, 0.1), (0.9, 0.01)) for _ in range(60)]
    found = [r for r in results if r.significant]
    assert len(found) >= 0.8 * len(results)
    assert all(r.change.value < 0 and "less sensitive" in r.sentence() for r in found)
    worse = compared(rng, 100, (0.9, 0.01), (0.5, 0.12))
    assert worse.significant and "more sensitive" in worse.sentence()


@pytest.mark.parametrize(("base", "tuned"), [((0.5, 0.0), (0.8, 0.0)), ((0.5, 0.08), (0.8, 0.08)), ((0.5, 0.03), (0.9, 0.01))])
def test_intervals_hold_the_true_numbers(base: tuple[float, float], tuned: tuple[float, float]) -> None:
    rng = np.random.default_rng(2)
    held = dict.fromkeys((*MEASURES, "change"), 0.0)
    errors = []
    for _ in range(150):
        (before, first), (after, second) = drawn(rng, 100, *base), drawn(rng, 100, *tuned)
        found = robustness(before, after, seed=int(rng.integers(1 << 30)), draws=300)
        for side, truth in ((found.before, first), (found.after, second)):
            real = {"min": truth.min(), "max": truth.max(), "range": np.ptp(truth), "sd": truth.std(ddof=1)}
            for name in MEASURES:
                held[name] += (real[name] in _widened(side[name].ci)) / 2
            errors.append((side["sd"].value - real["sd"], side["sd"].observed - real["sd"]))
        held["change"] += second.std(ddof=1) - first.std(ddof=1) in _widened(found.change.ci)
    # 94% less two standard errors.
    assert all(count / 150 >= 0.94 - 2 * (0.06 * 0.94 / 300) ** 0.5 for count in held.values()), held
    corrected, counted = np.abs(np.mean(errors, axis=0))
    assert corrected < counted


def _widened(ci: Interval) -> Interval:
    return Interval(ci.low - 1e-9, ci.high + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    tables=arrays(np.int8, st.tuples(st.integers(1, 30), st.integers(2, 9), st.just(2)), elements=st.integers(0, 1)),
    grouped=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_numbers_of_any_table_agree_with_each_other(tables: NDArray, grouped: bool, seed: int) -> None:
    sides = [[ArmScores(column.astype(float)) for column in tables[:, :, side].T] for side in range(2)]
    groups = np.arange(len(tables)) // 3 if grouped else None
    found = robustness(*sides, groups=groups, seed=seed, draws=60)
    for scores, side in ((found.base, found.before), (found.tuned, found.after)):
        values = {name: side[name].value for name in MEASURES}
        assert 0 <= values["min"] <= np.mean(scores) + 1e-12 and np.mean(scores) - 1e-12 <= values["max"] <= 1
        assert values["range"] == pytest.approx(values["max"] - values["min"], abs=1e-12)
        drawn_in = np.mean(scores) + (np.array(scores) - np.mean(scores)) * (
            values["sd"] / side["sd"].observed if side["sd"].observed else 0
        )
        assert (values["min"], values["max"]) == pytest.approx((drawn_in.min(), drawn_in.max()), abs=1e-9)
        assert all(0 <= m.ci.low <= m.value <= m.ci.high <= 1 for m in side.values())
        assert side["range"].ci.high <= side["max"].ci.high - side["min"].ci.low + 1e-12
    low, value, high = found.change.ci.low, found.change.value, found.change.ci.high
    assert value == pytest.approx(found.after["sd"].value - found.before["sd"].value, abs=1e-12)
    before, after = found.before["sd"].ci, found.after["sd"].ci
    assert after.low - before.high - 1e-12 <= low <= value <= high <= after.high - before.low + 1e-12


def test_few_rows_that_agree_do_not_make_a_model_certain() -> None:
    right = [ArmScores(np.ones(40))] * FORMATS
    other = [ArmScores(np.r_[np.zeros(8), np.ones(32)])] * FORMATS
    found = robustness(right, other)
    assert found.before["sd"].value == found.after["sd"].value == 0
    assert 0.01 < found.before["sd"].ci.high < 0.04 and found.before["min"].ci.low < 0.95
    assert not found.significant and found.change.ci.low < 0 < found.change.ci.high
    alone = robustness(right, other, groups=np.zeros(40))
    assert alone.change.ci.width > 1


def test_the_same_answers_change_nothing() -> None:
    arms, _ = drawn(np.random.default_rng(3), 60, 0.5, 0.05)
    found = robustness(arms, arms)
    assert found.change.value == found.change.ci.low == found.change.ci.high == 0
    assert not found.significant and "No significant difference" in found.sentence()
    assert found == robustness(arms, arms)
    right = [ArmScores(np.ones(40))] * FORMATS
    perfect = robustness(right, right)
    assert perfect.after["sd"].value == perfect.after["range"].value == 0 and perfect.after["min"].value == 1


@pytest.mark.parametrize(("right", "groups"), [(1.0, None), (0.0, None), (1.0, np.arange(40) // 4)])
def test_rows_that_are_all_right_or_wrong_leave_best_and_worst_format_uncertain(right: float, groups: NDArray | None) -> None:
    arms = [ArmScores(np.full(40, right))] * FORMATS
    found = robustness(arms, arms, groups=groups)
    own = proportion_interval(np.full(40, right), groups=groups)
    for side in (found.before, found.after):
        for name in ("min", "max"):
            assert side[name].value == right and side[name].ci.width > 0.05
            assert (side[name].ci.low, side[name].ci.high) == pytest.approx((own.low, own.high))


def test_groups_are_drawn_whole() -> None:
    small, _ = drawn(np.random.default_rng(4), 20, 0.5, 0.1, own=0.8)
    wide = [ArmScores(np.repeat(arm.score, 6)) for arm in small]
    groups = np.repeat(np.arange(20), 6)
    grouped = robustness(wide, wide[::-1], groups=groups).before["min"].ci
    assert grouped.width > 1.5 * robustness(wide, wide[::-1]).before["min"].ci.width


def test_other_metrics_and_what_does_not_fit() -> None:
    rng = np.random.default_rng(5)
    gold = rng.integers(0, 3, 60)
    arms = []
    for _ in range(4):
        predicted = np.where(rng.random(60) < 0.7, gold, rng.integers(0, 3, 60))
        arms.append(ArmScores((predicted == gold).astype(float), counts=f1_counts(gold, predicted)))
    found = robustness(arms, arms[::-1], metric=f1_metric("macro_f1"))
    assert sorted(found.base) == pytest.approx(sorted(found.tuned)) and found.n == 60
    assert set(found.as_dict()) == {"n", "base", "tuned", "change", "sentence"}
    with pytest.raises(ValueError, match="two formats"):
        robustness(arms[:1], arms[:1])
    with pytest.raises(ValueError, match="the same for both models"):
        robustness(arms, arms[:2])
    with pytest.raises(ValueError):
        robustness(arms, [replace(arms[0], score=np.ones(3)), *arms[1:]])


@pytest.mark.parametrize("bias", [0.0, 2.0, 4.0])
def test_a_format_far_below_zero_does_not_drown_the_others_in_chance(bias: float) -> None:
    aggregate, rng = METRICS["r2"].aggregate, np.random.default_rng(4)
    assert aggregate is not None
    right = rng.normal(size=200)

    def formats(noise: tuple[float, ...], first: float) -> list[ArmScores]:
        arms = []
        for place, spread in enumerate(noise):
            given = right + spread * rng.normal(size=200) + (first if place == 0 else 0.0)
            texts = [[repr(float(one)) for one in side] for side in (right, given)]
            arms.append(ArmScores(np.zeros(200), counts=aggregate.counts(Answered(*texts, Output("number")))))
        return arms

    found = robustness(formats((1.0, 0.6, 0.7, 0.55), bias), formats((0.3, 0.3, 0.3, 0.3), 0.0), metric=aggregate, draws=400)
    assert found.before["sd"].value > 0.2 and found.after["sd"].value < 0.05 and found.significant
