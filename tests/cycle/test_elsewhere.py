"""Run folders that somebody else made: trying a prompt there executes nothing, sends nothing and names no secret by itself."""

from __future__ import annotations

import json
import os
import py_compile
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, chat_server, completion, send
from cotune.api import try_prompt
from cotune.cli import main
from cotune.config import config_from_data
from cotune.config.task import Task
from cotune.cycle.candidate import Candidate
from cotune.cycle.journal import read_journal
from cotune.endpoint import Client, Endpoint
from cotune.endpoint.request_format import RequestFormat
from cotune.errors import InputError
from cotune.model.remote.model import RemoteModel
from cotune.prompt.bank import seed_prompt
from cotune.run_files import JOURNAL
from cotune.task.answered import Answered
from cotune.task.metrics.user import UserMetric
from cotune.task.values.output import Output
from journals import write_journal

SECRET = "sk-secret-of-this-machine"
PROMPT = "Name it: {text}"
WORDS = ("apple", "cat")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("SECRET_OF_MINE", SECRET)
    with chat_server(send(200, completion("apple"))) as server:
        yield server


def metric_file(folder: Path) -> Path:
    """A metric that tells by a file that it was executed."""
    path = folder / "metric.py"
    path.write_text(
        f"open({str(folder / 'executed')!r}, 'w').close()\n\ndef score(right, answer, row):\n    return right == answer\n"
    )
    return path


def run_folder(folder: Path, url: str, *settings: str, fingerprint: str = "", judged: bool = False) -> Path:
    """The folder of a run that chose its seed prompt, as anybody could write it."""
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"{WORDS[i % 2]} {i}", "label": WORDS[i % 2]}) + "\n" for i in range(60)))
    given = ["model=openai:m", f"endpoint.base_url={url}", *settings]
    config = config_from_data(rows, input="text", output="label", overrides=given)
    task = Task.from_config(config, checked=False, run_metric=False)
    identity = {"data": fingerprint or task.fingerprint}
    (folder / "config.json").write_text(json.dumps({"config": config.model_dump(mode="json"), "identity": identity}))
    way = RequestFormat(0, tokens=8)
    model = RemoteModel(Client(Endpoint(url, "m")), way=way)
    chosen = Candidate(seed_prompt(task)).to_json()
    events: dict[str, Any] = {
        "engine": {"device": "cpu", "dtype": "float32", "threads": 1, "batch_tokens": 64, "way": way.to_json()},
        "start": {"model_fingerprint": model.fingerprint},
        **({"judge": {"way": way.to_json()}} if judged else {}),
        "confirm": {"chosen": chosen, "arms": {"best_tuned": None, "prompt_only": chosen}},
    }
    lines = [
        {"n": n, "kind": kind, "key": "x", "active_s": 1.0, "value": value} for n, (kind, value) in enumerate(events.items())
    ]
    write_journal(folder, lines)
    return folder


def test_a_metric_that_the_folder_names_is_not_executed(tmp_path: Path, server: ChatServer) -> None:
    name = f"{metric_file(tmp_path)}:score"
    folder = run_folder(tmp_path / "run", server.url, f"metric={name}", fingerprint="another")
    with pytest.raises(InputError, match="--metric") as caught:
        try_prompt(folder, PROMPT)
    assert name in str(caught.value)
    # Rows or a metric that are not the run's are told before anything is executed, allowed or not.
    with pytest.raises(InputError, match="the data is not that of the run"):
        try_prompt(folder, PROMPT, metric=name)
    assert not (tmp_path / "executed").exists() and not server.seen


def test_a_metric_that_the_user_names_is_executed_and_then_known(tmp_path: Path, server: ChatServer) -> None:
    name = f"{metric_file(tmp_path)}:score"
    folder = run_folder(tmp_path / "run", server.url, f"metric={name}")
    with pytest.raises(InputError, match="--metric"):
        try_prompt(folder, PROMPT)
    assert not (tmp_path / "executed").exists()
    found = try_prompt(folder, PROMPT, metric=name)
    assert (tmp_path / "executed").exists() and found.n > 0
    # The same file at the same place is known by now; with one more line it is another.
    assert try_prompt(folder, PROMPT).n == found.n
    (tmp_path / "executed").unlink()
    (tmp_path / "metric.py").write_text((tmp_path / "metric.py").read_text() + "# changed\n")
    with pytest.raises(InputError, match="--metric"):
        try_prompt(folder, PROMPT)
    assert not (tmp_path / "executed").exists()


def test_a_cache_that_somebody_else_filled_allows_no_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{metric_file(tmp_path)}:score"
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "theirs"))
    UserMetric(name)
    assert UserMetric(name, run=False).known
    shutil.copytree(tmp_path / "theirs", tmp_path / "copy")
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "copy"))
    assert not UserMetric(name, run=False).known


def test_a_secret_that_the_folder_names_is_not_sent(tmp_path: Path, server: ChatServer) -> None:
    folder = run_folder(tmp_path / "run", server.url, "endpoint.key_env=SECRET_OF_MINE")
    with pytest.raises(InputError, match="--key-env SECRET_OF_MINE"):
        try_prompt(folder, PROMPT)
    assert not server.seen
    try_prompt(folder, PROMPT, key_env="SECRET_OF_MINE")
    assert server.seen and server.seen[-1]["headers"]["Authorization"] == f"Bearer {SECRET}"


def test_rows_are_not_sent_to_where_the_folder_says(tmp_path: Path, server: ChatServer) -> None:
    elsewhere = server.url.replace("127.0.0.1", "0.0.0.0")
    folder = run_folder(tmp_path / "run", elsewhere)
    with pytest.raises(InputError, match="--endpoint") as caught:
        try_prompt(folder, PROMPT)
    assert elsewhere in str(caught.value) and not server.seen
    try_prompt(folder, PROMPT, endpoint=elsewhere)
    assert server.seen and "Authorization" not in server.seen[-1]["headers"]


@pytest.mark.parametrize(("key", "host"), [("SECRET_OF_MINE", "127.0.0.1"), ("", "0.0.0.0")])
def test_a_judge_is_asked_only_where_and_how_the_user_says(tmp_path: Path, server: ChatServer, key: str, host: str) -> None:
    grading = server.url.replace("127.0.0.1", host)
    settings = ("output.type=text", "metric=judge", f"judge.base_url={grading}", "judge.model=grader")
    folder = run_folder(tmp_path / "run", server.url, *settings, *([f"judge.key_env={key}"] if key else []), judged=True)
    option = "--judge-key-env SECRET_OF_MINE" if key else f"--judge-endpoint {grading}"
    with pytest.raises(InputError, match=option):
        try_prompt(folder, PROMPT, endpoint=server.url, key_env="SECRET_OF_MINE")
    assert not server.seen


def test_the_message_says_what_to_add_on_the_command_line(
    tmp_path: Path, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run", server.url, "endpoint.key_env=SECRET_OF_MINE")
    arguments = ["try", str(folder), "--text", PROMPT]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    told = capsys.readouterr().err
    assert end.value.code == 2 and not server.seen
    added = told.split("add ")[1].split(" (in Python")[0]
    with pytest.raises(SystemExit) as end:
        main([*arguments, *shlex.split(added)])
    assert end.value.code == 0 and server.seen, capsys.readouterr().err


def test_nothing_is_fetched_because_the_folder_says_so(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "http://127.0.0.1:1/v1", "model=cotune-tests/none-such", "endpoint.base_url=null")
    with pytest.raises(InputError, match="--base hub"):
        try_prompt(run, PROMPT)
    with pytest.raises(InputError, match="cannot be fetched from the hub"):
        try_prompt(run, PROMPT, base="hub")
    config = json.loads((run / "config.json").read_text())
    config["config"]["data"]["dev"] = "hf://cotune-tests/none-such"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"rows are a data set.*--base hub"):
        try_prompt(run, PROMPT)


def test_a_local_data_set_fetches_nothing_because_the_folder_says_so(
    tmp_path: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("cotune.task.reading.hub.read_hub", lambda name, *_: asked.append(name))
    address = server.url.replace("/v1", "/rows.csv")
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {address}\n---\n")
    run = run_folder(tmp_path / "run", server.url)
    config = json.loads((run / "config.json").read_text())
    config["config"]["data"]["train"] = f"hf://{rows}"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"rows are a data set.*--base hub"):
        try_prompt(run, PROMPT)
    assert not asked and not server.seen


@pytest.mark.parametrize("kind", ["engine", "start", "confirm", "judge"])
@pytest.mark.parametrize("value", [None, 5, "text", [], {}, {"way": {}, "chosen": 5, "arms": {}}])
def test_steps_that_hold_something_else_are_told(tmp_path: Path, server: ChatServer, kind: str, value: object) -> None:
    settings = ("output.type=text", "metric=judge", f"judge.base_url={server.url}", "judge.model=grader")
    folder = run_folder(tmp_path / "run", server.url, *settings, judged=True)
    events = read_journal(folder / JOURNAL)
    next(event for event in events if event["kind"] == kind)["value"] = value
    write_journal(folder, events)
    with pytest.raises(InputError):
        try_prompt(folder, PROMPT)
    assert not server.seen


@pytest.mark.parametrize("damage", ["no identity", "no engine", "no value", "a list", "nested", "no time"])
def test_a_folder_that_lacks_something_is_told(tmp_path: Path, server: ChatServer, damage: str) -> None:
    folder = run_folder(tmp_path / "run", server.url)
    config, events = json.loads((folder / "config.json").read_text()), read_journal(folder / JOURNAL)
    if damage == "no identity":
        del config["identity"]
    elif damage == "a list":
        config = [config]
    elif damage == "no engine":
        del events[0]
    elif damage == "no time":
        events[1]["active_s"] = "long"
    else:
        del events[1]["value"]
    (folder / "config.json").write_text("[" * 100_000 if damage == "nested" else json.dumps(config))
    write_journal(folder, events)
    with pytest.raises(InputError):
        try_prompt(folder, PROMPT)
    assert not server.seen


def test_compiled_files_beside_a_metric_play_no_part(tmp_path: Path) -> None:
    """What is hashed is what is executed, whatever a cache of compiled files beside it says."""
    path = metric_file(tmp_path)
    state = path.stat()
    honest = path.read_text()
    lie = honest.replace("right == answer", "1.0  ##########")
    assert len(lie) == len(honest)
    path.write_text(lie)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    py_compile.compile(str(path))
    path.write_text(honest)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    metric = UserMetric(f"{path}:score")
    assert metric(Answered(("a",), ("b",), Output("text"))).tolist() == [0.0]


def test_a_metric_may_return_a_decimal(tmp_path: Path) -> None:
    """Numbers reach it as decimals, so what it computes from them is one."""
    path = tmp_path / "near.py"
    path.write_text("def score(right, answer, row):\n    return max(0, 1 - abs(right - answer) / 10)\n")
    metric = UserMetric(f"{path}:score")
    assert metric(Answered(("7",), ("4.5",), Output("number"))).tolist() == [0.75]
