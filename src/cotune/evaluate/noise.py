"""The machine's own noise: how far scores move with what else stands in a batch, and which gains are too small for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cotune.evaluate.attribution import GAINS, Attribution
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.resampling import Floats


@dataclass(frozen=True, slots=True)
class Noise:
    """How two scorings of the same rows differ that should not.

    Attributes:
        n: rows.
        largest: largest absolute difference of a label's log-probability, in nats.
        mean: mean of these.
        reach: largest change of the margin between two labels of a row, in nats.
        flipped: rows whose answer differs.
    """

    n: int
    largest: float
    mean: float
    reach: float
    flipped: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def floor(self, scores: Floats, decision: Decision = RAW) -> float:
        """Share of rows whose answers the noise could flip: an upper bound on what it adds to an arm's accuracy.

        These are the rows whose two best labels lie no further apart than the noise was seen to move a margin. It is never
        less than the share of answers that were seen to flip.

        Args:
            scores: ``[rows, labels]`` log-probabilities of an arm.
            decision: the arm's rule.
        """
        best = np.sort(decision.log_probs(scores), axis=1)[:, -2:]
        close = best[:, 1] - best[:, 0] <= self.reach
        # Where nothing moves, even a tie is answered alike every time: by the labels' order.
        near = float(np.mean(close)) if self.reach > 0 else 0.0
        return max(near, self.flipped / self.n)


def compare(first: Floats, second: Floats, decision: Decision = RAW) -> Noise:
    """The noise between two scorings of the same rows in different batches.

    Args:
        first: ``[rows, labels]`` log-probabilities.
        second: the same rows and labels, scored in other company.
        decision: how an answer is chosen.

    Raises:
        ValueError: shapes differ, or there are no rows.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(f"two scorings of the same rows are needed, not of shapes {first.shape} and {second.shape}")
    moved = second - first
    flipped = int(np.sum(decision.predict(first) != decision.predict(second)))
    size = np.abs(moved)
    return Noise(len(first), float(size.max()), float(size.mean()), float(np.ptp(moved, axis=1).max()), flipped)


def told_with_noise(attribution: Attribution, floors: Mapping[str, float]) -> Attribution:
    """The gains with the noise that each could be made of, so that none below it is called a difference.

    Args:
        attribution: the gains.
        floors: arm name to :meth:`Noise.floor`; a gain's noise is the sum over the arms that it compares.
    """
    noise = {name: min(1.0, sum(floors.get(arm, 0.0) for pair in pairs for arm in pair)) for name, pairs in GAINS.items()}
    gains = {name: replace(gain, noise=0.0 if gain.identical else noise[name]) for name, gain in attribution.gains.items()}
    return replace(attribution, gains=gains)
