"""Slices of failures in a run: what they cost, what a resumed run does again, and the rows that are drawn by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from cycle_runs import journal_of, labelled_rows

from cotune.cycle.budget import parse_budget
from cotune.cycle.candidate import Candidate
from cotune.cycle.costs import CostModel
from cotune.cycle.journal import Journal
from cotune.cycle.lab import Lab
from cotune.cycle.pool import demonstration_pool
from cotune.cycle.run import Quiet
from cotune.cycle.slicing import measure_slices, slicing_tokens
from cotune.cycle.track import Measured
from cotune.evaluate.scoring import Evaluation
from cotune.model.engine_settings import EngineSettings
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task
from cotune.tune.settings import TuneSettings
from tiny import tiny_local


def make_lab(folder: Path, budget: str = "1Mtok") -> Lab:
    task = Task.from_rows(labelled_rows(200), input="text", output="label", limit={"dev": 60})
    model = tiny_local(settings=EngineSettings(max_tokens=200))
    costs = CostModel(parse_budget(budget), 1.0, 1.0)
    return Lab(task, model, Journal(folder), costs, folder, TuneSettings(), 0, Quiet())


def judged(lab: Lab, instruction: str = "What is it?", wrong: str = "fruit") -> Measured:
    """A candidate that gets every row of one label wrong, and no other."""
    missed = np.array([row.output == wrong for row in lab.dev])
    other = next(label for label in lab.task.labels if label != wrong)
    answers = tuple(other if row.output == wrong else row.output for row in lab.dev)
    correct = (~missed).astype(float)
    evaluation = Evaluation(answers, correct, correct, np.where(missed, 3.0, 0.1), float(correct.mean()))
    return Measured(Candidate(Prompt(instruction, "{text}")), evaluation, cast(Any, None))


def test_slices_hold_the_failures_and_cost_what_they_say(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    expected = slicing_tokens(lab)
    found = measure_slices(lab, judged(lab))
    failed = [i for i, row in enumerate(lab.dev) if row.output == "fruit"]
    assert found["failures"] == len(failed) and found["rows"] == 60
    assert "seconds" not in found and lab.journal.events[-1]["value"]["seconds"] > 0
    assert found["slices"]
    for slice_ in found["slices"]:
        assert set(slice_["failures"]) <= set(failed)
        assert slice_["n"] >= len(slice_["failures"]) >= 3
        assert all(case["right"] == "fruit" != case["answered"] for case in slice_["examples"])
    assert lab.account.counts["tokens_embedded"] == found["tokens"] > 0
    # The estimate that a cycle's cost is planned with is rather too high, but not by much.
    assert 0.5 * expected <= found["tokens"] <= expected


def test_dev_is_embedded_once_and_a_resumed_run_counts_the_same(tmp_path: Path) -> None:
    whole = make_lab(tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    first, second = judged(whole), judged(whole, "And now?", "tool")
    told = [measure_slices(whole, first, cycle=2), measure_slices(whole, second, cycle=3)]
    assert told[0]["tokens"] > 0 and told[1]["tokens"] == 0 and slicing_tokens(whole) == 0
    # The same program again after a kill between the two: the second look must embed dev anew, and must not count it.
    lines = (tmp_path / "whole" / "journal.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "journal.jsonl").write_text(lines[0])
    again = make_lab(tmp_path / "again")
    assert [measure_slices(again, first, cycle=2), measure_slices(again, second, cycle=3)] == told
    assert again.account.counts == whole.account.counts


@pytest.mark.parametrize(
    ("settings", "budget", "why"),
    [
        ({"least": 61}, "1Mtok", "60 rows"),
        ({"room": 10.0}, "1Mtok", "no room"),
        ({}, "5ktok", "no room"),
        ({"wanted": False}, "1Mtok", "evaluate.slices is false"),
    ],
)
def test_what_is_left_out_says_why_and_costs_nothing(tmp_path: Path, settings: dict[str, Any], budget: str, why: str) -> None:
    lab = make_lab(tmp_path, budget)
    assert why in measure_slices(lab, judged(lab), **settings)["skipped"]
    assert lab.account.counts["tokens_embedded"] == 0 and lab.dev_vectors is None
    assert [event["kind"] for event in journal_of(tmp_path)] == ["slices"]


def test_few_failures_are_no_slices(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    assert "0 of 60 dev rows are wrong" in measure_slices(lab, judged(lab, wrong="nothing"))["skipped"]


def test_rows_near_the_failures_are_shown_most_often(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    near = lab.train_sample[:40]
    close = measure_slices(lab, judged(lab), near=near)["close"]
    assert set(close) == {row.id for row in near}
    # A row whose text a failure has too is as close as can be.
    texts = {row.fields["text"] for row in lab.dev if row.output == "fruit"}
    assert all(close[row.id] > 0.99 for row in near if row.fields["text"] in texts)
    # Within each label the closest half is drawn more often than the other half.
    drawn: dict[str, int] = dict.fromkeys(close, 0)
    without, rng = demonstration_pool(lab), np.random.default_rng(0)
    hard = demonstration_pool(lab, close)
    for _ in range(120):
        for row in hard(rng):
            drawn[row.id] = drawn.get(row.id, 0) + 1
    shares = []
    for label in lab.task.labels:
        rows = sorted((row.id for row in near if row.output == label), key=lambda i: -close[i])
        half = len(rows) // 2
        shares.append(sum(drawn[i] for i in rows[:half]) / sum(drawn[i] for i in rows[-half:]))
    assert min(shares) > 1.2
    assert without(rng)
