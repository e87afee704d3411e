"""The search policy for label words and written answers."""

from __future__ import annotations

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.search.confirm import Confirmed
from cotune.cycle.word_search.confirm import confirm
from cotune.cycle.word_search.ending import EndCosts
from cotune.cycle.word_search.loop import Loop
from cotune.cycle.word_search.plan import fit_plan
from cotune.cycle.word_search.state import Search
from cotune.prompt.prompt import Prompt


class WordsPolicy:
    """Races and tunes prompts by likelihoods of label words or of written answers.

    See :class:`cotune.cycle.policies.SearchPolicy`.
    """

    def __init__(self, context: RunContext, config: RunConfig, own: tuple[Prompt, ...], previous: Previous | None) -> None:
        self._context, self._config, self._own, self._previous = context, config, own, previous
        self._end = EndCosts(context, config, previous)
        self._plan = fit_plan(context, config, own[0], self._end, previous)
        self.fixed = self._plan.fixed

    def search(self) -> tuple[Search, Confirmed]:
        """Search, then fit the arms."""
        found = Loop(self._context, self._config, self._plan, self._own, self._end, self._previous).run()
        refit = self._config.refit
        return found, confirm(self._context, found, end=self._end, refit_winners=refit, previous=self._previous)
