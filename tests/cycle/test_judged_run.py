"""A whole run whose metric is a judge's grade: killed while it grades and gone on with; grades are paid once and compared with
people's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import SETTINGS, Ended, journal_of, summary_of

from chat_server import ChatServer, Handler, chat_server, completion, send
from cotune.api import try_prompt
from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.answering.judging import read_by_hand
from cotune.errors import InputError

if TYPE_CHECKING:
    from conftest import Bench

WORDS = ("apple", "cat", "saw", "cow", "pear")


def grading(handler: Handler) -> None:
    """The share of the right answer's letters that the given one holds."""
    shown = json.loads(handler.request_body["messages"][-1]["content"])
    right, given = set(shown["right"]), set(shown["given"])
    text = json.dumps({"score": round(len(right & given) / len(right), 3)})
    send(200, completion(text, 40))(handler)


def answer(i: int) -> str:
    return f"a {WORDS[i % 5]} of kind {i}"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(bench: Bench, server: ChatServer, out: Path, *more: str, at: tuple[str, str, int] | None = None) -> Ended:
    rows = [{"thing": f"{WORDS[i % 5]} {i}", "answer": answer(i)} for i in range(70)]
    given = write_rows(bench.folder / "judged.jsonl", rows)
    hand = [{**row, "given": answer(i if i % 2 else i + 1), "grade": i % 2} for i, row in enumerate(rows[:12])]
    settings = (
        *("--model", str(bench.model), "--budget", "40ktok", "--seed", "1", "--out", str(out), *SETTINGS),
        *("limit.test=12", "limit.train=40", "limit.dev=10", "search.max_cycles=1", "tune.max_epochs=1"),
        *("output.max_tokens=16", "metric=judge", f"judge.base_url={server.url}", "judge.model=grader"),
        *("judge.input_price=1", "judge.output_price=1", "judge.concurrency=1"),
        f"judge.agreement={write_rows(bench.folder / 'by_hand.jsonl', hand)}",
    )
    return bench.commands.run("run", str(given), "--input", "thing", "--output", "answer", *settings, *more, at=at)


@pytest.fixture(scope="module")
def judged(bench: Bench) -> Iterator[tuple[Path, ChatServer]]:
    out = bench.folder / "judged"
    with chat_server(grading) as server:
        killed = run(bench, server, out, at=("answer kept", "", 40))
        assert killed.code == -9, killed.stderr
        ended = run(bench, server, out)
        assert ended.code == 0, ended.stderr
        assert "Scores are grades by the judge grader; on 12 answers graded by hand" in " ".join(ended.stdout.split())
        yield out, server


def test_arms_are_judged_and_no_grade_is_paid_twice(judged: tuple[Path, ChatServer]) -> None:
    out, server = judged
    summary = summary_of(out)
    assert summary["metric"] == "judge"
    for arm in summary["arms"].values():
        assert 0 <= arm["ci"][0] <= arm["score"] <= arm["ci"][1] <= 1
    counted = Counter(json.dumps(request["body"], sort_keys=True) for request in server.seen)
    assert max(counted.values()) == 1
    assert summary["judge"]["rows"] == len(server.seen) and summary["judge"]["tokens"] == 40 * len(server.seen)
    assert summary["judge"]["dollars"] == pytest.approx(40e-6 * len(server.seen))
    assert summary["cost"]["dollars"] == pytest.approx(summary["judge"]["dollars"])
    writes = [e["value"] for e in journal_of(out) if e["kind"] == "write"]
    assert {value["stage"] for value in writes} == {"measure", "confirm", "test"}
    assert "judge would have to grade" in summary["robustness"]["skipped"]


def test_rows_of_the_test_are_worth_their_grades(judged: tuple[Path, ChatServer]) -> None:
    out, _ = judged
    rows = json.loads((out / "test_rows.json").read_text())["rows"]
    for row in rows:
        for arm, text in row["answers"].items():
            right = set(row["gold"])
            assert row["values"][arm] == pytest.approx(len(right & set(text)) / len(right), abs=1e-3)


def test_how_it_agrees_with_people_is_told_everywhere(judged: tuple[Path, ChatServer]) -> None:
    out, _ = judged
    summary = summary_of(out)
    found = summary["judge"]["agreement"]
    assert found["n"] == 12 and found["correlation_ci"][0] <= found["correlation"] <= found["correlation_ci"][1]
    assert summary["judge"]["sentence"] in summary["verdict"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The judge" in page and "correlation with people" in page and not (out / "report-error.txt").exists()


def test_a_prompt_of_ones_own_is_judged_too(judged: tuple[Path, ChatServer]) -> None:
    found = try_prompt(judged[0], "Say it: {thing}\nNow:")
    assert found.n == 10 and all(0 <= c.mine <= 1 for c in found.comparisons)


def test_an_answer_without_a_grade_stops_the_run_and_is_asked_again(bench: Bench, tmp_path: Path) -> None:
    def grudging(handler: Handler) -> None:
        given = json.loads(handler.request_body["messages"][-1]["content"])
        silent = given["given"] != given["right"]
        send(200, completion("I would rather not"))(handler) if silent else grading(handler)

    with chat_server(grudging) as server:
        ended = run(bench, server, tmp_path / "run", "judge.agreement=null")
    assert ended.code == 1 and "gave no grade" in ended.stderr and "Traceback" not in ended.stderr
    assert "the same command asks again" in ended.stderr.lower()


def test_judge_and_metric_go_together() -> None:
    settings = {"name": "t", "input": ["q"], "output": "a"}
    for given in ({"metric": "judge"}, {"judge": {"base_url": "http://x/v1", "model": "m"}}):
        with pytest.raises(InputError, match="given together"):
            config_in_memory(**settings, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([{"q": "1", "a": "x", "given": "y", "grade": 1}] * 9, ("9 graded answers", "fewer than 10")),
        ([{"q": "1", "a": "x", "given": "y", "grade": 2}] * 10, ("'2' is no grade", "line 1", "from 0 (wrong)")),
        ([{"q": "1", "a": "x", "given": "y"}] * 10, ("no column 'grade'",)),
    ],
)
def test_a_file_of_peoples_grades_is_checked(tmp_path: Path, rows: list[dict[str, Any]], parts: tuple[str, ...]) -> None:
    task = Task.from_rows([(f"q {i}", f"answer in words {i}") for i in range(40)], input="q", output="a", type="text")
    judge = {"base_url": "http://x/v1", "model": "m", "agreement": str(write_rows(tmp_path / "hand.jsonl", rows))}
    config = config_in_memory(name="t", input=["q"], output="a", metric="judge", judge=judge)
    with pytest.raises(InputError) as caught:
        read_by_hand(config, task)
    assert all(part in str(caught.value) for part in parts), caught.value
