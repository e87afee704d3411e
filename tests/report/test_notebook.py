from __future__ import annotations

from pathlib import Path

from cotune.cycle.run import Result
from cotune.report import notebook_html, summary_line

SUMMARY = {
    "task": "<b>task</b>",
    "arms": {"best_tuned": {"score": 0.942, "ci": [0.918, 0.959], "n": 500, "split": "test"}},
    "verdict": "On 500 test rows <script>alert(1)</script>",
}


def test_a_result_is_short_when_printed_and_rich_in_a_notebook() -> None:
    result = Result(Path("runs/mine"), SUMMARY)
    assert repr(result) == "Result('runs/mine', best tuned 0.942 (0.918 to 0.959) on 500 test rows)"
    shown = result._repr_html_()
    assert "0.942" in shown and "<script>" not in shown and shown.startswith("<pre")


def test_nothing_in_a_text_becomes_markup() -> None:
    assert "<img" not in notebook_html("<img src=x onerror=alert(1)> & more\n  columns")
    assert "\n  columns" in notebook_html("a\n  columns")


def test_a_run_without_scores_says_so() -> None:
    assert summary_line({}) == "no score yet"
