"""State and result of a search by answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from cotune.cycle.answer_search.race import FINAL, RaceResult
from cotune.cycle.answer_search.trial import Trial
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal
from cotune.task.example import Example


@dataclass
class Search:
    """State and result of a search by answers.

    Attributes:
        proposals: every prompt that was scored, by id.
        base_race: the last race under the base model.
        seed: the seed prompt's trial.
        winner: the leading trial.
        trials: all trials, that of the seed prompt first.
        cycles: a record for each cycle.
        stopped: why the loop ended.
    """

    by_probe: ClassVar[bool] = False

    proposals: dict[str, Proposal]
    base_race: RaceResult
    seed: Trial
    winner: Trial
    trials: list[Trial]
    cycles: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""

    @property
    def further_rows(self) -> tuple[Example, ...]:
        """None: the whole of train is learnt from."""
        return ()

    @property
    def finalists(self) -> list[Prompt]:
        """The best prompts of the last race under the base model, best first, which saw all its rows."""
        return [self.proposals[i].prompt for i in self.base_race.ranking[:FINAL]]

    @property
    def known(self) -> set[str]:
        """Ids of the prompts that have trials; in a search without tuning, they were measured on all of dev."""
        return {trial.prompt.id for trial in self.trials}

    @property
    def prompts_tuned(self) -> int:
        """Prompts whose weights were tuned."""
        return len({trial.prompt.id for trial in self.trials if trial.run is not None})
