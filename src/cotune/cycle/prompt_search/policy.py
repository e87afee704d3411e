"""The search policy for models that cannot be tuned."""

from __future__ import annotations

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.prompt_search.loop import PromptLoop, PromptSearch
from cotune.cycle.prompt_search.plan import fit_prompt_plan
from cotune.cycle.search.confirm import Confirmed, settle
from cotune.cycle.search.measured import measure_base
from cotune.prompt.prompt import Prompt


class PromptPolicy:
    """Races prompts of a model that cannot be tuned, such as one behind an endpoint.

    See :class:`cotune.cycle.policies.SearchPolicy`.
    """

    def __init__(self, context: RunContext, config: RunConfig, own: tuple[Prompt, ...]) -> None:
        self._context, self._config, self._own = context, config, own
        self._plan = fit_prompt_plan(context, config, own[0])
        self.fixed = self._plan.fixed

    def search(self) -> tuple[PromptSearch, Confirmed]:
        """Search, then fit the arms."""
        found = PromptLoop(self._context, self._config, self._plan, self._own).run()
        return found, confirm_prompts(self._context, found)


def confirm_prompts(context: RunContext, search: PromptSearch) -> Confirmed:
    """Score the best prompts of the last race on every dev row, and record the two arms.

    Args:
        context: context of the run.
        search: result of the search.
    """
    for prompt in search.finalists:
        if prompt.id not in search.measured:
            search.measured[prompt.id] = measure_base(context, prompt)
    seed = next(iter(search.measured.values()))
    arms = {"seed_prompt": seed, "prompt_only": search.best}
    return settle(context, arms, list(search.measured.values()), search.best, ships="prompt_only")
