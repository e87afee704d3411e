"""From a measured rate to a plan that is journalled and told."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, get_args

from cotune.config import RunConfig
from cotune.cycle.answering.written import WrittenAnswering
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.search.ending import EndCosts
from cotune.cycle.search.plan import Aside, Plan, Sizes, make_plan
from cotune.cycle.search.pool import nearest_cost
from cotune.cycle.search.untuned import CALIBRATION_ROWS
from cotune.errors import BudgetError, counted
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt

_WRITTEN_ROWS, _LONG = (16, 48), 600.0
"""Rows that are answered to see how long that takes, the more where the budget is so many seconds: many at once take far less
time a row, and the test is answered many at once."""


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
        long = context.spending.budget.kind == "time" and context.spending.budget.amount >= _LONG
        context.answers.scores(seed, BASE, context.train_sample[: _WRITTEN_ROWS[long]], "measure")
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
