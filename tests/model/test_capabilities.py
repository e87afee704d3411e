"""What a model can do is asked of it, never guessed from what it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cotune
from cotune.bundle import Predictor
from cotune.config import config_in_memory
from cotune.cycle.backends.registry import backend_of
from cotune.endpoint import Client, Endpoint
from cotune.endpoint.request_format import RequestFormat
from cotune.errors import InputError
from cotune.evaluate.decision import RAW
from cotune.model.base import EVERYTHING, Capabilities
from cotune.model.remote.model import RemoteModel
from cotune.prompt.prompt import Prompt
from tiny import tiny_local

ROOT = Path(cotune.__file__).parent
LOCAL: dict[str, Any] = {}
ASKED: dict[str, Any] = {"model": "openai:m", "endpoint": {"base_url": "http://127.0.0.1:1/v1"}}
PROMPT = Prompt("Choose: {labels}.", "{text}", "Answer:")


def remote() -> RemoteModel:
    return RemoteModel(Client(Endpoint("http://127.0.0.1:1/v1", "m", "SOME_KEY")), way=RequestFormat())


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")


def test_a_local_model_can_do_everything_and_one_elsewhere_writes() -> None:
    assert tiny_local("llama").capabilities == EVERYTHING
    assert remote().capabilities == Capabilities(generation=True, endpoint=True)


def test_backends_know_the_capabilities_of_their_models() -> None:
    local, asked = (backend_of(config_in_memory(name="x", input=["a"], output="b", **more)) for more in (LOCAL, ASKED))
    assert local.capabilities == EVERYTHING and not local.alone
    assert asked.capabilities == remote().capabilities and "endpoint" in asked.alone


def test_what_a_bundle_keeps_of_each() -> None:
    local = tiny_local("llama")
    saved = local.saved(PROMPT, ("text",), ("a", "b"))
    assert saved.server is None and saved.longest == local.settings.max_tokens
    assert set(saved.asking) == {"chat_template", "stop_id", "max_tokens"} and "{text}" in saved.text
    saved = remote().saved(PROMPT, ("text",), ("a", "b"))
    assert saved.server == ("http://127.0.0.1:1/v1", "SOME_KEY")
    assert set(saved.asking["endpoint"]) == {"base_url", "model", "key_env", "timeout", "way"}
    assert "{text}" in saved.text and saved.text.startswith("[user]")


def test_a_predictor_shows_no_model_that_cannot_be_seen_into() -> None:
    with pytest.raises(InputError, match="behind an endpoint"):
        _ = Predictor(remote(), PROMPT, ("a", "b"), ("text",), decision=RAW).model


def test_no_room_asks_whether_a_model_is_remote() -> None:
    checks = re.compile(r"isinstance\([^)]*RemoteModel|context\.remote\b|\bremote_model\b")
    asking = {
        path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if checks.search(path.read_text(encoding="utf-8"))
    }
    # The config itself, and the backend that a config of this kind chooses.
    assert asking == {"config/run.py", "cycle/backends/endpoint.py"}
