from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from cotune.cycle.answer_search.plan import Plan, Sizes, make_plan
from cotune.cycle.budget.budget import Budget, parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.errors import BudgetError
from cotune.evaluate.stats.racing import schedule_cost, successive_halving_schedule

TREC = Sizes(dev=150, test=500, own=20.0, step_tokens=225.0, steps_per_epoch=44)
TEST_ROW = 5 * 20 / 500
RESERVE = 10.0 + 500 * TEST_ROW + 150 * 3 * 20 / 500


def schedule(pool: int, rows: int) -> int:
    """Rows that a race scores."""
    return schedule_cost(pool, successive_halving_schedule(pool, rows, final=min(3, pool)))


def plan(left: float, sizes: Sizes = TREC, **changes: Any) -> Plan:
    """A plan at 500 tokens a second in scoring, 150 in training."""
    settings: dict[str, Any] = {
        "reserve": RESERVE,
        "test_row": TEST_ROW,
        "max_pool": 16,
        "max_epochs": 6,
        "decay": 0.3,
        **changes,
    }
    return make_plan(left, sizes, CostModel(Budget("time", left), score_rate=500, train_rate=150), **settings)


def test_where_rows_cannot_be_met_four_times_less_is_raced() -> None:
    short, long = plan(400.0), plan(2000.0)
    assert short.pool * short.race_rows < long.pool * long.race_rows
    # 400 s at these speeds: most of what the end leaves goes into steps.
    assert short.target_steps * 2 * 225 / 150 > 0.75 * (400 - short.reserve)


def test_more_budget_never_means_fewer_steps_or_a_smaller_pool() -> None:
    plans = [plan(left) for left in range(200, 4000, 200)]
    targets = [p.target_steps for p in plans]
    # A longer race takes steps from a run that has enough of them.
    assert all(b >= min(a, 176) for a, b in pairwise(targets))
    assert [p.pool for p in plans] == sorted(p.pool for p in plans)


def test_a_short_run_is_a_beginning_of_the_whole() -> None:
    for left in (200.0, 400.0, 1000.0, 3000.0):
        found = plan(left)
        assert 3 <= found.short_steps <= found.target_steps <= 6 * 44


def test_the_parts_of_a_plan_cost_what_is_left_or_less_where_epochs_end() -> None:
    for left in (250.0, 400.0, 1000.0, 2000.0):
        found = plan(left, max_epochs=1000)
        assert found.race + found.tuning + found.reserve == pytest.approx(left, rel=0.03)
    # Of two epochs of a budget for many, only the steps that there are cost anything.
    few = plan(4000.0, max_epochs=2)
    assert few.target_steps == 88 and few.race + few.tuning + few.reserve < 0.6 * 4000
    assert few.tuning == pytest.approx(2 * 88 * 1.5 + 5 * 150 * 20 / 500)
    assert found.race == pytest.approx(schedule(found.pool, found.race_rows) * 20 / 500)


SNIPS = Sizes(dev=150, test=300, own=60.0, step_tokens=600.0, steps_per_epoch=107)


def snips(left: float, test: int = 300, **changes: Any) -> Plan:
    """A plan where answers are written, 2.4 s for a test row over all arms."""
    sizes = replace(SNIPS, test=test, late=True)
    return plan(left, sizes, reserve=10.0 + 2.4 * test + 180.0, test_row=2.4, **changes)


def test_training_gets_half_of_a_budget_or_the_plan_says_what_would_give_it_that() -> None:
    short, long = snips(1500.0), snips(6000.0)
    assert short.training < 0.5 < long.training and not long.advice
    budget, rows = re.findall(r"--budget (\d+)m, or limit.test=(\d+)", short.advice)[0]
    assert snips(60.0 * int(budget)).training >= 0.48
    assert int(rows) < 300 and snips(1500.0, int(rows)).training >= 0.48


def test_a_refusal_names_a_budget_or_a_test_that_fits() -> None:
    with pytest.raises(BudgetError) as caught:
        snips(600.0)
    budget, rows = re.findall(r"--budget (\d+)m, or limit.test=(\d+)", str(caught.value))[0]
    assert snips(60.0 * int(budget)).short_steps >= 3 and snips(600.0, int(rows)).short_steps >= 3
    with pytest.raises(BudgetError, match=r"Give --budget 20m\."):
        # Without any test row there would be no room either.
        snips(20.0)


@pytest.mark.parametrize(
    ("gflops", "scoring", "training"),
    [(1719.0, 2000.0, 320.0), (408.0, 1390.0, 410.0)],
    ids=["AMX", "AVX512"],
)
def test_the_first_guess_is_near_what_two_cores_reached(gflops: float, scoring: float, training: float) -> None:
    # Measured with the bundled model in bfloat16: five times as fast products make neither pace five times what it was.
    found = CostModel.guess(Budget("time", 480.0), gflops=gflops, parameters=106_200_000, threads=2, width=576)
    assert 0.7 < found.score_rate / scoring < 1.5 and 0.7 < found.train_rate / training < 1.5


def test_the_first_guess_grows_with_threads_and_leaves_wide_models_to_their_products() -> None:
    def paces(threads: int | None, width: int = 576) -> tuple[float, float]:
        found = CostModel.guess(Budget("time", 480.0), gflops=1000.0, parameters=500_000_000, threads=threads, width=width)
        return found.score_rate, found.train_rate

    for slower, faster in pairwise((paces(1), paces(2), paces(8), paces(8, width=4096))):
        assert slower[0] < faster[0] and slower[1] < faster[1]
    assert paces(8, width=1 << 20) == pytest.approx((900.0, 450.0), rel=0.01)
    assert paces(None) == paces(None, width=4096) == (700.0, 250.0)


def test_a_machine_that_is_slower_than_planned_is_noticed_once_that_is_known() -> None:
    def guessed(threads: int | None) -> CostModel:
        return CostModel.guess(Budget("time", 480.0), gflops=400.0, parameters=100_000_000, threads=threads, width=576)

    costs = guessed(2)
    planned = costs.score_rate
    costs.saw_scoring(int(planned / 10 * 4), 4.0)
    assert costs.slowdown == 1.0, "too early to tell"
    costs.saw_scoring(int(planned / 10 * 40), 40.0)
    assert costs.slowdown == pytest.approx(10, rel=0.01)
    # What an accelerator reaches on small batches says nothing about who else is at work on it.
    other = guessed(None)
    other.saw_scoring(4000, 400.0)
    assert other.slowdown == 1.0


def test_a_prompt_is_read_as_fast_as_in_scoring_and_only_the_answer_written_slowly() -> None:
    costs = CostModel(Budget("time", 1200.0), score_rate=700.0, train_rate=200.0)
    for _ in range(5):
        costs.saw_writing(7000, 2600, 48, 20.0)
    assert costs.write_rate == pytest.approx(260.0)
    assert costs.writing(700, 26) == pytest.approx(1.1) and costs.writing(700, 26) < costs.writing(0, 726)
    # Reading that took all the time by its rate does not make writing free.
    costs.saw_writing(700_000, 10, 48, 100.0)
    assert costs.writing(0, 1) > 0
    assert CostModel(Budget("tokens", 1e6), 1.0, 1.0).writing(700, 26) == 726


@pytest.mark.parametrize(
    ("budget", "more", "told"),
    [
        ("90s", 20.0, "2m"),
        ("20m", 60.0, "25m"),
        ("2Mtok", 1.0, "2.1Mtok"),
        ("300ktok", 11e3, "320ktok"),
        ("2usd", 0.3, "2.3usd"),
        ("0.00002usd", 3e-5, "0.000051usd"),
    ],
)
def test_a_raised_budget_is_round_and_can_be_given(budget: str, more: float, told: str) -> None:
    found = parse_budget(budget)
    assert found.raised(more) == told and parse_budget(told).amount >= found.amount + more
