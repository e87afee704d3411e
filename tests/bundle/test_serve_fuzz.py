"""``cotune serve`` asked by a machine that reads its OpenAPI document and tries what it can think of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from bundles import Bench
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from servers import Client, running

from cotune.bundle import load_several
from cotune.prompt.prompt import Prompt

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@pytest.fixture(scope="module")
def server(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("fuzzed")
    two = Prompt(input_template="{title}\n{body}", cue="Label:")
    made = [
        bench.save(folder / "one"),
        bench.save(folder / "two", task_name="two", input_fields=("title", "body"), prompt=two, adapter_folder=None),
    ]
    with running(load_several(made, device="cpu", dtype="float32", threads=1)) as client:
        yield client


@pytest.fixture(scope="module")
def document(server: Client) -> Any:
    raw = server.ask("/openapi.json").json
    # Names that are served, so that most requests get past that check.
    for name in ("ChatRequest", "EmbeddingRequest"):
        raw["components"]["schemas"][name]["properties"]["model"]["enum"] = list(server.models)
    found = schemathesis.openapi.from_dict(raw)
    found.config.update(base_url=server.url)
    return found


def answers_to(operation: Any) -> set[int]:
    """Ask in many ways; the statuses that came back."""
    seen = set()

    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        seen.add(case.call_and_validate(checks=CHECKS, timeout=60).status_code)

    ask()
    return seen


def test_every_answer_is_one_that_the_document_tells_of(document: Any) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    statuses = {operation.path: answers_to(operation) for operation in operations}
    assert len(statuses) == 6
    # Whether a made-up body happens to hold a row that can be answered is chance; that most cannot is sure.
    assert 200 in statuses["/health"] and 200 in statuses["/v1/models"], statuses
    assert 400 in statuses["/v1/chat/completions"], statuses


def test_it_still_answers(server: Client) -> None:
    assert server.ask("/predict", {"bundle": server.models[0], "text": "a"}).status == 200
