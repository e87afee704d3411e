"""A teacher answers unlabelled rows: what becomes of them, what is kept from the test, and that no answer is paid twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import journal_of, summary_of

from chat_server import Handler, chat_server, send
from cotune.config import config_from_data
from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.teaching.asking import Bounds, ask, bounds_of, open_teacher
from cotune.cycle.teaching.teach import _fresh, read_unlabelled, unlabelled_hash
from cotune.cycle.teaching.teach import answer_of as meaning_of
from cotune.endpoint import Usage
from cotune.endpoint.request_format import Said
from cotune.errors import InputError
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Prompt
from labelling_server import labelling, meant

if TYPE_CHECKING:
    from conftest import Bench

CANARY = "sk-teacher-0042"


def unlabelled(path: Path, bench: Bench) -> Path:
    """New rows, rows that the labelled file holds too, a repeated one and an empty one."""
    known = [line.split(",")[0] for line in bench.rows.read_text().splitlines()[1:]]
    rows = [
        *(f"{word} {900 + i} {word}" for i, word in enumerate(("apple", "cow", "drill", "fig", "hen", "axe") * 4)),
        "",
        *known,
    ]
    path.write_text("text\n" + "\n".join([*rows, "apple 900 apple"]) + "\n", encoding="utf-8")
    return path


def taught(bench: Bench, url: str, out: Path, rows: Path, *more: str, **how: Any) -> Any:
    settings = (f"data.unlabelled={rows}", f"teacher.base_url={url}", "teacher.model=wise", "teacher.key_env=TEACHER_KEY")
    columns = ("--input", "text", "--output", "label", "--budget", "60ktok", "--seed", "4", "--out", str(out))
    sizes = ("limit.test=24", "limit.train=60", "search.pool=4", "search.max_cycles=1", "tune.rank=4")
    model = ("--model", str(bench.model), "tune.max_epochs=1", "engine.threads=1", "engine.dtype=float32")
    environment = {"TEACHER_KEY": CANARY}
    return bench.commands.run(
        "run", str(bench.rows), *columns, *model, *sizes, *settings, "teacher.sample=20", *more, environment=environment, **how
    )


def test_taught_rows_are_learnt_from_marked_and_nowhere_else(bench: Bench, tmp_path: Path) -> None:
    rows = unlabelled(tmp_path / "more.csv", bench)
    out = tmp_path / "run"
    with chat_server(labelling(says=lambda label: f"It is: {label}")) as server:
        killed = taught(bench, server.url, out, rows, "teacher.concurrency=1", at=("answer kept", "", 30))
        assert killed.code == -9, killed.stderr
        again = taught(bench, server.url, out, rows, "teacher.concurrency=1")
        assert again.code == 0, again.stderr
        counted = Counter(json.dumps(request["body"]) for request in server.seen)
        assert max(counted.values()) == 1
        asked = [request["body"]["messages"][-1]["content"] for request in server.seen]
    value = next(event["value"] for event in journal_of(out) if event["kind"] == "teach")
    assert len(value["rows"]) == 60 and all(row_id.startswith("unlabelled:") for row_id, _ in value["rows"])
    assert value["left_out"]["in_test"] == 24 and value["left_out"]["repeated"] == 1 and value["left_out"]["known"] == 60
    assert value["agreement"]["n"] == 20 and 0.5 < value["agreement"]["rate"] <= 1
    assert value["agreement"]["ci"][0] < value["agreement"]["rate"]
    # No test row was sent anywhere.
    tests = {row["input"]["text"] for row in json.loads((out / "test_rows.json").read_text())["rows"]}
    assert not any(text in question for text in tests for question in asked)
    summary = summary_of(out)
    assert summary["n"]["test"] == 24 and summary["data"]["counts"]["taught"] == 60
    assert summary["n"]["train"] + summary["n"]["dev"] == 60 + 60
    assert "labelled by the teacher wise" in json.dumps(summary["data"])
    assert "teacher wise labelled 60 rows" in again.stdout
    # The 60 rows that the user labelled judge, those of the teacher are learnt from beside them.
    events = journal_of(out)
    steps = {kind: [e["value"] for e in events if e["kind"] == kind] for kind in ("verdict", "race", "tuned", "embed", "train")}
    assert all(race["rows"][name] <= 60 for race in steps["race"] for name in race["rows"])
    assert 50 <= steps["verdict"][0]["n"] <= 60
    # Rows that a prompt shows do not count for it.
    assert {step["rows"] for step in steps["tuned"]} <= set(range(50, 61)) and max(s["rows"] for s in steps["tuned"]) == 60
    assert max(step["rows"] for step in [*steps["train"], *steps["embed"]]) > 80
    # Right answers, but for the third that this teacher gets wrong.
    texts = dict(enumerate(rows.read_text().splitlines()))
    right = [meant(texts[int(row_id.split(":")[1]) - 1]) == label for row_id, label in value["rows"]]
    assert sum(right) >= 30
    assert not [path for path in out.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_bounds_of_the_teacher_are_kept_and_other_rows_are_refused(bench: Bench, tmp_path: Path) -> None:
    rows = unlabelled(tmp_path / "more.csv", bench)
    with chat_server(labelling()) as server:
        taught(bench, server.url, tmp_path / "run", rows, "teacher.calls=25", at=("line", "teach", 1))
        assert len(server.seen) == 25
        # The file belongs to the run.
        rows.write_text(rows.read_text() + "axe 7777 axe\n")
        other = taught(bench, server.url, tmp_path / "run", rows, "teacher.calls=25")
    assert other.code == 2 and "unlabelled" in other.stderr
    value = next(event["value"] for event in journal_of(tmp_path / "run") if event["kind"] == "teach")
    assert len(value["rows"]) + value["refused"] == 5 and value["unasked"] == 55


def test_a_teacher_that_cannot_be_asked_ends_the_run_and_says_why(bench: Bench, tmp_path: Path) -> None:
    rows = unlabelled(tmp_path / "more.csv", bench)
    with chat_server(send(401, CANARY.encode())) as server:
        ended = taught(bench, server.url, tmp_path / "run", rows)
    assert ended.code == 1 and "401: [key]" in ended.stderr and "Traceback" not in ended.stderr
    alone = bench.run(tmp_path / "alone", f"data.unlabelled={rows}")
    assert alone.code == 2 and "given together" in alone.stderr


def test_a_slow_teacher_leaves_half_of_a_time_budget(bench: Bench, tmp_path: Path) -> None:
    task = Task.from_rows([{"text": f"apple {i}", "label": "ab"[i % 2]} for i in range(40)], input="text", output="label")
    with chat_server(labelling()) as server:
        teacher = (f"teacher.base_url={server.url}", "teacher.model=wise", "data.unlabelled=more.csv")
        config = config_from_data("rows.csv", input="text", output="label", overrides=teacher)
        assert bounds_of(config, parse_budget("10m"), task, seed_prompt(task)).seconds == 300.0
        asked_teacher = open_teacher(config, tmp_path, tokens=8)
        questions = [[{"role": "user", "content": f"apple {i} apple"}] for i in range(30)]
        asked = ask(asked_teacher, questions, Bounds(100, 10**6, seconds=0.0))
        asked_teacher.close()
    assert asked.stopped == "time" and len(asked.said) == len(server.seen) == 8


def test_a_teacher_without_rows_is_refused() -> None:
    teacher = ("teacher.base_url=http://127.0.0.1:1/v1", "teacher.model=wise")
    with pytest.raises(InputError, match="given together"):
        config_from_data("rows.csv", input="text", output="label", overrides=teacher)


def paid(bench: Bench, url: str, out: Path, rows: Path, budget: str, *more: str, **how: Any) -> Any:
    """A run whose model and teacher both cost money, the teacher a hundred times as much."""
    settings = (
        *("model=openai:small", f"endpoint.base_url={url}", "endpoint.input_price=1", "endpoint.output_price=1"),
        *(f"data.unlabelled={rows}", f"teacher.base_url={url}", "teacher.model=wise", "teacher.sample=20"),
        *("teacher.input_price=100", "teacher.output_price=100", "limit.test=24", "limit.train=60", "search.pool=4"),
        *("search.max_cycles=1", "evaluate.robustness=false", "evaluate.neighbours=false"),
    )
    columns = ("--input", "text", "--output", "label", "--budget", budget, "--seed", "4", "--out", str(out))
    return bench.commands.run("run", str(bench.rows), *columns, *settings, *more, **how)


def test_a_budget_of_money_bounds_the_teacher_and_leaves_the_search_its_part(bench: Bench, tmp_path: Path) -> None:
    rows = unlabelled(tmp_path / "more.csv", bench)
    out = tmp_path / "run"
    with chat_server(labelling()) as server:
        killed = paid(bench, server.url, out, rows, "0.12usd", "teacher.concurrency=1", at=("answer kept", "", 5))
        assert killed.code == -9, killed.stderr
        ended = paid(bench, server.url, out, rows, "0.12usd", "teacher.concurrency=1")
        assert ended.code == 0, ended.stderr
        asked = Counter(json.dumps(r["body"]) for r in server.seen if r["body"]["model"] == "wise")
    value = next(event["value"] for event in journal_of(out) if event["kind"] == "teach")
    # Of 50 tokens asked, 20 are cached and cost the same here; 52 tokens are half a cent.
    assert max(asked.values()) == 1 and 6 <= len(asked) == value["asked"] <= 11
    assert value["dollars"] == round(0.0052 * len(asked), 9) <= 0.06
    assert 1 <= value["agreement"]["n"] <= len(asked) / 2 and len(value["rows"]) >= 3
    assert value["unasked"] == 60 - len(value["rows"]) - value["refused"] and "budget" in value["stopped"]
    summary = summary_of(out)
    assert value["dollars"] < summary["cost"]["dollars"] <= 0.12
    assert f"was not asked about {value['unasked']} rows, as the rest of the budget" in json.dumps(summary["data"])
    assert "rows left out, as the rest of the budget" in ended.stdout


def test_a_teacher_that_no_money_is_left_for_is_not_asked(bench: Bench, tmp_path: Path) -> None:
    rows = unlabelled(tmp_path / "more.csv", bench)
    with chat_server(labelling()) as server:
        # Half of it would be a row, but the search needs all.
        ended = paid(bench, server.url, tmp_path / "run", rows, "0.012usd", at=("line", "teach", 1))
        assert ended.code == -9 and not server.seen
    value = next(event["value"] for event in journal_of(tmp_path / "run") if event["kind"] == "teach")
    assert value["rows"] == [] and value["asked"] == 0 and value["agreement"]["n"] == 0 and value["unasked"] == 60


def answer_of(kind: str, number: int) -> Any:
    return {"json": {"size": number % 10, "even": number % 2 == 0}, "text": f"thing {number}", "number": number + 0.5}[kind]


def writing(kind: str) -> Any:
    """Writes the right answer within other words, wrong on every fifth row, and what fits nothing on every seventh."""

    def reply(handler: Handler) -> None:
        body = handler.request_body
        number = int(body["messages"][-1]["content"].split("#")[1])
        right = answer_of(kind, number + (number % 5 == 0))
        text = json.dumps(right, indent=1) if kind == "json" else f"It is {right}." if kind == "number" else right
        if kind == "json":
            assert body["response_format"]["json_schema"]["schema"]["properties"]
        text = f"<think>9 or {{}}</think> {text}"
        nothing = {"json": json.dumps({"size": "big"}), "number": "none", "text": "<think>what</think>"}[kind]
        said = {"message": {"role": "assistant", "content": nothing if number % 7 == 0 else text}}
        usage = {"prompt_tokens": 40, "completion_tokens": 10}
        send(200, json.dumps({"choices": [said], "usage": usage}).encode())(handler)

    return reply


@pytest.mark.parametrize("kind", ["text", "number", "json"])
def test_a_teacher_writes_answers_of_each_type(bench: Bench, tmp_path: Path, kind: str) -> None:
    known = [{"thing": f"a #{i}#", "answer": answer_of(kind, i)} for i in range(80)]
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"thing": f"a #{i}#"}) + "\n" for i in range(100, 135)))
    out = tmp_path / "run"
    with chat_server(writing(kind)) as server:
        settings = (f"data.unlabelled={tmp_path / 'more.jsonl'}", f"teacher.base_url={server.url}", "teacher.model=wise")
        given = ("--input", "thing", "--output", "answer", "--budget", "1usd", "--seed", "2", "--out", str(out))
        prices = ("teacher.input_price=1", "teacher.output_price=1", "endpoint.input_price=1", "endpoint.output_price=1")
        model = ("model=openai:small", f"endpoint.base_url={server.url}", f"output.type={kind}", "teacher.sample=30")
        model += ("metric=accuracy",) if kind == "number" else ()
        data = str(tmp_path / "known.jsonl")
        ended = bench.commands.run("run", data, *given, *settings, *prices, *model, at=("line", "start", 1))
        assert ended.code == -9, ended.stderr
        asked = [r["body"] for r in server.seen if r["body"]["model"] == "wise"]
        assert len(asked) == 30 + 35
    events = {event["kind"]: event["value"] for event in journal_of(out)}
    value = events["teach"]
    assert value["refused"] == 5 and len(value["rows"]) == 30
    numbers = [int(row_id.split(":")[1]) + 99 for row_id, _ in value["rows"]]
    said = [json.loads(answer) if kind != "text" else answer for _, answer in value["rows"]]
    assert said == [answer_of(kind, number + (number % 5 == 0)) for number in numbers]
    agreement = value["agreement"]
    assert agreement["n"] == 30 and agreement["metric"] == {"text": "token_f1", "number": "accuracy", "json": "json_f1"}[kind]
    assert 0.4 < agreement["rate"] < 0.95 and agreement["ci"][0] < agreement["rate"] < agreement["ci"][1]
    assert any("labelled by the teacher wise" in line for line in events["start"]["checks"])
    assert events["start"]["n"]["train"] + events["start"]["n"]["dev"] + events["start"]["n"]["test"] == 80 + 30


@pytest.mark.parametrize("kind", ["text", "number", "json"])
def test_an_answer_that_the_limit_cut_is_not_learnt_from(kind: str) -> None:
    task = Task.from_rows(
        [{"thing": f"a {i}", "answer": answer_of(kind, i)} for i in range(40)], input="thing", output="answer"
    )
    assert task.output.type == kind
    prompt, text = Prompt("Answer.", "{thing}", "Answer:"), json.dumps(answer_of(kind, 7))
    assert meaning_of(Said(text, (), Usage()), prompt, task) is not None
    assert meaning_of(Said(text, (), Usage(), cut=True), prompt, task) is None


def test_rows_of_groups_that_judge_are_not_taught_and_broken_ones_are_left_out(tmp_path: Path) -> None:
    rows = [{"text": f"{word} {i} {word}", "label": word, "who": f"p{i % 12}"} for i in range(96) for word in ("cow", "fig")]
    more = tmp_path / "more.jsonl"
    lines = [{"text": f"axe {i} axe", "who": f"p{i % 12}" if i < 24 else f"q{i}"} for i in range(30)]
    more.write_text("".join(json.dumps(line) + "\n" for line in (*lines, {"text": "cow \ud83d cow", "who": "q"})))
    overrides = (f"data.unlabelled={more}", "data.group=who", "teacher.base_url=http://127.0.0.1:1/v1", "teacher.model=wise")
    config = config_from_data("rows.csv", input="text", output="label", overrides=[*overrides, "teacher.key_env=K"])
    task = Task.from_rows(rows, input="text", output="label", group="who")
    found = read_unlabelled(config, task)
    assert [row.group for row in found[:2]] == ["p0", "p1"] and len(found) == 30
    fresh, counts = _fresh(found, task)
    judging = {row.group for row in task.dev} | {row.group for row in found if row.id in task.test.ids_in_its_groups(found)}
    assert counts["in_group"] > 0 and not {row.group for row in fresh} & judging
    assert unlabelled_hash(found) != unlabelled_hash(found[::-1]), "the journal knows rows by their numbers"
