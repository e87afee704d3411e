"""What terminal and page say of the bundle that a run went on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report_runs import HOSTILE, run_folder

from cotune.report.html.page import render_report
from cotune.report.terminal.narration import Story
from cotune.report.terminal.result import previous_lines
from cotune.report.terminal.verdict import verdict_text


def part(n: int, old: float, new: float, p: float) -> dict[str, Any]:
    value = new - old
    return {"n": n, "old": old, "new": new, "value": value, "ci": [value - 0.1, None], "p": p, "p_single": p, "test": "x"}


def told(**changes: Any) -> dict[str, Any]:
    parts = {
        "all": part(60, 0.63, 0.83, 0.0001),
        "old_labels": part(40, 0.95, 0.9, 0.6),
        "new_labels": part(20, 0.0, 0.7, 0.02),
    }
    return {"bundle": "b" * 16, "parts": parts, "remarks": ["its text names some labels"], "keep": "new"} | changes


def test_each_part_is_a_line_and_remarks_follow() -> None:
    lines = previous_lines({"previous": told()})
    assert lines[0] == (
        "all rows (60): 63.0% with the old, 83.0% with the new, +20.0 points (95% interval +10.0 to unknown, p < 0.001)"
    )
    assert lines[1].startswith("rows of the old labels (40): 95.0% with the old, 90.0% with the new, -5.0 points")
    assert lines[-1] == "Its text names some labels."


def test_a_run_that_started_afresh_says_nothing() -> None:
    for summary in ({}, {"previous": None}, {"previous": {"parts": {"all": {"n": 3}}}}):
        assert previous_lines(summary) == []
    assert "Old and new" not in verdict_text({"verdict": "Done.", "previous": None})


def test_the_closing_word_has_a_section_of_it() -> None:
    text = verdict_text({"verdict": "Keep the new bundle: it gains.", "previous": told()})
    assert text.index("Keep the new bundle") < text.index("Old and new bundle") < text.index("rows of the new labels")


def test_the_page_shows_it_and_hostile_remarks_stay_text(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    summary["previous"] = told(remarks=list(HOSTILE[:4]))
    other = {"adapter_id": "e" * 16, "candidate_id": "e" * 16, "log_loss": None}
    summary["arms"]["previous"] = summary["arms"]["best_tuned"] | other
    summary["gains"]["over_previous"] = summary["gains"]["both"]
    (run / "summary.json").write_text(json.dumps(summary))
    page = render_report(run)
    assert "Old and new bundle" in page and "The six arms" in page and "Over the old bundle" in page
    assert "<script>window.hurt" not in page and "<img src=x" not in page


def test_errors_open_on_the_arm_that_ships(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    summary, tests = (json.loads((run / name).read_text()) for name in ("summary.json", "test_rows.json"))
    summary["arms"]["previous"] = summary["arms"]["best_tuned"] | {"adapter_id": "e" * 16, "candidate_id": "e" * 16}
    for row in tests["rows"]:
        row["answers"]["previous"] = row["answers"]["best_tuned"]
    (run / "test_rows.json").write_text(json.dumps(tests))
    for ships, title in (("best_tuned", "best tuned"), ("previous", "old bundle")):
        (run / "summary.json").write_text(json.dumps(summary | {"best": summary["best"] | {"arm": ships}}))
        page = render_report(run)
        assert '<option value="previous"' in page and f" selected>{title}</option>" in page
        assert f'<div data-choice="{ships}"><div class="pair' in page, "only this arm's errors are not hidden"


def test_the_journal_line_is_told_in_words() -> None:
    value = {"bundle": "b" * 16, "task": "cards", "labels": ["a", "b"], "new_labels": ["c"], "remarks": ["replay old rows"]}
    value["replay"] = {"replay_train": 30, "replay_dev": 12}
    lines = [line.text for line in Story().tell({"kind": "previous", "value": value})]
    assert lines[0].startswith("starting from the bundle cards") and "1 new label, 30 old rows to learn from" in lines[0]
    assert lines[1] == "replay old rows"
    assert Story().tell({"kind": "previous", "value": None})
