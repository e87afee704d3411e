"""The decision rule: how label scores become an answer. It belongs to the candidate, like its prompt and its adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """Raw argmax, or argmax after a fixed bias on each label's log-probability.

    Attributes:
        kind: ``raw`` or ``bias``.
        bias: one number a label, in the task's label order; empty for ``raw``.
    """

    kind: Literal["raw", "bias"] = "raw"
    bias: tuple[float, ...] = ()

    def log_probs(self, scores: Floats) -> Floats:
        """``[rows, labels]`` log-probabilities among the labels, the bias applied."""
        shifted = scores + np.asarray(self.bias) if self.bias else scores
        top = shifted.max(axis=1, keepdims=True)
        centred = shifted - top
        result: Floats = centred - np.log(np.exp(centred).sum(axis=1, keepdims=True))
        return result

    def predict(self, scores: Floats) -> NDArray[np.int64]:
        """``[rows]`` index of the chosen label; ties go to the first."""
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
        if kind not in ("raw", "bias") or not isinstance(bias, (list, tuple)) or (kind == "bias") != bool(bias):
            raise ValueError("not a decision rule")
        numbers = tuple(float(b) for b in bias)
        if not np.isfinite(numbers).all():
            raise ValueError("a decision rule's bias must be finite")
        return cls(kind, numbers)


RAW = Decision()


def label_frequencies(gold: Sequence[int], labels: int) -> Floats:
    """Share of each label among labelled rows, with half a row added to each so that none is zero."""
    counts = np.bincount(np.asarray(gold, dtype=np.int64), minlength=labels) + 0.5
    result: Floats = counts / counts.sum()
    return result


def fit_bias(scores: Floats, frequencies: Floats, *, rounds: int = 200) -> Decision:
    """The bias under which the mean predicted distribution over unlabelled rows equals given label frequencies.

    Only inputs are used, never their labels. It generalises batch calibration (arXiv 2309.17249), which assumes that all
    labels are equally frequent.

    Args:
        scores: ``[rows, labels]`` log-probabilities.
        frequencies: ``[labels]`` shares that sum to one.
        rounds: fixed-point steps at most.
    """
    base = Decision().log_probs(scores)
    bias = np.zeros(scores.shape[1])
    for _ in range(rounds):
        means = np.exp(Decision("bias", tuple(bias)).log_probs(base)).mean(axis=0)
        step = np.log(frequencies) - np.log(np.maximum(means, 1e-12))
        bias = np.clip(bias + 0.7 * step, -30, 30)
        bias -= bias.mean()
        if np.abs(step).max() < 1e-4:
            break
    return Decision("bias", tuple(round(float(b), 6) for b in bias))
