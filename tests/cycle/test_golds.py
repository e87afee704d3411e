"""Schemas and right answers that the model could never write: told or refused before there is a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import Ended
from test_remote_writing import run as run_remote
from test_remote_writing import writing

from chat_server import chat_server
from cotune.api import run as run_task
from cotune.errors import InputError
from cotune.task.task import Task

if TYPE_CHECKING:
    from conftest import Bench

PATTERN = {"type": "object", "properties": {"kind": {"type": "string", "pattern": "^[a-z]+$"}, "size": {"type": "integer"}}}


def rows_of(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    kinds = ("fruit", "animal", "tool")
    return [{"thing": f"thing {i}", "answer": {"kind": kinds[i % 3], "size": i, **more}} for i in range(count)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(bench: Bench, rows: Path, out: Path, *more: str) -> Ended:
    columns = ("--input", "thing", "--output", "answer")
    return bench.commands.run("run", str(rows), *columns, "--budget", "20ktok", "--out", str(out), *more)


@pytest.mark.parametrize("at", ["inline", "file"])
def test_a_keyword_that_cannot_be_kept_is_refused_before_any_model_is_looked_for(bench: Bench, tmp_path: Path, at: str) -> None:
    rows, file = write_rows(tmp_path / "rows.jsonl", rows_of()), tmp_path / "answer.json"
    file.write_text(json.dumps(PATTERN))
    # Had the model been looked for first, it would be that which is missing.
    given = f"output.schema={json.dumps(PATTERN) if at == 'inline' else file}"
    ended = run(bench, rows, tmp_path / "run", "--model", str(tmp_path / "no-model"), given)
    assert ended.code == 2, ended.stderr
    place = "output.schema, #/properties/kind" if at == "inline" else f"output.schema, {file}, #/properties/kind"
    said = " ".join(ended.stderr.split())
    assert f"{place}: the keyword 'pattern' cannot be kept" in said, ended.stderr
    assert "Leave it out, or list the values in enum" in said and not (tmp_path / "run").exists()


def test_a_schema_of_a_task_made_in_python_is_refused_as_early(tmp_path: Path) -> None:
    task = Task.from_rows(rows_of(), input="thing", output="answer", schema=PATTERN)
    with pytest.raises(InputError, match=r"schema of the outputs, #/properties/kind: the keyword 'pattern'"):
        run_task(task, out=tmp_path / "run", model=tmp_path / "no-model")
    assert not (tmp_path / "run").exists()


def test_behind_an_endpoint_the_whole_schema_is_kept_to(bench: Bench, tmp_path: Path) -> None:
    with chat_server(writing("json")) as server:
        ended = run_remote(bench, server, tmp_path / "run", "json", f"output.schema={json.dumps(PATTERN)}")
    assert ended.code == 0, ended.stderr
