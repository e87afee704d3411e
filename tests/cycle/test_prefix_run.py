"""A whole run with ``tune.method=prefix``: killed in its training, gone on with, answering from its bundle as on its test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cycle_runs import journal_of, summary_of

from cotune.bundle import load
from cotune.config import TuneConfig
from cotune.cycle.opening import _check_tunable
from cotune.errors import InputError
from cotune.model.trained_prefix import load_prefix
from cotune.task.task import Task
from tiny import tiny_local

if TYPE_CHECKING:
    from conftest import Bench

METHOD = ("tune.method=prefix", "tune.prefix.learning_rate=0.1")


@pytest.fixture(scope="module")
def finished(bench: Bench) -> Path:
    out = bench.folder / "prefix"
    killed = bench.run(out, *METHOD, budget="45ktok", at=("optimizer step", "", 9))
    assert killed.code is not None and killed.code < 0, killed.stderr
    ended = bench.run(out, *METHOD, budget="45ktok")
    assert ended.code == 0, ended.stderr
    return out


def test_prefixes_are_tuned_and_go_on_under_children(finished: Path) -> None:
    events = journal_of(finished)
    tuned = {e["value"]["adapter_id"] for e in events if e["kind"] == "tuned"}
    found = {adapter: load_prefix(finished / "adapters" / adapter) for adapter in tuned}
    assert len({trained.ids for trained in found.values()}) > 1, "every prompt has its own"
    assert summary_of(finished)["arms"]["seed_tuned"]["steps"] > 0
    assert any(e["kind"] == "prefix" for e in events)
    assert "trained tokens before the rest" in (finished / "report.html").read_text(encoding="utf-8")


def test_the_bundle_answers_as_on_the_test(finished: Path) -> None:
    rows = json.loads((finished / "test_rows.json").read_text(encoding="utf-8"))
    predictor = load(finished / "best", device="cpu", dtype="float32", threads=1)
    answers = predictor.predict([row["input"] for row in rows["rows"]])
    assert answers == [rows["labels"][row["answers"]["best_tuned"]] for row in rows["rows"]]


def test_free_answers_are_refused_before_the_search() -> None:
    rows = [{"text": f"row {i}", "label": f"an answer in words {i}"} for i in range(40)]
    task = Task.from_rows(rows, input="text", output="label", type="text")
    with pytest.raises(InputError, match="only labels are scored"):
        _check_tunable(tiny_local(), TuneConfig(method="prefix"), task)
