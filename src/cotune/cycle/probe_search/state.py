"""What a label search found, and how it went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.probe_search.fits import PromptFit
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.race import ProbeRace
from cotune.cycle.probe_search.trial import Fitted
from cotune.refine import Proposal
from cotune.task.example import Example
from cotune.task.sealed import SealedTest

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """How one way to answer did on rows that it had not seen.

    Attributes:
        fit: the prompt with its frozen probe.
        epochs: how often the weights met each row; 0 where they are frozen.
        temperature: what its logits are divided by, fitted to the held-out rows.
        losses: ``[rows]`` held-out log-loss in nats, after temperature, in the order of the splits.
        correct: ``[rows]`` 1 where the likeliest label was right.
        first: its weights of the first split, whose held-out rows are dev.
        dev_log_probs: ``[dev rows, labels]`` what these gave on dev, in the order of the first split, after temperature.
        start: adapter that tuning started from.
    """

    fit: PromptFit
    epochs: float
    temperature: float
    losses: Floats
    correct: Floats
    first: Fitted
    dev_log_probs: Floats
    start: str = "base"

    @property
    def tuned(self) -> bool:
        """Whether weights were tuned."""
        return self.epochs > 0

    @property
    def mean(self) -> float:
        """Mean held-out log-loss."""
        return float(self.losses.mean())


@dataclass
class LabelSearch:
    """What a label search found.

    Attributes:
        proposals: every prompt that was embedded, by id.
        base_race: the first race, under the base model.
        fits: prompt id to its cross-fitted probe on all rows that the user labelled.
        seed: the seed prompt's.
        evidence: every way to answer that was judged on held-out rows.
        winner: the best of them.
        cycles: a record for each cycle.
        stopped: why the search ended.
        epochs: how often weights meet each row in a trial.
        zero_shot: whether the budget has room for the reference that asks the untuned model for label words.
        last_epochs: how often they meet all rows at the end; 0 where a trial is all that there is room for.
        written: rows that a teacher labelled or wrote and names of labels, which are learnt from beside the rows that the user
            labelled.
        named: the best frozen prompt's probe that has learnt from names of labels; None if these are not used.
        whole_test: the test before rows of it were left out for want of time; None where all are to be scored.
    """

    by_probe: ClassVar[bool] = True

    proposals: dict[str, Proposal]
    base_race: ProbeRace
    fits: dict[str, PromptFit]
    seed: PromptFit
    evidence: list[Evidence] = field(default_factory=list)
    winner: Evidence | None = None
    cycles: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    epochs: float = 0.0
    last_epochs: float = 0.0
    zero_shot: bool = True
    written: tuple[Example, ...] = ()
    named: Evidence | None = None
    whole_test: SealedTest | None = None

    @property
    def best_frozen(self) -> PromptFit:
        """The prompt whose frozen probe has the least cross-fitted log-loss."""
        return min(self.fits.values(), key=lambda fit: fit.mean)

    def expected(self, evidence: Evidence) -> float:
        """Held-out log-loss that is expected of what ships: a trial that is tuned on gets a standard error's credit.

        A trial has had half of its epochs. Where it was as good as its frozen probe, or a little worse, the tuned result in the
        end was better by far (docs/probes.md), so it loses only where it is worse by more than chance.

        Where the best frozen probe has next to no errors there is little for tuning to gain and much to lose: there a trial
        must be better than it by a standard error.
        """
        if not evidence.tuned:
            return evidence.mean
        rivals = [e for e in self.evidence if not e.tuned and len(e.losses) == len(evidence.losses)]
        best = min(rivals, key=lambda e: e.mean, default=None)
        if best is not None and (1 - best.correct).sum() < HEURISTICS.few_errors:
            return evidence.mean + standard_error(evidence.losses - best.losses)
        frozen = self.of(evidence.fit.prompt.id, tuned=False)
        if not self.last_epochs or frozen is None or len(frozen.losses) != len(evidence.losses):
            return evidence.mean
        return evidence.mean - HEURISTICS.credit * standard_error(evidence.losses - frozen.losses)

    @property
    def prompts_tuned(self) -> int:
        """Prompts whose weights were tuned."""
        return len({e.fit.prompt.id for e in self.evidence if e.tuned})

    def of(self, prompt_id: str, *, tuned: bool) -> Evidence | None:
        """The best evidence of a prompt, frozen or tuned; None where there is none."""
        found = [e for e in self.evidence if e.fit.prompt.id == prompt_id and e.tuned == tuned]
        return min(found, key=lambda e: e.mean, default=None)


def standard_error(differences: Floats) -> float:
    """Of the mean of paired differences."""
    return float(differences.std(ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else 0.0
