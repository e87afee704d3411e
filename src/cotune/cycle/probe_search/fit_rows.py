"""Sampling of rows for a search by probes: with very many rows, a random sample that the budget can use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from cotune.config import RunConfig
from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.policy import parts_of, searches_by_probes
from cotune.cycle.probe_search.race import rows_embedded
from cotune.errors import counted
from cotune.prompt.prompt import Prompt
from cotune.task.split import DEV_SHARE, stratum_of, subsample
from cotune.task.task import Task

LEAST_ROWS, LEAST_ROWS_A_LABEL = 200, 4
"""Minimum number of labelled rows that are kept, in all and for each label."""
LEAST_TEST = 200
"""Minimum number of test rows that are kept; with fewer, hardly any gain can be detected."""


def fit_rows(context: RunContext, config: RunConfig, seed: Prompt) -> None:
    """Start with as many labelled rows and test rows as the budget can use; a ``sample`` step if these are not all.

    The number of labelled rows is that which the first race, with the smallest pool, can embed in its share of the budget. The
    number of test rows is that which two frozen arms can answer in their share. Both samples are random and stratified by
    label, and are drawn before the search.
    The length of the seed prompt gives the price of rows.
    """
    task = context.task
    if not searches_by_probes(context, config):
        return
    trials, prices = parts_of(context, config)
    budget = context.spending.budget.amount
    rows, test = len(task.train) + len(task.dev), task.test.n

    def race(count: int) -> float:
        embedded = rows_embedded(HEURISTICS.least_pool, count, min(HEURISTICS.opening_rows(len(task.labels)), count))
        return prices.race(seed, count, embedded) + prices.fits(count)

    def arms(count: int) -> float:
        return 2 * trials.embedding.row_cost(seed, count)

    wanted = _most(rows, race, HEURISTICS.most_race_share * budget)
    asked = _most(test, arms, HEURISTICS.most_test_share * budget)
    wanted = min(rows, max(wanted, LEAST_ROWS, LEAST_ROWS_A_LABEL * len(task.labels)))
    asked = min(test, max(asked, LEAST_TEST))
    if (wanted, asked) == (rows, test):
        return

    def effect() -> dict[str, Any]:
        told = [f"{wanted:,} of {counted(rows, 'labelled row')}"] if wanted < rows else []
        told += [f"{asked:,} of {counted(test, 'test row')}"] if asked < test else []
        return {"rows": wanted, "test": asked, "text": f"the budget has room for {' and '.join(told)}, drawn at random"}

    value = context.journal.step("sample", [task.fingerprint, rows, test], effect)
    context.start_with(_sampled(task, int(value["rows"]), int(value["test"]), config.seed))


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
