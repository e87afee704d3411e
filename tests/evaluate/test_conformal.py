"""Sets hold the right label as often as is promised, on whatever model; thresholds are those of the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from cotune.evaluate.stats.conformal import conformal_scores, coverage, label_sets, least_rows, threshold

Floats = NDArray[np.float64]


def drawn(rows: int, rng: np.random.Generator, *, sure: float) -> tuple[Floats, NDArray[np.int64]]:
    """Rows of four labels by a model that overstates how sure it is by ``sure``; labels come from the true probabilities."""
    logits = rng.normal(size=(rows, 4)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gold = (true.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    told = sure * logits
    return told - np.log(np.exp(told).sum(axis=1, keepdims=True)), gold.astype(np.int64)


@pytest.mark.parametrize("sure", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(("rows", "share"), [(19, 0.05), (60, 0.1), (200, 0.05)])
def test_coverage_is_what_is_promised_however_wrong_the_model_is(rows: int, share: float, sure: float) -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(400):
        log_probs, gold = drawn(rows + 200, rng, sure=sure)
        highest = threshold(conformal_scores(log_probs[:rows], gold[:rows]), share)
        found.append(coverage(label_sets(log_probs[rows:], highest), gold[rows:]))
    mean = float(np.mean([one.covered for one in found]))
    error = float(np.std([one.covered for one in found]) / 20)
    # Where a set is never empty, coverage can only be above what is promised.
    assert mean >= 1 - share - 3 * error
    assert mean <= 1 - share + 1 / (rows + 1) + 3 * error
    assert np.mean([one.wrong for one in found]) <= share + 3 * error


def test_the_threshold_is_the_score_of_its_rank() -> None:
    scores = np.arange(1.0, 20.0)
    assert threshold(scores, 0.05) == 19 and threshold(scores, 0.1) == 18 and threshold(scores, 0.5) == 10
    assert threshold(scores[:18], 0.05) == math.inf
    for share in (0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5):
        rows = least_rows(share)
        assert math.isfinite(threshold(np.zeros(rows), share)), share
        assert threshold(np.zeros(rows - 1), share) == math.inf if rows > 1 else True, share


def test_a_set_holds_at_least_the_likeliest_label() -> None:
    log_probs = np.log(np.array([[0.5, 0.3, 0.2], [0.99, 0.009, 0.001]]))
    assert label_sets(log_probs, 0.0).tolist() == [[True, False, False]] * 2
    assert label_sets(log_probs, -math.log(0.25)).tolist() == [[True, True, False], [True, False, False]]
    assert label_sets(log_probs, math.inf).all()


def test_coverage_is_told_by_label_and_wrong_answers_apart_from_open_ones() -> None:
    sets = np.array([[True, False], [True, True], [True, False], [False, True]])
    found = coverage(sets, np.array([0, 1, 1, 1]))
    assert (found.covered, found.answered, found.wrong, found.size) == (0.75, 0.75, 0.25, 1.25)
    assert found.by_label == {0: 1.0, 1: pytest.approx(2 / 3)}
