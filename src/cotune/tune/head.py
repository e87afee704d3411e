"""Fitting a classification head: multinomial logistic regression on a tuned model's states (linear probe, arXiv 1610.01644)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.probe.readout import Probe

STRENGTH = 0.1
"""Inverse of the penalty on squared weights, for standardised states."""
_ROUNDS = 200
_UNSEEN = -12.0
"""Logit of a label without a row, which the fit would leave unbounded."""


def fit_head(
    states: NDArray[np.float32], truth: Sequence[int], labels: Sequence[str], layer: int, words: Mapping[str, Any]
) -> Probe:
    """Fit a probe to labelled states.

    Args:
        states: ``[rows, width]`` states at the position where an answer would begin.
        truth: ``[rows]`` index of each row's right label; at least two different ones.
        labels: all labels.
        layer: layer whose output was read.
        words: see :class:`cotune.probe.readout.Probe`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, spread = states.mean(axis=0, dtype=np.float64), states.std(axis=0, dtype=np.float64) + 1e-6
    wide = ((states - mean) / spread).astype(np.float32)
    with warnings.catch_warnings():
        # This many iterations are enough, since dev decides whether the head is used.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=STRENGTH, max_iter=_ROUNDS).fit(wide, np.asarray(truth))
    # For two labels scikit-learn returns the weights of the second one only.
    rows = fitted.coef_ if len(fitted.classes_) > 2 else np.concatenate([np.zeros_like(fitted.coef_), fitted.coef_])
    own = fitted.intercept_ if len(fitted.classes_) > 2 else np.array([0.0, fitted.intercept_[0]])
    weight, bias = np.zeros((len(labels), states.shape[1])), np.full(len(labels), _UNSEEN)
    weight[fitted.classes_] = rows / spread
    bias[fitted.classes_] = own - rows @ (mean / spread)
    return Probe(tuple(labels), weight.astype(np.float32), bias.astype(np.float32), layer, dict(words))
