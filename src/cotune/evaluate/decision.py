"""The decision rule: how label scores become an answer. It belongs to the candidate, like its prompt and its adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SPREAD = 1.5
"""Prior standard deviation of the labels' biases, in nats."""
_WEIGHINGS, _ROUNDS, _ENOUGH = 4, 50, 1e-4


@dataclass(frozen=True)
class Decision:
    """The decision rule: raw argmax, argmax after a fixed bias on each label's log-probability, or a probe.

    Attributes:
        kind: ``raw``, ``bias``, or ``probe`` (argmax of the scores of a probe that is stored with the adapter).
        bias: one number per label, in the task's label order; empty for the other kinds.
    """

    kind: Literal["raw", "bias", "probe"] = "raw"
    bias: tuple[float, ...] = ()

    def log_probs(self, scores: Floats) -> Floats:
        """Log-probabilities ``[rows, labels]`` after the bias."""
        shifted = scores + np.asarray(self.bias) if self.bias else scores
        top = shifted.max(axis=1, keepdims=True)
        centred = shifted - top
        result: Floats = centred - np.log(np.exp(centred).sum(axis=1, keepdims=True))
        return result

    def predict(self, scores: Floats) -> NDArray[np.int64]:
        """Index of the chosen label, ``[rows]``; ties go to the first."""
        chosen: NDArray[np.int64] = self.log_probs(scores).argmax(axis=1)
        return chosen

    def to_json(self) -> dict[str, Any]:
        """For journal and bundle."""
        return {"kind": self.kind, "bias": list(self.bias)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Decision:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: the object is not a decision rule.
        """
        kind, bias = data.get("kind"), data.get("bias", ())
        if kind not in ("raw", "bias", "probe") or not isinstance(bias, (list, tuple)) or (kind == "bias") != bool(bias):
            raise ValueError("not a decision rule")
        numbers = tuple(float(b) for b in bias)
        if not np.isfinite(numbers).all():
            raise ValueError("a decision rule's bias must be finite")
        return cls(kind, numbers)


RAW = Decision()
BY_PROBE = Decision("probe")


def label_frequencies(references: Sequence[int], labels: int) -> Floats:
    """Share of each label among labelled rows, with half a row added to each to avoid zeros."""
    counts = np.bincount(np.asarray(references, dtype=np.int64), minlength=labels) + 0.5
    result: Floats = counts / counts.sum()
    return result


def fit_bias(scores: Floats, frequencies: Floats) -> Decision:
    """The bias that brings the mean predicted distribution over unlabelled rows close to given label frequencies.

    Only inputs are used, never their labels. Matching the frequencies exactly, with all labels equally frequent, is batch
    calibration (arXiv 2309.17249). But few rows contain each label more or less often than its frequency says, and a confident
    model should not be changed because of that. So the bias is a maximum a posteriori estimate: each label's bias has a normal
    prior around zero with a standard deviation of :data:`SPREAD` nats, and the agreement is weighted by how undecided the model
    is. An undecided model is corrected as far as the rows say, a confident one with few rows per label hardly.

    Args:
        scores: ``[rows, labels]`` log-probabilities.
        frequencies: ``[labels]`` shares that sum to one.
    """
    base = RAW.log_probs(scores)
    bias, weight = np.zeros(len(frequencies)), 1.0
    for _ in range(_WEIGHINGS):
        bias = _most_likely(base, frequencies * len(base), bias, weight)
        # Computed for the corrected model: a model that gives all rows the same label is confident but wrong.
        certainty = float(np.square(np.exp(RAW.log_probs(base + bias))).sum(axis=1).mean())
        weight = (1 - certainty) / certainty
    return Decision("bias", tuple(round(float(b), 6) for b in bias))


def _most_likely(base: Floats, counts: Floats, bias: Floats, weight: float) -> Floats:
    """Newton's method from ``bias``; the objective is concave."""
    precision = 1 / SPREAD**2

    def worth(bias: Floats) -> float:
        return float(weight * (counts @ bias - np.logaddexp.reduce(base + bias, axis=1).sum()) - precision * (bias @ bias) / 2)

    for _ in range(_ROUNDS):
        predicted = np.exp(RAW.log_probs(base + bias))
        means = predicted.sum(axis=0)
        slope = weight * (counts - means) - precision * bias
        curvature = weight * (np.diag(means) - predicted.T @ predicted) + precision * np.eye(len(bias))
        step = np.linalg.solve(curvature, slope)
        while np.abs(step).max() > _ENOUGH and worth(bias + step) < worth(bias):
            step /= 2
        bias = bias + step
        if np.abs(step).max() <= _ENOUGH:
            break
    return bias
