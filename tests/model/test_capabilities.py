"""What a model can do is asked of it, never guessed from what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cotune
from cotune.bundle import Predictor
from cotune.endpoint import Client, Endpoint
from cotune.endpoint.request_format import RequestFormat
from cotune.errors import InputError
from cotune.evaluate.decision import RAW
from cotune.model.base import EVERYTHING, Capabilities
from cotune.model.remote.model import RemoteModel
from cotune.prompt.prompt import Prompt
from tiny import tiny_local

ROOT = Path(cotune.__file__).parent
PROMPT = Prompt("Choose: {labels}.", "{text}", "Answer:")


def remote() -> RemoteModel:
    return RemoteModel(Client(Endpoint("http://127.0.0.1:1/v1", "m", "SOME_KEY")), way=RequestFormat())


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")


def test_a_local_model_can_do_everything_and_one_elsewhere_writes() -> None:
    assert tiny_local("llama").capabilities == EVERYTHING
    assert remote().capabilities == Capabilities(tune=False, hidden_states=False, likelihoods=False, generation=True)


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
    asking = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if re.search(r"isinstance\([^)]*RemoteModel|context\.remote\b", path.read_text(encoding="utf-8"))
    }
    assert asking == set()
