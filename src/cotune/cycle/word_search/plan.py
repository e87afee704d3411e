"""What fits into a budget: how large the pool, how many entrants, how many steps. Printed before the run starts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from cotune.config import RunConfig
from cotune.cycle.answering.written import WrittenAnswering
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.search.measured import CALIBRATION_ROWS
from cotune.cycle.search.pool import nearest_cost
from cotune.cycle.search.race import race_rows_scored
from cotune.cycle.word_search.ending import Aside, EndCosts
from cotune.cycle.word_search.heuristics import HEURISTICS
from cotune.cycle.word_search.trial import decay_steps
from cotune.errors import BudgetError, counted
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt


@dataclass(frozen=True)
class Sizes:
    """Facts that a plan rests on.

    Attributes:
        train: rows; ``dev`` and ``test`` too.
        own: tokens of a scored row behind the shared prefix.
        step_tokens: tokens of an optimizer step.
        steps_per_epoch: optimizer steps in which each train row is met once.
        late: whether answers are written, those to dev by finalists alone.
    """

    train: int
    dev: int
    test: int
    own: float
    step_tokens: float
    steps_per_epoch: int
    late: bool = False


@dataclass(frozen=True)
class Plan:
    """The first cycle in numbers, and what is put aside for the end.

    Attributes:
        pool: prompts that are scored.
        race_rows: dev rows of the longest race.
        entrants: prompts that are tuned.
        short_steps: optimizer steps of each entrant's short run.
        target_steps: steps that the winner and the seed prompt reach in all, decay included, if nothing intervenes.
        reserve: budget for confirming, the test and the report, in the budget's unit, by what is known at the start; what the
            end costs is counted anew as more is known.
        fixed: what of it is for the report and for saving.
        aside: what the reserve holds beside what a run cannot do without: classification heads and all that is measured after
            the test, heads alone, or nothing.
        nearest: whether pools hold a prompt that shows each row its nearest demonstrations.
        training: share of the budget that goes into steps.
        advice: what would give steps half of it, where they get less; empty where they do not.
        race: cost of the first race, in the budget's unit, at the rates known at the start.
        tuning: that of the steps and of measuring what they gave.
    """

    pool: int
    race_rows: int
    entrants: int
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

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return {name: round(value, 2) if isinstance(value, float) else value for name, value in asdict(self).items()}


def make_plan(
    left: float,
    sizes: Sizes,
    *,
    reserve: float,
    test_row: float,
    scoring: Callable[[float], float],
    training: Callable[[float], float],
    max_pool: int,
    max_entrants: int,
    max_epochs: int,
    decay: float,
    raised: Callable[[float], str] = "{:.0f} more".format,
    unit: str = "",
) -> Plan:
    """Fit a run into what is left of the budget.

    Training gets about four fifths of what the end leaves; each entrant's short run is about a fifth of the winner's.

    Args:
        left: budget, in its unit.
        sizes: of the task.
        reserve: budget that the end takes, in its unit.
        test_row: what of it a test row takes.
        scoring: cost of scoring so many tokens.
        training: cost of training on so many tokens.
        max_pool: prompts at most.
        max_entrants: tuned prompts at most.
        max_epochs: epochs of the winner's run at most.
        decay: share of a finished run in which the learning rate falls.
        raised: the budget with so much more, as a command would name it.
        unit: of the budget, as messages name it.

    Raises:
        BudgetError: not even one short run fits.
    """
    row = scoring(sizes.own)
    usable = left - reserve
    step = training(sizes.step_tokens)
    check = sizes.dev * row
    least = 2 * 4 * step + 4 * check
    if usable < least:
        blank = f" {unit}" if unit else ""
        raise BudgetError(
            f"the budget is too small: scoring the test rows and one short tuning run need about {reserve + least:.0f}{blank}, "
            f"and {max(0.0, left):.0f}{blank} are left",
            hint=f"Give {_remedies(least - usable, sizes.test, test_row, raised)}.",
        )
    limit = max(8, max_epochs * sizes.steps_per_epoch)
    # What prompts are worth before tuning says little about after, so the first race is kept short; where the rows cannot be
    # met often enough even so, it is kept shorter and fewer prompts are tuned, since steps are what tuning gains from at first.
    wanted = min(limit, max(HEURISTICS.least_steps, min(HEURISTICS.epochs * sizes.steps_per_epoch, HEURISTICS.enough)))
    for share in HEURISTICS.race_shares:
        pool, race_rows = _fit_race(max_pool, sizes.dev, share * usable / row)
        rest = usable - race_rows_scored(pool, race_rows) * row
        entrants, target = _fit_tuning(max_entrants, rest, step, check, wanted)
        trained = max(0.0, rest - (entrants + 3) * check) / left
        if target >= wanted and (trained >= HEURISTICS.writing_half or not sizes.late):
            break
    target = max(6, min(target, limit))
    steady = target - decay_steps(int(target * (1 - decay)), decay)
    short = max(3, min(round(HEURISTICS.short * target), steady))
    plan = Plan(pool, race_rows, entrants, short, target, reserve)
    # More steps than max_epochs allows for are none that anything else took away.
    lacking = (HEURISTICS.writing_half - trained) * left if sizes.late and target < limit else 0.0
    # Of a longer budget some goes into races and checks, and of the rest half is what is asked for.
    longer = 1 / (1 - HEURISTICS.other_than_steps - HEURISTICS.writing_half)
    advice = _remedies(lacking, sizes.test, test_row, raised, longer=longer) if lacking > 0 else ""
    steps = entrants * short + 2 * max(0, target - short)
    race, tuning = race_rows_scored(pool, race_rows) * row, steps * step + (entrants + 3) * check
    return replace(plan, training=trained, advice=advice, race=race, tuning=tuning)


def _remedies(lacking: float, test: int, test_row: float, raised: Callable[[float], str], *, longer: float = 1.1) -> str:
    """What would make room for what is lacking: a longer budget, by so many times as much, or fewer test rows."""
    rows = int(test - 1.1 * lacking / test_row) if test_row > 0 else 0
    rows -= rows % 10
    budget = f"--budget {raised(longer * lacking)}"
    return f"{budget}, or limit.test={rows}" if HEURISTICS.least_test <= rows < test else budget


def _fit_race(max_pool: int, dev: int, affordable: float) -> tuple[int, int]:
    """Prompts and dev rows of a first race of so many scored rows; at least six prompts and 32 rows."""
    least, rows, pool = HEURISTICS.least_race_rows, min(dev, HEURISTICS.most_race_rows), max_pool
    while race_rows_scored(pool, rows) > affordable and (rows > least or pool > HEURISTICS.least_pool):
        if rows > 48 or pool <= 12:
            rows = max(least, int(rows * 0.85)) if rows > least else rows
            pool -= rows <= least
        else:
            pool -= 1
    return pool, rows


def _fit_tuning(max_entrants: int, rest: float, step: float, check: float, wanted: int) -> tuple[int, int]:
    """Entrants, and steps of the whole run: entrants' short runs at a fifth each, then the winner and the seed to the end.

    Entrants are given up, down to the seed prompt and one more, where ``wanted`` steps do not fit. A check on dev comes after
    each stretch.
    """
    entrants = max_entrants
    while True:
        target = int((rest - (entrants + 3) * check) / (whole_runs(entrants) * step))
        if target >= wanted or entrants <= 2:
            return entrants, target
        entrants -= 1


def whole_runs(entrants: int) -> float:
    """How many whole runs' steps tuning takes: entrants' short ones, then the winner and the seed prompt go on to the end."""
    return HEURISTICS.short * entrants + 2 * (1 - HEURISTICS.short)


def fit_plan(context: RunContext, config: RunConfig, seed: Prompt, end: EndCosts, previous: Previous | None = None) -> Plan:
    """Measure the scoring rate on a few rows, then fit the run into the budget; recorded as a ``plan`` step.

    Args:
        context: where effects happen.
        config: the run's config.
        seed: the seed prompt, whose length rows are counted with.
        end: what the end costs.
        previous: what is taken over from an earlier bundle; its arm and its own prompt's length cost too.

    Raises:
        BudgetError: not even one short run fits.
    """
    task = context.task
    # The first passes of a process are slow, so others of the same size warm it up before the rate is taken.
    warm = context.train_sample[CALIBRATION_ROWS : 2 * CALIBRATION_ROWS] or context.train_sample[:4]
    with context.spending.stopwatch:
        context.answering.score(seed, BASE, warm, lambda tokens: None)
    context.answers.scores(seed, BASE, context.train_sample[:CALIBRATION_ROWS], "measure", answers=False)
    if isinstance(context.answering, WrittenAnswering) and task.measure.needs_answers:
        with context.spending.stopwatch:
            context.answering.warm_up(seed, warm[:2])
        long = context.spending.budget.kind == "time" and context.spending.budget.amount >= HEURISTICS.long_budget
        context.answers.scores(seed, BASE, context.train_sample[: HEURISTICS.timed_answers[long]], "measure")
    batch = min(context.tune.batch_size, len(task.train))
    asked = [seed, *([previous.prompt] if previous is not None else [])]
    longest = max(asked, key=context.spending.rows.scored)
    own = context.spending.rows.counted(longest)[0]
    sizes = Sizes(
        len(task.train),
        len(task.dev),
        task.test.n,
        own,
        max(context.training.step_tokens(prompt, batch) for prompt in asked),
        -(-len(task.train) // context.tune.batch_size),
        late=context.answers.written_late,
    )
    left = context.spending.left()
    reserves = {aside: end.cost(seed, longest, new=True, aside=aside) for aside in get_args(Aside)}

    def planned(reserve: float) -> Plan:
        return make_plan(
            left,
            sizes,
            reserve=reserve,
            test_row=end.test_row(seed),
            scoring=context.spending.costs.scoring,
            training=context.spending.costs.training,
            max_pool=config.search.pool,
            max_entrants=config.search.entrants,
            max_epochs=config.tune.max_epochs,
            decay=context.tune.decay,
            raised=context.spending.budget.raised,
            unit=context.spending.budget.unit,
        )

    nearest, warmed = _nearest_tokens(context, config, seed, own), context.spending.stopwatch.taken()

    def effect() -> dict[str, Any]:
        # What a run can do without must not keep it from happening; it is left out at the end for want of room. Nor must
        # prompts whose every row is long: where such a winner could not be tested, there are none.
        ways: list[tuple[Aside, bool]] = [("all", True)] if nearest else []
        for aside, with_nearest in (*ways, ("all", False), ("heads", False)):
            with suppress(BudgetError):
                more = context.spending.costs.scoring(nearest) if with_nearest else 0.0
                plan = replace(planned(reserves[aside] + more), fixed=end.fixed, nearest=with_nearest, aside=aside)
                break
        else:
            plan = replace(planned(reserves["least"]), fixed=end.fixed, aside="least")
        text = _plan_text(plan, context, sizes, context.spending.budget.amount - left)
        if nearest and not plan.nearest:
            text.append("leave nearest demonstrations out: the budget could not test a winner that has them")
        return {**plan.to_json(), **warmed, "text": text}

    # What decides nothing about the plan is no part of its key.
    search = config.search.model_dump(exclude={"hard_demonstrations", "nearest_demonstrations"})
    value = context.journal.step("plan", [task.fingerprint, config.budget, search], effect)
    plan = Plan(**{name: value[name] for name in Plan.__dataclass_fields__ if name in value})
    end.aside = plan.aside
    return plan


def _nearest_tokens(context: RunContext, config: RunConfig, seed: Prompt, own: float) -> float:
    """Further tokens at the end where the winner shows each row its nearest demonstrations; 0 where there is no such prompt."""
    # Three arms may have it on the test, and three candidates are confirmed on dev.
    return 1.05 * 3 * (context.task.test.n + len(context.dev)) * nearest_cost(context, config.search, seed, own)


def _plan_text(plan: Plan, context: RunContext, sizes: Sizes, spent: float) -> list[str]:
    unit, amount = context.spending.budget.unit, context.spending.budget.amount
    end = spent + plan.race + plan.tuning + plan.reserve
    steps = f"training gets about {plan.training:.0%} of the budget" + (f"; half needs {plan.advice}" if plan.advice else "")
    return [
        f"score {counted(plan.pool, 'prompt')} on up to {counted(plan.race_rows, 'dev row')} each: about {plan.race:,.0f} "
        f"{unit}",
        f"tune {plan.entrants} of them for {counted(plan.short_steps, 'step')}, then the best on",
        f"to about {counted(plan.target_steps, 'step')} ({plan.target_steps / sizes.steps_per_epoch:.1f} epochs), the seed "
        "prompt as far: "
        f"about {plan.tuning:,.0f} {unit}",
        f"keep {plan.reserve:,.0f} {unit} for confirming, {counted(sizes.test, 'test row')} and the report",
        *([steps, f"an answer has {context.answering.limit} tokens at most"] if sizes.late else []),
        f"in all about {end:,.0f} of {amount:,.0f} {unit}; what is left goes into further rounds while they help",
    ]
