"""Runs whose JSON answers have closed fields only: read off hidden states, killed, tried, predicted, gone on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cycle_runs import BRIEF, Ended, journal_of, run_by_probes, summary_of, without_times

from cotune.api import try_prompt
from cotune.bundle import load
from cotune.bundle.export.command import export_bundle
from cotune.bundle.manifest import read_manifest
from cotune.bundle.serve.shelf import Shelf
from cotune.errors import InputError
from cotune.probe.readout import PROBE

if TYPE_CHECKING:
    from conftest import Bench

_WORDS = {"apple": "fruit", "cat": "animal", "saw": "tool", "cow": "animal", "pear": "fruit"}


def value_of(word: str, number: int) -> dict[str, Any]:
    topics = {"fruit": ["eaten"], "animal": ["eaten", "alive"], "tool": []}[_WORDS[word]]
    found = {"kind": _WORDS[word], "topics": topics, "here": number % 9 > 0}
    # One value or a list of them, and an object that may be absent.
    found["use"] = {"fruit": "food", "animal": ["food", "work"], "tool": "work"}[_WORDS[word]]
    return {**found, "home": {"barn": word == "cow"}} if _WORDS[word] == "animal" else found


def write_rows(path: Path, *, odd: bool = False) -> Path:
    words = list(_WORDS)
    rows: list[dict[str, Any]] = [
        {"thing": f"{words[i % 5]} {i} {words[i % 5]}", "answer": value_of(words[i % 5], i)} for i in range(90)
    ]
    if odd:
        rows = [{**row, "answer": {**row["answer"], "note": f"a text {i}"}} for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(bench: Bench, out: Path, *more: str, odd: bool = False, at: tuple[str, str, int] | None = None) -> Ended:
    rows = write_rows(bench.folder / f"closed{odd}.jsonl", odd=odd)
    return run_by_probes(bench, rows, ("thing", "answer"), out, *more, at=at)


@pytest.fixture(scope="module")
def closed(bench: Bench) -> Path:
    out: Path = bench.folder / "closed"
    ended = run(bench, out)
    assert ended.code == 0, ended.stderr
    assert "s: json_f1 0." in ended.stdout and "TF-IDF with logistic regression" in ended.stdout
    return out


def test_every_arm_is_read_by_a_probe_and_nothing_is_generated(closed: Path) -> None:
    summary = summary_of(closed)
    assert summary["output"]["type"] == "json" and summary["metric"] == "json_f1" and summary["labels"] == []
    assert {arm["decision"]["kind"] for arm in summary["arms"].values()} == {"probe"}
    assert summary["cost"].get("tokens_written", 0) == 0
    assert not [event for event in journal_of(closed) if event["kind"] == "write"]
    # The word itself gives the values, so a model that knows nothing still reads them.
    assert summary["arms"]["best_tuned"]["score"] > 0.8 > summary["references"]["constant"]["score"]
    assert summary["references"]["tfidf"]["score"] > 0.9 and "zero_shot" not in summary["references"]
    assert not (closed / "report-error.txt").exists() and (closed / "report.html").stat().st_size > 10_000


def test_weights_are_tuned_for_all_fields_at_once(closed: Path) -> None:
    trained = [event["value"] for event in journal_of(closed) if event["kind"] == "train"]
    first, last = (np.mean([np.mean(value["losses"][part]) for value in trained]) for part in (slice(3), slice(-3, None)))
    assert trained and last < first


def test_the_bundle_answers_as_the_test_did_and_gives_each_value_a_probability(bench: Bench, closed: Path) -> None:
    manifest = read_manifest(closed / "best")
    assert manifest.fields is not None and manifest.answer_tokens == 0 and f"adapter/{PROBE}" in manifest.files
    told = json.loads((closed / "test_rows.json").read_text(encoding="utf-8"))["rows"]
    predictor = load(closed, threads=1, dtype="float32")
    rows = [row["input"] for row in told]
    answers = predictor.predict(rows)
    assert answers == [row["answers"]["best_tuned"] for row in told]
    assert all(predictor.output.fits(answer) for answer in answers)
    found = predictor.predict(rows[:3], probabilities=True)
    for one in found:
        shares = one.probabilities
        assert tuple(shares) == manifest.choices
        assert sum(share for name, share in shares.items() if name.startswith("kind=")) == pytest.approx(1)
        assert json.loads(one.answer)["kind"] == max(("fruit", "animal", "tool"), key=lambda kind: shares[f'kind="{kind}"'])
    states, log_probs = predictor.states(rows[:2])
    assert log_probs.shape == (2, len(manifest.choices)) and states.shape[0] == 2
    served = next(iter(Shelf([predictor]).served.values()))
    assert [one.prediction.answer for one in served.best.run(rows[:3])] == answers[:3]
    assert found[0].confidence is not None and 0 < found[0].confidence <= max(found[0].probabilities.values())


def test_commands_predict_and_evaluate(bench: Bench, closed: Path) -> None:
    asked = json.dumps({"thing": "cow 3 cow"}) + "\n"
    rows = bench.folder / "asked.jsonl"
    rows.write_text(asked, encoding="utf-8")
    ended = bench.commands.run("predict", str(closed), str(rows), "--probabilities")
    assert ended.code == 0, ended.stderr
    line = json.loads(ended.stdout.splitlines()[0])
    assert set(line["answer"]) == {"kind", "topics", "here", "use", "home"} and 'kind="animal"' in line["probabilities"]
    ended = bench.commands.run("evaluate", str(closed), str(bench.folder / "closedFalse.jsonl"), "--json")
    assert ended.code == 0, ended.stderr
    fields = {one["field"] for one in json.loads(ended.stdout)["fields"]}
    assert fields == {"kind", "topics[]", "here", "use", "use[]", "home.barn"}


def test_an_export_is_refused(closed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="several fields"):
        export_bundle(closed, tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()


def test_a_prompt_is_tried_against_the_winner(closed: Path) -> None:
    found = try_prompt(closed, "What is it? {thing}\nJSON:")
    assert found.to_json()


def test_a_killed_run_ends_with_the_same_numbers(bench: Bench, closed: Path) -> None:
    out = bench.folder / "closed-killed"
    assert run(bench, out, at=("line", "train", 2)).code == -9
    ended = run(bench, out)
    assert ended.code == 0, ended.stderr
    assert without_times(journal_of(out)) == without_times(journal_of(closed))


def test_a_run_goes_on_from_the_bundle(bench: Bench, closed: Path, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "on", "--from", str(closed), *BRIEF)
    assert ended.code == 0, ended.stderr
    arms = summary_of(tmp_path / "on")["arms"]
    assert arms["previous"]["decision"]["kind"] == "probe"
    assert arms["previous"]["score"] == pytest.approx(summary_of(closed)["arms"]["best_tuned"]["score"], abs=0.15)


def test_words_generate_the_json_and_a_run_goes_on_from_that_by_probes(bench: Bench, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "words", "tune.readout=words", *BRIEF)
    assert ended.code == 0, ended.stderr
    assert summary_of(tmp_path / "words")["cost"]["tokens_written"] > 0
    assert read_manifest(tmp_path / "words" / "best").fields is None
    assert try_prompt(tmp_path / "words", "What is it? {thing}\nJSON:").comparisons
    ended = run(bench, tmp_path / "on", "--from", str(tmp_path / "words"), *BRIEF)
    assert ended.code == 0, ended.stderr
    arms = summary_of(tmp_path / "on")["arms"]
    assert arms["previous"]["decision"]["kind"] == "raw" and arms["best_tuned"]["decision"]["kind"] in ("probe", "raw")


def test_a_row_with_a_free_text_makes_the_run_generate(bench: Bench, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "odd", *BRIEF, odd=True)
    assert ended.code == 0, ended.stderr
    assert summary_of(tmp_path / "odd")["arms"]["best_tuned"]["decision"]["kind"] == "raw"
    assert "the JSON is generated, because 'note' may have many values, of which 0 of " in ended.stdout
    refused = run(bench, tmp_path / "refused", "tune.readout=probe", odd=True)
    said = " ".join(refused.stderr.split())
    assert refused.code == 2 and "every part is one of a few values" in said
    assert "('note' may have many values, of which" in said


GIVEN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["animal", "fruit", "stone", "tool"]},
        "topics": {"type": "array", "items": {"enum": ["alive", "eaten"]}, "uniqueItems": True},
        "here": {"type": "boolean"},
        "use": {"anyOf": [{"enum": ["food", "work"]}, {"type": "array", "items": {"enum": ["food", "work"]}}]},
        "home": {"type": "object", "properties": {"barn": {"type": "boolean"}}, "required": ["barn"]},
    },
    "required": ["kind", "topics", "here", "use"],
}


def test_a_given_schema_may_have_values_without_rows_and_keywords_of_lists(bench: Bench, tmp_path: Path) -> None:
    """No grammar has to enforce what is chosen among values."""
    ended = run(bench, tmp_path / "run", f"output.schema={json.dumps(GIVEN)}", *BRIEF)
    assert ended.code == 0, ended.stderr
    assert 'kind="stone"' in read_manifest(tmp_path / "run" / "best").choices
    assert json.loads(load(tmp_path / "run", threads=1).predict(["cat 1 cat"])[0])["kind"] != "stone"


def test_a_probe_for_a_row_beyond_the_closed_fields_is_refused_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    short = {**GIVEN, "properties": {**GIVEN["properties"], "kind": {"enum": ["animal", "fruit"]}}}
    del short["properties"]["topics"]["uniqueItems"]
    ended = run(bench, tmp_path / "run", f"output.schema={json.dumps(short)}", "tune.readout=probe")
    assert ended.code == 2
    assert "closed fields do not list" in " ".join(ended.stderr.split()) or "does not fit output.schema" in ended.stderr
