"""A run closes its connections and database files when it ends, so that a process can do many runs."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
import pytest
from cycle_runs import labelled_rows

from chat_server import Handler, chat_server, completion, send
from cotune.api import try_prompt
from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.progress import Quiet
from cotune.cycle.run import run
from cotune.endpoint import EndpointError

if TYPE_CHECKING:
    from conftest import Bench


@contextmanager
def without_collection() -> Iterator[None]:
    """What nobody closes stays open: also where a collection would come in time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def opened(folder: Path) -> list[str]:
    """Names of the files under a folder that this process holds open."""
    return [Path(file.path).name for file in psutil.Process().open_files() if Path(file.path).is_relative_to(folder.resolve())]


def connections(url: str) -> int:
    """Number of sockets of this process that are connected to a server, or were until it hung up."""
    port = urlsplit(url).port
    return sum(bool(found.raddr) and found.raddr.port == port for found in psutil.Process().net_connections())


def writing_or_grading(handler: Handler) -> None:
    body = handler.request_body
    text = json.dumps({"score": 0.5}) if body["model"] == "grader" else "an answer in words"
    send(200, completion(text, 40))(handler)


def refusing_to_grade(handler: Handler) -> None:
    send(400, b'{"error": "no"}')(handler) if handler.request_body["model"] == "grader" else writing_or_grading(handler)


def run_by_endpoint(url: str, out: Path) -> None:
    rows = [(f"question {i}", f"the answer {i} in words") for i in range(60)]
    task = Task.from_rows(rows, input="q", output="a", type="text", metric="judge", limit={"test": 12})
    settings: dict[str, Any] = {"model": "openai:writer", "budget": "20ktok", "search": {"pool": 4, "max_cycles": 1}}
    settings |= {"endpoint": {"base_url": url}, "judge": {"base_url": url, "model": "grader"}}
    run(config_in_memory(name="asked", input=["q"], output="a", metric="judge", **settings), out, task=task, view=Quiet())


def test_a_run_by_an_endpoint_closes_it_and_its_judge(tmp_path: Path) -> None:
    with without_collection(), chat_server(writing_or_grading) as server:
        run_by_endpoint(server.url, tmp_path / "run")
        assert len(server.seen) > 20 and not opened(tmp_path) and not connections(server.url)


def test_a_run_that_fails_closes_what_it_opened(tmp_path: Path) -> None:
    with without_collection(), chat_server(refusing_to_grade) as server:
        with pytest.raises(EndpointError):
            run_by_endpoint(server.url, tmp_path / "run")
        assert server.seen and not opened(tmp_path) and not connections(server.url)


def test_a_run_and_a_tried_prompt_close_the_cache_of_scores(bench: Bench, tmp_path: Path) -> None:
    task = Task.from_rows(labelled_rows(60), input="text", output="label", limit={"test": 12})
    settings: dict[str, Any] = {"model": str(bench.model), "budget": "25ktok", "engine": {"dtype": "float32"}}
    settings |= {"tune": {"readout": "words", "batch_size": 8, "rank": 2}, "search": {"pool": 4}}
    settings |= {"evaluate": {"robustness": False, "slices": False, "neighbours": False}}
    config = config_in_memory(name="local", input=["text"], output="label", **settings)
    with without_collection():
        run(config, tmp_path / "run", task=task, view=Quiet())
        assert (tmp_path / "run" / "scores.sqlite").is_file() and not opened(tmp_path)
        try_prompt(tmp_path / "run", "Which? {text}\nKind:", task=task)
        assert not opened(tmp_path)
