"""Search policies: how prompts and weights are searched for, by what the model can do and how rows are answered."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.probe_search.policy import ProbePolicy, searches_by_probes
from cotune.cycle.probe_search.possible import no_probes
from cotune.cycle.prompt_search.policy import PromptPolicy
from cotune.cycle.search.confirm import Confirmed
from cotune.cycle.search.result import SearchResult
from cotune.cycle.teaching.write import no_writing
from cotune.cycle.word_search.policy import WordsPolicy
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
    if config.tune.readout == "probe":
        raise no_probes(f"the engine gives no states between the layers of {context.scorer.name}")
    if config.teacher.write:
        raise no_writing("this model's are not read")
    return WordsPolicy(context, config, own, previous) if context.can.tune else PromptPolicy(context, config, own)
