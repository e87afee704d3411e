"""Numerical noise of label scores: their change with the composition of batches, and gains that are smaller than it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special

from cotune.evaluate.attribution import Attribution
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.frozen_arms import ARMS, EVERY_GAIN, PREVIOUS, reduced
from cotune.evaluate.stats.resampling import Floats
from cotune.task.metrics.label import Average, f1_from_counts

_SCORINGS = 500


@dataclass(frozen=True, slots=True)
class Noise:
    """Differences between two scorings of the same rows, which should be equal.

    Attributes:
        largest: largest absolute difference of a label's log-probability, in nats.
        mean: mean of these differences.
        reach: largest change of the margin between two labels of a row, in nats.
        spread: standard deviation of such a margin's change, in nats.
        flipped: number of rows whose answer differs.
    """

    n: int
    largest: float
    mean: float
    reach: float
    spread: float
    flipped: int

    def floor(self, scores: Floats, decision: Decision = RAW) -> float:
        """The change of an arm's accuracy due to noise that is not exceeded in 95% of scorings.

        A row flips if the margin between its two best labels changes by more than the margin itself. The change is taken to be
        normal with standard deviation :attr:`spread`, and the share of flipping rows to be at least the observed one. A flip
        gains or loses the row with equal probability, so if a share ``p`` of ``n`` rows flips, the accuracy has a standard
        deviation of ``sqrt(p / n)``.

        Args:
            scores: ``[rows, labels]`` log-probabilities of an arm.
        """
        share = float(np.mean(self._flipping(decision.log_probs(scores))))
        return float(special.ndtri(0.975) * np.sqrt(share / len(scores)))

    def f1_floor(
        self,
        scores: Floats,
        decision: Decision,
        references: npt.ArrayLike,
        average: Average,
        *,
        seed: int = 0,
    ) -> float:
        """The change of an arm's F1 due to noise that is not exceeded in 95% of scorings, by simulation.

        Rows flip with the probabilities of :meth:`floor`.

        Args:
            scores: ``[rows, labels]`` log-probabilities of an arm.
            references: index of each row's right label.
            average: averaging of the labels' F1.
        """
        judged = decision.log_probs(scores)
        labels = np.arange(judged.shape[1])
        order = np.argsort(-judged, axis=1, kind="stable")
        first, second = (_label_indicators(order[:, place], labels) for place in (0, 1))
        truth = _label_indicators(references, labels)
        flips = np.random.default_rng([seed, 22]).random((_SCORINGS, len(judged))) < self._flipping(judged)

        def f1(flipped: Floats) -> Floats:
            hits = (truth * first).sum(axis=0) + flipped @ (truth * (second - first))
            predicted = first.sum(axis=0) + flipped @ (second - first)
            return f1_from_counts(hits, truth.sum(axis=0), predicted, average)

        moved = np.abs(f1(flips.astype(np.float64)) - f1(np.zeros((1, len(judged)))))
        return float(np.quantile(moved, 0.95))

    def _flipping(self, judged: Floats) -> Floats:
        """Probability that each row flips to its second best label, on average at least the observed rate."""
        best = np.sort(judged, axis=1)[:, -2:]
        margin = best[:, 1] - best[:, 0]
        # Without noise even a tie always gives the same answer, by the labels' order.
        likely: Floats = np.asarray(special.ndtr(-margin / self.spread)) if self.spread > 0 else np.zeros(len(margin))
        seen, mean = self.flipped / self.n, float(likely.mean())
        if mean >= seen:
            return likely
        return likely * (seen / mean) if mean > 0 else np.full(len(margin), seen)


def compare(first: Floats, second: Floats, decision: Decision = RAW) -> Noise:
    """Measure the noise between two scorings ``[rows, labels]`` of the same rows in different batches.

    Raises:
        ValueError: shapes differ, or there are no rows.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(f"two scorings of the same rows are needed, not of shapes {first.shape} and {second.shape}")
    moved = second - first
    flipped = int(np.sum(decision.predict(first) != decision.predict(second)))
    size = np.abs(moved)
    # The difference of two labels' changes has twice the variance of one.
    spread = float(np.sqrt(2 * np.mean(np.var(moved, axis=1, ddof=1)))) if moved.shape[1] > 1 else 0.0
    reach = float(np.ptp(moved, axis=1).max())
    return Noise(len(first), float(size.max()), float(size.mean()), reach, spread, flipped)


def _label_indicators(values: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    return np.asarray(np.asarray(values)[:, None] == np.asarray(labels)[None, :], dtype=np.float64)


def told_with_noise(attribution: Attribution, floors: Mapping[str, float], candidates: Mapping[str, str]) -> Attribution:
    """Add the noise floor to each gain, so that no gain below it is called a difference.

    Args:
        floors: arm name to :meth:`Noise.floor` or :meth:`Noise.f1_floor`; a gain's floor adds those of the arms that it
            compares as independent errors.
        candidates: id of the candidate by arm. Arms that cancel out in a gain add no noise to it.
    """
    same = {arm: candidates.get(arm, arm) for arm in (*ARMS, PREVIOUS)}
    noise = {
        name: min(1.0, math.sqrt(sum(floors.get(arm, 0.0) ** 2 for pair in reduced(pairs, same) for arm in pair)))
        for name, pairs in EVERY_GAIN.items()
    }
    gains = {name: replace(gain, noise=0.0 if gain.identical else noise[name]) for name, gain in attribution.gains.items()}
    return replace(attribution, gains=gains)
