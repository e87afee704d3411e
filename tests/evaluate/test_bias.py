"""The decision rule's bias: what it finds where the truth is known, and that few rows do not lead it astray."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.evaluate.decision import RAW, Decision, Floats, fit_bias, label_frequencies


def drawn(rng: np.random.Generator, rows: int, labels: int, sureness: float, tilt: float) -> tuple[Floats, Floats, Floats]:
    """Log-probabilities of a model that is right but for a bias of its own, the rows' labels, and that bias."""
    wrong = tilt * rng.normal(size=labels)
    gold = rng.integers(labels, size=rows)
    evidence = rng.normal(size=(rows, labels))
    evidence[np.arange(rows), gold] += sureness
    # Evidence of unit variance whose mean is ``sureness`` at the right label has this likelihood ratio.
    return RAW.log_probs(sureness * evidence + wrong), gold, wrong - wrong.mean()


def losses(rule: Decision, scores: Floats, gold: Floats) -> float:
    return float(-rule.log_probs(scores)[np.arange(len(gold)), gold.astype(int)].mean())


def fits(
    rows: int, labels: int, further: int, sureness: float, tilt: float
) -> Iterator[tuple[Decision, Floats, Floats, Floats]]:
    """Rules fitted to a few rows, further rows with their labels, and the model's own bias, a dozen times."""
    rng = np.random.default_rng(rows + labels)
    for _ in range(12):
        scores, gold, wrong = drawn(rng, rows + further, labels, sureness, tilt)
        yield fit_bias(scores[:rows], np.full(labels, 1 / labels)), scores[rows:], gold[rows:], wrong


def test_many_unsure_rows_show_a_models_own_bias() -> None:
    rng = np.random.default_rng(0)
    scores, _, wrong = drawn(rng, 6000, 5, sureness=1.5, tilt=2.0)
    found = np.array(fit_bias(scores, np.full(5, 0.2)).bias)
    np.testing.assert_allclose(found - found.mean(), -wrong, atol=0.15)


@pytest.mark.parametrize(("rows", "labels", "sureness"), [(150, 77, 4.0), (300, 77, 4.0), (64, 20, 4.0), (60, 6, 3.0)])
def test_a_sure_model_without_a_bias_is_left_nearly_as_it_was(rows: int, labels: int, sureness: float) -> None:
    lost, told = [], []
    for rule, rest, truth, _ in fits(rows, labels, 2000, sureness, tilt=0.0):
        told.append((rule.predict(rest) == truth).mean() - (RAW.predict(rest) == truth).mean())
        lost.append(losses(rule, rest, truth) - losses(RAW, rest, truth))
    assert np.mean(told) > -0.012
    assert np.mean(lost) < 0.06


@pytest.mark.parametrize(("rows", "labels", "sureness"), [(64, 6, 1.0), (300, 77, 2.0), (64, 77, 2.0)])
def test_a_strong_bias_of_an_unsure_model_is_mostly_taken_off(rows: int, labels: int, sureness: float) -> None:
    gained, possible = [], []
    for rule, rest, truth, wrong in fits(rows, labels, 1000, sureness, tilt=4.0):
        before = losses(RAW, rest, truth)
        gained.append(before - losses(rule, rest, truth))
        possible.append(before - losses(Decision("bias", tuple(-wrong)), rest, truth))
    assert np.mean(gained) > 0.85 * np.mean(possible)


@given(
    st.integers(1, 40).flatmap(
        lambda rows: st.lists(
            st.lists(st.floats(-50, 0), min_size=4, max_size=4).map(lambda row: [*row]), min_size=rows, max_size=rows
        )
    ),
    st.lists(st.integers(0, 3), max_size=30),
)
def test_any_scores_have_a_finite_bias(scores: list[list[float]], gold: list[int]) -> None:
    table = np.array(scores)
    rule = fit_bias(table, label_frequencies(gold, 4))
    assert np.isfinite(rule.bias).all()
    assert rule == fit_bias(table[::-1], label_frequencies(gold, 4)) or np.allclose(
        rule.bias, fit_bias(table[::-1], label_frequencies(gold, 4)).bias, atol=1e-3
    )


def test_a_model_that_agrees_already_has_none() -> None:
    scores = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]]))
    assert np.abs(fit_bias(scores, np.full(3, 1 / 3)).bias).max() < 1e-3
