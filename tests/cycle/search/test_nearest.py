"""Prompts that show each row its nearest train rows, in a run: they enter the pool, are paid for, and survive a kill."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cycle_runs import journal_of, labelled_rows, summary_of, without_times

from cotune.config.task import Task
from cotune.cycle.answer_search.trial import advance, open_trial
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Quiet
from cotune.cycle.search.pool import has_room, nearest_variant, opening_pool
from cotune.model.adapters.slots import BASE
from cotune.model.engine.settings import EngineSettings
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.tune.settings import TuneSettings
from tiny import tiny_local

if TYPE_CHECKING:
    from conftest import Bench


def lab_in(folder: Path, max_tokens: int = 400) -> RunContext:
    task = Task.from_rows(labelled_rows(60), input="text", output="label", limit={"dev": 12})
    model = tiny_local(settings=EngineSettings(max_tokens=max_tokens))
    return RunContext(
        task, model, Journal(folder), CostModel(parse_budget("1Mtok"), 1.0, 1.0), folder, TuneSettings(), 0, Quiet()
    )


def test_the_first_pool_holds_one_and_the_stock_is_paid_for_once(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    seed = seed_prompt(context.task)
    pool = opening_pool(context, [seed], 5, demonstrations=False, nearest=True)
    (found,) = [p for p in pool if p.prompt.nearest]
    assert pool.index(found) == 2 and found.operator == "demonstrations_nearest" and found.parents == (seed.id,)
    assert found.prompt.nearest == 3 and len(found.prompt.demonstrations) == len(context.task.train)
    before = context.spending.account.counts["tokens_embedded"]
    again = nearest_variant(context, seed.edit(cue="Kind:"))
    assert again is not None and context.spending.account.counts["tokens_embedded"] == before > 0
    assert nearest_variant(context, found.prompt) is None


def test_scoring_and_training_count_what_it_takes_to_find_them(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    variant = nearest_variant(context, seed_prompt(context.task))
    assert variant is not None
    looked_up = [
        row.looked_up
        for row in context.model.renderer.render(variant.prompt, [r.fields for r in context.dev], context.task.labels)
    ]
    own, prefix = context.spending.rows.counted(variant.prompt)
    context.answers.scores(variant.prompt, BASE, context.dev, "race")
    assert context.spending.account.counts["tokens_scored"] > sum(looked_up) > 0
    assert context.spending.account.counts["tokens_scored"] == pytest.approx(own * len(context.dev) + prefix, rel=0.1)
    before = context.spending.account.counts["tokens_embedded"]
    trial = open_trial(context, variant.prompt)
    assert context.spending.account.counts["tokens_embedded"] > before + sum(looked_up)
    assert len(trial.run.rows) == len(context.task.train)
    assert advance(context, trial, 2, cycle=1)


def test_there_is_room_only_for_what_fits_with_the_longest(tmp_path: Path) -> None:
    context = lab_in(tmp_path, max_tokens=120)
    short = [Demonstration((("text", "a cat"),), "animal")] * 3
    long = Demonstration((("text", "a very long row " * 8),), "animal")
    prompt = Prompt(input_template="{text}", nearest=1)
    assert has_room(context, prompt.edit(demonstrations=tuple(short)))
    assert not has_room(context, prompt.edit(demonstrations=(*short, long)))


def test_the_longest_are_those_with_the_most_tokens_answers_included(tmp_path: Path) -> None:
    """A row with a short text and a long answer would leave no room for the row that it is shown to."""
    rows = [{"text": f"a rather long text about number {i}", "answer": "yes"} for i in range(40)]
    rows[5] = {"text": "b", "answer": "one two three four " * 12}
    task = Task.from_rows(rows, input="text", output="answer", type="text", limit={"dev": 8})
    model = tiny_local(settings=EngineSettings(max_tokens=160))
    costs = CostModel(parse_budget("1Mtok"), 1.0, 1.0)
    context = RunContext(task, model, Journal(tmp_path), costs, tmp_path, TuneSettings(), 0, Quiet())
    shown = [Demonstration((("text", row["text"]),), row["answer"]) for row in rows]
    prompt = Prompt(input_template="{text}", nearest=1)
    assert has_room(context, prompt.edit(demonstrations=(*shown[:5], *shown[6:])))
    assert not has_room(context, prompt.edit(demonstrations=tuple(shown)))


def test_where_such_a_winner_could_not_be_tested_there_are_none(bench: Bench, tmp_path: Path) -> None:
    assert bench.run(tmp_path / "run", "search.nearest_demonstrations=true", budget="30ktok", at=("line", "plan", 1)).code == -9
    (plan,) = [e["value"] for e in journal_of(tmp_path / "run") if e["kind"] == "plan"]
    assert plan["nearest"] is False and "leave nearest demonstrations out" in plan["text"][-1]
    race, tuning, reserve = plan["race"], plan["tuning"], plan["reserve"]
    told = " ".join(plan["text"])
    assert f"dev rows each: about {race:,.0f} tokens" in told and f"as long: about {tuning:,.0f} tokens" in told
    (whole,) = [int(text.replace(",", "")) for text in re.findall(r"in all about ([\d,]+) of 30,000 tokens", told)]
    assert race + tuning + reserve < whole < race + tuning + reserve + 6000


def test_a_run_with_them_ends_alike_when_killed(bench: Bench, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    asked = ("search.nearest_demonstrations=true", "search.max_cycles=2")
    assert bench.run(whole, *asked, budget="100ktok").code == 0
    proposals = [p for e in journal_of(whole) if e["kind"] == "pool" for p in e["value"]["proposals"]]
    assert any(p["operator"] == "demonstrations_nearest" for p in proposals)
    spent = sum(summary_of(whole)["cost"][f"tokens_{what}"] for what in ("scored", "trained", "embedded"))
    assert spent <= 1.05 * 100_000
    assert not (whole / "report-error.txt").exists() and "nearest to the row" in (whole / "report.html").read_text()
    assert bench.run(torn, *asked, budget="100ktok", at=("line", "train", 3)).code == -9
    assert bench.run(torn, *asked, budget="100ktok").code == 0
    assert summary_of(torn) == summary_of(whole)
    assert without_times(journal_of(torn)) == without_times(journal_of(whole))
