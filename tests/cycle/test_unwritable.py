"""Schemas and right answers that the model could never write: told or refused before there is a model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import Ended, journal_of

from chat_server import Handler, chat_server, send
from cotune.api import run as run_task
from cotune.config.task import Task
from cotune.errors import InputError

if TYPE_CHECKING:
    from conftest import Bench

REFUSED = {"type": "object", "properties": {"kind": {"type": "string", "not": {"const": ""}}, "size": {"type": "integer"}}}


def rows_of(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    kinds = ("fruit", "animal", "tool")
    return [{"thing": f"thing {i}", "answer": {"kind": kinds[i % 3], "size": i + 1000, **more}} for i in range(count)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(bench: Bench, rows: Path, out: Path, *more: str) -> Ended:
    columns = ("--input", "thing", "--output", "answer")
    return bench.commands.run("run", str(rows), *columns, "--budget", "20ktok", "--out", str(out), *more)


@pytest.mark.parametrize("at", ["inline", "file"])
def test_a_keyword_that_cannot_be_kept_is_refused_before_any_model_is_looked_for(bench: Bench, tmp_path: Path, at: str) -> None:
    rows, file = write_rows(tmp_path / "rows.jsonl", rows_of()), tmp_path / "answer.json"
    file.write_text(json.dumps(REFUSED))
    # Had the model been looked for first, it would be that which is missing.
    given = f"output.schema={json.dumps(REFUSED) if at == 'inline' else file}"
    ended = run(bench, rows, tmp_path / "run", "--model", str(tmp_path / "no-model"), given)
    assert ended.code == 2, ended.stderr
    place = "output.schema, #/properties/kind" if at == "inline" else f"output.schema, {file}, #/properties/kind"
    said = " ".join(ended.stderr.split())
    assert f'{place}: the schema cannot be enforced (Unimplemented keys: ["not"])' in said, ended.stderr
    assert "or list the values in enum" in said and not (tmp_path / "run").exists()


def test_a_schema_of_a_task_made_in_python_is_refused_as_early(tmp_path: Path) -> None:
    task = Task.from_rows(rows_of(), input="thing", output="answer", schema=REFUSED)
    with pytest.raises(InputError, match=r"schema of the outputs, #/properties/kind: the schema cannot be enforced"):
        run_task(task, out=tmp_path / "run", model=tmp_path / "no-model")
    assert not (tmp_path / "run").exists()


def test_behind_an_endpoint_the_whole_schema_is_kept_to(bench: Bench, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", rows_of())
    remote = ("model=openai:writer", "endpoint.base_url=http://127.0.0.1:1/v1", "endpoint.key_env=COTUNE_NO_SUCH_KEY")
    ended = run(bench, rows, tmp_path / "run", *remote, f"output.schema={json.dumps(REFUSED)}")
    # What is looked at next is what is wrong.
    assert ended.code == 2 and "COTUNE_NO_SUCH_KEY is not set" in ended.stderr


LOOSE = {"type": "object", "properties": {"kind": {"type": "string", "maxLength": 40}, "size": {"type": "number"}}}


def with_odd(numbers: range, count: int = 60, **more: Any) -> list[dict[str, Any]]:
    """Rows, some of which have something in their answer that others do not."""
    rows = rows_of(count)
    return [{**row, "answer": {**row["answer"], **(more if i in numbers else {})}} for i, row in enumerate(rows)]


def files(folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> tuple[Path, str]:
    for row in test:
        row["thing"] = f"other {row['thing']}"
    return write_rows(folder / "train.jsonl", train), f"data.test={write_rows(folder / 'test.jsonl', test)}"


def test_rows_that_could_never_be_answered_rightly_are_told_before_the_start(bench: Bench, tmp_path: Path) -> None:
    train, test = files(tmp_path, with_odd(range(4), surplus=1), with_odd(range(3), 20, size=1e-300))
    # The budget is for nothing but the start.
    more = ("--model", str(bench.model), f"output.schema={json.dumps(LOOSE)}", test, "--budget", "1ktok")
    ended = run(bench, train, tmp_path / "run", *more)
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.code == 2 and "budget" in ended.stderr
    found = re.findall(r"(\d+) of (\d+) (\w+) rows have an output that can never be written", said)
    assert {split for _, _, split in found} <= {"train", "dev", "test"} and ("3", "20", "test") in found
    assert sum(int(count) for count, _, split in found if split != "test") == 4
    assert re.search(r"; train:[1-4], .{0,80}\('surplus' was unexpected\)", said), said
    assert "1e-300" not in said, "nothing of the test is shown"


@pytest.mark.parametrize(
    ("train", "test", "more", "wanted"),
    [
        (with_odd(range(60), surplus=1), [], f"output.schema={json.dumps(LOOSE)}",
         ("outputs of train: 28 of 28 train rows", "'surplus' was unexpected", "Correct the rows or the schema")),
        (rows_of(), with_odd(range(12), 20, colour="red"), "output.type=json", ("outputs of test: 12 of 20 test", "Correct")),
        ([{**row, "answer": f"{10**20 + i}.5"} for i, row in enumerate(rows_of())], [], "output.type=number",
         ("28 of 28 train rows", "has more digits than can be generated, 15 before the point", "output.type to text")),
    ],
    ids=["train", "test", "number"],
)  # fmt: skip
def test_where_most_rows_could_never_be_answered_the_run_is_refused(
    bench: Bench, tmp_path: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], more: str, wanted: tuple[str, ...]
) -> None:
    path, named = files(tmp_path, train, test)
    ended = run(bench, path, tmp_path / "run", "--model", str(tmp_path / "no-model"), more, *([named] if test else []))
    said = " ".join(ended.stderr.split())
    assert ended.code == 2 and not [part for part in wanted if part not in said], ended.stderr
    assert not (tmp_path / "run").exists()


def test_answers_longer_than_any_may_be_are_told_and_refused(bench: Bench, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", rows_of())
    # The sizes stand in the texts, so that they would be copied.
    generated = ("--model", str(bench.model), "output.type=json", "tune.readout=words")
    ended = run(bench, rows, tmp_path / "run", *generated, "output.max_tokens=10")
    said = " ".join(ended.stderr.split())
    assert ended.code == 2 and "output.max_tokens: 28 of 28 train rows have an output of more than 10 tokens" in said, said
    assert re.search(r"; train:\d+, 2\d tokens.* Raise it to 2\d or more", said) and not (tmp_path / "run").exists()
    # Without a limit it comes from train and dev, which the test may exceed.
    path, test = files(tmp_path, rows_of(), with_odd(range(2), 20, kind="a much longer one than any that was seen" * 3))
    loose = f"output.schema={json.dumps({**LOOSE, 'properties': {**LOOSE['properties'], 'kind': {'type': 'string'}}})}"
    ended = run(bench, path, tmp_path / "run", "--model", str(bench.model), loose, test, "--budget", "1ktok")
    said = " ".join((ended.stdout + ended.stderr).split())
    assert re.search(r"2 of 20 test rows have an output of more than \d\d tokens", said) and "budget" in ended.stderr, said
    # Free text may be cut.
    texts = write_rows(
        tmp_path / "texts.jsonl", [{**row, "answer": "many words " * 5 + f"{i}"} for i, row in enumerate(rows_of())]
    )
    more = ("--model", str(bench.model), "output.type=text", "output.max_tokens=10", "--budget", "1ktok")
    ended = run(bench, texts, tmp_path / "run", *more)
    assert ended.code == 2 and "budget" in ended.stderr
    assert "28 of 28 train rows have an output of more than 10 tokens" in " ".join((ended.stdout + ended.stderr).split())


def test_rows_that_do_not_fit_are_told_behind_an_endpoint_too(bench: Bench, tmp_path: Path) -> None:
    path, test = files(tmp_path, rows_of(), with_odd(range(12), 20, colour="red"))
    remote = ("model=openai:writer", "endpoint.base_url=http://127.0.0.1:1/v1", "output.type=json", test)
    ended = run(bench, path, tmp_path / "run", *remote)
    assert ended.code == 2 and "12 of 20 test rows have an output that can never be written" in ended.stderr


@pytest.mark.parametrize("remote", [False, True])
def test_a_teachers_answers_are_learnt_where_they_can_be_written(bench: Bench, tmp_path: Path, remote: bool) -> None:
    def reply(handler: Handler) -> None:
        number = int(handler.request_body["messages"][-1]["content"].split("thing ")[-1].split()[0])
        said = json.dumps({"kind": "tool", "size": number, **({"surplus": 1} if number % 2 else {})})
        send(200, json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode())(handler)

    rows = write_rows(tmp_path / "rows.jsonl", rows_of())
    more = write_rows(tmp_path / "more.jsonl", [{"thing": f"thing {i}"} for i in range(200, 220)])
    with chat_server(reply) as server:
        model = ("model=openai:writer", f"endpoint.base_url={server.url}") if remote else ("--model", str(bench.model))
        teacher = (f"data.unlabelled={more}", f"teacher.base_url={server.url}", "teacher.model=wise", "teacher.sample=1")
        schema = f"output.schema={json.dumps(LOOSE)}"
        columns = ("--input", "thing", "--output", "answer", "--budget", "50ktok", "--out", str(tmp_path / "run"))
        ended = bench.commands.run("run", str(rows), *columns, *model, *teacher, schema, at=("line", "start", 1))
        assert ended.code == -9, ended.stderr
    value = next(event["value"] for event in journal_of(tmp_path / "run") if event["kind"] == "teach")
    # Behind an endpoint nothing holds a model to the named properties, and the schema allows others.
    assert (value["refused"], len(value["rows"])) == ((0, 20) if remote else (10, 10))
