"""More labelled rows than prompts can be raced on: some are drawn for races, and further ones are learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import SETTINGS, Ended, journal_of, labelled_rows, of_kind, summary_of, without_times, write_csv

from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.probe_search.heuristics import SearchHeuristics
from cotune.cycle.progress import Quiet
from cotune.cycle.run import run as run_cycle
from cotune.report.terminal.advice import rows_left_out

if TYPE_CHECKING:
    from conftest import Bench

KILLED = -9


def run(
    bench: Bench, folder: Path, out: Path, *, budget: str, rows: int = 1500, at: tuple[str, str, int] | None = None
) -> Ended:
    data = write_csv(folder / "many.csv", labelled_rows(rows))
    settings = ("--model", str(bench.model), "--budget", budget, "--out", str(out), *SETTINGS, "tune.readout=auto")
    asked = ("run", str(data), "--input", "text", "--output", "label", *settings, "search.max_cycles=1", "limit.test=60")
    return bench.commands.run(*asked, at=at)


@pytest.fixture(scope="module")
def finished(bench: Bench) -> Path:
    out = bench.folder / "sampled"
    ended = run(bench, bench.folder, out, budget="110ktok")
    assert ended.code == 0, ended.stderr
    assert "drawn at random" in ended.stdout and "that prompts were not raced on" in ended.stdout
    n = summary_of(out)["n"]
    assert f"arms fitted to {n['train'] + n['dev']:,} labelled rows" in ended.stdout
    return out


def test_of_far_too_many_rows_some_are_raced(finished: Path) -> None:
    drawn, summary = of_kind(finished, "sample")[0], summary_of(finished)
    assert 200 <= drawn["rows"] < 2500
    # Whatever is embedded for the race are the rows that were drawn.
    assert max(value["rows"] for value in of_kind(finished, "embed") if value["stage"] == "race") <= drawn["rows"]
    assert summary["arms"]["best_tuned"]["n"] == drawn["test"]
    # A split of very many rows has few dev rows; of the sample they are the usual share.
    kept, further = summary["n"], summary["further"]["rows"]
    assert kept["train"] + kept["dev"] == drawn["rows"] + further
    assert kept["dev"] == pytest.approx(0.3 * drawn["rows"], abs=1)
    assert rows_left_out(summary)["labelled"] == (drawn["rows"] + further, summary["given"]["labelled"])


def test_further_rows_are_learnt_from_and_judge_nothing(finished: Path) -> None:
    drawn, further, dev = (
        of_kind(finished, "sample")[0]["rows"],
        of_kind(finished, "further")[0],
        summary_of(finished)["n"]["dev"],
    )
    assert 0 < further["rows"] < further["of"]
    # A trial learns from these, train and names of labels, and is judged on dev; if it wins, the final tuning learns from all.
    names = sum(value["rows"] for value in of_kind(finished, "label_names") if value["used"])
    learnt, trained = drawn + further["rows"] + names, of_kind(finished, "train")
    assert "tune" in {value["stage"] for value in trained}
    for value in trained:
        most = learnt - dev if value["stage"] == "tune" else learnt
        # A prompt may show a few rows, which it does not learn from.
        assert most - 8 <= value["rows"] <= most
    judged = [value["rows"] for value in of_kind(finished, "tuned")]
    assert judged[-1] == dev and max(judged) == dev


def test_the_report_says_that_the_race_lacks_further_rows(finished: Path) -> None:
    page, further = (finished / "report.html").read_text(encoding="utf-8"), of_kind(finished, "further")[0]["rows"]
    assert f"Frozen probes are drawn without the {further} rows that prompts were not raced on, but for the small dots." in page
    assert f"of the frozen probe, without the {further} rows that prompts were not raced on unless it was tuned" in page


def test_a_killed_run_learns_from_the_same_rows(bench: Bench, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for at in (("line", "sample", 1), ("line", "further", 1), ("line", "train", 1)):
        assert run(bench, tmp_path, out, budget="110ktok", at=at).code == KILLED, at
    ended = run(bench, tmp_path, out, budget="110ktok")
    assert ended.code == 0, ended.stderr
    one, other = (without_times(journal_of(folder)) for folder in (out, finished))
    search = next(i for i, event in enumerate(other) if event["kind"] == "open_test")
    assert one[:search] == other[:search]
    assert summary_of(out)["arms"] == summary_of(finished)["arms"]


def test_no_final_tuning_is_planned_for_a_trial_on_many_rows(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SearchHeuristics, "whole", lambda self, rows: True)
    settings: dict[str, Any] = {"model": str(bench.model), "budget": "80ktok", "seed": 4, "engine": {"dtype": "float32"}}
    settings |= {"tune": {"rank": 2, "max_epochs": 2}, "search": {"tfidf": False, "max_cycles": 1}}
    task = Task.from_rows(labelled_rows(900), input="text", output="label", limit={"test": 60})
    run_cycle(config_in_memory(name="many", input=["text"], output="label", **settings), tmp_path, task=task, view=Quiet())
    assert of_kind(tmp_path, "further")[0]["rows"] > 0
    plan = of_kind(tmp_path, "plan")[0]
    assert plan["epochs"] > 0 and plan["last_epochs"] == 0


def test_with_room_for_all_rows_every_row_is_raced(bench: Bench, tmp_path: Path) -> None:
    ended = run(bench, tmp_path, tmp_path / "run", budget="200ktok", rows=300)
    assert ended.code == 0, ended.stderr
    assert not of_kind(tmp_path / "run", "sample") and not of_kind(tmp_path / "run", "further")
    assert summary_of(tmp_path / "run")["further"] is None
