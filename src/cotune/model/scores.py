"""What scoring returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelScores:
    """Log-probabilities of every label for every row, before any decision rule.

    Attributes:
        log_probs: ``[rows, labels]`` sums of token log-probabilities; ``-inf`` only where ``pruned``.
        tokens: tokens the model ran for this.
        tokens_saved: tokens that the shared prefix spared against running each row alone.
        truncated: rows whose text had to be shortened.
        cached: rows answered from the cache.
        pruned: some labels that could not win were left out; never use these for calibration.
        cost: US dollars, where answers have a price.
        unmatched: rows whose answer names no label, where answers are words.
    """

    log_probs: NDArray[np.float64]
    tokens: int = 0
    tokens_saved: int = 0
    truncated: int = 0
    cached: int = 0
    pruned: bool = False
    cost: float = 0.0
    unmatched: int = 0

    @property
    def normalised(self) -> NDArray[np.float64]:
        """Log-probabilities among the labels alone: each row sums to one."""
        top = self.log_probs.max(axis=1, keepdims=True)
        shifted = self.log_probs - top
        result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return result
