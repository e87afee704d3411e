"""A whole run with ``tune.method=prefix``: killed in its training, gone on with, answering from its bundle as on its test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cycle_runs import SETTINGS, journal_of, summary_of

from cotune.bundle import load
from cotune.errors import InputError
from cotune.model.adapters.prefix import load_prefix
from cotune.task.task import Task
from cotune.task.values.output import Output
from cotune.tune.settings import TuneSettings
from cotune.tune.tuners import TUNERS
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


def test_free_answers_on_plain_batches_are_refused_before_the_search() -> None:
    rows = [{"text": f"row {i}", "label": f"an answer in words {i}"} for i in range(40)]
    task = Task.from_rows(rows, input="text", output="label", type="text")
    model = tiny_local()
    TUNERS["prefix"].check(model, TuneSettings(method="prefix"), written=task.output.kind.written)
    model.shared = False
    with pytest.raises(InputError, match="plain batches"):
        TUNERS["prefix"].check(model, TuneSettings(method="prefix"), written=task.output.kind.written)


def test_free_answers_are_written_behind_prefixes_to_the_end_of_a_run(bench: Bench) -> None:
    out = bench.folder / "written-prefix"
    rows = [{"thing": f"cow {i}", "answer": {"kind": "animal" if i % 3 else "cow", "size": i % 7}} for i in range(70)]
    data = bench.folder / "written-prefix.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ended = bench.commands.run(
        *("run", str(data), "--input", "thing", "--output", "answer", "--model", str(bench.model), "--out", str(out)),
        *("--budget", "40ktok", "--seed", "1", *SETTINGS, *METHOD, "limit.test=12", "limit.train=40", "limit.dev=10"),
        *("search.max_cycles=1", "tune.max_epochs=2", "output.max_tokens=24", "evaluate.robustness=false"),
    )
    assert ended.code == 0, ended.stderr
    summary = summary_of(out)
    assert summary["arms"]["seed_tuned"]["steps"] > 0
    assert summary["arms"]["seed_tuned"]["log_loss"] < summary["arms"]["seed_prompt"]["log_loss"]
    found = json.loads((out / "test_rows.json").read_text(encoding="utf-8"))["rows"]
    predictor = load(out / "best", device="cpu", dtype="float32", threads=1)
    answers = predictor.predict([row["input"] for row in found])
    output = Output.from_json(summary["output"])
    assert answers == [output.canonical(row["answers"]["best_tuned"]) for row in found]
    assert all(output.value(answer) is not None for answer in answers)
