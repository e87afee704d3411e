"""What enters a pool and what is tuned of it: near-duplicates go, rank chooses, some are there in any case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cycle_runs import journal_of, labelled_rows
from hypothesis import given
from hypothesis import strategies as st

from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Quiet
from cotune.cycle.search.pool import NEAR, leaves_rows, next_pool, opening_pool, shown_text, thinned
from cotune.embed import distances
from cotune.prompt.bank import bare_prompt, seed_prompt
from cotune.prompt.prompt import Prompt
from cotune.refine import with_demonstrations
from cotune.task.example import Example
from cotune.tune.settings import TuneSettings
from tiny import tiny_local


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    task = Task.from_rows(labelled_rows(60), input="text", output="label", limit={"dev": 12})
    costs = CostModel(parse_budget("1Mtok"), 1.0, 1.0)
    return RunContext(task, tiny_local(), Journal(tmp_path), costs, tmp_path, TuneSettings(), 0, Quiet())


def last_pool(context: RunContext) -> dict[str, Any]:
    """What the last pool's step recorded."""
    value = [e["value"] for e in context.journal.events if e["kind"] == "pool"][-1]
    assert isinstance(value, dict)
    return value


def on_circle(*degrees: float) -> Any:
    """Points of one length by their angle."""
    turned = np.deg2rad(degrees)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def test_a_pool_drops_the_same_idea_and_stands_farthest_first() -> None:
    points = on_circle(0, 2, 180, 20, 90, 91)
    assert thinned(points, 6) == ([0, 2, 4, 3], 2)
    assert thinned(points, 2) == ([0, 2], 2)
    assert thinned(points, 6, keep=[0, 1]) == ([0, 1, 2, 4, 3], 1)
    assert thinned(points, 1, keep=[0, 1]) == ([0, 1], 1), "the user's prompts race, however small the pool is"
    assert thinned(points, 3, keep=[0, 1]) == ([0, 1, 2], 1)
    # A prompt that must enter takes an earlier one's place that says the same.
    assert thinned(points, 6, keep=[5]) == ([5, 0, 2, 3], 2)


@given(st.lists(st.integers(0, 359), min_size=1, max_size=20), st.integers(1, 24), st.data())
def test_a_pool_holds_what_must_enter_and_else_nothing_twice(degrees: list[int], count: int, data: st.DataObject) -> None:
    keep = range(data.draw(st.integers(0, min(count, len(degrees)))))
    points = on_circle(*degrees)
    order, near = thinned(points, count, keep=keep)
    gaps = distances(points)
    assert len(order) == len(set(order)) == min(count, len(degrees) - near)
    assert order[: len(keep)] == list(keep)
    assert all(gaps[a, b] >= NEAR for a in order for b in order if a != b and not {a, b} <= set(keep))


def test_the_first_pool_begins_with_the_seed_prompt_and_the_bare_input(context: RunContext) -> None:
    seed, bare = seed_prompt(context.task), bare_prompt(context.task)
    pool = opening_pool(context, [seed], 10, demonstrations=True)
    assert [p.prompt for p in pool[:2]] == [seed, bare] and len(pool) == 10
    # A prompt of the user's stays, though another of them says the same.
    twin = seed.edit(label_words=(("animal", "ANIMAL"),))
    pool = opening_pool(context, [seed, twin], 10, demonstrations=True)
    assert [p.prompt for p in pool[:3]] == [seed, twin, bare] and len(pool) == 10
    value = last_pool(context)
    assert len(pool) + value["near_duplicates"] + value["left_out"] == 10 + 4


def test_of_children_that_say_the_same_one_enters(context: RunContext) -> None:
    parent = seed_prompt(context.task)
    pool = next_pool(context, 2, [parent], 40, {parent.id}, demonstrations=False)
    # Only label words differ between children of one text.
    texts = [shown_text(p.prompt) for p in pool]
    assert last_pool(context)["near_duplicates"] > 0 and len(set(texts)) == len(texts)


def test_long_prompts_that_differ_at_their_end_are_not_taken_for_one(tmp_path: Path) -> None:
    task = Task.from_rows(labelled_rows(60), input="text", output="label", limit={"dev": 12})
    costs = CostModel(parse_budget("1Mtok"), 1.0, 1.0)
    local = tiny_local(max_position_embeddings=4096)
    context = RunContext(task, local, Journal(tmp_path), costs, tmp_path, TuneSettings(), 0, Quiet())
    seed = seed_prompt(task)
    parent = seed.edit(instruction="Who is it? " * 120 + seed.instruction)
    pool = next_pool(context, 2, [parent], 40, {parent.id}, demonstrations=True)
    beginnings = [shown_text(p.prompt)[:1200] for p in pool]
    assert max(map(beginnings.count, beginnings)) > 3


def test_a_run_tunes_the_seed_prompt_whatever_its_rank_and_the_best_other_prompt_of_the_race(whole: Path) -> None:
    entrants, *_ = [e["value"] for e in journal_of(whole) if e["kind"] == "entrants"]
    pool, *_ = [e["value"] for e in journal_of(whole) if e["kind"] == "pool"]
    race, *_ = [e["value"] for e in journal_of(whole) if e["kind"] == "race"]
    assert [p["source"] for p in pool["proposals"][:2]] == ["user", "bare"]
    seed = Prompt.from_json(pool["proposals"][0]["prompt"]).id
    assert entrants["prompt_ids"] == [seed, next(i for i in race["ranking"] if i != seed)]
    first = next(place for place, e in enumerate(journal_of(whole)) if e["kind"] == "cycle")
    tuned = [e["value"]["prompt_id"] for e in journal_of(whole)[:first] if e["kind"] == "tuned"]
    assert tuned == entrants["prompt_ids"]


def test_rows_that_occur_often_are_not_shown(tmp_path: Path) -> None:
    """A prompt that shows them would be judged on few other rows, or have none to learn from."""
    rows = [{"text": f"{word} {i % 10} {word}", "label": word} for i in range(60) for word in ("cow", "fig")]
    often = Task.from_rows(rows, input="text", output="label", limit={"dev": 12})
    seldom = Task.from_rows(labelled_rows(60), input="text", output="label", limit={"dev": 12})
    for task, shown in ((often, False), (seldom, True)):
        folder = tmp_path / str(shown)
        folder.mkdir()
        costs = CostModel(parse_budget("1Mtok"), 1.0, 1.0)
        context = RunContext(task, tiny_local(), Journal(folder), costs, folder, TuneSettings(), 0, Quiet())
        pool = opening_pool(context, [seed_prompt(task)], 12, demonstrations=True)
        assert any(proposal.prompt.demonstrations for proposal in pool) == shown


def test_a_prompt_that_shows_all_rows_of_a_label_does_not_race() -> None:
    rows = [Example(f"{place}", {"text": f"row {place}"}, "aab"[place % 3]) for place in range(6)]
    prompt = with_demonstrations(Prompt(instruction="Say."), [rows[0], rows[2]])
    assert leaves_rows(prompt, rows, labels=True)
    both = with_demonstrations(prompt, [rows[0], rows[2], rows[5]])
    assert not leaves_rows(both, rows, labels=True) and leaves_rows(both, rows)
