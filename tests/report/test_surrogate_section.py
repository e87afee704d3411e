"""What the page tells of the surrogate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report_runs import run_folder

from cotune.report.html import render_report
from cotune.report.narration import Story

ON = {
    "cycle": 7,
    "adapter_id": "ab",
    "correlation": 0.523,
    "p": 0.0125,
    "n": 16,
    "on": True,
    "shares": {"text": 0.41, "format": 0.3, "demonstrations": 0.01, "own": 0.28},
    "ranked": ["p1", "p2", "p3", "p4"],
    "mean": {"p1": -0.2, "p2": -0.1, "p3": 0.0, "p4": 0.3},
}
OFF = {"cycle": 8, "correlation": -0.1, "p": 0.61, "n": 12, "on": False, "shares": {"text": 0.02, "own": 0.98}, "tokens": 9}
RACE = {"cycle": 7, "adapter_id": "ab", "ranking": [], "log_losses": {"p1": 0.5, "p2": 0.7, "p3": 0.9, "x": 0.1}}


def page(folder: Path, *events: tuple[str, Any]) -> str:
    run_folder(folder)
    with (folder / "journal.jsonl").open("a", encoding="utf-8") as journal:
        for kind, value in events:
            journal.write(json.dumps({"n": 99, "kind": kind, "key": "0", "active_s": 1.0, "value": value}) + "\n")
    return render_report(folder).split('<section id="search"')[1].split("</section>")[0]


def test_each_cycle_tells_whether_it_earned_its_place_and_held_true(tmp_path: Path) -> None:
    section = page(tmp_path / "a", ("surrogate", ON), ("race", RACE), ("surrogate", OFF))
    for text in (
        "in 1 of 2 cycles",
        "0.52",
        "0.013",
        "text 41%, format 30%",
        "1.00 (3 prompts)",
        "no, switched off",
        "nothing it sees",
    ):
        assert text in section, text
    assert "demonstrations 1%" not in section
    assert "surrogate" not in page(tmp_path / "b")


def test_odd_lines_do_not_break_it(tmp_path: Path) -> None:
    section = page(tmp_path, ("surrogate", {"on": "yes", "shares": [], "ranked": 3, "cycle": "<script>"}))
    assert "in 0 of 1 cycle" in section and "<script>" not in section


def test_the_terminal_tells_it_in_a_line() -> None:
    lines = [Story().tell({"kind": "surrogate", "value": value})[0].text for value in (ON, OFF)]
    assert "thins the pool" in lines[0] and "0.523" in lines[0]
    assert "is off" in lines[1] and "12 left-out prompts" in lines[1]
