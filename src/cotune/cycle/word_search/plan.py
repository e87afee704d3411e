"""Fitting a run into its budget: size of the pool, number of entrants, number of steps."""

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
    """Numbers that a plan depends on.

    Attributes:
        train: number of train rows. dev: number of dev rows. test: number of test rows.
        own: tokens of a scored row after the shared prefix.
        step_tokens: tokens of an optimizer step.
        steps_per_epoch: optimizer steps of one epoch.
        late: whether answers are written, on dev only by finalists.
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
    """Plan of the first cycle, and the reserve for the end.

    Attributes:
        pool: number of prompts that are scored.
        race_rows: number of dev rows of the longest race.
        entrants: number of prompts that are tuned.
        short_steps: optimizer steps of each entrant's short run.
        target_steps: planned optimizer steps of the winner and the seed prompt in all, including decay.
        reserve: budget for confirmation, the test and the report, in the budget's unit, as estimated at the start; it is
            estimated again later.
        fixed: part of the reserve for the report and for saving.
        aside: optional parts of the reserve: classification heads and all measurements after the test, heads only, or none.
        nearest: whether pools hold a prompt that shows each row its nearest demonstrations.
        training: share of the budget for steps.
        advice: options that would give steps half of the budget, if they get less; otherwise empty.
        race: cost of the first race, in the budget's unit, at the rates known at the start.
        tuning: cost of the steps and of their measurements on dev.
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
    """Fit a run into the remaining budget.

    Training gets about four fifths of the budget without the end; each entrant's short run is about a fifth of the winner's.

    Args:
        left: remaining budget, in its unit.
        sizes: sizes of the task.
        reserve: budget of the end, in its unit.
        test_row: part of it for each test row.
        scoring: cost of scoring a number of tokens.
        training: cost of training on a number of tokens.
        max_pool: maximum number of prompts.
        max_entrants: maximum number of tuned prompts.
        max_epochs: maximum epochs of the winner's run.
        decay: share of a finished run in which the learning rate decays.
        raised: the budget plus an amount, as written in a command.
        unit: the budget's unit, as written in messages.

    Raises:
        BudgetError: the budget is too small for one short run.
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
    # Scores before tuning say little about scores after tuning, so the first race is short. If there are still too few epochs,
    # it is made shorter and fewer prompts are tuned, because tuning gains most from more steps at first.
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
    # Steps beyond max_epochs are not lacking.
    lacking = (HEURISTICS.writing_half - trained) * left if sizes.late and target < limit else 0.0
    # Some of a longer budget goes into races and checks, and half of the rest into steps.
    longer = 1 / (1 - HEURISTICS.other_than_steps - HEURISTICS.writing_half)
    advice = _remedies(lacking, sizes.test, test_row, raised, longer=longer) if lacking > 0 else ""
    steps = entrants * short + 2 * max(0, target - short)
    race, tuning = race_rows_scored(pool, race_rows) * row, steps * step + (entrants + 3) * check
    return replace(plan, training=trained, advice=advice, race=race, tuning=tuning)


def _remedies(lacking: float, test: int, test_row: float, raised: Callable[[float], str], *, longer: float = 1.1) -> str:
    """Options that free the lacking budget: a budget that is larger by ``longer`` times as much, or fewer test rows."""
    rows = int(test - 1.1 * lacking / test_row) if test_row > 0 else 0
    rows -= rows % 10
    budget = f"--budget {raised(longer * lacking)}"
    return f"{budget}, or limit.test={rows}" if HEURISTICS.least_test <= rows < test else budget


def _fit_race(max_pool: int, dev: int, affordable: float) -> tuple[int, int]:
    """Number of prompts and of dev rows of a first race that scores at most ``affordable`` rows; at least 6 and 32."""
    least, rows, pool = HEURISTICS.least_race_rows, min(dev, HEURISTICS.most_race_rows), max_pool
    while race_rows_scored(pool, rows) > affordable and (rows > least or pool > HEURISTICS.least_pool):
        if rows > 48 or pool <= 12:
            rows = max(least, int(rows * 0.85)) if rows > least else rows
            pool -= rows <= least
        else:
            pool -= 1
    return pool, rows


def _fit_tuning(max_entrants: int, rest: float, step: float, check: float, wanted: int) -> tuple[int, int]:
    """Number of entrants, and steps of a whole run.

    Each entrant's short run takes a fifth of these steps; then the winner and the seed prompt continue to the end. Each part
    ends with a measurement on dev. If ``wanted`` steps do not fit, there are fewer entrants, down to the seed prompt and one
    more.
    """
    entrants = max_entrants
    while True:
        target = int((rest - (entrants + 3) * check) / (whole_runs(entrants) * step))
        if target >= wanted or entrants <= 2:
            return entrants, target
        entrants -= 1


def whole_runs(entrants: int) -> float:
    """Steps of tuning in whole runs: the entrants' short runs, then the rest of the winner's and the seed prompt's runs."""
    return HEURISTICS.short * entrants + 2 * (1 - HEURISTICS.short)


def fit_plan(context: RunContext, config: RunConfig, seed: Prompt, end: EndCosts, previous: Previous | None = None) -> Plan:
    """Measure the scoring rate on a few rows, then fit the run into the budget; recorded as a ``plan`` step.

    Args:
        context: context of the run.
        config: config of the run.
        seed: the seed prompt, whose length gives the price of rows.
        end: prices of the end.
        previous: the earlier bundle of a warm start; its arm and its prompt's length cost too.

    Raises:
        BudgetError: the budget is too small for one short run.
    """
    task = context.task
    # The first passes of a process are slow, so passes of the same size warm it up before the rate is measured.
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
        # Optional parts must not make a run impossible; they are left out at the end if there is no room. Prompts with nearest
        # demonstrations, whose rows are long, are left out if such a winner could not be tested.
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

    # Settings that do not affect the plan are not part of its key.
    search = config.search.model_dump(exclude={"hard_demonstrations", "nearest_demonstrations"})
    value = context.journal.step("plan", [task.fingerprint, config.budget, search], effect)
    plan = Plan(**{name: value[name] for name in Plan.__dataclass_fields__ if name in value})
    end.aside = plan.aside
    return plan


def _nearest_tokens(context: RunContext, config: RunConfig, seed: Prompt, own: float) -> float:
    """Additional tokens of the end if the winner shows each row its nearest demonstrations; 0 if there is no such prompt."""
    # Three arms may have it on the test, and three candidates are confirmed on dev.
    return 1.05 * 3 * (context.task.test.n + len(context.dev)) * nearest_cost(context, config.search, seed, own)


def _plan_text(plan: Plan, context: RunContext, sizes: Sizes, spent: float) -> list[str]:
    unit, amount = context.spending.budget.unit, context.spending.budget.amount
    end = spent + plan.race + plan.tuning + plan.reserve
    steps = f"training gets about {plan.training:.0%} of the budget" + (f"; half needs {plan.advice}" if plan.advice else "")
    return [
        f"score {counted(plan.pool, 'prompt')} on up to {counted(plan.race_rows, 'dev row')} each: about {plan.race:,.0f} "
        f"{unit}",
        f"tune {plan.entrants} of them for {counted(plan.short_steps, 'step')}, then the best one",
        f"up to about {counted(plan.target_steps, 'step')} ({plan.target_steps / sizes.steps_per_epoch:.1f} epochs), and "
        f"the seed prompt as long: about {plan.tuning:,.0f} {unit}",
        f"keep {plan.reserve:,.0f} {unit} for confirming, {counted(sizes.test, 'test row')} and the report",
        *([steps, f"an answer has at most {context.answering.limit} tokens"] if sizes.late else []),
        f"in all about {end:,.0f} of {amount:,.0f} {unit}; the rest goes into further cycles while they help",
    ]
