"""Cross-fitting picks the layer that tells, judges no row by weights that saw it, and is told what it cannot judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from cotune.errors import InputError
from cotune.probe import cross_fit, cross_fitting, fit_logistic, fold_numbers
from cotune.probe.cross_fitting import FOLDS, STRENGTHS, as_good, best_temperature, standardised, tempered

Floats = Any


def layered(rows: int, strengths: list[float], classes: int = 3, width: int = 10, seed: int = 0) -> tuple[Floats, Floats]:
    """States of several layers, in which classes lie so many spreads apart."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % classes)
    centres = np.eye(classes, width)
    stack = [apart * centres[labels] + rng.normal(size=(rows, width)) for apart in strengths]
    return np.stack(stack).astype(np.float32), labels


def test_the_layer_that_tells_the_labels_apart_is_chosen() -> None:
    states, labels = layered(150, [0.0, 0.5, 4.0, 0.5, 0.0, 0.0])
    found = cross_fit(states, labels, layers=[3, 5, 8, 10, 11, 12], keep=3)
    assert found.layer == 8 and found.best.accuracy > 0.9
    assert [fit.layer for fit in found.by_layer] == sorted(fit.layer for fit in found.by_layer) and len(found.by_layer) == 3
    assert list(found.ridge) == [3, 5, 8, 10, 11, 12] and min(found.ridge, key=found.ridge.__getitem__) == 8
    # Kept are those of the least leave-one-out error.
    assert {fit.layer for fit in found.by_layer} == set(sorted(found.ridge, key=found.ridge.__getitem__)[:3])
    assert found.best.losses.shape == (150,) and found.log_probs.shape == (150, 3)
    # A single layer needs no preselection.
    alone = cross_fit(states[2], labels)
    assert alone.layer == 1 and not alone.ridge
    np.testing.assert_array_equal(alone.best.losses, found.best.losses)


def test_the_lowest_layer_within_a_standard_error_is_taken() -> None:
    lower = 0
    for seed in range(6):
        # Two layers that are as good as each other above one that is not.
        states, labels = layered(100, [1.0, 3.0, 3.0], seed=seed)
        found = cross_fit(states, labels, repeats=1, strengths=[0.1])
        losses = np.stack([fit.losses for fit in found.by_layer])
        best = int(losses.mean(1).argmin())
        gaps = losses - losses[best]
        near = gaps.mean(1) <= gaps.std(1, ddof=1) / 10
        assert found.layer == 1 + int(near.argmax()) and not near[0]
        lower += found.layer == 2 and best == 2
    assert lower, "a rule that never lowers a layer proves nothing"


def test_rows_of_a_group_count_as_one_for_the_standard_error() -> None:
    """Four copies of each row say no more about two layers than one of each."""
    states, labels = layered(40, [1.0, 3.0, 3.0])
    alone = cross_fit(states, labels, repeats=1, strengths=[0.1]).by_layer
    gap = np.random.default_rng(1).normal(size=40)
    gap = (gap - gap.mean()) / gap.std(ddof=1) + 0.9 / np.sqrt(40)
    lower, best = replace(alone[0], losses=gap + 10), replace(alone[1], losses=np.full(40, 10.0))
    assert [fit.layer for fit in as_good([lower, best])] == [1, 2], "within a standard error"
    assert [fit.layer for fit in as_good([lower, best], 0.8)] == [2]
    copies = [replace(fit, losses=np.repeat(fit.losses, 4)) for fit in (lower, best)]
    groups = np.repeat(np.arange(40), 4)
    assert [fit.layer for fit in as_good(copies)] == [2], "copies taken for independent rows"
    assert [fit.layer for fit in as_good(copies, groups=list(groups))] == [1, 2]
    assert [fit.layer for fit in as_good(copies, 0.8, groups=list(groups))] == [2]
    # The layer that cross-fitting chooses is the first of these.
    thrice, of = np.repeat(states, 3, axis=1), np.repeat(np.arange(40), 3)
    for seed in range(6):
        found = cross_fit(thrice, np.repeat(labels, 3), repeats=1, strengths=[0.1], groups=list(of), seed=seed)
        assert found.layer == as_good(found.by_layer, groups=list(of))[0].layer


def test_each_row_is_predicted_by_a_fit_on_the_other_folds() -> None:
    states, labels = layered(210, [1.5])
    found = cross_fit(states, labels, strengths=[0.03], seed=4)
    features = standardised(states[0])[0]
    folds = fold_numbers(labels, 5, seed=4)
    for fold in range(5):
        fitted = fit_logistic(features[folds != fold], labels[folds != fold], 3, strengths=[0.03], tolerance=1e-7, rounds=1000)
        wanted = log_softmax(fitted.logits(features[folds == fold])[0], axis=1)
        np.testing.assert_allclose(found.best.log_probs[folds == fold], wanted, atol=0.02)
    losses = -found.best.log_probs[np.arange(210), labels]
    np.testing.assert_allclose(found.best.losses, losses)
    np.testing.assert_array_equal(found.best.correct, found.best.log_probs.argmax(1) == labels)


def test_few_rows_are_dealt_out_three_times() -> None:
    states, labels = layered(30, [1.0])
    found, once = cross_fit(states, labels), cross_fit(states, labels, repeats=1)
    assert set(np.round(found.best.correct * 3, 9)) <= {0.0, 1.0, 2.0, 3.0} and set(once.best.correct) <= {0.0, 1.0}
    assert not np.allclose(found.best.losses, once.best.losses)


def test_words_count_where_states_tell_nothing() -> None:
    states, labels = layered(120, [0.0])
    words = (4 * np.eye(3)[labels]).astype(np.float32)
    assert cross_fit(states, labels).best.accuracy < 0.6
    found = cross_fit(states, labels, words=words)
    assert found.best.accuracy > 0.95 and found.best.log_loss < 0.3


def test_labels_that_cannot_be_judged_are_told_and_their_rows_cost_what_is_finite() -> None:
    states, labels = layered(41, [3.0])
    labels = np.where(np.arange(41) == 7, 4, labels)
    found = cross_fit(states, labels, classes=6)
    assert found.log_probs.shape == (41, 6)
    assert np.isfinite(found.best.losses).all()
    # Its only row is held out from every fit of it: one part in rows and classes is what it gets.
    assert found.best.losses[7] > 2


def test_rows_of_a_group_never_straddle_a_fold() -> None:
    rng = np.random.default_rng(0)
    # States tell the group and nothing of the label, which groups have at random: only a leak could tell it.
    groups = np.arange(240) // 6
    labels = rng.integers(0, 2, 40)[groups]
    states = (rng.normal(size=(40, 60))[groups] + 0.01 * rng.normal(size=(240, 60))).astype(np.float32)
    leaking = cross_fit(states, labels)
    honest = cross_fit(states, labels, groups=[f"group {i}" for i in groups])
    assert leaking.best.accuracy > 0.9 and honest.best.accuracy < 0.75 and honest.best.log_loss > 0.6


def test_the_temperature_tempers_logits_that_are_too_sure() -> None:
    states, labels = layered(300, [1.5], width=30)
    found = cross_fit(states, labels, strengths=[3.0])
    rows = np.arange(300)
    before, after = (-found.best.log_probs[rows, labels].mean(), -found.log_probs[rows, labels].mean())
    assert found.temperature > 1.3 and after < before - 0.05
    np.testing.assert_allclose(found.log_probs, tempered(found.best.log_probs, found.temperature))
    for other in (0.9, 1.1):
        assert -tempered(found.best.log_probs, found.temperature * other)[rows, labels].mean() >= after
    timid = cross_fit(states, labels, strengths=[0.0003])
    assert timid.temperature < 0.9


@pytest.mark.parametrize("classes", [2, 20])
@pytest.mark.parametrize("rows", [16, 64, 500])
def test_few_rows_that_are_all_told_apart_do_not_make_probabilities_certain(rows: int, classes: int) -> None:
    labels = np.arange(rows) % classes
    margins = np.random.default_rng(0).uniform(1, 6, rows)
    log_probs = log_softmax(margins[:, None] * np.eye(classes)[labels], axis=1)
    sure = np.exp(tempered(log_probs, best_temperature(log_probs, labels)))
    # After n of n right answers the next one is right with (n + 1) / (n + 2), by Laplace's rule for two labels.
    assert sure[np.arange(rows), labels].mean() <= (rows + 1) / (rows + 2)
    assert sure[np.arange(rows), labels].mean() > 0.7


def test_the_temperature_of_many_rows_is_that_of_the_least_log_loss() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20_000, 3))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    for factor in (0.5, 2.0):
        found = best_temperature(log_softmax(factor * logits, axis=1), labels)
        assert found == pytest.approx(factor, rel=0.05)


def test_the_cross_fitted_log_loss_is_honest() -> None:
    """Over draws of 60 rows its mean is the loss on fresh rows of a probe that learnt from as many rows as a fold does."""
    gaps, naive = [], []
    for draw in range(25):
        states, labels = layered(460, [1.2], width=30, seed=draw)
        states = states[0]
        found = cross_fit(states[:60], labels[:60], strengths=[0.03], repeats=1, seed=draw)
        _, mean, spread = standardised(states[:60])
        features = ((states - mean) / spread).astype(np.float32)
        fitted = fit_logistic(features[:48], labels[:48], 3, strengths=[0.03])
        log_probs = log_softmax(fitted.logits(features)[0], axis=1)
        losses = -log_probs[np.arange(460), labels]
        gaps.append(found.best.log_loss - losses[60:].mean())
        naive.append(losses[:48].mean() - losses[60:].mean())
    error = np.std(gaps, ddof=1) / 5
    assert abs(np.mean(gaps)) < 3 * error and error < 0.03
    # The loss on rows that it has seen would not pass.
    assert np.mean(naive) < -0.1


def test_the_same_arguments_give_the_same_numbers() -> None:
    states, labels = layered(60, [1.0, 1.5])
    one, two = cross_fit(states, labels, seed=3), cross_fit(states, labels, seed=3)
    assert one.layer == two.layer and one.best.losses.tobytes() == two.best.losses.tobytes()
    half = cross_fit(states.astype(np.float16), labels, seed=3)
    np.testing.assert_allclose(half.best.losses, one.best.losses, atol=0.02)


def test_two_rows_are_enough_to_end() -> None:
    states, _ = layered(2, [1.0])
    found = cross_fit(states, [0, 1])
    assert np.isfinite(found.best.losses).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0] * 30}, "two labels"),
        ({"labels": [0, 1]}, "do not fit"),
        ({"labels": [-1, *[0, 1, 2] * 9, 0, 1]}, "from 0 to"),
        ({"classes": 2}, "from 0 to 1"),
        ({"layers": [1]}, "2 labels|1 layers"),
        ({"groups": ["one"] * 30}, "two groups"),
        ({"groups": ["one", "two"]}, "2 groups do not fit 30 rows"),
        ({"words": np.zeros((30, 2), dtype=np.float32)}, "logits of words of shape"),
        ({"words": np.full((30, 3), np.nan, dtype=np.float32)}, "logit is not finite"),
        ({"states": np.full((2, 30, 4), np.inf, dtype=np.float32)}, "hidden state is not finite"),
        ({"states": np.zeros(30, dtype=np.float32)}, "do not fit"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes: dict[str, Any], message: str) -> None:
    states, labels = layered(30, [1.0, 1.0])
    with pytest.raises(InputError, match=message):
        cross_fit(**({"states": states, "labels": labels} | changes))


@pytest.mark.parametrize(("apart", "repeats"), [(0.3, 1), (1.0, 1), (3.0, 1), (1.0, 3)])
def test_many_rows_and_labels_try_fewer_penalties_and_choose_the_same(
    apart: float, repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved: list[int] = []

    def counted(*given: Any, **settings: Any) -> Any:
        solved.append(len(settings["strengths"]) * len(settings["masks"]))
        return fit_logistic(*given, **settings)

    monkeypatch.setattr(cross_fitting, "fit_logistic", counted)
    for seed in range(8):
        states, labels = layered(90, [apart], classes=6, seed=seed)
        monkeypatch.setattr(cross_fitting, "_MANY_LOGITS", 10**9)
        solved.clear()
        whole = cross_fit(states, labels, repeats=repeats, seed=seed)
        assert solved == [len(STRENGTHS) * FOLDS * repeats]
        monkeypatch.setattr(cross_fitting, "_MANY_LOGITS", 0)
        solved.clear()
        found = cross_fit(states, labels, repeats=repeats, seed=seed)
        assert solved[0] == len(STRENGTHS) and sum(solved) < len(STRENGTHS) * FOLDS * repeats
        # The fold's best penalty is nearly that of all, unless labels hardly differ.
        assert len(solved) <= 3 or apart < 1
        assert found.best.strength == whole.best.strength
        # A problem is solved a little further than to the tolerance if others of its call take longer.
        np.testing.assert_allclose(found.best.losses, whole.best.losses, atol=0.02)
        assert found.best.log_loss == pytest.approx(whole.best.log_loss, abs=1e-3)
