"""What the data checks found, on the page and in the terminal, before a run and at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report_runs import HOSTILE, run_folder

from cotune.report.html import write_report
from cotune.report.terminal.narration import Story
from cotune.report.terminal.verdict import verdict_text

NEIGHBOURS: dict[str, Any] = {
    "rows": 300,
    "pairs": 48,
    "threshold": 0.9,
    "alike": [
        {"rows": ["train:1", "dev:2"], "labels": ["a", "b"], "texts": ["where is it", HOSTILE[1]], "closeness": 0.93},
        {"rows": ["train:3", "train:4"], "labels": ["a", "a"], "texts": ["who", "whom"], "closeness": 0.91},
    ],
    "near_test": ["train:9"],
    "test_rows": 1,
    "within_test": 0,
    "findings": [
        {"kind": "same_meaning_other_label", "severity": "warning", "message": "of the 48 pairs, 1 differs", "count": 1}
    ],
    "tokens": 900,
}


def test_checks_and_what_the_test_can_show_are_told_before_the_run() -> None:
    value = {
        "task": "t",
        "checks": ["3 test rows also stood in train\x1b[31m"],
        "detectable": "With 200 test rows, a gain below",
    }
    told = [line.text for line in Story().tell({"kind": "start", "value": value})]
    assert told[1].startswith("data: 3 test rows also stood in train") and "\x1b" not in told[1]
    assert told[2] == "With 200 test rows, a gain below"
    event = {"kind": "neighbours", "value": NEIGHBOURS}
    assert [line.text for line in Story().tell(event)] == ["data: of the 48 pairs, 1 differs"]
    with_test = {"kind": "same_meaning_with_test", "severity": "info", "message": "at least 1 test row is a paraphrase"}
    others = [
        {"kind": f"same_meaning_in_{rows}", "severity": "info", "message": f"pairs in {rows}"} for rows in ("train", "dev")
    ]
    findings = [*NEIGHBOURS["findings"], with_test, *others]
    several = {"kind": "neighbours", "value": {**NEIGHBOURS, "findings": findings}}
    assert [line.text for line in Story().tell(several)] == [
        "data: of the 48 pairs, 1 differs",
        "data: at least 1 test row is a paraphrase; the report lists more",
    ], "one line on the test, beside warnings"
    alone = {"kind": "neighbours", "value": {**NEIGHBOURS, "findings": others}}
    assert [line.text for line in Story().tell(alone)] == ["data: pairs in train; the report lists more"]
    nothing = {"kind": "neighbours", "value": {**NEIGHBOURS, "findings": []}}
    assert "none of the 48 closest pairs" in Story().tell(nothing)[0].text
    assert not Story().tell({"kind": "neighbours", "value": {"skipped": "no room"}}), "that stands on the page"
    [failed] = Story().tell({"kind": "neighbours", "value": {"skipped": "it failed (RuntimeError)"}})
    assert "not looked for: it failed" in failed.text


def test_warnings_stand_in_the_closing_word() -> None:
    findings = [
        {"severity": "warning", "message": "test rows stood in train"},
        {"severity": "info", "message": "train rows repeat"},
    ]
    told = verdict_text({"task": "t", "data": {"findings": findings}})
    assert "Data\n" in told and "- test rows stood in train" in told and "train rows repeat" not in told
    assert "Data\n" not in verdict_text({"task": "t", "data": {"findings": findings[1:]}})
    many = verdict_text({"task": "t", "data": {"findings": [findings[0]] * 9}})
    assert many.count("test rows stood in train") == 6 and "and 3 more" in many


def test_pairs_stand_on_the_page_of_a_run_that_has_not_ended(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", finished=False)
    with (folder / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"n": 99, "kind": "neighbours", "key": "0", "active_s": 99.0, "value": NEIGHBOURS}) + "\n")
    page = write_report(folder).read_text(encoding="utf-8")
    section = page[page.index("Paraphrases") :][:3000]
    assert "0.93" in section and "train:1" in section and "dev:2" in section
    assert section.count(">differ<") == 1
    assert HOSTILE[1] not in page and "&lt;img src=x" in section
    assert "of the 48 pairs, 1 differs" in page
