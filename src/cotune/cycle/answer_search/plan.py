"""Fitting a search into its budget: size of the pool, rows of the race, number of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from cotune.config import RunConfig
from cotune.cycle.answer_search.ending import Aside, EndCosts
from cotune.cycle.answer_search.heuristics import HEURISTICS, RaceBounds
from cotune.cycle.answer_search.race import FINAL, race_rows_scored
from cotune.cycle.answer_search.trial import decay_steps
from cotune.cycle.answering.written import WrittenAnswering
from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.search.measured import CALIBRATION_ROWS
from cotune.errors import BudgetError, counted
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt

CHECKS = 5
"""Measurements on dev that tuning needs: two after the short runs, one of the winner, two after the decays."""


@dataclass(frozen=True)
class Sizes:
    """Numbers that a plan depends on.

    Attributes:
        dev: number of dev rows.
        test: number of test rows.
        own: tokens of a scored row after the shared prefix.
        step_tokens: tokens of an optimizer step.
        steps_per_epoch: optimizer steps of one epoch.
        late: whether answers are written, on dev only by finalists.
    """

    dev: int
    test: int
    own: float
    step_tokens: float
    steps_per_epoch: int
    late: bool = False


@dataclass(frozen=True)
class Plan:
    """Plan of the first cycle, and the reserve for the end.

    Attributes:
        pool: number of prompts that are scored.
        race_rows: number of dev rows of the longest race.
        short_steps: optimizer steps of the seed prompt and of one other, after which dev compares them; 0 if the model cannot
            be tuned.
        target_steps: planned optimizer steps of the winner and the seed prompt in all, including decay.
        reserve: budget for confirmation, the test and the report, in the budget's unit, as estimated at the start; it is
            estimated again later.
        fixed: part of the reserve for the report and for saving.
        aside: optional parts of the reserve: all measurements after the test, or none.
        nearest: whether pools hold a prompt that shows each row its nearest demonstrations.
        training: share of the budget for steps.
        advice: options that would give steps half of the budget, if they get less; otherwise empty.
        race: cost of the first race, in the budget's unit, at the rates known at the start.
        tuning: cost of the steps and of their measurements on dev.
    """

    pool: int
    race_rows: int
    short_steps: int
    target_steps: int
    reserve: float
    fixed: float = 0.0
    aside: Aside = "all"
    nearest: bool = False
    training: float = 0.0
    advice: str = ""
    race: float = 0.0
    tuning: float = 0.0


def rounded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts for the journal, with numbers rounded to eight digits, which are enough for an amount of money."""
    return {name: round(value, 8) if isinstance(value, float) else value for name, value in facts.items()}


def _first_race(bounds: RaceBounds, most_pool: int, dev: int, affordable: float) -> tuple[int, int]:
    """Number of prompts and of dev rows of a first race that scores at most ``affordable`` rows, or of the smallest race."""
    pool, rows, least = most_pool, min(dev, HEURISTICS.most_race_rows), HEURISTICS.least_race_rows
    while race_rows_scored(pool, rows) > affordable and (rows > least or pool > bounds.least_pool):
        if rows > least and (rows > bounds.rows_first or pool <= bounds.pool_last):
            rows = max(least, int(rows * HEURISTICS.fewer_rows))
        else:
            pool -= 1
    return pool, rows


def make_plan(
    left: float,
    sizes: Sizes,
    costs: CostModel,
    *,
    reserve: float,
    test_row: float,
    max_pool: int,
    max_epochs: int,
    decay: float,
) -> Plan:
    """Fit a run into the remaining budget.

    Training gets about four fifths of the budget without the end. Two prompts are tuned, the seed prompt and another; after
    about a fifth of their steps dev compares them.

    Args:
        left: remaining budget, in its unit.
        reserve: budget of the end, in its unit.
        test_row: part of it for each test row.
        decay: share of a finished run in which the learning rate decays.

    Raises:
        BudgetError: the budget is too small for one short run.
    """
    row, budget = costs.scoring(sizes.own), costs.budget
    usable = left - reserve
    step = costs.training(sizes.step_tokens)
    check = sizes.dev * row
    least = 2 * 4 * step + 4 * check
    if usable < least:
        raise BudgetError(
            f"the budget is too small: scoring the test rows and one short tuning run need about "
            f"{_amount(reserve + least)} {budget.unit}, and {_amount(max(0.0, left))} {budget.unit} are left",
            hint=f"Give {_remedies(budget, least - usable, sizes.test, test_row)}.",
        )
    limit = max(8, max_epochs * sizes.steps_per_epoch)
    # Scores before tuning say little about scores after tuning, so the first race is short. If there are still too few epochs,
    # it is made shorter, because tuning gains most from more steps at first.
    wanted = min(limit, max(HEURISTICS.least_steps, min(HEURISTICS.epochs * sizes.steps_per_epoch, HEURISTICS.enough)))
    for share in HEURISTICS.race.shares:
        pool, race_rows = _first_race(HEURISTICS.race, max_pool, sizes.dev, share * usable / row)
        rest = usable - race_rows_scored(pool, race_rows) * row - CHECKS * check
        target = int(rest / (2 * step))
        trained = max(0.0, rest) / left
        if target >= wanted and (trained >= HEURISTICS.writing_half or not sizes.late):
            break
    target = max(6, min(target, limit))
    steady = target - decay_steps(int(target * (1 - decay)), decay)
    short = max(3, min(round(HEURISTICS.short * target), steady))
    # Steps beyond max_epochs are not lacking.
    lacking = (HEURISTICS.writing_half - trained) * left if sizes.late and target < limit else 0.0
    # Some of a longer budget goes into races and checks, and half of the rest into steps.
    longer = 1 / (1 - HEURISTICS.other_than_steps - HEURISTICS.writing_half)
    advice = _remedies(budget, lacking, sizes.test, test_row, longer=longer) if lacking > 0 else ""
    race, tuning = race_rows_scored(pool, race_rows) * row, 2 * target * step + CHECKS * check
    return Plan(pool, race_rows, short, target, reserve, training=trained, advice=advice, race=race, tuning=tuning)


def _remedies(budget: Budget, lacking: float, test: int, test_row: float, *, longer: float = 1.1) -> str:
    """Options that free the lacking budget: a budget that is larger by ``longer`` times as much, or fewer test rows."""
    rows = int(test - 1.1 * lacking / test_row) if test_row > 0 else 0
    rows -= rows % 10
    option = f"--budget {budget.raised(longer * lacking)}"
    return f"{option}, or limit.test={rows}" if HEURISTICS.least_test <= rows < test else option


def _make_untuned_plan(left: float, row: float, dev: int, budget: Budget, *, reserve: float, max_pool: int) -> Plan:
    """Fit the first race of a search without tuning into what the end leaves of the budget; ``row`` is the cost of a row.

    Raises:
        BudgetError: the budget is too small for the smallest race.
    """
    usable, bounds = left - reserve, HEURISTICS.untuned_race
    pool, rows = _first_race(bounds, max_pool, dev, bounds.shares[0] * usable / row if row else math.inf)
    race = race_rows_scored(pool, rows) * row
    if race > usable:
        raise BudgetError(
            f"the budget is too small: two arms on the test, three prompts on dev and the smallest race need about "
            f"{_amount(reserve + race)} {budget.unit}, and {_amount(max(0.0, left))} {budget.unit} are left",
            hint=f"Give --budget {budget.raised(1.1 * (race - usable))}, or fewer rows with limit.test= and limit.dev=.",
        )
    return Plan(pool, rows, 0, 0, reserve, race=race)


def fit_plan(
    context: RunContext, config: RunConfig, own: Sequence[Prompt], end: EndCosts, previous: Previous | None = None
) -> Plan:
    """Measure a few rows, then fit the run into the budget; recorded as a ``plan`` step.

    Args:
        own: the seed prompt, whose length gives the price of rows, and the user's further prompts, which race in any case.
        previous: the earlier bundle of a warm start; its arm and its prompt's length cost too.

    Raises:
        BudgetError: the budget is too small for the end and one short run, or the smallest race if nothing can be tuned.
    """
    task, spending, seed = context.task, context.spending, own[0]
    _measure_rows(context, seed)
    asked = [seed, *([previous.prompt] if previous is not None else [])] if context.can.tune else own
    longest = max(asked, key=spending.rows.scored)
    tokens = spending.rows.counted(longest)[0]
    sizes = None
    if context.can.tune:
        batch = context.tune.batch_size
        step_tokens = max(context.training.step_tokens(prompt, min(batch, len(task.train))) for prompt in asked)
        epoch, late = -(-len(task.train) // batch), context.answers.written_late
        sizes = Sizes(len(task.dev), task.test.n, tokens, step_tokens, epoch, late)
    left = spending.left()
    reserves = {
        aside: end.untuned(seed, [longest] * FINAL) if sizes is None else end.cost(seed, longest, new=True, aside=aside)
        for aside in get_args(Aside)
    }

    def planned(reserve: float) -> Plan:
        pool = config.search.pool
        if sizes is None:
            row = spending.costs.scoring(tokens)
            return _make_untuned_plan(left, row, len(task.dev), spending.budget, reserve=reserve, max_pool=pool)
        return make_plan(
            left,
            sizes,
            spending.costs,
            reserve=reserve,
            test_row=end.test_row(seed),
            max_pool=pool,
            max_epochs=config.tune.max_epochs,
            decay=context.tune.decay,
        )

    nearest, warmed = end.nearest_tokens(config.search, seed, tokens), spending.stopwatch.taken()

    def effect() -> dict[str, Any]:
        # Optional parts must not make a run impossible; they are left out at the end if there is no room. Prompts with nearest
        # demonstrations, whose rows are long, are left out if such a winner could not be tested.
        ways: list[tuple[Aside, bool]] = [("all", True)] if nearest else []
        for aside, with_nearest in (*ways, ("all", False)):
            with suppress(BudgetError):
                more = spending.costs.scoring(nearest) if with_nearest else 0.0
                plan = replace(planned(reserves[aside] + more), fixed=end.fixed, nearest=with_nearest, aside=aside)
                break
        else:
            plan = replace(planned(reserves["least"]), fixed=end.fixed, aside="least")
        text = _plan_text(plan, context, sizes, spending.budget.amount - left)
        if nearest and not plan.nearest:
            text.append("leave nearest demonstrations out: the budget could not test a winner that has them")
        return {**rounded(asdict(plan)), **warmed, "text": text}

    value = context.journal.step("plan", [task.fingerprint, config.budget, config.search.model_dump()], effect)
    plan = Plan(**{name: value[name] for name in Plan.__dataclass_fields__})
    end.aside = plan.aside
    return plan


def _measure_rows(context: RunContext, seed: Prompt) -> None:
    """Score a few train rows, which tells the rates, and write answers to some if answers are written late."""
    answering, spending, rows = context.answering, context.spending, context.train_sample
    # The first passes of a process are slow, so passes of the same size warm it up before the rate is measured. They are not
    # charged, and a budget of tokens needs no rate.
    timed = spending.budget.kind == "time"
    warm = rows[CALIBRATION_ROWS : 2 * CALIBRATION_ROWS] or rows[:4]
    if context.can.tune and timed:
        with spending.stopwatch:
            answering.score(seed, BASE, warm, lambda tokens: None)
    context.answers.scores(seed, BASE, rows[:CALIBRATION_ROWS], "measure", answers=False)
    if isinstance(answering, WrittenAnswering) and context.task.measure.needs_answers:
        if timed:
            with spending.stopwatch:
                answering.warm_up(seed, warm[:2])
        long = timed and spending.budget.amount >= HEURISTICS.long_budget
        context.answers.scores(seed, BASE, rows[: HEURISTICS.timed_answers[long]], "measure")


def _plan_text(plan: Plan, context: RunContext, sizes: Sizes | None, spent: float) -> list[str]:
    """The plan in words; ``sizes`` is None if the model cannot be tuned."""
    unit, amount, test = context.spending.budget.unit, context.spending.budget.amount, context.task.test.n
    end = spent + plan.race + plan.tuning + plan.reserve
    race = (
        f"score {counted(plan.pool, 'prompt')} on up to {counted(plan.race_rows, 'dev row')} each: about "
        f"{_amount(plan.race)} {unit}"
    )
    if sizes is None:
        return [
            race,
            "then mutate the best and race again, while this helps and the budget lasts",
            "nothing is tuned: the model answers behind an endpoint",
            f"keep {_amount(plan.reserve)} {unit} for confirming and {counted(test, 'test row')}",
            f"in all about {_amount(end)} {unit}, with more races at most {_amount(amount)}",
        ]
    steps = f"training gets about {plan.training:.0%} of the budget" + (f"; half needs {plan.advice}" if plan.advice else "")
    return [
        race,
        f"tune the seed prompt and the best one for {counted(plan.short_steps, 'step')}, then the better of the two",
        f"up to about {counted(plan.target_steps, 'step')} ({plan.target_steps / sizes.steps_per_epoch:.1f} epochs), and "
        f"the seed prompt as long: about {_amount(plan.tuning)} {unit}",
        f"keep {_amount(plan.reserve)} {unit} for confirming, {counted(test, 'test row')} and the report",
        *([steps, f"an answer has at most {context.answering.limit} tokens"] if sizes.late else []),
        f"in all about {_amount(end)} of {_amount(amount)} {unit}; the rest goes into further cycles while they help",
    ]


def _amount(cost: float) -> str:
    """Format a cost for messages; small amounts keep three digits."""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"
