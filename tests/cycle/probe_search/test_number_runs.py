"""Runs whose answers are numbers that are read off hidden states by thresholds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import BRIEF, Ended, journal_of, run_by_probes, summary_of, without_times

from cotune.api import try_prompt
from cotune.bundle import load
from cotune.bundle.export.command import export_bundle
from cotune.bundle.manifest import read_manifest
from cotune.bundle.serve.shelf import Shelf
from cotune.errors import InputError

if TYPE_CHECKING:
    from conftest import Bench

_WEIGHTS = {"pear": 0.2, "cat": 4.5, "saw": 2.5, "cow": 600.5, "mouse": 0.1}


def write_rows(path: Path) -> Path:
    words = list(_WEIGHTS)
    rows: list[dict[str, Any]] = [
        {"thing": f"{words[i % 5]} {i} {words[i % 5]}", "weight": round(_WEIGHTS[words[i % 5]] * (1 + i % 3 / 10), 3)}
        for i in range(90)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(bench: Bench, out: Path, *more: str, at: tuple[str, str, int] | None = None) -> Ended:
    rows = write_rows(bench.folder / "weights.jsonl")
    # So few numbers would be labels. Each is a threshold, and what a run fits grows with them.
    return run_by_probes(bench, rows, ("thing", "weight"), out, "output.type=number", *more, at=at)


@pytest.fixture(scope="module")
def weights(bench: Bench) -> Path:
    out: Path = bench.folder / "weights"
    ended = run(bench, out, "metric=spearman")
    assert ended.code == 0, ended.stderr
    assert "s: spearman 0." in ended.stdout and "TF-IDF with logistic regression" in ended.stdout
    return out


def test_every_arm_reads_numbers_by_a_probe_and_generates_nothing(weights: Path) -> None:
    summary = summary_of(weights)
    assert summary["output"]["type"] == "number" and summary["metric"] == "spearman"
    for arm in summary["arms"].values():
        assert arm["decision"]["kind"] == arm["readout"] == "probe" and arm["layer"] is not None
    assert summary["cost"].get("tokens_written", 0) == 0
    best, references = summary["arms"]["best_tuned"], summary["references"]
    low, high = best["ci"]
    assert low <= best["score"] <= high and best["score"] > 0.5 > references["constant"]["score"] == 0.0
    assert references["tfidf"]["score"] > 0.8 and "zero_shot" not in references
    assert best["mean_absolute_error"] < references["constant"]["mean_absolute_error"]
    assert not (weights / "report-error.txt").exists() and (weights / "report.html").stat().st_size > 10_000


def test_the_bundle_answers_as_the_test_did(weights: Path) -> None:
    manifest = read_manifest(weights / "best")
    assert manifest.fields is not None and manifest.answer_tokens == 0
    told = json.loads((weights / "test_rows.json").read_text(encoding="utf-8"))["rows"]
    predictor = load(weights, threads=1, dtype="float32")
    rows = [row["input"] for row in told]
    answers = predictor.predict(rows)
    assert answers == [row["answers"]["best_tuned"] for row in told] and all(map(predictor.output.fits, answers))
    shares = predictor.predict(rows[:1], probabilities=True)[0].probabilities
    assert tuple(shares) == manifest.choices and next(iter(shares)).startswith("at most ")
    with pytest.raises(InputError, match="only for labels"):
        predictor.predict(rows[:1], unsure=0.1)
    assert predictor.predict(rows[:1], probabilities=True)[0].confidence is None
    shelf = Shelf([predictor])
    served = next(iter(shelf.served.values()))
    assert [one.prediction.answer for one in served.best.run(rows[:3])] == answers[:3]
    whole = {**(predictor.output.schema or {}), "type": "integer"}
    predictor._output = replace(predictor.output, schema_text=json.dumps(whole))
    assert shelf.card(served).output.json_schema == {**whole, "type": "number"}, "a mean of whole numbers has decimals"


def test_commands_predict_evaluate_try_and_export(bench: Bench, weights: Path, tmp_path: Path) -> None:
    ended = bench.commands.run("predict", str(weights), "--input", "cow 3 cow")
    assert ended.code == 0 and float(ended.stdout) > 0, ended.stderr
    rows = tmp_path / "new.csv"
    rows.write_text("thing\ncow 3 cow\npear 5 pear\n", encoding="utf-8")
    for name, executor in (("usual.csv", ()), ("local.csv", ("--executor", "local"))):
        ended = bench.commands.run(
            "predict", str(weights), str(rows), "--probabilities", "--out", str(tmp_path / name), *executor
        )
        assert ended.code == 0, ended.stderr
    assert (tmp_path / "usual.csv").read_text() == (tmp_path / "local.csv").read_text()
    assert "p(above " in (tmp_path / "local.csv").read_text()
    ended = bench.commands.run("label", str(weights), str(rows), "--out", str(tmp_path / "more.csv"))
    assert ended.code == 2 and "does not answer with labels" in ended.stderr
    ended = bench.commands.run("evaluate", str(weights), str(bench.folder / "weights.jsonl"), "--metric", "r2", "--json")
    assert ended.code == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["score"] > 0.3 and told["mean_absolute_error"] > 0
    ended = bench.commands.run("evaluate", str(weights), str(bench.folder / "weights.jsonl"))
    assert ended.code == 0 and "mean absolute error" in ended.stdout and "of them right" in ended.stdout, ended.stderr
    assert try_prompt(weights, "How heavy is it? {thing}\nKilograms:").to_json()
    with pytest.raises(InputError, match="reads numbers by thresholds"):
        export_bundle(weights, tmp_path / "out", "merged")


def test_a_killed_run_ends_with_the_same_numbers(bench: Bench, weights: Path) -> None:
    out = bench.folder / "weights-killed"
    assert run(bench, out, "metric=spearman", at=("line", "train", 2)).code == -9
    ended = run(bench, out, "metric=spearman")
    assert ended.code == 0, ended.stderr
    assert without_times(journal_of(out)) == without_times(journal_of(weights))


def test_a_run_goes_on_from_the_bundle_and_keeps_its_thresholds(bench: Bench, weights: Path, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "on", "metric=spearman", "--from", str(weights), "seed=2", *BRIEF)
    assert ended.code == 0, ended.stderr
    previous = summary_of(tmp_path / "on")["arms"]["previous"]
    assert previous["decision"]["kind"] == "probe" and previous["log_loss"] is not None
    assert read_manifest(tmp_path / "on" / "best").choices == read_manifest(weights / "best").choices


def test_exact_numbers_are_generated_unless_the_config_asks_for_a_probe(bench: Bench, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "exact", "metric=accuracy", *BRIEF)
    assert ended.code == 0, ended.stderr
    summary = summary_of(tmp_path / "exact")
    assert summary["arms"]["best_tuned"]["readout"] == "generation" and summary["cost"]["tokens_written"] > 0
    ended = run(bench, tmp_path / "read", "metric=accuracy", "tune.readout=probe", *BRIEF)
    assert ended.code == 0, ended.stderr
    assert summary_of(tmp_path / "read")["arms"]["best_tuned"]["readout"] == "probe"
    ended = run(bench, tmp_path / "words", "metric=r2", "tune.readout=words", *BRIEF)
    assert ended.code == 0, ended.stderr
    assert summary_of(tmp_path / "words")["cost"]["tokens_written"] > 0


def test_a_probe_for_numbers_without_thresholds_is_refused_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    rows, settings = tmp_path / "close.csv", ("--input", "thing", "--output", "weight", "metric=r2", "tune.readout=probe")
    settings += ("output.type=number",)
    # No double lies between the two.
    weights = ["1.0000000000000002", "1.0000000000000004"] * 30
    rows.write_text("thing,weight\n" + "".join(f"cow {i},{one}\n" for i, one in enumerate(weights)), encoding="utf-8")
    ended = bench.commands.run("run", str(rows), "--model", str(bench.model), "--out", str(tmp_path / "run"), *settings)
    assert ended.code == 2 and "some labelled numbers are too large, or too close together" in ended.stderr
