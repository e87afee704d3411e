"""The labelled rows that a budget can use: those that prompts are raced on, and further ones that are only learnt from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.race import rows_embedded
from cotune.cycle.probe_search.splits import with_rows
from cotune.cycle.probe_search.state import LabelSearch
from cotune.errors import counted
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example
from cotune.task.split import DEV_SHARE, stratum_of, subsample
from cotune.task.task import Task

LEAST_ROWS, LEAST_ROWS_A_LABEL = 200, 4
"""Minimum number of labelled rows that prompts are raced on, in all and for each label."""
LEAST_TEST = 200
"""Minimum number of test rows that are kept; with fewer, hardly any gain can be detected."""


def draw_rows(context: RunContext, prices: Prices, seed: Prompt) -> None:
    """Start with as many labelled rows and test rows as the budget can use; a ``sample`` step if these are not all.

    The number of labelled rows is that which the first race, with the smallest pool, can embed in its share of the budget; if
    the states of all words are read, also at most that whose states fit into memory while they are fitted. If that is far from
    all, the race gets a smaller share, which leaves more for rows that are learnt from but not raced (:func:`further_rows`).
    The number of test rows is that which two frozen arms can answer in their share. Both samples are random and stratified by
    label, and are drawn before the search. The length of the seed prompt gives the price of rows.
    """
    task, budget = context.task, context.spending.budget.amount
    rows, test = len(task.train) + len(task.dev), task.test.n

    def race(count: int) -> float:
        opening = min(HEURISTICS.opening_rows(context.choosing.most_values), count)
        return prices.race(seed, count, rows_embedded(HEURISTICS.least_pool, count, opening)) + prices.fits(count)

    def arms(count: int) -> float:
        return 2 * prices.rows(seed, count)

    wanted = _most(rows, lambda count: race(count) <= HEURISTICS.most_race_share * budget)
    if wanted < HEURISTICS.mostly_raced * rows:
        wanted = _most(rows, lambda count: race(count) <= HEURISTICS.sampled_race_share * budget)
    asked = _most(test, lambda count: arms(count) <= HEURISTICS.most_test_share * budget)
    wanted = min(rows, max(wanted, LEAST_ROWS, LEAST_ROWS_A_LABEL * context.choosing.most_values))
    asked = min(test, max(asked, LEAST_TEST))
    remembered = _rows_in_memory(context)
    room = "memory" if remembered < wanted else "the budget"
    wanted = min(wanted, remembered)
    if (wanted, asked) == (rows, test):
        return

    def effect() -> dict[str, Any]:
        told = [f"racing prompts on {wanted:,} of {counted(rows, 'labelled row')}"] if wanted < rows else []
        told += [f"{asked:,} of {counted(test, 'test row')}"] if asked < test else []
        return {"rows": wanted, "test": asked, "text": f"{room} has room for {' and '.join(told)}, drawn at random"}

    value = context.journal.step("sample", [task.fingerprint, rows, test], effect)
    context.start_with(_sampled(task, int(value["rows"]), int(value["test"]), context.seed))


def further_rows(context: RunContext, prices: Prices, search: LabelSearch, batch: int) -> tuple[Example, ...]:
    """Labelled rows that are learnt from but were not raced, in random order, as many as the budget has room for.

    A ``further`` step.

    Races compare many prompts, so each of their rows is read many times. These rows are read under two prompts, the seed prompt
    and the best one, and tuned on once, in steps of ``batch`` rows. There must be room for this and for the test; new rows gain
    more than further epochs. If there is not, as many have room as leave the shortest tuning. If there is no room for any
    tuning, or for far more rows without it, frozen probes learn from them.
    """
    rows = _not_raced(context)
    if search.cut or not rows:
        return ()
    most = min(len(rows), _rows_in_memory(context) - len(search.rows))
    # These rows come before the tuning of the seed prompt, which never ships unless it leads.
    ends = replace(search, tunes_seed=False)

    def fits(left: float, epochs: float, count: int) -> bool:
        room = left - prices.test(ends, search.best_frozen, tuned=epochs > 0, words=False)
        cost = prices.further(search, with_rows(search.splits, rows[:count]), count, epochs=epochs)
        return HEURISTICS.further_care * cost <= room

    def fits_shortest(left: float, count: int) -> bool:
        return fits(left, HEURISTICS.least_epochs(len(search.splits[0].learn) + count, batch), count)

    def effect() -> dict[str, Any]:
        left, raced = context.spending.left_within_step(), len(search.rows)
        count, frozen = _most(most, partial(fits, left, 1.0)), _most(most, partial(fits, left, 0.0))
        if not count:
            count = _most(most, partial(fits_shortest, left)) if fits_shortest(left, 0) else frozen
        if raced + frozen >= HEURISTICS.frozen_rows * (raced + count):
            count = frozen
        learnt = f"{count:,} of {counted(len(rows), 'labelled row')} that prompts were not raced on"
        return {"rows": count, "of": len(rows), "text": f"the budget has room for learning from {learnt}"}

    value = context.journal.step("further", [context.task.fingerprint, len(search.rows), len(rows)], effect)
    return rows[: int(value["rows"])]


def _not_raced(context: RunContext) -> tuple[Example, ...]:
    """Train rows that the user labelled and that were not drawn for races, in a seeded random order."""
    drawn = {row.id for row in context.task.train}
    rows = [row for row in context.given.train if row.id not in drawn and not row.taught]
    return tuple(rows[i] for i in np.random.default_rng([context.seed, 21]).permutation(len(rows)))


def _rows_in_memory(context: RunContext) -> int:
    """Maximum number of labelled rows whose states fit into memory while probes are fitted to them."""
    rows = (*context.given.train, *context.given.dev)
    width, owners = context.model.width, context.choosing.owners(rows)
    if owners is None:
        most = HEURISTICS.probe_numbers / (2 * width)
    else:
        most = HEURISTICS.tag_numbers / (len(owners) / len(rows) * width)
    return min(len(rows), max(HEURISTICS.least_rows, int(most)))


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``count`` that fits, by bisection; 0 if none does."""
    if count <= 0 or fits(count):
        return max(0, count)
    low, high = 0, count
    while high - low > max(1, count // 1000):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
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
