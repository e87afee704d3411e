"""A run whose answers are lists of objects with several copied values each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import BRIEF, journal_of, run_by_probes, summary_of

from cotune.bundle import load
from cotune.bundle.export.answer import load as load_export
from cotune.bundle.export.command import export_bundle
from cotune.bundle.manifest import read_manifest
from cotune.task.values.tags import Tags

if TYPE_CHECKING:
    from conftest import Bench

_THINGS = ("pear", "cat", "saw", "cow", "mouse", "river", "tower")


def write_rows(path: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for i in range(90):
        objects = [{"name": _THINGS[(i + 3 * k) % 7], "amount": f"{i % 9 + k} g"} for k in range(1 + i % 3)]
        for one in objects[: i % 2]:
            del one["amount"]
        rows.append({"ask": "get " + " and ".join(" ".join([one.get("amount", ""), one["name"]]).strip() for one in objects),
                     "answer": {"items": objects}})  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shopping(bench: Bench) -> Path:
    out: Path = bench.folder / "shopping"
    rows = write_rows(bench.folder / "shopping.jsonl")
    ended = run_by_probes(bench, rows, ("ask", "answer"), out, *BRIEF, budget="320ktok")
    assert ended.code == 0, ended.stderr
    assert "the values of 'items[].name', 'items[].amount' are copied from the text, word by word\n" in ended.stdout
    assert "the objects of 'items' " in ended.stdout and "; 'and' parts them\n" in ended.stdout
    return out


def test_a_run_groups_what_it_copies_and_generates_nothing(shopping: Path) -> None:
    summary = summary_of(shopping)
    assert summary["cost"].get("tokens_written", 0) == 0
    groupings = [one["grouping"] for one in summary["output"]["copied"]]
    assert len(groupings) == 2 and groupings[0] == groupings[1] and groupings[0]["separators"] == ["and"]
    assert summary["arms"]["best_tuned"]["score"] > summary["references"]["constant"]["score"]
    assert {one["field"] for one in summary["arms"]["best_tuned"]["fields"]} == {"items[].name", "items[].amount"}
    assert not (shopping / "report-error.txt").exists() and any(event["kind"] == "embed" for event in journal_of(shopping))


def test_bundle_commands_and_export_answer_with_the_same_objects(bench: Bench, shopping: Path, tmp_path: Path) -> None:
    fields = read_manifest(shopping / "best").fields
    assert isinstance(fields, Tags)
    told = json.loads((shopping / "test_rows.json").read_text(encoding="utf-8"))["rows"]
    predictor = load(shopping, threads=1, dtype="float32")
    rows = [row["input"] for row in told]
    answers = predictor.predict(rows)
    assert answers == [row["answers"]["best_tuned"] for row in told] and all(map(predictor.output.fits, answers))
    assert any(len(json.loads(answer)["items"]) > 1 for answer in answers)
    ended = bench.commands.run("predict", str(shopping), "--input", "get 3 g cat and pear", "--probabilities")
    assert ended.code == 0 and "items" in ended.stdout, ended.stderr
    out = export_bundle(shopping, tmp_path / "out", "transformers")
    assert load_export(out)([row["ask"] for row in rows]) == [json.loads(answer) for answer in answers]
    pool = tmp_path / "pool.csv"
    pool.write_text("ask\n" + "".join(f"get {i} g {name}\n" for i, name in enumerate(_THINGS)), encoding="utf-8")
    ended = bench.commands.run("label", str(shopping), str(pool), "--n", "3", "--by", "margin", "--json")
    assert ended.code == 0 and all("items" in row["guess"] for row in json.loads(ended.stdout)["rows"]), ended.stderr


def test_a_run_may_start_from_such_a_bundle(bench: Bench, shopping: Path) -> None:
    out = bench.folder / "shopping-on"
    ended = run_by_probes(bench, bench.folder / "shopping.jsonl", ("ask", "answer"), out, "--from", str(shopping), *BRIEF)
    assert ended.code == 0, ended.stderr
    assert summary_of(out)["output"]["copied"] == summary_of(shopping)["output"]["copied"]
