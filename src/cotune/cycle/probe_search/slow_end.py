"""What a slow machine must leave of a time budget behind its first race, and how many test rows it then scores.

Which rows these are is fixed by the run's seed, and how many by the clock, before any of them is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.prices import Prices
from cotune.cycle.probe_search.state import LabelSearch
from cotune.cycle.search.trial import Measured
from cotune.prompt.prompt import Prompt

_SURE = 0.7
"""Of what is left, what further test rows may take: a machine that was slow may be so again."""
_WORTH = 1.25
"""Times as many test rows as before that there has to be time for."""


def end_of_race(context: RunContext, prices: Prices, seed: Prompt) -> float:
    """What must be left: two frozen arms on some of the test rows, saving and the report, at the pace that was measured."""
    embedding, test = prices.embedding, context.task.test.n

    def arms(rows: int) -> float:
        cost = embedding.row_cost(seed, min(rows, test), layers=[max(embedding.layers)])
        return 2 * context.spending.costs.lag * cost

    share = HEURISTICS.slow_test_share * context.spending.budget.amount
    return _closing(context, prices) + max(arms(HEURISTICS.least_test), min(share, arms(test)))


def fit_test(context: RunContext, prices: Prices, search: LabelSearch, seed: int) -> None:
    """Draw as many test rows as what is left of a time budget can score with frozen arms; a ``cut`` step where not all.

    The search keeps the whole test for :func:`more_test`.

    Args:
        context: whose test.
        prices: what the arms cost.
        search: after its first race.
        seed: of the run.
    """
    journal, task = context.journal, context.task
    test, rows = task.test, [row.id for row in (*task.train, *task.dev)]
    key = ["test", test.content_hash]

    def arms() -> float:
        whole = prices.test(search, search.best_frozen, tuned=False, words=False)
        return context.spending.costs.lag * (whole - prices.fixed)

    def room() -> float:
        return context.spending.left_within_step() - _closing(context, prices)

    timed = context.spending.budget.kind == "time"
    over = journal.holds_next("cut", key) if journal.replaying else timed and arms() > room()
    if not over or test.n <= HEURISTICS.least_test:
        return

    def effect() -> dict[str, Any]:
        count = max(HEURISTICS.least_test, min(test.n - 1, int(test.n * room() / arms())))
        text = f"only {count:,} of {test.n:,} test rows, drawn at random, are scored in the time that is left"
        return {"test": count, "of": test.n, "text": text}

    search.whole_test = test
    context.keep_rows(set(rows), test.sample(int(journal.step("cut", key, effect)["test"]), seed))


def more_test(context: RunContext, prices: Prices, search: LabelSearch, arms: Mapping[str, Measured], seed: int) -> None:
    """Draw further test rows where the test was cut and the run has time left at its end; a second ``cut`` step.

    The arms are settled by now and the test is still sealed, so that nothing but the clock decides. The rows that were drawn
    before are among the new ones.

    Args:
        context: whose test.
        prices: what rows cost.
        search: that has ended.
        arms: that are to be tested, by name.
        seed: of the run.
    """
    journal, test, whole = context.journal, context.task.test, search.whole_test
    if whole is None:
        return
    key = ["more test", whole.content_hash, test.content_hash]

    def affordable() -> int:
        layers = [max(prices.embedding.layers)]
        prompts = {m.candidate.id: m.candidate.prompt for m in arms.values()}.values()
        cost = sum(prices.embedding.row_cost(prompt, test.n, layers=layers) for prompt in prompts)
        room = context.spending.left_within_step() - _closing(context, prices)
        return min(whole.n, int(_SURE * room * test.n / (context.spending.costs.lag * cost)))

    count = test.n if journal.replaying else affordable()
    if not (journal.holds_next("cut", key) if journal.replaying else count >= min(whole.n, _WORTH * test.n)):
        return

    def effect() -> dict[str, Any]:
        which = "all" if count == whole.n else f"{count:,} of"
        text = f"there is time left: {which} {whole.n:,} test rows are scored, not {test.n:,}"
        return {"test": count, "of": whole.n, "text": text}

    rows = {row.id for row in (*context.task.train, *context.task.dev)}
    context.keep_rows(rows, whole.sample(int(journal.step("cut", key, effect)["test"]), seed))


def _closing(context: RunContext, prices: Prices) -> float:
    """Of saving and the report, which what is put aside for them pays for a few times over."""
    return prices.fixed * max(1.0, HEURISTICS.closing * context.spending.costs.slowness)
