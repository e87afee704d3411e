"""The search policy for answers: label words and written answers, of models that can be tuned or only asked."""

from __future__ import annotations

from cotune.config import RunConfig
from cotune.cycle.answer_search.confirm import confirm
from cotune.cycle.answer_search.ending import EndCosts
from cotune.cycle.answer_search.loop import Loop
from cotune.cycle.answer_search.plan import fit_plan
from cotune.cycle.answer_search.state import Search
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.search.arms import Confirmed
from cotune.prompt.prompt import Prompt


class AnswerPolicy:
    """Races prompts by a model's own answers, and tunes the best if the model can be tuned.

    See :class:`cotune.cycle.policies.SearchPolicy`.
    """

    def __init__(self, context: RunContext, config: RunConfig, own: tuple[Prompt, ...], previous: Previous | None) -> None:
        self._context, self._config, self._own, self._previous = context, config, own, previous
        self._end = EndCosts(context, config, previous)
        self._plan = fit_plan(context, config, own, self._end, previous)
        self.fixed = self._plan.fixed

    def search(self) -> Search:
        return Loop(self._context, self._config, self._plan, self._own, self._end, self._previous).run()

    def confirm(self, found: Search) -> Confirmed:
        return confirm(self._context, found, end=self._end, previous=self._previous)
