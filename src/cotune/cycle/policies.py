"""Search policies: how prompts and weights are searched for, by what the model can do and how rows are answered."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.probe_search.policy import ProbePolicy, searches_by_probes
from cotune.cycle.search.confirm import Confirmed, confirm
from cotune.cycle.search.ending import EndCosts
from cotune.cycle.search.loop import Loop
from cotune.cycle.search.planning import fit_plan
from cotune.cycle.search.prompt_loop import PromptLoop, confirm_prompts
from cotune.cycle.search.prompt_plan import fit_prompt_plan
from cotune.cycle.search.state import SearchResult
from cotune.cycle.teaching.write import no_writing
from cotune.prompt.prompt import Prompt


class SearchPolicy(Protocol):
    """Searches within the budget, and fits what it found into the arms.

    A policy plans when it is made, and refuses a budget that is too small then.

    Attributes:
        fixed: of a time budget, what saving and the report take.
    """

    fixed: float

    def search(self) -> tuple[SearchResult, Confirmed]:
        """Search until the budget is spent but for the test, then settle the arms."""
        ...


class WordsPolicy:
    """Tunes and races prompts by what the model says: label words, or written answers by their likelihood."""

    def __init__(self, context: RunContext, config: RunConfig, own: tuple[Prompt, ...], previous: Previous | None) -> None:
        self._context, self._config, self._own, self._previous = context, config, own, previous
        self._end = EndCosts(context, config, previous)
        self._plan = fit_plan(context, config, own[0], self._end, previous)
        self.fixed = self._plan.fixed

    def search(self) -> tuple[SearchResult, Confirmed]:
        """See :class:`SearchPolicy`."""
        found = Loop(self._context, self._config, self._plan, self._own, self._end, self._previous).run()
        refit = self._config.refit
        return found, confirm(self._context, found, end=self._end, refit_winners=refit, previous=self._previous)


class PromptPolicy:
    """Races prompts of a model whose weights stay as they are, such as one behind an endpoint."""

    def __init__(self, context: RunContext, config: RunConfig, own: tuple[Prompt, ...]) -> None:
        self._context, self._config, self._own = context, config, own
        self._plan = fit_prompt_plan(context, config, own[0])
        self.fixed = self._plan.fixed

    def search(self) -> tuple[SearchResult, Confirmed]:
        """See :class:`SearchPolicy`."""
        found = PromptLoop(self._context, self._config, self._plan, self._own).run()
        return found, confirm_prompts(self._context, found)


def policy_for(
    context: RunContext, config: RunConfig, own: tuple[Prompt, ...], previous: Previous | None, bundle: Path
) -> SearchPolicy:
    """The policy that fits the model and the task.

    Args:
        context: where effects happen.
        config: the run's config.
        own: the seed prompt first, then further prompts of the user's.
        previous: what an earlier bundle brings.
        bundle: folder of the run's bundle, where a first one comes to lie early.

    Raises:
        InputError: the budget is too small, or the config asks for what the model cannot do.
    """
    if searches_by_probes(context, config):
        return ProbePolicy(context, config, own, previous, bundle)
    if config.teacher.write:
        raise no_writing("this model's are not read")
    return WordsPolicy(context, config, own, previous) if context.can.tune else PromptPolicy(context, config, own)
