"""Whole runs whose model writes behind an endpoint, once for each type: answers are parsed and checked here, whatever comes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cycle_runs import Ended, journal_of, summary_of

from chat_server import ChatServer, Handler, chat_server, send, torn
from cotune.api import try_prompt
from cotune.bundle import load
from cotune.config.task import Task
from cotune.evaluate.decision import RAW
from cotune.evaluate.responses import AnswerOutputs
from cotune.task.values.output import Output

if TYPE_CHECKING:
    from conftest import Bench

TYPES = ("text", "number", "json")
KINDS = {"apple": "fruit", "cat": "animal", "saw": "tool", "cow": "animal", "pear": "fruit"}
USAGE = {"prompt_tokens": 40, "completion_tokens": 10}


def answer_of(kind: str, word: str, number: int) -> Any:
    if kind == "json":
        return {"kind": KINDS[word], "size": number % 10}
    return f"a {word} of kind {number}" if kind == "text" else 3 * number + 0.5


def writing(kind: str) -> Any:
    """Writes the right answer where the prompt says how, else one of a few kinds of nonsense on a third of the rows."""

    def reply(handler: Handler) -> None:
        body = handler.request_body
        messages = body["messages"]
        if kind == "json" and body.get("response_format", {}).get("json_schema", {}).get("strict"):
            send(400, b'{"error": "strict is not known here"}')(handler)
            return
        word, number = messages[-1]["content"].split("#")[1].split("#")[0].split()
        right = answer_of(kind, word, int(number))
        text = json.dumps(right, indent=1) if kind == "json" else f"It is {right}." if kind == "number" else right
        chance = hashlib.sha256(json.dumps(messages).encode()).digest()
        if "Answer" not in messages[0]["content"] and chance[0] < 90:
            nonsense = {
                "json": [text[:-4], json.dumps({**right, "more": 1}) if kind == "json" else "", "[]", "sorry"],
                "number": ["", "many", f"{right + 1}" if kind == "number" else "", "none of it"],
                "text": ["", "what?", "a saw", "of kind"],
            }
            text = nonsense[kind][chance[1] % 4]
        choice = {"message": {"role": "assistant", "content": f"```json\n{text}\n```" if chance[2] < 40 else text}}
        send(200, json.dumps({"choices": [choice], "usage": USAGE}).encode())(handler)

    def sometimes_torn(handler: Handler) -> None:
        seen = len(handler.server.seen)  # type: ignore[attr-defined]
        torn(handler) if seen % 31 == 30 else reply(handler)

    return sometimes_torn


def run(bench: Bench, server: ChatServer, out: Path, kind: str, *more: str) -> Ended:
    words = list(KINDS)
    rows = [{"thing": f"#{words[i % 5]} {i}#", "answer": answer_of(kind, words[i % 5], i)} for i in range(80)]
    data = bench.folder / f"remote-{kind}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = (
        *("model=openai:writer", f"endpoint.base_url={server.url}", "endpoint.input_price=1", "endpoint.output_price=10"),
        *("limit.test=20", "limit.train=50", "limit.dev=16", "search.pool=5", "search.max_cycles=1"),
    )
    given = ("--input", "thing", "--output", "answer", "--budget", "1usd", "--seed", "2", "--out", str(out))
    return bench.commands.run("run", str(data), *given, f"output.type={kind}", *settings, *more)


@pytest.fixture(scope="module", params=TYPES)
def written(bench: Bench, request: pytest.FixtureRequest) -> Iterator[tuple[str, Path, ChatServer]]:
    out = bench.folder / f"remote-writing-{request.param}"
    with chat_server(writing(request.param)) as server:
        ended = run(bench, server, out, request.param)
        assert ended.code == 0, ended.stderr
        yield request.param, out, server


def test_prompts_are_searched_by_what_is_written(written: tuple[str, Path, ChatServer]) -> None:
    kind, out, _ = written
    summary = summary_of(out)
    arms = summary["arms"]
    assert summary["output"]["type"] == kind and arms["best_tuned"] is None
    for name in ("seed_prompt", "prompt_only"):
        assert arms[name]["ci"][0] <= arms[name]["score"] <= arms[name]["ci"][1]
        assert arms[name]["log_loss"] is None and arms[name]["decision"]["kind"] == "raw"
        assert (arms[name]["valid"] is None) == (kind == "text")
    gained = arms["prompt_only"]["score"] - arms["seed_prompt"]["score"]
    assert summary["gains"]["prompt"]["value"] == pytest.approx(gained, abs=1e-5)
    raced = [e["value"] for e in journal_of(out) if e["kind"] == "score" and e["value"]["stage"] == "race"]
    assert raced and all(value["score"] is not None and value["log_loss"] is None for value in raced)
    assert not (out / "report-error.txt").exists() and (out / "report.html").stat().st_size > 10_000
    # The bare input says nothing of what is wanted, so that some of its answers are none.
    assert summary["unmatched"] > 0 or kind == "text"
    scores = {e["value"]["prompt_id"]: e["value"]["score"] for e in journal_of(out) if e["kind"] == "score"}
    assert len(set(scores.values())) > 1


def test_no_answer_is_asked_for_twice_and_all_is_paid(written: tuple[str, Path, ChatServer]) -> None:
    _, out, server = written
    counted = Counter(json.dumps(request["body"], sort_keys=True) for request in server.seen)
    strict = [(r["body"].get("response_format") or {}).get("json_schema", {}).get("strict") is True for r in server.seen]
    answered = strict.count(False)
    torn_ones = sum(n % 31 == 30 for n in range(1, len(server.seen) + 1))
    assert sum(n > 1 for n in counted.values()) <= torn_ones
    dollars = summary_of(out)["cost"]["dollars"]
    assert dollars == pytest.approx((answered - torn_ones) * (40 + 100) / 1e6, rel=0.02)


def test_a_schema_is_asked_for_as_firmly_as_the_server_allows(written: tuple[str, Path, ChatServer]) -> None:
    kind, out, server = written
    formats = [request["body"].get("response_format") for request in server.seen]
    if kind != "json":
        assert set(map(str, formats)) == {"None"}
        return
    assert formats[0]["json_schema"]["strict"] is True
    assert formats[-1]["type"] == "json_schema" and formats[-1]["json_schema"]["strict"] is False
    assert formats[-1]["json_schema"]["schema"] == summary_of(out)["output"]["schema"]


def test_the_bundle_asks_for_the_same_and_ones_own_prompt_is_tried(written: tuple[str, Path, ChatServer]) -> None:
    _, out, server = written
    rows = json.loads((out / "test_rows.json").read_text())["rows"]
    predictor = load(out / "best")
    before = len(server.seen)
    answers = predictor.predict([row["input"] for row in rows])
    assert len(server.seen) >= before + len(rows)
    output = Output.from_json(summary_of(out)["output"])
    assert answers == [output.canonical(row["answers"]["prompt_only"]) for row in rows]
    found = try_prompt(out, "Answer with what it is.\n{thing}\nNow:")
    (comparison,) = found.comparisons
    assert comparison.log_loss_difference is None and comparison.low <= comparison.difference <= comparison.high
    assert json.dumps(found.to_json(), allow_nan=False)


def test_an_answer_that_does_not_fit_is_wrong_in_every_metric() -> None:
    rows = [{"q": f"q {i}", "a": {"kind": "x" if i % 2 else "y", "size": i}} for i in range(40)]
    task = Task.from_rows(rows, input="q", output="a")
    gold = task.dev[:4]
    texts = (gold[0].output, f"```json\n{gold[1].output}\n```", gold[2].output[:-1] + ', "more": 1}', gold[3].output[:-1])
    found = AnswerOutputs(None, texts).judge(gold, RAW, task)
    assert found.values.tolist() == [1, 1, 0, 0] and found.answers == texts
    # Of eight right values four were given, and each answer that does not fit counts as one wrong value.
    assert found.score == pytest.approx(2 * 4 / (8 + 4 + 2))
    assert np.isinf(found.log_losses).all() and found.race_losses.tolist() == [0, 0, 1, 1]
    graded = AnswerOutputs(None, texts, np.ones(4))
    both = graded[:2].plus(graded[2:])
    assert both.texts == texts and both.grades is not None and both.grades.tolist() == [1.0] * 4


def test_likelihood_is_not_known_behind_an_endpoint(bench: Bench, tmp_path: Path) -> None:
    with chat_server(writing("text")) as server:
        ended = run(bench, server, tmp_path / "run", "text", "metric=likelihood")
        assert not server.seen
    assert ended.code == 2 and "does not return the likelihood of the right answers" in ended.stderr
