"""The search policy for label tasks on a local model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.probe_search.confirm import confirm_labels
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.loop import LabelLoop
from cotune.cycle.probe_search.plan import check_budget
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.state import LabelSearch
from cotune.cycle.probe_search.trial import Trials
from cotune.cycle.probe_search.verdict import better_bundle, first_verdict
from cotune.cycle.search.arms import Confirmed
from cotune.errors import InputError
from cotune.prompt.prompt import Prompt
from cotune.tune.settings import WindowSettings


def searches_by_probes(context: RunContext, config: RunConfig) -> bool:
    """Whether a run reads labels off hidden states: this needs labels and a local model whose layers are known."""
    return (
        context.can.tune
        and context.can.hidden_states
        and not context.task.output.kind.written
        and config.tune.readout != "words"
        and context.model.reads_layers
    )


class ProbePolicy:
    """Races prompts by probes on hidden states, tunes a window of layers below the best, and reads every arm by a probe.

    See :class:`cotune.cycle.policies.SearchPolicy`.

    Args:
        context: context of the run.
        config: config of the run.
        own: the seed prompt first, then the user's further prompts.
        previous: the earlier bundle of a warm start.
        bundle: folder of the run's bundle, written first by the first verdict.

    Raises:
        BudgetError: the budget is too small for the shortest run.
        InputError: ``tune.layers`` are not layers of the model.
    """

    def __init__(
        self, context: RunContext, config: RunConfig, own: Sequence[Prompt], previous: Previous | None, bundle: Path
    ) -> None:
        self._context, self._config, self._own, self._previous, self._bundle = context, config, own, previous, bundle
        self._embedding, self._trials, self._prices = parts_of(context, config)
        self.fixed = self._prices.fixed
        check_budget(context, self._prices, own[0])

    def search(self) -> LabelSearch:
        context, previous, embedding, trials = self._context, self._previous, self._embedding, self._trials
        folder, model_name = self._bundle, self._config.model
        told = partial(first_verdict, context, trials=trials, bundle=folder, model_name=model_name)
        better = partial(better_bundle, context, bundle=folder, model_name=model_name)
        return LabelLoop(context, self._config, self._own, embedding, trials, self._prices, previous, told, better).run()

    def confirm(self, found: LabelSearch) -> Confirmed:
        context, trials, prices, most = self._context, self._trials, self._prices, self._config.tune.max_epochs
        confirmed = confirm_labels(context, found, trials, prices, max_epochs=most, previous=self._previous)
        return replace(confirmed, whole_test=found.whole_test)


def parts_of(context: RunContext, config: RunConfig) -> tuple[Embedding, Trials, Prices]:
    """What a search by probes embeds rows with, tunes with, and prices both by.

    Raises:
        InputError: ``tune.layers`` are not layers of the model.
    """
    embedding, window = Embedding(context), config.tune.layers
    if window is not None:
        lowest, last = window
        if not 1 <= lowest <= last <= context.model.depth:
            raise InputError(
                f"layers {lowest} to {last} are not a window of a model with {context.model.depth} layers",
                where="tune.layers",
                hint=f"Give two numbers from 1 to {context.model.depth}, the lower one first.",
            )
        embedding.layers = (last,)
    trials = Trials(context, embedding, window_settings(config, context), window)
    return embedding, trials, Prices(context, embedding, trials, config.evaluate)


def window_settings(config: RunConfig, context: RunContext) -> WindowSettings:
    """The settings of tuning a window, from the config."""
    tune = config.tune
    return WindowSettings(
        lora=replace(context.tune.lora, layers=()),
        learning_rate=tune.learning_rate,
        head_rate=tune.learning_rate,
        batch_size=tune.batch_size or WindowSettings.batch_size,
        clip=tune.clip,
        smoothing=tune.smoothing,
        contrast=HEURISTICS.contrast,
        contrast_temperature=HEURISTICS.contrast_temperature,
        micro_tokens=context.tune.micro_tokens,
    )
