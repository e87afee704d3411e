"""Numerical noise of generated answers: the change of a score with the composition of batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cotune.evaluate.scoring import Evaluation
from cotune.evaluate.stats.resampling import Floats
from cotune.task.metrics.metric import Aggregate


@dataclass(frozen=True)
class AnswerNoise:
    """Differences between two generations of the same rows, which should be equal.

    Unlike label scores, generated answers have no margin to measure. Only observed changes are known, so changes rarer than one
    row in ``n`` are missed.

    Attributes:
        flipped: number of rows whose answer differs.
        values: change of the value of each row whose value changed.
        counts: changes of these rows' counts, for scores that are not means of rows; otherwise empty.
    """

    n: int
    flipped: int
    values: tuple[float, ...] = ()
    counts: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AnswerNoise:
        """Inverse of ``asdict``."""
        counts = tuple(tuple(map(float, row)) for row in data["counts"])
        return cls(int(data["n"]), int(data["flipped"]), tuple(map(float, data["values"])), counts)

    def floor(self, judged: Evaluation, aggregate: Aggregate | None, *, draws: int = 500, seed: int = 0) -> float:
        """The change of an arm's score due to noise that is not exceeded in 95% of generations.

        Rows change at the observed rate, each by an observed change in either direction; the score is recomputed each time.

        Args:
            judged: the arm on its rows.
            aggregate: the aggregate of the score; None for a mean of rows.
        """
        changes = np.array(self.values)[:, None]
        table = judged.values[:, None]

        def mean(sums: Floats) -> Floats:
            return np.minimum(sums[..., 0] / judged.n, 1.0)

        score: Callable[[Floats], Floats] = mean
        if aggregate is not None and judged.counts is not None and np.shape(self.counts)[1:] == judged.counts.shape[1:]:
            # If these rows have other fields, use the values of the rows.
            changes, table, score = np.array(self.counts), judged.counts, aggregate.score
        if not len(changes):
            return 0.0
        rng = np.random.default_rng([seed, 23])
        sums = table.sum(axis=0)
        moved = np.zeros((draws, table.shape[1]))
        for draw, count in enumerate(rng.binomial(judged.n, len(changes) / self.n, size=draws)):
            signs = rng.choice((-1.0, 1.0), size=(count, 1))
            moved[draw] = (signs * changes[rng.integers(0, len(changes), size=count)]).sum(axis=0)
        # Changes that add up to less than no row; sums that are no counts may be below 0.
        changed = sums + moved if aggregate is not None and aggregate.signed else np.maximum(sums + moved, 0.0)
        scores = score(changed)
        return float(np.quantile(np.abs(scores - score(sums[None])), 0.95))


def compare_answers(first: Evaluation, second: Evaluation) -> AnswerNoise:
    """The noise between two generations of the same rows in different batches.

    Raises:
        ValueError: there are no rows, or their numbers differ.
    """
    if first.n != second.n or not first.n:
        raise ValueError(f"both generations must be of the same rows, not of {first.n} and {second.n} rows")
    changed = second.values != first.values
    counts: tuple[tuple[float, ...], ...] = ()
    if first.counts is not None and second.counts is not None:
        moved = second.counts - first.counts
        changed = changed | (moved != 0).any(axis=1)
        counts = tuple(tuple(map(float, row)) for row in moved[changed])
    flipped = sum(one != other for one, other in zip(first.answers, second.answers, strict=True))
    return AnswerNoise(first.n, flipped, tuple(map(float, (second.values - first.values)[changed])), counts)
