"""The search policy for label tasks on a local model, and the sample of rows that its budget can use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cotune.config import RunConfig
from cotune.cycle.answering.base import LabelAnswering
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.probe_search.confirm import confirm_labels
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.loop import LabelLoop
from cotune.cycle.probe_search.plan import check_budget
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.race import rows_embedded
from cotune.cycle.probe_search.state import LabelSearch
from cotune.cycle.probe_search.trial import Trials
from cotune.cycle.search.arms import Confirmed
from cotune.errors import InputError, counted
from cotune.prompt.prompt import Prompt
from cotune.task.split import DEV_SHARE, stratum_of, subsample
from cotune.task.task import Task
from cotune.tune.settings import WindowSettings

LEAST_ROWS, LEAST_ROWS_A_LABEL = 200, 4
"""Minimum number of labelled rows that are kept, in all and for each label."""
LEAST_TEST = 200
"""Minimum number of test rows that are kept; with fewer, hardly any gain can be detected."""


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

    See :class:`cotune.cycle.policies.SearchPolicy` and :func:`cotune.cycle.policies.policy_for`.

    Raises:
        BudgetError: the budget is too small for the shortest run.
        InputError: ``tune.layers`` are not layers of the model.
    """

    def __init__(
        self, context: RunContext, config: RunConfig, own: Sequence[Prompt], previous: Previous | None, bundle: Path
    ) -> None:
        self._config, self._previous = config, previous
        trials, prices = parts_of(context, config)
        self.fixed = prices.fixed
        check_budget(context, prices, own[0])
        self._loop = LabelLoop(context, config, own, trials, prices, bundle, previous)

    def search(self) -> LabelSearch:
        return self._loop.run()

    def confirm(self, found: LabelSearch) -> Confirmed:
        loop, most = self._loop, self._config.tune.max_epochs
        return confirm_labels(loop.context, found, loop.trials, loop.prices, max_epochs=most, previous=self._previous)


def parts_of(context: RunContext, config: RunConfig) -> tuple[Trials, Prices]:
    """What a search by probes embeds rows and tunes with, and prices both by.

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
    elif context.choosing.reads_words:
        embedding.layers = HEURISTICS.word_layers(context.model.depth)
    trials = Trials(context, embedding, window_settings(config, context), window)
    return trials, Prices(trials, config.evaluate)


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


def fit_rows(context: RunContext, config: RunConfig, seed: Prompt) -> None:
    """Start with as many labelled rows and test rows as the budget can use; a ``sample`` step if these are not all.

    The number of labelled rows is that which the first race, with the smallest pool, can embed in its share of the budget; if
    the states of all words are read, also at most that whose states fit into memory while they are fitted. The number of test
    rows is that which two frozen arms can answer in their share. Both samples are random and stratified by label, and are drawn
    before the search.
    The length of the seed prompt gives the price of rows.
    """
    task = context.task
    if not searches_by_probes(context, config):
        return
    trials, prices = parts_of(context, config)
    budget = context.spending.budget.amount
    rows, test = len(task.train) + len(task.dev), task.test.n

    def race(count: int) -> float:
        embedded = rows_embedded(
            HEURISTICS.least_pool, count, min(HEURISTICS.opening_rows(context.choosing.most_values), count)
        )
        return prices.race(seed, count, embedded) + prices.fits(count)

    def arms(count: int) -> float:
        return 2 * trials.embedding.row_cost(seed, count)

    wanted = _most(rows, race, HEURISTICS.most_race_share * budget)
    asked = _most(test, arms, HEURISTICS.most_test_share * budget)
    wanted = min(rows, max(wanted, LEAST_ROWS, LEAST_ROWS_A_LABEL * context.choosing.most_values))
    asked = min(test, max(asked, LEAST_TEST))
    remembered = _rows_in_memory(context)
    room = "memory" if remembered < wanted else "the budget"
    wanted = min(wanted, remembered)
    if (wanted, asked) == (rows, test):
        return

    def effect() -> dict[str, Any]:
        told = [f"{wanted:,} of {counted(rows, 'labelled row')}"] if wanted < rows else []
        told += [f"{asked:,} of {counted(test, 'test row')}"] if asked < test else []
        return {"rows": wanted, "test": asked, "text": f"{room} has room for {' and '.join(told)}, drawn at random"}

    value = context.journal.step("sample", [task.fingerprint, rows, test], effect)
    context.start_with(_sampled(task, int(value["rows"]), int(value["test"]), config.seed))


def _rows_in_memory(context: RunContext) -> int:
    """Maximum number of labelled rows whose states fit into memory while probes are fitted to them."""
    rows = (*context.task.train, *context.task.dev)
    if (owners := context.choosing.owners(rows)) is None:
        return len(rows)
    numbers = len(owners) / len(rows) * context.model.width
    return min(len(rows), max(HEURISTICS.least_rows, int(HEURISTICS.tag_numbers / numbers)))


def _most(count: int, cost: Callable[[int], float], room: float) -> int:
    """The largest number up to ``count`` whose cost fits, by bisection."""
    if cost(count) <= room:
        return count
    low, high = 0, count
    while high - low > max(1, count // 1000):
        middle = (low + high) // 2
        low, high = (middle, high) if cost(max(1, middle)) <= room else (low, middle)
    return low


def _sampled(task: Task, rows: int, test: int, seed: int) -> Task:
    # With many rows, dev has at most 300; its share of a sample would be a handful.
    dev = min(len(task.dev), max(round(rows * len(task.dev) / (len(task.train) + len(task.dev))), round(DEV_SHARE * rows), 2))
    train = min(len(task.train), max(2, rows - dev))
    numbers = np.random.default_rng([seed, 15])
    stratum = stratum_of(task.output.kind)
    # A teacher's labels come last, because nothing is judged on them.
    own, taught = (tuple(row for row in task.train if row.taught is by_teacher) for by_teacher in (False, True))
    kept_own, kept_dev = subsample(own, train, numbers, stratum), subsample(task.dev, dev, numbers, stratum)
    room = train - len(kept_own)
    kept_taught = subsample(taught, room, numbers, stratum) if taught and room else ()
    return replace(task, train=(*kept_own, *kept_taught), dev=kept_dev, test=task.test.sample(test, seed))
