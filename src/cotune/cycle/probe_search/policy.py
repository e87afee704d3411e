"""The search policy for label tasks on a local model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cotune.config import RunConfig
from cotune.cycle.answering.base import LabelAnswering
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.probe_search.confirm import confirm_labels
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.length import RowLengths
from cotune.cycle.probe_search.loop import LabelLoop
from cotune.cycle.probe_search.plan import check_budget
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.sampling import draw_rows
from cotune.cycle.probe_search.state import LabelSearch
from cotune.cycle.probe_search.trial import Trials
from cotune.cycle.search.arms import Confirmed
from cotune.errors import InputError
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.tune.settings import WindowSettings


def searches_by_probes(context: RunContext, config: RunConfig) -> bool:
    """Whether a run reads labels, or closed fields, off hidden states: this needs a local model whose layers are known."""
    return (
        context.can.tune
        and context.can.hidden_states
        and isinstance(context.answering, LabelAnswering)
        and config.tune.readout != "words"
        and context.model.reads_layers
    )


class ProbePolicy:
    """Races prompts by probes on hidden states, tunes a window of layers below the best, and reads every arm by a probe.

    See :class:`cotune.cycle.policies.SearchPolicy` and :func:`cotune.cycle.policies.policy_for`. ``read`` holds states that are
    known already, see :func:`fit_rows`.

    Raises:
        BudgetError: the budget is too small for the shortest run.
        InputError: ``tune.layers`` are not layers of the model.
    """

    def __init__(
        self,
        context: RunContext,
        config: RunConfig,
        own: Sequence[Prompt],
        previous: Previous | None,
        bundle: Path,
        read: Embedding | None = None,
    ) -> None:
        self._config, self._previous = config, previous
        trials, prices = parts_of(context, config, read, previous)
        self.fixed = prices.fixed
        check_budget(context, prices, own[0], begun=read is not None)
        self._loop = LabelLoop(context, config, own, trials, prices, bundle, previous)

    def search(self) -> LabelSearch:
        return self._loop.run()

    def confirm(self, found: LabelSearch) -> Confirmed:
        loop, most = self._loop, self._config.tune.max_epochs
        return confirm_labels(loop.context, found, loop.trials, loop.prices, max_epochs=most, previous=self._previous)


def parts_of(
    context: RunContext, config: RunConfig, read: Embedding | None = None, previous: Previous | None = None
) -> tuple[Trials, Prices]:
    """What a search by probes embeds rows and tunes with, and prices both by; ``read`` holds states that are known already.

    Raises:
        InputError: ``tune.layers`` are not layers of the model, or not layers of the adapter that a warm start tunes further.
    """
    within = None
    if previous is not None and previous.ground != BASE:
        within = context.model.adapters.window(previous.ground)
    embedding, window = read or Embedding(context), config.tune.layers
    if window is not None:
        lowest, last = window
        if not 1 <= lowest <= last <= context.model.depth:
            raise InputError(
                f"layers {lowest} to {last} are not a window of a model with {context.model.depth} layers",
                where="tune.layers",
                hint=f"Give two numbers from 1 to {context.model.depth}, the lower one first.",
            )
        if within is not None and not within[0] < lowest <= last <= within[1]:
            raise InputError(
                f"the bundle to start from has tuned layers {within[0] + 1} to {within[1]}, not {lowest} to {last}",
                where="tune.layers",
                hint="Leave it out; the run tunes layers of the bundle.",
            )
        embedding.layers = (last,)
    elif context.choosing.reads_words:
        embedding.layers = HEURISTICS.word_layers(context.model.depth)
    trials = Trials(context, embedding, window_settings(config, context), window, within)
    return trials, Prices(trials, config.evaluate, previous)


def window_settings(config: RunConfig, context: RunContext) -> WindowSettings:
    """The settings of tuning a window, from the config."""
    tune, task = config.tune, context.task
    batch_size = tune.batch_size or WindowSettings.batch_size
    # Otherwise most rows of a step would be alone with their label (BANKING77, docs/probe-measurements.md).
    pairs = len(task.labels) > batch_size
    return WindowSettings(
        lora=replace(context.tune.lora, layers=()),
        learning_rate=HEURISTICS.rate_factor(len(task.train) + len(task.dev), pairs=pairs) * tune.learning_rate,
        head_rate=tune.learning_rate,
        batch_size=batch_size,
        clip=tune.clip,
        smoothing=tune.smoothing if context.choosing.smooths else 0.0,
        contrast=0.0 if context.choosing.sizes else HEURISTICS.contrast,
        contrast_temperature=HEURISTICS.contrast_temperature,
        pairs=pairs,
        micro_tokens=context.tune.micro_tokens,
    )


def fit_rows(context: RunContext, config: RunConfig, own: Sequence[Prompt]) -> Embedding | None:
    """Start a search by probes with as much of the rows as its budget can use; other searches use all.

    See :class:`RowLengths` and :func:`draw_rows`. Values that are copied from the text may stand at its end, and nearest
    demonstrations make a prompt as long as its rows, so then rows are not shortened. ``own`` holds the seed prompt first.
    Returns the states that were read for this, if any.
    """
    if not searches_by_probes(context, config):
        return None
    shortens = config.engine.max_tokens is None and not context.choosing.reads_words and not any(one.nearest for one in own)
    read = RowLengths(context, own, config.tune.max_epochs).choose() if shortens else None
    draw_rows(context, parts_of(context, config)[1], own[0])
    return read
