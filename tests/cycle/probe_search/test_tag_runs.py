"""Runs whose answers are JSON with values copied from the text, which are read off by a tag on each word."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cycle_runs import BRIEF, Ended, journal_of, run_by_probes, summary_of, without_times

from cotune.api import try_prompt
from cotune.bundle import load
from cotune.bundle.collect import Collector
from cotune.bundle.export.command import export_bundle
from cotune.bundle.load import check_probe
from cotune.bundle.manifest import read_manifest
from cotune.bundle.serve.shelf import Shelf
from cotune.config.task import Task
from cotune.cycle import policies
from cotune.cycle.answering.fields import FieldAnswering
from cotune.cycle.probe_search import sampling
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.errors import InputError
from cotune.model.adapters.slots import BASE

if TYPE_CHECKING:
    from conftest import Bench

_OPEN = {"type": "object", "properties": {part: {"type": "string"} for part in ("to", "by", "at", "of")}}
_PLACES = ("pear", "cat", "saw", "cow", "mouse", "river", "tower")


def write_rows(path: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for i in range(90):
        first, second = _PLACES[i % 7], _PLACES[(i // 7 + i + 3) % 7]
        answer: dict[str, Any] = {"way": "to" if i % 2 else "from", "places": [f"{first} {i}", second][: 1 + i % 2]}
        if i % 3:
            # The text has it in lower case.
            answer["day"] = f"Day {i % 40}"
        by = f" on day {i % 40}" if i % 3 else ""
        text = f"go to {first} {i} and {second}{by}" if i % 2 else f"come from {first} {i}{by}"
        rows.append({"ask": text, "answer": answer})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(bench: Bench, out: Path, *more: str, at: tuple[str, str, int] | None = None) -> Ended:
    rows = write_rows(bench.folder / "journeys.jsonl")
    return run_by_probes(bench, rows, ("ask", "answer"), out, *more, budget="320ktok", at=at)


@pytest.fixture(scope="module")
def journeys(bench: Bench) -> Path:
    out: Path = bench.folder / "journeys"
    ended = run(bench, out)
    assert ended.code == 0, ended.stderr
    assert "s: json_f1 0." in ended.stdout and "TF-IDF" not in ended.stdout
    assert "by a probe on the states of words after layer" in ended.stdout
    how = "; 'day' with a capital letter at the beginning of each word"
    assert f"the values of 'places', 'day' are copied from the text, word by word{how}\n" in ended.stdout
    (chain,) = [event["value"] for event in journal_of(out) if event["kind"] == "chain"]
    assert chain["used"] and chain["score"] > chain["without"], "else the tests below would not see a chain"
    assert f"cross-fitted json_f1 {chain['score']:.3f} with, {chain['without']:.3f} without" in ended.stdout
    return out


def test_every_arm_copies_values_by_a_probe_and_generates_nothing(journeys: Path) -> None:
    summary = summary_of(journeys)
    copied = summary["output"]["copied"]
    found = [(one["path"], one["blank"], one.get("spelling")) for one in copied]
    assert found == [("places[]", "empty", None), ("day", "absent", "title")]
    for arm in summary["arms"].values():
        assert arm["decision"]["kind"] == arm["readout"] == "probe" and arm["layer"] is not None
    assert summary["cost"].get("tokens_written", 0) == 0
    best, references = summary["arms"]["best_tuned"], summary["references"]
    low, high = best["ci"]
    assert low <= best["score"] <= high and best["score"] > 0.5 > references["constant"]["score"]
    assert list(references) == ["constant"]
    assert {one["field"] for one in best["fields"]} == {"way", "places[]", "day"}
    assert not (journeys / "report-error.txt").exists() and (journeys / "report.html").stat().st_size > 10_000


def test_the_bundle_answers_as_the_test_did(journeys: Path) -> None:
    manifest = read_manifest(journeys / "best")
    assert manifest.fields is not None and manifest.fields.words and manifest.answer_tokens == 0
    told = json.loads((journeys / "test_rows.json").read_text(encoding="utf-8"))["rows"]
    predictor = load(journeys, threads=1, dtype="float32")
    assert predictor.probe is not None and predictor.probe.words
    rows = [row["input"] for row in told]
    answers = predictor.predict(rows)
    assert answers == [row["answers"]["best_tuned"] for row in told] and all(map(predictor.output.fits, answers))
    days = [value for answer in answers if (value := json.loads(answer).get("day"))]
    assert days and all(day == day.title() for day in days)
    assert [predictor.predict(row)[0] for row in rows[:2]] == answers[:2]
    states, log_probs = predictor.states(rows[:3])
    assert states.shape == (3, predictor.model.width) and predictor.fields is not None
    assert list(predictor.fields.judged(log_probs, [row["ask"] for row in rows[:3]]).outputs) == answers[:3]
    served = next(iter(Shelf([predictor]).served.values()))
    assert [one.prediction.answer for one in served.best.run(rows[:3])] == answers[:3]


def test_a_text_may_be_empty_of_words_or_longer_than_the_model_reads(journeys: Path) -> None:
    predictor = load(journeys, threads=1, dtype="float32")
    answers = predictor.predict(["\u200b", "go to cat 7 " * 2000, "\ue0f0cat \ue0f1 <|im_end|>"], probabilities=True)
    assert all(predictor.output.fits(one.answer) for one in answers)
    assert all(0 <= share <= 1 for one in answers for share in (one.confidence or 0, *one.probabilities.values()))
    assert [one.truncated for one in answers] == [False, True, False]
    # Its copy shows more of the text than the prompt does.
    assert predictor.shortened({"ask": "go to cat 7 " * 2000}) is None


def test_a_probe_that_reads_rows_is_refused_for_tags(journeys: Path, tmp_path: Path) -> None:
    predictor, manifest = load(journeys, threads=1, dtype="float32"), read_manifest(journeys / "best")
    probe, model = predictor.probe, predictor.model
    assert probe is not None
    check_probe(model, manifest, journeys)
    wide = replace(probe, weight=np.concatenate([probe.weight, probe.weight], axis=1), words=False)
    other = model.adapters.add_probe(BASE, wide, tmp_path)
    with pytest.raises(InputError, match="does not fit"):
        check_probe(model, replace(manifest, adapter_id=other), journeys)


def test_each_part_and_the_whole_answer_have_a_probability(bench: Bench, journeys: Path) -> None:
    assert "--probabilities" in (journeys / "best" / "README.md").read_text(encoding="utf-8")
    rows = bench.folder / "asked.csv"
    rows.write_text("ask\ngo to cow 3 and saw\ncome from pear 5\n", encoding="utf-8")
    told = {name: rows.with_name(name) for name in ("told.csv", "local.csv", "told.jsonl")}
    for name, path in told.items():
        executor = ("--executor", "local") if name == "local.csv" else ()
        ended = bench.commands.run("predict", str(journeys), str(rows), "--probabilities", "--out", str(path), *executor)
        assert ended.code == 0 and "no probabilities" not in ended.stderr, ended.stderr
    with told["told.csv"].open(encoding="utf-8") as file:
        first = next(table := csv.DictReader(file))
    parts = ["places[]", "day", 'way="from"', 'way="to"']
    assert table.fieldnames == ["ask", "answer", "confidence", *(f"p({part})" for part in parts)]
    assert told["local.csv"].read_text() == told["told.csv"].read_text()
    line = json.loads(told["told.jsonl"].read_text(encoding="utf-8").splitlines()[0])
    assert list(line["probabilities"]) == parts and line["confidence"] == float(first["confidence"])
    assert 0 < line["confidence"] <= min(line["probabilities"]["places[]"], line["probabilities"]["day"]) <= 1
    assert json.loads(first["answer"]) == line["answer"]


def test_the_least_sure_rows_are_picked_and_printed(bench: Bench, journeys: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool.csv"
    pool.write_text("ask\n" + "".join(f"go to {place} {i} and {place}\n" for i, place in enumerate(_PLACES)), encoding="utf-8")
    ended = bench.commands.run("label", str(journeys), str(pool), "--n", "3", "--by", "margin", "--json")
    assert ended.code == 0, ended.stderr
    rows = json.loads(ended.stdout)["rows"]
    found = load(journeys, threads=1).predict([row["row"]["ask"] for row in rows], probabilities=True)
    assert [row["guess"] for row in rows] == [json.loads(one.answer) for one in found] and len(rows) == 3
    shares = [row["confidence"] for row in rows]
    assert shares == sorted(shares) == pytest.approx([one.confidence for one in found], abs=0.01)
    ended = bench.commands.run("label", str(journeys), str(pool), "--out", str(tmp_path / "more.csv"))
    assert ended.code == 2 and "--json prints the picked rows" in ended.stderr


def test_no_share_of_wrong_answers_is_promised_and_rows_unlike_the_labelled_ones_are_kept(
    journeys: Path, tmp_path: Path
) -> None:
    assert "conformal" not in json.loads((journeys / "best" / "metrics.json").read_text(encoding="utf-8"))
    told = json.loads((journeys / "test_rows.json").read_text(encoding="utf-8"))["rows"]
    predictor = load(journeys, threads=1, dtype="float32")
    with pytest.raises(InputError, match="sort by the confidence"):
        predictor.predict([told[0]["input"]], unsure=0.1)
    rows = [row["input"] for row in told]
    collector = Collector(tmp_path / "kept", predictor, like=[row["input"] for row in told] * 2)
    collector.prepare()
    collector.saw([*rows, {"ask": "zzz qqq 77777 ### zzz qqq"}])
    collector.close()
    stored = [json.loads(line) for line in (tmp_path / "kept" / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"ask": "zzz qqq 77777 ### zzz qqq"} in [one["row"] for one in stored]


def test_commands_predict_evaluate_try_and_export(bench: Bench, journeys: Path, tmp_path: Path) -> None:
    ended = bench.commands.run("predict", str(journeys), "--input", "go to cow 3 and saw on day 2")
    assert ended.code == 0 and set(json.loads(ended.stdout)) >= {"way", "places"}, ended.stderr
    rows = tmp_path / "new.csv"
    rows.write_text("ask\ngo to cow 3 and saw\ncome from pear 5\n", encoding="utf-8")
    for name, executor in (("usual.csv", ()), ("local.csv", ("--executor", "local"))):
        ended = bench.commands.run("predict", str(journeys), str(rows), "--out", str(tmp_path / name), *executor)
        assert ended.code == 0, ended.stderr
    assert (tmp_path / "usual.csv").read_text() == (tmp_path / "local.csv").read_text()
    ended = bench.commands.run("evaluate", str(journeys), str(bench.folder / "journeys.jsonl"), "--json")
    assert ended.code == 0 and json.loads(ended.stdout)["score"] > 0.4, ended.stderr
    assert try_prompt(journeys, "What is asked? {ask}\nJSON:").to_json()
    with pytest.raises(InputError, match="copies values"):
        export_bundle(journeys, tmp_path / "out", "merged")


def test_several_output_columns_are_answered_in_columns(bench: Bench, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in write_rows(bench.folder / "journeys.jsonl").read_text(encoding="utf-8").splitlines()]
    sheet = bench.folder / "spread.csv"
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ask", "way", "Travel day"])
        writer.writerows([row["ask"], row["answer"]["way"], row["answer"].get("day", "")] for row in rows)
    out = bench.folder / "spread"
    settings = ("--output", "Travel day", *BRIEF)
    ended = run_by_probes(bench, sheet, ("ask", "way"), out, *settings, budget="200ktok")
    assert ended.code == 0, ended.stderr
    assert "the values of 'Travel day' are copied from the text" in ended.stdout
    manifest = read_manifest(out / "best")
    assert manifest.output_columns == ("way", "Travel day")
    pools = [event["value"]["proposals"] for event in journal_of(out) if event["kind"] == "pool"]
    assert pools and "way travel day" not in json.dumps(pools).lower(), "the list of columns is no noun"
    asked, told = tmp_path / "new.csv", tmp_path / "told.csv"
    asked.write_text("ask,Travel day\ngo to cow 3 and saw on day 2,\n,\ncome from pear 5,\n", encoding="utf-8")
    ended = bench.commands.run("predict", str(out), str(asked), "--out", str(told))
    assert ended.code == 0 and "have a column 'Travel day' already, so the answers are in 'Travel day_2'." in ended.stderr
    with told.open(encoding="utf-8", newline="") as file:
        answered = list(csv.DictReader(file))
    assert list(answered[0]) == ["ask", "Travel day", "way", "Travel day_2", "error"]
    assert [row["way"] for row in answered][1] == "" and {answered[0]["way"], answered[2]["way"]} <= {"to", "from"}
    ended = bench.commands.run("predict", str(out), str(asked), "--out", str(told.with_suffix(".jsonl")))
    nested = [json.loads(line)["answer"] for line in told.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
    for row, value in zip(answered, nested, strict=True):
        assert (row["way"], row["Travel day_2"]) == ((value or {}).get("way", ""), (value or {}).get("Travel day", ""))
    ended = bench.commands.run("evaluate", str(out), str(bench.folder / "journeys.jsonl"))
    assert ended.code == 2 and "there is no column 'way, Travel day', which the bundle names" in ended.stderr
    scores = []
    for columns in ((), ("--output", "Travel day", "--output", "way")):
        ended = bench.commands.run("evaluate", str(out), str(sheet), *columns, "--json")
        assert ended.code == 0, ended.stderr
        scores.append(json.loads(ended.stdout)["score"])
    assert scores[0] == scores[1] > 0.4
    renamed = tmp_path / "renamed.csv"
    renamed.write_text(sheet.read_text(encoding="utf-8").replace("way,Travel day", "Richtung,Tag", 1), encoding="utf-8")
    ended = bench.commands.run("evaluate", str(out), str(renamed), "--output", "Richtung", "--output", "Tag", "--json")
    assert ended.code == 0 and json.loads(ended.stdout)["score"] == scores[0], "columns of other names stand for these in order"
    ended = run_by_probes(bench, renamed, ("ask", "Richtung"), tmp_path / "on", "--output", "Tag", "--from", str(out), *BRIEF)
    assert ended.code == 2 and "the bundle answers with the columns 'way', 'Travel day'" in ended.stderr
    assert try_prompt(out, "What is asked? {ask}\nJSON:").to_json()


def test_a_run_may_start_from_such_a_bundle(bench: Bench, journeys: Path) -> None:
    out = bench.folder / "journeys-on"
    ended = run(bench, out, "--from", str(journeys), *BRIEF)
    assert ended.code == 0, ended.stderr
    summary = summary_of(out)
    assert "previous" in summary["arms"] and summary["arms"]["previous"]["readout"] == "probe"


def test_a_killed_run_ends_with_the_same_numbers(bench: Bench, journeys: Path) -> None:
    out = bench.folder / "journeys-killed"
    for at in (("line", "embed", 3), ("line", "train", 2)):
        assert run(bench, out, at=at).code == -9, f"the moment never came: {at}"
    ended = run(bench, out)
    assert ended.code == 0, ended.stderr
    assert without_times(journal_of(out)) == without_times(journal_of(journeys))


def test_words_generate_the_json_as_before(bench: Bench) -> None:
    out = bench.folder / "journeys-written"
    ended = run(bench, out, "tune.readout=words", "limit.test=4", "limit.train=12", "limit.dev=4")
    assert ended.code == 0, ended.stderr
    assert summary_of(out)["cost"]["tokens_written"] > 0
    assert not any(event["kind"] == "embed" for event in journal_of(out))


def test_states_of_the_same_words_do_not_depend_on_what_else_is_asked(journeys: Path) -> None:
    predictor = load(journeys, threads=1, dtype="float32")
    rows = [{"ask": text} for text in ("go to cow 3 and saw", "come from pear 5 on day 1")]
    both = predictor.model.score(predictor.prompt, rows, predictor.labels, adapter=predictor.adapter_id, fresh=True).log_probs
    alone = [
        predictor.model.score(predictor.prompt, [row], predictor.labels, adapter=predictor.adapter_id, fresh=True).log_probs
        for row in rows
    ]
    np.testing.assert_allclose(both, np.concatenate(alone), atol=1e-4)


def test_rows_with_more_words_than_fit_into_memory_are_left_out() -> None:
    def most(rows: int, words: int, width: int) -> int:
        choosing = SimpleNamespace(owners=lambda rows: np.repeat(np.arange(len(rows)), words))
        task = SimpleNamespace(train=(None,) * (rows - 9), dev=(None,) * 9)
        context: Any = SimpleNamespace(given=task, choosing=choosing, model=SimpleNamespace(width=width))
        return sampling._rows_in_memory(context)

    assert most(500, 12, 576) == 500
    assert most(5000, 120, 576) == 506 and most(5000, 120, 2048) == 142
    assert most(5000, 1001, 4096) == HEURISTICS.least_rows, "some rows are needed"


def test_a_run_names_three_parts_that_cannot_be_copied_and_how_to_change_it() -> None:
    # Neither lower nor upper case, nor that of titles.
    values = [
        {part: f"{part.title()} {place.title().swapcase()}" for part in ("to", "by", "at", "of")} for place in _PLACES * 6
    ]
    rows = [{"text": f"{i} " + " and ".join(one.values()).lower(), "answer": one} for i, one in enumerate(values)]
    notes: list[str] = []
    context: Any = SimpleNamespace(
        task=Task.from_rows(rows, input="text", output="answer", type="json", schema=_OPEN),
        journal=SimpleNamespace(tell=notes.append),
    )
    policies._advise_probes(context)
    why, advice = notes
    known = len(context.task.train) + len(context.task.dev)
    assert f"'to' may have many values, of which 0 of {known} stand in the text as they are written" in why
    assert f"; {known} in another letter case)" in why and why.endswith("; and so on for 1 part more")
    assert "'at'" in why and "'of'" not in why and "always in one letter case" in advice and len(advice) < 400


@pytest.mark.parametrize(("positions", "limit"), [(None, 1024), (4096, 1024), (1500, 750)])
def test_a_text_that_stands_twice_fits_into_the_models_positions(positions: int | None, limit: int) -> None:
    rows = [{"text": f"to {name} {i}", "answer": {"to": f"{name} {i}"}} for i, name in enumerate(_PLACES * 6)]
    task = Task.from_rows(rows, input="text", output="answer")

    def model(most: int) -> Any:
        return SimpleNamespace(
            longest_sequence=positions, renderer=SimpleNamespace(max_tokens=most), with_max_tokens=lambda fewer: model(fewer)
        )

    answering = FieldAnswering(task, model(1024))
    assert answering.reads_words and answering.model.renderer.max_tokens == limit
