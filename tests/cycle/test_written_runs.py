"""Runs whose answers are written, once for each type of output: to the end, killed, tried by hand, predicted and served."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import SETTINGS, Ended, journal_of, summary_of, without_times

from command_line import call
from cotune.api import try_prompt
from cotune.bundle import load, predict_stream
from cotune.bundle.manifest import read_manifest
from cotune.bundle.serve.shelf import Shelf
from cotune.config.task import Task
from cotune.report.terminal.narration import Story
from cotune.task.values.output import Output

if TYPE_CHECKING:
    from conftest import Bench

TYPES = ("text", "number", "json")
_WORDS = {"apple": "fruit", "cat": "animal", "saw": "tool", "cow": "animal", "pear": "fruit"}


def answer_of(kind: str, word: str, number: int) -> Any:
    if kind == "json":
        return {"kind": _WORDS[word], "size": number % 10} if number % 3 else {"kind": _WORDS[word]}
    return f"a {word} of kind {number}" if kind == "text" else 3 * number + 0.5


def write_rows(path: Path, kind: str) -> Path:
    words = list(_WORDS)
    rows = [{"thing": f"{words[i % 5]} {i} {words[i % 5]}", "answer": answer_of(kind, words[i % 5], i)} for i in range(90)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(bench: Bench, out: Path, kind: str, *more: str, at: tuple[str, str, int] | None = None) -> Ended:
    rows = write_rows(bench.folder / f"{kind}.jsonl", kind)
    columns = ("--input", "thing", "--output", "answer")
    settings = ("--model", str(bench.model), "--budget", "60ktok", "--seed", "1", "--out", str(out))
    limits = ("limit.test=16", "limit.train=56", "limit.dev=12", "search.max_cycles=2", "tune.max_epochs=2")
    limits += ("evaluate.robustness=true" if kind == "json" else "evaluate.robustness=false", "output.max_tokens=24")
    return bench.commands.run("run", str(rows), *columns, *settings, *SETTINGS, *limits, *more, at=at)


@pytest.fixture(scope="module", params=TYPES)
def written(bench: Bench, request: pytest.FixtureRequest) -> tuple[str, Path]:
    out = bench.folder / f"written-{request.param}"
    ended = run(bench, out, request.param)
    assert ended.code == 0, ended.stderr
    said = ended.stdout + ended.stderr
    assert "taken for" in said
    assert ", dev log-loss " in said and ": best log-loss " in said and "dev -," not in said and "best -," not in said
    return request.param, out


def test_a_test_of_one_row_has_a_score_and_no_interval(bench: Bench, tmp_path: Path) -> None:
    """A share of words in one row says nothing about other rows."""
    ended = run(bench, tmp_path / "run", "text", "limit.test=1", "--budget", "30ktok")
    assert ended.code == 0, ended.stderr
    summary = summary_of(tmp_path / "run")
    best = summary["arms"]["best_tuned"]
    assert best["n"] == 1 and best["ci"] == [None, None]
    assert "on 1 test row" in summary["verdict"] and "None" not in ended.stdout + ended.stderr
    assert (tmp_path / "run" / "report.html").is_file() and (tmp_path / "run" / "best" / "README.md").is_file()


def test_a_run_of_each_type_ends_with_arms_gains_and_a_report(written: tuple[str, Path]) -> None:
    kind, out = written
    summary = summary_of(out)
    assert summary["output"]["type"] == kind and summary["labels"] == []
    assert summary["metric"] == {"text": "token_f1", "number": "r2", "json": "json_f1"}[kind]
    assert summary["cost"]["tokens_written"] > 0
    for arm in summary["arms"].values():
        assert arm["ci"][0] <= arm["score"] <= arm["ci"][1] and arm["decision"]["kind"] == "raw" and arm["log_loss"] > 0
    # Tuning makes the right answers likelier, whatever a random model writes.
    assert summary["arms"]["seed_tuned"]["log_loss"] < summary["arms"]["seed_prompt"]["log_loss"]
    assert not (out / "report-error.txt").exists() and (out / "report.html").stat().st_size > 10_000
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Rows that are worth least" in page and "Confusions" not in page and "calibration error" not in page
    for shown in ("Best dev log-loss by tokens spent", "Dev log-loss by step", "What moved dev"):
        assert f"<h3>{shown}</h3>" in page
    sections = {name: page.split(f'<section id="{name}"')[1].split("</section>")[0] for name in ("lineage", "map")}
    assert all("log-loss on dev in nats a token, less is better" in found for found in sections.values())
    # Who was not raced has no colour.
    assert 'class="place s' in sections["map"] and "nats</span>" in sections["lineage"]
    assert ("<h3>Fields</h3>" in page) == (kind == "json")
    for arm in summary["arms"].values():
        assert (arm["valid"] is None) == (arm["valid_ci"] is None) == (kind == "text")
        assert kind == "text" or arm["valid_ci"][0] <= arm["valid"] <= arm["valid_ci"][1]
        assert (arm["fields"] is None) == (kind != "json")
        for field in arm["fields"] or ():
            assert field["f1"]["ci"][0] <= field["f1"]["value"] <= field["f1"]["ci"][1]
    rows = json.loads((out / "test_rows.json").read_text())["rows"]
    assert len(rows) == 16 and all(set(row["answers"]) == set(summary["arms"]) for row in rows)
    dev = json.loads((out / "dev_rows.json").read_text())
    named = [one["id"] for one in dev["candidates"]]
    assert named and len(dev["rows"]) == 12 and all(list(row["answers"]) == named for row in dev["rows"])
    output = Output.from_json(summary["output"])
    if kind != "text":
        assert all(output.value(answer) is not None for row in rows for answer in row["answers"].values())


def test_no_step_is_told_as_raw_keys(written: tuple[str, Path]) -> None:
    story = Story()
    lines = [told.text for event in journal_of(written[1]) for told in story.tell(event)]
    assert any("ends at dev" in line for line in lines) and any("confirmed on all 12 dev rows" in line for line in lines)
    for line in lines:
        assert not re.search(r"dev_|batch_|_mb|wall_|\w \(\d+\)|: $", line), line


def test_the_search_goes_by_the_log_loss_and_finalists_alone_write(written: tuple[str, Path]) -> None:
    events, summary = journal_of(written[1]), summary_of(written[1])
    stages = {e["value"]["stage"] for e in events if e["kind"] == "write"}
    assert stages - {"robustness"} == {"measure", "confirm", "test"}
    assert all(e["value"]["score"] is None for e in events if e["kind"] == "score")
    tuned = [e["value"] for e in events if e["kind"] == "tuned"]
    assert tuned and all(t["score"] is None and t["correct"] is None and t["log_loss"] > 0 for t in tuned)
    [confirmed] = [e["value"] for e in events if e["kind"] == "confirm"]
    # Both tuned arms wrote, so that the metric decides between them; whose log-loss was far behind did not.
    for arm in ("seed_tuned", "best_tuned"):
        assert confirmed["dev"][arm]["score"] is not None and confirmed["dev"][arm]["correct"].startswith("12:")
    assert confirmed["dev"]["best_tuned"]["score"] >= confirmed["dev"]["seed_tuned"]["score"]
    assert confirmed["dev"]["seed_prompt"]["score"] is None and confirmed["dev"]["seed_prompt"]["log_loss"] > 0
    assert summary["selection"]["dev"] == confirmed["dev"]["best_tuned"]["score"]
    written_on_dev = {
        (e["value"]["prompt_id"], e["value"]["adapter_id"])
        for e in events
        if e["kind"] == "write" and e["value"]["stage"] == "confirm"
    }
    assert len(written_on_dev) <= 4
    # On the test a prompt is read once for its score and its answer; what finalists write to dev comes apart from that.
    apart = {e["value"]["stage"]: e["value"]["tokens"] > e["value"]["written"] for e in events if e["kind"] == "write"}
    assert apart["confirm"] and not apart["test"]


def test_the_bundle_answers_as_the_test_did(bench: Bench, written: tuple[str, Path]) -> None:
    kind, out = written
    predictor = load(out / "best", device="cpu", dtype="float32", threads=1)
    rows = json.loads((out / "test_rows.json").read_text())["rows"]
    answers = predictor.predict([row["input"] for row in rows])
    output = Output.from_json(summary_of(out)["output"])
    assert answers == [output.canonical(row["answers"]["best_tuned"]) for row in rows]
    found = predictor.predict(rows[0]["input"], probabilities=True)[0]
    assert found.answer == answers[0] and found.probabilities == {}
    lines: list[str] = []
    predict_stream(predictor, [json.dumps(rows[0]["input"])], lines.append)
    assert json.loads(lines[0])["answer"] == output.told(answers[0])
    served = next(iter(Shelf([predictor]).served.values()))
    assert served.full.run([rows[0]["input"]])[0].prediction.answer == answers[0]
    assert "`cotune predict FOLDER" in (out / "best" / "README.md").read_text() or kind


def test_probabilities_of_generated_answers_are_told_to_be_missing(written: tuple[str, Path], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"thing": "apple"}\n')
    ended = call("predict", written[1], rows, "--probabilities")
    assert ended.code == 0 and "there are no probabilities" in ended.stderr, ended.stderr


def test_a_prompt_is_tried_against_the_winner(written: tuple[str, Path]) -> None:
    found = try_prompt(written[1], "Say it: {thing}\nNow:")
    assert found.n == 12
    for comparison in found.comparisons:
        assert comparison.low <= comparison.difference <= comparison.high and 0 <= comparison.p <= 1
        assert comparison.difference == pytest.approx(comparison.mine - comparison.winner), "of one quantity"


@pytest.mark.parametrize("written", ["json"], indirect=True)
def test_a_run_goes_on_from_a_bundle_that_writes(bench: Bench, written: tuple[str, Path], tmp_path: Path) -> None:
    _, out = written
    old = write_rows(bench.folder / "json.jsonl", "json")
    new = tmp_path / "new.jsonl"
    made = [{"thing": f"bolt {i}", "answer": {"kind": "part", "size": i % 10, "made": i % 2 == 0}} for i in range(60)]
    new.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    again = tmp_path / "run"
    own = tuple(text for text in SETTINGS if not text.startswith("tune.rank"))
    ended = bench.commands.run(
        *("run", str(new), "--from", str(out / "best"), "--replay", str(old), "--budget", "60ktok", "--seed", "1"),
        *("--out", str(again), *own, "limit.test=12", "limit.train=40", "limit.dev=10", "search.max_cycles=1"),
        *("tune.max_epochs=1", "evaluate.robustness=false", "output.max_tokens=30"),
    )
    assert ended.code == 0, ended.stderr
    before, summary = summary_of(out), summary_of(again)
    assert (summary["output"]["type"], summary["metric"]) == ("json", "json_f1")
    # The old schema has no such key, so that a new one is inferred, which bears the old rows too.
    assert "made" in summary["output"]["schema"]["properties"] and "made" not in before["output"]["schema"]["properties"]
    previous, arm = summary["previous"], summary["arms"]["previous"]
    assert any("another schema" in remark for remark in previous["remarks"])
    assert previous["replay"]["replay_train"] > 0 and list(previous["parts"]) == ["all"]
    over = summary["gains"]["over_previous"]
    assert over["value"] == pytest.approx(summary["arms"]["best_tuned"]["score"] - arm["score"], abs=1e-5)
    assert over["ci"][0] <= over["value"] <= over["ci"][1] and summary["verdict"].startswith("Keep the ")
    rows = json.loads((again / "test_rows.json").read_text())["rows"]
    predictor = load(out / "best", device="cpu", dtype="float32", threads=1)
    answers = predictor.predict([row["input"] for row in rows])
    was = Output.from_json(before["output"])
    assert answers == [was.canonical(row["answers"]["previous"]) for row in rows]
    assert not (again / "report-error.txt").exists()
    assert len(try_prompt(again, "Say it: {thing}\nNow:").comparisons) >= 1


@pytest.mark.parametrize("written", ["json"], indirect=True)
def test_a_task_made_in_python_keeps_the_schema_of_the_bundle(written: tuple[str, Path]) -> None:
    best = written[1] / "best"
    rows = [{"thing": f"bolt {i}", "answer": {"kind": ("fruit", "tool")[i % 2], "size": i % 10}} for i in range(40)]
    known = read_manifest(best).output
    assert Task.from_rows(rows, start=best).output == known
    # Of themselves the rows have another: a size in every one.
    assert Task.from_rows(rows, input="thing", output="answer").output != known


def test_killed_between_written_answers_and_run_again(bench: Bench, tmp_path: Path) -> None:
    whole = bench.folder / "written-json"
    if not whole.exists():
        assert run(bench, whole, "json").code == 0
    for at in (("line", "write", 3), ("line", "decide", 1), ("line", "arm", 2)):
        killed = run(bench, tmp_path / "run", "json", at=at)
        assert killed.code == -9, f"{at}: {killed.stderr}"
    assert run(bench, tmp_path / "run", "json").code == 0
    opened = [summary_of(folder).pop("test_opened_before") for folder in (whole, tmp_path / "run")]
    assert opened[0] == 0

    def told(folder: Path) -> list[dict[str, Any]]:
        return [e for e in without_times(journal_of(folder)) if e["kind"] not in ("open_test", "cost")]

    assert told(whole) == told(tmp_path / "run")
