"""The first question to an endpoint, which finds the request format: another row is tried if its content is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, Handler, chat_server, completion, send
from cotune.config import RunConfig, config_in_memory
from cotune.config.task import Task
from cotune.cycle.answering.judging import ByHand, open_judge
from cotune.cycle.backends.endpoint import open_remote
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.journal import Journal
from cotune.cycle.teaching.teach import teach
from cotune.endpoint import EndpointError
from cotune.endpoint.refusals import TRIAL_QUESTIONS, first_answered
from cotune.prompt.bank import seed_prompt
from cotune.task.example import Example


@contextmanager
def refusing(refused: Callable[[str], bool], answer: str, status: int = 400) -> Iterator[ChatServer]:
    def reply(handler: Handler) -> None:
        asked = handler.request_body["messages"][-1]["content"]
        send(*((status, b"content filter") if refused(asked) else (200, completion(answer))))(handler)

    with chat_server(reply) as server:
        yield server


def task_of(**more: Any) -> Task:
    rows = [(f"thing number {i}.", ("fruit", "animal")[i % 2]) for i in range(40)]
    return Task.from_rows(rows, input="q", output="a", seed=0, **more)


def config_of(**more: Any) -> RunConfig:
    return config_in_memory(name="t", input=["q"], output="a", **more)


@pytest.mark.parametrize("status", [400, 401])
def test_the_model_is_tried_with_another_row(tmp_path: Path, status: int) -> None:
    task = task_of()
    first = task.train[0].fields["q"]
    with refusing(lambda text: first in text, "fruit", status) as server, ExitStack() as stack:
        config = config_of(model="openai:m", endpoint={"base_url": server.url})
        given = (config, task, seed_prompt(task), tmp_path, Journal(tmp_path), stack)
        if status != 400:
            with pytest.raises(EndpointError, match="401"):
                open_remote(*given)
            assert len(server.seen) == 1
            return
        _, found = open_remote(*given)
    assert found["way"]["alternatives"] == 20 and found["tokens_per_s"] > 0


def test_a_server_that_refuses_every_row_ends_the_run(tmp_path: Path) -> None:
    task = task_of()
    with refusing(lambda text: True, "") as server, ExitStack() as stack:
        config = config_of(model="openai:m", endpoint={"base_url": server.url})
        with pytest.raises(EndpointError, match="content filter"):
            open_remote(config, task, seed_prompt(task), tmp_path, Journal(tmp_path), stack)
        rows = {request["body"]["messages"][-1]["content"] for request in server.seen}
    assert len(rows) == TRIAL_QUESTIONS


def test_the_judge_is_tried_with_another_row(tmp_path: Path) -> None:
    task = task_of(type="text", metric="judge")
    first = task.train[0].fields["q"]
    with refusing(lambda text: first in text, '{"score": 1}') as server, ExitStack() as stack:
        config = config_of(metric="judge", judge={"base_url": server.url, "model": "m"})
        judge, value = open_judge(config, task, ByHand(), tmp_path, Journal(tmp_path), stack)
    assert judge is not None and (value["rows"], value["refused"]) == (1, 0)


def test_the_teacher_is_tried_with_another_row(tmp_path: Path) -> None:
    task, asked = task_of(), list[str]()

    def first(text: str) -> bool:
        asked.append(text)
        return text == asked[0]

    rows = [Example(f"unlabelled:{i}", {"q": f"another thing {i}"}, "") for i in range(20)]
    with refusing(first, "fruit") as server:
        config = config_of()
        section = config.teacher.model_copy(update={"base_url": server.url, "model": "m", "sample": 10})
        config = config.model_copy(update={"teacher": section})
        given = (config, parse_budget("60ktok"), task, rows, seed_prompt(task), tmp_path, Journal(tmp_path))
        _, value = teach(*given, None)
    assert value["asked"] == 30 and len(value["rows"]) == 20


def test_the_first_question_that_is_not_refused_counts() -> None:
    def ask(status: int) -> int:
        if status != 200:
            raise EndpointError("no", status=status)
        return status

    assert first_answered(ask, iter([400, 422, 200, 200])) == (200, 200)
    with pytest.raises(EndpointError):
        first_answered(ask, [400, 400, 400, 200])
    with pytest.raises(ValueError, match="no questions"):
        first_answered(ask, [])
