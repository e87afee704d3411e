"""Fitting a classification head to states."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cotune.tune.head import STRENGTH, fit_head


def clouds(labels: int, rows: int, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(labels, width)) * 2
    gold = np.arange(rows) % labels
    # Widths of a model's state differ by orders of magnitude.
    scale = np.exp(rng.normal(size=width) * 2)
    return ((centres[gold] + rng.normal(size=(rows, width))) * scale + 3).astype(np.float32), gold


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_it_says_what_logistic_regression_on_standardised_states_says(labels: int) -> None:
    states, gold = clouds(labels, 140)
    names = [f"label {i}" for i in range(labels)]
    head = fit_head(states[:100], list(gold[:100]), names, 2, {})
    mean, spread = states[:100].mean(0, dtype=float), states[:100].std(0, dtype=float)
    wanted = LogisticRegression(C=STRENGTH, max_iter=200).fit((states[:100] - mean) / spread, gold[:100])
    found = head.log_probs(states[100:], names)
    np.testing.assert_allclose(np.exp(found), wanted.predict_proba((states[100:] - mean) / spread), atol=1e-4)
    assert (found.argmax(1) == gold[100:]).mean() > 0.8


def test_a_label_without_a_row_is_never_the_answer() -> None:
    states, gold = clouds(3, 60)
    head = fit_head(states, [int(g) * 2 for g in gold], [f"label {i}" for i in range(5)], 2, {})
    found = head.log_probs(states, head.labels)
    assert np.isfinite(found).all() and set(found.argmax(1)) == {0, 2, 4}
