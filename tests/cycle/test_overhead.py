"""Where a run's time went, as its journal tells it."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cycle_runs import journal_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import overhead
from cotune.errors import InputError


def made(*steps: tuple[str, float, Any]) -> list[dict[str, Any]]:
    """A journal: each step's kind, when it was recorded and its value."""
    return [{"kind": kind, "active_s": at, "value": value} for kind, at, value in steps]


def test_seconds_that_no_step_records_are_the_rest() -> None:
    events = made(
        ("engine", 1.0, {}),
        ("start", 5.0, {"seconds": 4.0}),
        ("neighbours", 7.0, {"seconds": 1.5}),
        ("score", 20.0, {"seconds": 8.0}),
        ("write", 20.1, {"seconds": 4.0}),
        ("score", 20.2, {"seconds": None}),
        ("clock", 20.3, 20.3),
        ("pool", 24.0, {"seconds": 3.0}),
        ("rewrite", 30.0, {}),
        ("train", 90.0, {"seconds": 59.0}),
        ("entrants", 91.0, {"prompt_ids": []}),
        ("noise", 94.0, {"seconds": 2.5}),
        ("slices", 98.0, {"seconds": 3.5}),
        ("done", 100.0, {}),
    )
    found = overhead.overhead(events)
    assert found["wall_s"] == 100 and not found["estimated"]
    assert found["model_s"] == {
        "scoring": 8.0,
        "writing": 4.0,
        "training": 59.0,
        "embedding": 4.5,
        "noise": 2.5,
        "slices": 3.5,
        "loading": 4.0,
        "warming_up": 0.0,
        "asking": 6.0,
    }
    assert found["other_s"] == 8.5 and found["other_share"] == 0.085


def test_where_loading_was_not_timed_steps_that_say_nothing_count_from_the_one_before() -> None:
    found = overhead.overhead(
        made(("engine", 1.0, {}), ("start", 5.0, {}), ("score", 9.0, {"seconds": 3.0}), ("cost", 10.0, {}))
    )
    assert found["estimated"] and found["model_s"]["loading"] == 5.0 and found["other_share"] == 0.2


def test_a_run_times_all_its_model_work(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main([str(whole)]) == 0
    found = json.loads(capsys.readouterr().out)
    events = journal_of(whole)
    assert found["run"] == str(whole) and found["wall_s"] == round(events[-1]["active_s"], 2) and not found["estimated"]
    busy = {name for name, seconds in found["model_s"].items() if seconds > 0}
    # The budget is tokens, so nothing is warmed up before rates are measured.
    assert busy == {"scoring", "training", "embedding", "loading", "noise"}
    assert found["other_s"] == pytest.approx(found["wall_s"] - sum(found["model_s"].values()), abs=0.1)
    assert 0 < found["other_share"] < 1
    # No step's model work took longer than there was time since the step before.
    for before, event in pairwise(events):
        if event["kind"] in ("pool", "noise", "slices", "neighbours"):
            assert event["value"].get("seconds", 0.0) <= event["active_s"] - before["active_s"] + 0.01
    assert "seconds" not in json.loads((whole / "summary.json").read_text())["noise"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no journal"):
        overhead.main([str(tmp_path)])
