"""Results of comparing a user's prompt with the winner's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cotune.evaluate.frozen_arms import ALPHA
from cotune.evaluate.stats.intervals import Interval
from cotune.evaluate.words import NO_DIFFERENCE
from cotune.prompt.prompt import Prompt


@dataclass(frozen=True)
class Comparison:
    """A prompt against the winner's under the same weights, on dev.

    Attributes:
        weights: ``tuned`` or ``base``.
        mine: the new prompt's metric.
        winner: the winner's metric.
        difference: mine minus winner's.
        low: lower end of its paired 95% interval; minus infinity if it is unbounded, as with a single row or group.
        p: p-value by exact McNemar, or a paired permutation test for values other than 0 and 1 and for metrics that are no
            means of rows.
        log_loss_difference: mine minus winner's, in nats per row; below 0 is better. None for answers of an endpoint.
        flipped: rows that only one of the two gets right.
        truncated: number of rows that were truncated under the new prompt, because they were longer than the limit on prompts.
    """

    weights: str
    mine: float
    winner: float
    difference: float
    low: float
    high: float
    p: float
    log_loss_difference: float | None
    flipped: list[dict[str, Any]]
    truncated: int = 0

    @property
    def reading(self) -> str:
        """The difference in words."""
        if self.p >= ALPHA:
            return NO_DIFFERENCE
        return "better" if self.difference > 0 else "worse"

    def to_json(self) -> dict[str, Any]:
        """For ``--json``, which cannot express infinity: an end of the interval that is unbounded is None."""
        low, high = Interval(self.low, self.high).as_list()
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"low": low, "high": high}


@dataclass(frozen=True)
class Tried:
    """Results for each of the two sets of weights.

    Attributes:
        comparisons: tuned weights first.
        adapter_id: the tuned weights.
        by_probe: whether both prompts are answered by probes fitted on the train rows.
        unfilled: a sentence on words in braces that are no input fields; empty if there are none.
    """

    prompt: Prompt
    n: int
    comparisons: list[Comparison]
    adapter_id: str
    by_probe: bool = False
    unfilled: str = ""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "prompt_id": self.prompt.id,
            "prompt_text": self.prompt.text,
            "n": self.n,
            "split": "dev",
            "adapter_id": self.adapter_id,
            "by_probe": self.by_probe,
            "unfilled": self.unfilled,
            "comparisons": [c.to_json() for c in self.comparisons],
        }
