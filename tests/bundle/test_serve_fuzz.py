"""``cotune serve`` asked by a machine that reads its OpenAPI document and tries what it can think of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bundles import Bench
from hypothesis import HealthCheck, Phase, given, settings
from servers import Client, running

from cotune.bundle import load_several
from cotune.prompt.prompt import Prompt
from cotune.task.values.output import Output

SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer"}, "why": {"type": "string"}}, "required": ["n"]}'


@pytest.fixture(scope="module")
def server(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("fuzzed")
    two = Prompt(input_template="{title}\n{body}", cue="Label:")
    made = [
        bench.save(folder / "one"),
        bench.save(folder / "two", task_name="two", input_fields=("title", "body"), prompt=two, adapter_folder=None),
        *(
            bench.save(
                folder / output.type,
                task_name=output.type,
                output=output,
                prompt=Prompt("Write.", "{text}", "Answer:"),
                metric="likelihood",
                answer_tokens=30,
            )
            for output in (Output("json", schema_text=SCHEMA), Output("text"))
        ),
    ]
    with running(load_several(made, device="cpu", dtype="float32", threads=1)) as client:
        yield client


@pytest.fixture(scope="module")
def document(server: Client) -> Any:
    raw = server.ask("/openapi.json").json
    # Names that are served, so that most requests get past that check.
    for name in ("ChatRequest", "EmbeddingRequest"):
        raw["components"]["schemas"][name]["properties"]["model"]["enum"] = list(server.models)
    return read(raw, server)


@pytest.fixture(scope="module")
def written(server: Client) -> Any:
    """The document with nothing left in it that a bundle which writes cannot answer."""
    raw = server.ask("/openapi.json").json
    models, text = list(server.models[2:]), {"type": "string", "pattern": "^[a-z é\U0001f600]{0,30}[a-z]$"}
    chat = raw["components"]["schemas"]["ChatRequest"]
    message = {"type": "object", "properties": {"role": {"const": "user"}, "content": text}, "required": ["role", "content"]}
    known = {name: chat["properties"][name] for name in ("stream", "stream_options", "temperature", "seed", "n")}
    chat["properties"] = {**known, "model": {"enum": models}, "messages": {"type": "array", "items": message, "minItems": 1}}
    row = {"type": "object", "properties": {"text": text}, "required": ["text"]}
    rows = {"type": "object", "properties": {"rows": {"type": "array", "items": row, "minItems": 1}}, "required": ["rows"]}
    predict = raw["paths"]["/predict"]["post"]
    predict["parameters"][0] |= {"schema": {"enum": models}, "required": True}
    predict["requestBody"]["content"]["application/json"]["schema"] = {"anyOf": [row, rows]}
    for closed in (chat, message, row, rows):
        closed["additionalProperties"] = False
    return read(raw, server)


def read(raw: Any, server: Client) -> Any:
    # Here, as it takes a second: every test process imports this file.
    import schemathesis

    found = schemathesis.openapi.from_dict(raw)
    found.config.update(base_url=server.url)
    return found


def answers_to(operation: Any, ways: int = 30) -> set[int]:
    """Ask in many ways; the statuses that came back."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    checked = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.response_headers_conformance,
    ]
    seen = set()

    @settings(
        max_examples=ways,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        seen.add(case.call_and_validate(checks=checked, timeout=60).status_code)

    ask()
    return seen


def test_every_answer_is_one_that_the_document_tells_of(document: Any) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    statuses = {operation.path: answers_to(operation) for operation in operations}
    assert len(statuses) == 6
    # Whether a made-up body happens to hold a row that can be answered is chance; that most cannot is sure.
    assert 200 in statuses["/health"] and 200 in statuses["/v1/models"], statuses
    assert 400 in statuses["/v1/chat/completions"], statuses


def test_whatever_is_written_is_what_the_document_tells_of(written: Any) -> None:
    for path in ("/predict", "/v1/chat/completions"):
        assert answers_to(written[path]["POST"], 20) == {200}


def test_it_still_answers(server: Client) -> None:
    assert server.ask("/predict", {"bundle": server.models[0], "text": "a"}).status == 200
