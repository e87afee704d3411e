"""Fitting a search without tuning into its budget: the size of races, and the reserve for the end."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from cotune.config import RunConfig
from cotune.cycle.budget.reserve import closing_cost
from cotune.cycle.context import RunContext
from cotune.cycle.search.measured import CALIBRATION_ROWS
from cotune.cycle.search.pool import nearest_cost
from cotune.cycle.search.race import FINAL, race_rows_scored
from cotune.errors import BudgetError, counted
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task

_FIRST_SHARE = 0.4
"""Share of the budget without the end for the first race; later races need as much again."""
_LEAST_ROWS, _MOST_ROWS, _LEAST_POOL = 32, 128, 4


@dataclass(frozen=True)
class PromptPlan:
    """Plan of a search without tuning.

    Attributes:
        pool: number of prompts of the first race.
        race_rows: number of dev rows of the longest race.
        row_tokens: tokens of a row with the seed prompt, question and answer.
        reserve: budget for confirmation and the test, in the budget's unit, at the rates known at the start.
        reserve_tokens: tokens of the reserve; they are priced again when rates are known better.
        fixed: further cost of the end.
        nearest: whether pools hold a prompt that shows each row its nearest demonstrations.
    """

    pool: int
    race_rows: int
    row_tokens: float
    reserve: float
    reserve_tokens: float
    fixed: float
    nearest: bool = False


def end_rows(task: Task) -> float:
    """Number of rows that are asked at the end in any case: two arms on the test, finalists on dev."""
    calibration = min(CALIBRATION_ROWS, len(task.train))
    return 1.05 * (2 * task.test.n + (FINAL + 1) * len(task.dev) + FINAL * calibration)


def least_rows(task: Task) -> float:
    """Number of rows that the smallest search asks, including its end."""
    return end_rows(task) + race_rows_scored(_LEAST_POOL, min(len(task.dev), _LEAST_ROWS))


def fit_prompt_plan(context: RunContext, config: RunConfig, seed: Prompt) -> PromptPlan:
    """Ask a few rows, then fit the search into the budget; recorded as a ``plan`` step.

    Raises:
        BudgetError: the budget is too small for the end and the smallest race.
    """
    task = context.task
    context.answers.scores(seed, BASE, context.train_sample[:CALIBRATION_ROWS], "measure", answers=False)
    own, _ = context.spending.rows.counted(seed)
    left = context.spending.left()
    budget = context.spending.budget
    fixed = closing_cost(budget)
    reserve_tokens = end_rows(task) * own
    more = _nearest_tokens(context, config, seed, own)

    def planned(reserve_tokens: float, nearest: bool) -> PromptPlan:
        row, reserve = context.spending.costs.scoring(own), fixed + context.spending.costs.scoring(reserve_tokens)
        usable = left - reserve
        pool, rows = config.search.pool, min(len(task.dev), _MOST_ROWS)
        while race_rows_scored(pool, rows) * row > _FIRST_SHARE * usable and (pool > _LEAST_POOL or rows > _LEAST_ROWS):
            if rows > _LEAST_ROWS and (rows > 64 or pool <= 8):
                rows = max(_LEAST_ROWS, int(rows * 0.85))
            else:
                pool -= 1
        least = race_rows_scored(pool, rows) * row
        if least > usable:
            unit = budget.unit
            raise BudgetError(
                f"the budget is too small: two arms on the test, three prompts on dev and the smallest race need about "
                f"{_amount(reserve + least)} {unit}, and {_amount(max(0.0, left))} {unit} are left",
                hint=f"Give --budget {budget.raised(1.1 * (least - usable))}, or fewer rows with limit.test= and limit.dev=.",
            )
        return PromptPlan(pool, rows, own, reserve, reserve_tokens, fixed, nearest)

    def effect() -> dict[str, Any]:
        plan: PromptPlan | None = None
        if more:
            with suppress(BudgetError):
                plan = planned(reserve_tokens + more, True)
        plan = plan or planned(reserve_tokens, False)
        text = _plan_text(plan, context, context.spending.budget.amount - left)
        if more and not plan.nearest:
            text.append("leave nearest demonstrations out: the budget could not test a winner that has them")
        numbers = {name: value if isinstance(value, bool) else round(value, 8) for name, value in asdict(plan).items()}
        return {**numbers, "text": text}

    search = config.search.model_dump(exclude={"hard_demonstrations"})
    value = context.journal.step("plan", [task.fingerprint, config.budget, search], effect)
    return PromptPlan(**{name: value[name] for name in PromptPlan.__dataclass_fields__})


def _nearest_tokens(context: RunContext, config: RunConfig, seed: Prompt, own: float) -> float:
    """Additional tokens of the end if the winner shows each row its nearest demonstrations; 0 if there is no such prompt."""
    return 1.05 * (context.task.test.n + FINAL * len(context.dev)) * nearest_cost(context, config.search, seed, own)


def _plan_text(plan: PromptPlan, context: RunContext, spent: float) -> list[str]:
    costs, unit = context.spending.costs, context.spending.budget.unit
    race = costs.scoring(race_rows_scored(plan.pool, plan.race_rows) * plan.row_tokens)
    return [
        f"score {counted(plan.pool, 'prompt')} on up to {counted(plan.race_rows, 'dev row')} each: about "
        f"{_amount(race)} {unit}",
        "then mutate the best and race again, while this helps and the budget lasts",
        "nothing is tuned: the model answers behind an endpoint",
        f"keep {_amount(plan.reserve)} {unit} for confirming and {counted(context.task.test.n, 'test row')}",
        f"in all about {_amount(spent + race + plan.reserve)} {unit}, with more races at most {_amount(costs.budget.amount)}",
    ]


def _amount(cost: float) -> str:
    """Format a cost for messages; small amounts keep three digits."""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"
