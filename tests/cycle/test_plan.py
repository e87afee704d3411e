from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from cotune.cycle.plan import Plan, Sizes, make_plan

TREC = Sizes(train=350, dev=150, test=500, own=20.0, step_tokens=225.0, steps_per_epoch=44)


def plan(left: float, sizes: Sizes = TREC, **changes: Any) -> Plan:
    """A plan at 500 tokens a second in scoring, 150 in training."""
    settings: dict[str, Any] = {
        "scoring": lambda tokens: tokens / 500,
        "training": lambda tokens: tokens / 150,
        "fixed": 10.0,
        "max_pool": 16,
        "max_entrants": 6,
        "max_epochs": 6,
        "decay": 0.3,
        **changes,
    }
    return make_plan(left, sizes, **settings)


def test_where_rows_cannot_be_met_twice_less_is_raced_and_fewer_prompts_are_tuned() -> None:
    short, long = plan(400.0), plan(2000.0)
    assert short.entrants == 3 and long.entrants == 6
    assert short.pool * short.race_rows < long.pool * long.race_rows
    # 400 s at these speeds: most of what the end leaves goes into steps.
    assert short.target_steps * 2.2 * 225 / 150 > 0.75 * (400 - short.reserve)


def test_more_budget_never_means_fewer_steps_or_a_smaller_pool() -> None:
    plans = [plan(left) for left in range(200, 4000, 200)]
    targets = [p.target_steps for p in plans]
    # An entrant more, or a longer race, takes steps from a run that has enough of them.
    assert all(b >= min(a, 88) for a, b in pairwise(targets))
    assert [p.pool for p in plans] == sorted(p.pool for p in plans)


def test_a_short_run_is_a_beginning_of_the_whole() -> None:
    for left in (200.0, 400.0, 1000.0, 3000.0):
        found = plan(left)
        assert 3 <= found.short_steps <= found.target_steps <= 6 * 44


SNIPS = Sizes(train=850, dev=150, test=300, own=60.0, step_tokens=600.0, steps_per_epoch=107, answer=300.0, tuned=150.0)


def test_where_answers_are_written_late_checks_cost_a_pass_and_the_end_finalists_alone() -> None:
    early, late = plan(3600.0, SNIPS), plan(3600.0, replace(SNIPS, late=True))
    assert early.reserve - late.reserve == pytest.approx(1.05 * 150 * 3 * (300 - 150) / 500)
    assert late.target_steps > early.target_steps
