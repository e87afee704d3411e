"""The report's table of a trained prefix: there where the journal tells of one, and inert whatever it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cotune.report.html.sections.prefix import prefix_section
from cotune.report.html.sections.record import RunRecord


def section(value: Any) -> str:
    return prefix_section(RunRecord(Path("run"), ({"kind": "prefix", "value": value},)))


def test_each_token_has_its_line() -> None:
    tokens = [
        {"text": " question", "moved": 0.512, "words": [[" question", 0.91], [" answer", 0.4]]},
        {"text": "\n", "moved": 0.02, "words": []},
    ]
    shown = section({"length": 2, "tokens": tokens})
    assert "2 trained tokens" in shown and shown.count("<tr>") == 3
    assert "0.51" in shown and "answer" in shown and "0.91" in shown and "⏎" in shown


def test_words_that_stand_for_nothing_have_none() -> None:
    shown = section({"length": 1, "tokens": [{"text": None, "moved": None, "words": [["so", 0.3]]}]})
    assert "<td>–</td><td class=num>–</td>" in shown


def test_a_run_without_one_has_no_section() -> None:
    assert prefix_section(RunRecord(Path("run"))) == ""
    for odd in ({}, [], None, {"tokens": 3}, {"tokens": []}):
        assert section(odd) == ""


def test_hostile_words_stay_inert() -> None:
    bad = "</code><script>alert(1)</script>"
    shown = section({"length": bad, "tokens": [{"text": bad, "moved": "x", "words": [[bad, 1], [bad], 7, [bad, "y"]]}]})
    assert "<script" not in shown and "&lt;" in shown
