"""The end of a run on a slow machine: the time to leave after the first race, and the number of test rows.

The run's seed determines which rows are scored, and the clock determines their number.
"""

from __future__ import annotations

from typing import Any

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.state import LabelSearch
from cotune.prompt.prompt import Prompt
from cotune.task.sealed import SealedTest


def end_of_race(context: RunContext, embedding: Embedding, prices: Prices, seed: Prompt) -> float:
    """Cost of two frozen arms on some of the test rows, of saving and of the report, at the measured pace."""
    test = context.task.test.n

    def arms(rows: int) -> float:
        cost = embedding.row_cost(seed, min(rows, test), layers=[max(embedding.layers)])
        return 2 * context.spending.costs.lag * cost

    share = HEURISTICS.slow_test_share * context.spending.budget.amount
    return _closing(context, prices) + max(arms(HEURISTICS.least_test), min(share, arms(test)))


def fit_test(context: RunContext, prices: Prices, search: LabelSearch) -> SealedTest | None:
    """Draw as many test rows as frozen arms can score in the rest of a time budget; a ``cut`` step if not all.

    The arms are scored on further rows if there is time left at the end
    (:func:`cotune.cycle.search.more_test.score_more`).

    Returns:
        The whole test if rows were left out.
    """
    journal, task, test = context.journal, context.task, context.task.test
    key = ["test", test.content_hash]

    def arms() -> float:
        whole = prices.test(search, search.best_frozen, tuned=False, words=False)
        return context.spending.costs.lag * (whole - prices.fixed)

    def room() -> float:
        return context.spending.left_within_step() - _closing(context, prices)

    timed = context.spending.budget.kind == "time"
    over = journal.holds_next("cut", key) if journal.replaying else timed and arms() > room()
    if not over or test.n <= HEURISTICS.least_test:
        return None

    def effect() -> dict[str, Any]:
        count = max(HEURISTICS.least_test, min(test.n - 1, int(test.n * room() / arms())))
        text = f"only {count:,} of {test.n:,} test rows, drawn at random, are scored in the time that is left"
        return {"test": count, "of": test.n, "text": text}

    rows = {row.id for row in (*task.train, *task.dev)}
    context.keep_rows(rows, test.sample(int(journal.step("cut", key, effect)["test"]), context.seed))
    return test


def _closing(context: RunContext, prices: Prices) -> float:
    """Cost of saving and the report; the fixed reserve pays for twice as much.

    The slowdown is bounded, because that of passes says little about files: passes of a tiny model take far longer than their
    products.
    """
    slowness = min(HEURISTICS.slowest, context.spending.costs.slowness)
    return prices.fixed * max(1.0, HEURISTICS.closing * slowness)
