"""The page's slices, and what it tells of a proposer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE, run_folder

from cotune.prompt.prompt import Prompt
from cotune.report.html import render_report
from cotune.report.terminal.narration import Story

SLICE = {
    "words": ["refund", "late"],
    "n": 12,
    "failures": [3, 8, 9],
    "rate": 0.75,
    "ci": [0.47, 0.91],
    "rest": 0.1,
    "rest_ci": [0.05, 0.2],
    "difference": 0.65,
    "difference_ci": [0.35, 0.82],
    "p": 0.005,
    "examples": [{"input": {"text": "my refund is late"}, "right": "money", "answered": "parcel"}],
}
FOUND = {"cycle": None, "rows": 60, "failures": 14, "slices": [SLICE], "tokens": 900}


def rewritten(**more: Any) -> dict[str, Any]:
    prompt = Prompt(instruction="Mind the refunds.", input_template="Text: {text}", cue="Label:")
    proposal = {"prompt": prompt.to_json(), "source": "rewrite", "parents": ["0"], "operator": "rewrite"}
    refused = [{"text": "my parcel arrived", "why": "it copies a row (my parcel arrived)"}]
    return {"cycle": 2, "model": "writer", "requests": 3, "tokens": 1200, "proposals": [proposal], "refused": refused, **more}


def page(folder: Path, *events: tuple[str, Any], summary: Any = None, endpoint: Any = None) -> str:
    """A run's section on slices, with these lines at the end of its journal."""
    run_folder(folder)
    stored = json.loads((folder / "config.json").read_text())
    stored["config"]["endpoint"] = endpoint
    (folder / "config.json").write_text(json.dumps(stored))
    # Of the made-up run's own slices nothing shall be left.
    lines = [line for line in (folder / "journal.jsonl").read_text().splitlines() if '"kind": "slices"' not in line]
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "slices": summary}))
    with (folder / "journal.jsonl").open("a", encoding="utf-8") as journal:
        for kind, value in events:
            journal.write(json.dumps({"n": 99, "kind": kind, "key": "0", "active_s": 1.0, "value": value}) + "\n")
    return render_report(folder).split('<section id="slices"')[1].split("</section>")[0]


def test_a_slice_has_words_size_rates_intervals_and_examples(tmp_path: Path) -> None:
    for place, section in enumerate([page(tmp_path / "a", summary=FOUND), page(tmp_path / "b", ("slices", FOUND))]):
        for text in ("14 of 60 dev rows are wrong", "refund, late", "9 of 12", "75.0", "47.0 to 91.0", "10.0", "5.0 to 20.0"):
            assert text in section, (place, text)
        for text in ("+65.0", "+35.0 to +82.0", "p = 0.005", "my refund is late", "money", "answered"):
            assert text in section, (place, text)


def test_the_page_tells_what_placed_the_rows(tmp_path: Path) -> None:
    assert "clustered by the base model’s embeddings" in page(tmp_path / "here", summary=FOUND)
    elsewhere = ("engine", {"device": "endpoint"})
    assert "clustered by their letters" in page(tmp_path / "letters", elsewhere, summary=FOUND)
    told = page(tmp_path / "vectors", elsewhere, summary=FOUND, endpoint={"embeddings": "some-model"})
    assert "clustered by the endpoint’s embeddings" in told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"skipped": "dev has 24 rows"}, 'Not computed: <bdi dir="auto">dev has 24 rows'),
        ({"rows": 60, "failures": 5, "slices": []}, "Of 5 wrong dev rows none lie together more clearly than chance"),
        (None, "at the end of a run"),
    ],
)
def test_why_there_are_none_is_told(tmp_path: Path, value: Any, told: str) -> None:
    assert told in page(tmp_path, *([] if value is None else [("slices", value)]))


def test_rewriting_shows_what_was_taken_refused_and_why_it_failed(tmp_path: Path) -> None:
    failed = {"cycle": 3, "model": "writer", "requests": 4, "tokens": 0, "failed": "no answer within 60 s (4 requests)"}
    section = page(tmp_path, ("rewrite", rewritten()), ("rewrite", failed))
    for text in ("Rewriting by", "writer", "Mind the refunds.", "refused:", "it copies a row", "no answer within 60 s"):
        assert text in section
    assert "7 requests, 1,200 tokens" in section
    assert "Rewriting by" not in page(tmp_path / "other")


def test_hostile_and_broken_values_do_no_harm(tmp_path: Path) -> None:
    for place, text in enumerate(HOSTILE):
        odd = {**SLICE, "words": [text], "examples": [{"input": {"text": text}, "right": text, "answered": text}]}
        told = rewritten(model=text, refused=[{"text": text, "why": text}], failed=text)
        section = page(tmp_path / str(place), ("slices", {**FOUND, "slices": [odd]}), ("rewrite", told))
        assert "<script" not in section and "<img" not in section
        assert len(section) < 20_000
    for place, value in enumerate(
        ([], {"slices": 3}, {"slices": [None, {"rate": "x", "ci": [1]}]}, {"proposals": [1], "refused": [2]})
    ):
        assert page(tmp_path / f"odd{place}", ("slices", value), ("rewrite", value))


def test_the_story_tells_them() -> None:
    story = Story()
    assert "1 error slice: refund, late" in story.tell({"kind": "slices", "value": FOUND})[0].text
    assert "1 instruction, 1 refused" in story.tell({"kind": "rewrite", "value": rewritten()})[0].text
    failed = story.tell({"kind": "rewrite", "value": {"cycle": 2, "failed": "no answer"}})[0]
    assert failed.level == "failure" and "no answer" in failed.text
    for kind in ("slices", "rewrite"):
        assert story.tell({"kind": kind, "value": {"skipped": "why"}})[0].text.endswith("why")
        assert story.tell({"kind": kind, "value": None})
