"""The report's table of workers: there where a run had some, also while it runs, and inert whatever the account holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cotune.report.html.sections.record import RunRecord, read_record
from cotune.report.html.sections.workers import workers_section

ENGINE = {"processor": "AVX512", "dtype": "float32", "threads": 4}
ACCOUNT = {
    "slots": 2,
    "slot_seconds": 200.0,
    "busy_seconds": 150.0,
    "jobs": 1042,
    "lost": 1,
    "unlike": "",
    "workers": {
        "node-a:17": {"jobs": 1002, "seconds": 100.0, "lost": 0, "engine": ENGINE},
        "node-b:18": {"jobs": 40, "seconds": 50.0, "lost": 1, "engine": None},
    },
}


def section(account: Any) -> str:
    return workers_section(RunRecord(Path("run"), workers=account))


def test_each_worker_has_its_line_and_the_busiest_comes_first() -> None:
    shown = section(ACCOUNT)
    assert shown.index("node-a:17") < shown.index("node-b:18")
    assert "1,002" in shown and "1 min 40 s" in shown and "AVX512, float32, 4 threads" in shown
    assert "2 slots; 1,042 jobs; busy 2 min 30 s, 75% of 3 min 20 s of slots; 1 worker lost" in shown
    assert "The workers differ" not in shown
    assert "processor: AMX, AVX512" in section({**ACCOUNT, "unlike": "processor: AMX, AVX512"})


def test_a_run_without_workers_has_no_section() -> None:
    for odd in ({}, {"workers": {}}, {"workers": 3}, {"slots": 4}):
        assert section(odd) == ""


def test_hostile_accounts_stay_inert() -> None:
    bad = "<script>alert(1)</script>"
    shown = section({"slots": bad, "unlike": bad, "workers": {bad: {"jobs": bad, "engine": {"processor": bad}}, "b": 7}})
    assert "<script" not in shown and "&lt;script" in shown


def test_a_run_that_goes_on_and_one_that_has_ended_tell_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text(json.dumps({"kind": "cost", "value": {}}) + "\n")
    assert read_record(tmp_path).workers == {}
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "workers.json").write_text(json.dumps(ACCOUNT))
    assert read_record(tmp_path).workers == ACCOUNT
    (tmp_path / "summary.json").write_text(json.dumps({"cost": {"workers": {**ACCOUNT, "jobs": 2000}}}))
    assert read_record(tmp_path).workers["jobs"] == 2000
