"""Fitting a run into its budget: the shortest run, prompts of a race, test rows on a slow machine, and epochs of tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cotune.config import RunConfig
from cotune.cycle.budget.budget import Budget
from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.limit import cut_step
from cotune.cycle.probe_search.prices import Prices, too_small
from cotune.cycle.probe_search.race import rounds_of, rows_embedded
from cotune.cycle.probe_search.sampling import LEAST_TEST
from cotune.cycle.probe_search.state import LabelSearch
from cotune.cycle.probe_search.trial import Trials
from cotune.errors import counted
from cotune.prompt.prompt import Prompt
from cotune.task.sealed import SealedTest


def check_budget(context: RunContext, prices: Prices, seed: Prompt, *, begun: bool = False) -> None:
    """Refuse a budget that is too small for the shortest run, before the first race.

    ``begun`` says that the first rows were read under the seed prompt to see how far rows must be read. Then the race may be
    cut.

    Raises:
        BudgetError: the budget is too small.
    """
    rows, left = len(context.task.train) + len(context.task.dev), context.spending.left()
    opening = HEURISTICS.opening_rows(context.choosing.most_values)
    needed = prices.least(seed, rows, rows_embedded(HEURISTICS.least_pool, rows, opening))
    budget = context.spending.budget
    if budget.kind == "time" and begun:
        needed = prices.least(seed, rows, 0, test=min(context.task.test.n, HEURISTICS.least_test))
    elif budget.kind == "time" and needed <= budget.amount - HEURISTICS.loading:
        # The budget suffices for a machine that loads the model as fast as planned; a cut race needs less.
        rows, test = min(rows, HEURISTICS.least_rows), min(context.task.test.n, HEURISTICS.least_test)
        needed = prices.least(seed, rows, rows, test=test)
    if left < needed:
        what = f"a race of {HEURISTICS.least_pool} prompts and the test of {context.task.test.n} rows"
        raise too_small(context, what, needed, left)


def race_bound(room: float, budget: Budget, left: float, fits: float) -> float:
    """Budget of a first race's passes above which fewer prompts continue.

    The race was planned for ``room`` when ``left`` was left of the run's budget; fitting its probes costs ``fits``.
    """
    bound = HEURISTICS.race_over * room
    if budget.kind != "time":
        return bound
    until_verdict = HEURISTICS.verdict_seconds - (budget.amount - left) - fits
    return min(bound, max(room, until_verdict))


class RaceSizes:
    """Number of prompts, at most ``most``, of a race for a part of the budget.

    Prompts that are not known yet are priced by the length of the seed prompt.
    """

    def __init__(self, context: RunContext, prices: Prices, seed: Prompt, most: int) -> None:
        self._context, self._prices, self._seed, self._most = context, prices, seed, most
        self._least = min(HEURISTICS.least_pool, most)
        self.first_rows = HEURISTICS.opening_rows(context.choosing.most_values)
        """Number of labelled rows of a race's first round."""

    @property
    def room(self) -> float:
        """Budget of the first race."""
        budget = self._context.spending.budget
        room = HEURISTICS.race_share * budget.amount
        return min(room, HEURISTICS.race_seconds) if budget.kind == "time" else room

    def cost(self, count: int, rows: int) -> float:
        """Cost of a race of ``count`` prompts over ``rows`` labelled rows."""
        return self._prices.race(self._seed, rows, rows_embedded(count, rows, self.first_rows))

    def least_cost(self, rows: int) -> float:
        """Cost of a race of the minimum number of prompts over ``rows`` labelled rows."""
        return self.cost(self._least, rows)

    def affordable(self, keep: float, cost: float) -> bool:
        """Whether a race may cost ``cost`` more and leave ``keep`` of the budget."""
        return cost <= self._context.spending.left_within_step() - keep

    def cost_of(self, prompts: Sequence[Prompt], rows: int) -> float:
        """Cost of a race of new prompts against one whose states are known, by the tokens of each prompt."""
        total, before, count = 0.0, 0, len(prompts)
        for step in rounds_of(len(prompts) + 1, rows, self.first_rows):
            costs = [self._prices.rows(prompt, step.rows - before) for prompt in prompts]
            # Which prompts continue is not known yet.
            total += count * sum(costs) / len(costs)
            before, count = step.rows, min(count, step.keep)
        return total

    def fitting_of(self, prompts: Sequence[Prompt], rows: int, room: float) -> int:
        """Number of leading new prompts whose race costs at most ``room``; 0 if not even the first one fits."""
        return next((count for count in range(len(prompts), 0, -1) if self.cost_of(prompts[:count], rows) <= room), 0)

    def fitting(self, rows: int, room: float) -> int:
        """Number of prompts of a race over ``rows`` labelled rows that costs at most ``room``, else the minimum number."""
        counts = range(self._most, self._least, -1)
        return next((count for count in counts if self.cost(count, rows) <= room), self._least)


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

    The arms are scored on further rows if there is time left at the end (:func:`cotune.cycle.search.arms.score_more`).

    Returns:
        The whole test if rows were left out.
    """
    task, test = context.task, context.task.test
    if test.n <= HEURISTICS.least_test:
        return None

    def arms() -> float:
        whole = prices.test(search, search.best_frozen, tuned=False, words=False)
        return context.spending.costs.lag * (whole - prices.fixed)

    def room() -> float:
        return context.spending.left_within_step() - _closing(context, prices)

    def facts() -> dict[str, Any]:
        count = max(HEURISTICS.least_test, min(test.n - 1, int(test.n * room() / arms())))
        text = f"only {count:,} of {test.n:,} test rows, drawn at random, are scored in the time that is left"
        return {"test": count, "of": test.n, "text": text}

    cut = cut_step(context, ["test", test.content_hash], lambda: arms() > room(), facts)
    if cut is None:
        return None
    context.keep_rows({row.id for row in (*task.train, *task.dev)}, test.sample(int(cut["test"]), context.seed))
    return test


def _closing(context: RunContext, prices: Prices) -> float:
    """Cost of saving and the report; the fixed reserve pays for twice as much.

    The slowdown is bounded, because that of passes says little about files: passes of a tiny model take far longer than their
    products.
    """
    slowness = min(HEURISTICS.slowest, context.spending.costs.slowness)
    return prices.fixed * max(1.0, HEURISTICS.closing * slowness)


def fit_plan(
    context: RunContext, config: RunConfig, trials: Trials, prices: Prices, search: LabelSearch, *, tunes: bool = True
) -> LabelSearch:
    """Fit the epochs of trials and of a final tuning on all rows into the remaining budget; recorded as a ``plan`` step.

    No final tuning is planned if a trial may ship without one (``search.whole``). If a final tuning has no room beside
    the test, fewer test rows come first under a time budget (:data:`~cotune.cycle.probe_search.sampling.LEAST_TEST`), and the
    others are scored if there is time left at the end (:func:`cotune.cycle.search.arms.score_more`). ``tunes`` says whether
    anything is tuned; the user may have asked for the end.

    Returns:
        The search with these.

    Raises:
        BudgetError: the arms cannot be tested. A time budget is overrun instead, by the few test rows that :func:`fit_test`
            left, because there is already a bundle.
    """
    winner, splits, left, task = search.best_frozen, search.splits, context.spending.left(), context.task
    whole = task.test
    least_test = prices.test(search, winner, tuned=False, words=False)
    if left < least_test and context.spending.budget.kind != "time":
        raise too_small(context, f"the test of {counted(context.task.test.n, 'row')}", least_test, left)
    rows = len(search.rows) + len(search.written)
    wanted = HEURISTICS.epochs(rows, config.tune.max_epochs)
    # A single epoch is divided, so that the dev rows are learnt from too.
    least = min(HEURISTICS.least_epochs(len(splits[0].learn), trials.settings.batch_size), wanted / 2)

    def fitted(ends: LabelSearch, test: int | None) -> LabelSearch:
        room = left - prices.test(ends, winner, words=ends.zero_shot, rows=test)
        epochs, last = split_epochs(wanted, lambda *way: _tuning_cost(prices, ends, *way) <= room, least, whole=search.whole)
        return replace(ends, epochs=epochs, last_epochs=last)

    def rank(plan: LabelSearch) -> tuple[bool, float, bool]:
        # Of equal plans the first, but without a final tuning one that leaves the reference out.
        last = plan.last_epochs
        return last > 0, plan.epochs + last, not (last or search.whole or plan.zero_shot)

    def plans_to_try() -> list[tuple[LabelSearch, int | None]]:
        if not tunes:
            return [(replace(search, zero_shot=prices.test(search, winner, tuned=False) <= left), None)]
        # First the reference by the untuned model's words is left out, then the tuning of the seed prompt, which never ships
        # unless it leads, then test rows.
        fewer = [(False, False, LEAST_TEST)] if context.spending.budget.kind == "time" and whole.n > LEAST_TEST else []
        plans: list[tuple[LabelSearch, int | None]] = []
        for tunes_seed, zero_shot, count in ((True, True, None), (True, False, None), (False, False, None), *fewer):
            if count is not None and any(one.last_epochs or search.whole for one, _ in plans):
                break
            plan = fitted(replace(search, tunes_seed=tunes_seed, zero_shot=zero_shot), count)
            plans.append((plan, count))
            if (plan.last_epochs or search.whole) and plan.epochs + plan.last_epochs >= HEURISTICS.enough_epochs * wanted:
                break
        return plans

    def effect() -> dict[str, Any]:
        plan, test = max(plans_to_try(), key=lambda one: rank(one[0]))
        epochs, last = plan.epochs, plan.last_epochs
        reserve = prices.test(plan, winner, words=plan.zero_shot, rows=test)
        room = max(0.0, left - reserve)
        steps = trials.steps_of(epochs, len(splits[0].learn)) if epochs else 0
        kept = reserve if epochs else max(0.0, min(left, prices.test(search, winner, tuned=False)))
        unit = context.spending.budget.unit
        window = f"layers {trials.edge(winner) + 1} to {trials.layer(winner)}"
        if epochs:
            tuning = (
                f"tune {window} for {counted(f'{epochs:g}', 'epoch')}, {counted(steps, 'step')}, on "
                f"{counted(len(splits), 'split')}{f', then for {last:g} more on all labelled rows' if last else ''}: about "
                f"{_tuning_cost(prices, plan, epochs, last):,.0f} {unit}"
            )
        elif not tunes:
            tuning = "no tuning, since the search is asked to end"
        else:
            tuning = (
                f"no tuning: one epoch on {'each of ' if len(splits) > 1 else ''}{counted(len(splits), 'split')} of the rows "
                f"needs about {_tuning_cost(prices, replace(search, tunes_seed=False), 1.0, 0.0):,.0f} {unit}, and {room:,.0f} "
                f"{unit} are left for it"
            )
        alone = plan.tunes_seed or winner.prompt.id == search.seed.prompt.id
        seed = f"the seed prompt is {'tuned only if there is room at the end' if last else 'not tuned'}"
        return {
            "epochs": epochs,
            "last_epochs": last,
            "target_steps": steps,
            "zero_shot": plan.zero_shot,
            "tunes_seed": plan.tunes_seed,
            **({} if test is None else {"test": test, "of": whole.n}),
            "reserve": round(kept, 2),
            "text": [
                tuning,
                *([] if alone or not epochs else [seed]),
                f"keep {kept:,.0f} {unit} for {counted(whole.n if test is None else test, 'test row')} and the report",
                *([] if test is None else [f"the other {whole.n - test:,} test rows are scored if there is time left"]),
            ],
        }

    value = context.journal.step("plan", [context.task.fingerprint, context.spending.budget.amount], effect)
    epochs, last, words = float(value["epochs"]), float(value["last_epochs"]), value["zero_shot"]
    if "test" in value:
        # Samples of one test contain each other.
        search = replace(search, whole_test=search.whole_test or whole)
        test = (search.whole_test or whole).sample(int(value["test"]), context.seed)
        context.keep_rows({row.id for row in (*task.train, *task.dev)}, test)
    return replace(search, epochs=epochs, last_epochs=last, zero_shot=words, tunes_seed=value["tunes_seed"])


def _tuning_cost(prices: Prices, search: LabelSearch, epochs: float, last: float) -> float:
    """Cost of the leading prompt's trials, of the seed prompt's tuning, and of the final tuning of ``last`` epochs."""
    winner, seed, splits = search.best_frozen, search.seed, search.splits
    alone = winner.prompt.id == seed.prompt.id or not search.tunes_seed
    rows = len(search.rows) + len(search.written)
    # All splits judge: on dev alone a tuned seed prompt won against a frozen one that is better by 0.19 nats on all rows
    # (examples/support, 100 rows; 0.567 against 0.683).
    trials = prices.trial(winner, splits, epochs)
    if not last:
        return trials + (0.0 if alone else prices.trial(seed, splits[:1], epochs))
    final = prices.final(winner, rows, last)
    return trials + final + (0.0 if alone else prices.final(seed, rows, epochs + last))


def split_epochs(
    wanted: float, fits: Callable[[float, float], bool], least: float = 1.0, *, whole: bool = False
) -> tuple[float, float]:
    """Epochs of a trial and of the final tuning on all labelled rows: as many as fit, half of them in the trial if possible.

    ``fits`` says whether the budget suffices for given epochs of both, of which each has at least ``least``. Both are 0 if
    nothing fits. The second is 0 if only a trial fits, which then ships, or if it gets all epochs
    (``whole``).
    """
    ways = [
        (epochs, last)
        for epochs in _falling(max(least, wanted / 2), least)
        for last in _falling(max(least, wanted - epochs), least)
        if epochs + last <= wanted and not whole
    ]
    # Learning from all rows gains more than a further epoch on some of them.
    ways = sorted(ways, key=lambda way: (-sum(way), -way[0]))
    return next((way for way in (*ways, *((epochs, 0.0) for epochs in _falling(wanted, least))) if fits(*way)), (0.0, 0.0))


def _falling(wanted: float, least: float) -> list[float]:
    """Epochs to try, in decreasing order from ``wanted`` to 1, and fractions of one."""
    found = [wanted]
    while found[-1] > 1:
        found.append(max(1.0, round(found[-1] * 0.75 * 2) / 2 if found[-1] > 1.5 else 1.0))
    return [*found, *(found[-1] * share for share in (0.75, 0.5, 0.375, 0.25) if found[-1] * share >= least)]
