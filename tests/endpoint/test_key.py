"""A server quotes the key that it was sent: no part of it gets into an error, an answer or what is made of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_server import chat_server, completion, send
from cotune.endpoint import Client, Endpoint, EndpointError
from cotune.endpoint.chat import CHAT, message_text
from cotune.endpoint.server import LEAST_SECRET, Key

KEY = "sk-a+b/c-0123456789"
WRITTEN = (KEY, r"sk-a\u002Bb/c-0123456789", r"sk-a+b\/c-0123456789", r"\u0073k-a\u002bb\/c-012345678\u0039")
KEYS = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\"), min_size=4, max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
Ask = Callable[..., Any]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Sends a question with the key to a server that answers so, and reads the answer."""
    monkeypatch.setenv("WRITER_KEY", KEY)

    def asked(status: int, body: bytes, read: Callable[[Any], Any] = message_text) -> Any:
        with chat_server(send(status, body)) as server, Client(Endpoint(server.url, "writer", "WRITER_KEY")) as client:
            return client.post(CHAT, {"model": "writer"}, read, tries=1, patience=20).value

    return asked


@pytest.mark.parametrize("before", ["", "x" * 170, "x" * 185, " " * 1980], ids=["whole", "at 181", "at 196", "at byte 1991"])
@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("status", [401, 503])
def test_an_error_that_is_cut_holds_no_part_of_the_key(ask: Ask, status: int, written: str, before: str) -> None:
    with pytest.raises(EndpointError, match=str(status)) as error:
        ask(status, f'{{"error": "{before}{written}"}}'.encode())
    told = str(error.value)
    assert "sk-" not in told and r"\u0073" not in told and "012" not in told
    assert len(told) < 300


@pytest.mark.parametrize("written", WRITTEN)
def test_an_answer_holds_no_key_however_it_was_written(ask: Ask, written: str) -> None:
    assert ask(200, f'{{"choices": [{{"message": {{"content": "You sent {written}."}}}}]}}'.encode()) == "You sent [key]."
    body = ask(200, f'{{"{written}": ["{written}", 1, null]}}'.encode(), lambda found: found)
    assert body == {"[key]": ["[key]", 1, None]}


@pytest.mark.parametrize("written", WRITTEN)
def test_nor_does_json_that_an_answer_holds(ask: Ask, written: str) -> None:
    inner = f'{{"prompts": ["Say {written}."]}}'
    assert json.loads(ask(200, completion(inner))) == {"prompts": ["Say [key]."]}
    outer = ask(200, completion(json.dumps({"prompts": inner})))
    assert json.loads(json.loads(outer)["prompts"]) == {"prompts": ["Say [key]."]}


@given(KEYS, st.data())
def test_any_key_is_found_in_any_writing(text: str, data: st.DataObject) -> None:
    def written(character: str) -> str:
        number = ord(character)
        return data.draw(st.sampled_from([json.dumps(character)[1:-1], f"\\u{number:04x}", f"\\u{number:04X}"]))

    said, key = "".join(map(written, text)), Key(text)
    assert key.without(f"«{said}»") == "«[key]»"
    answer = json.loads(f'{{"{said}": ["{said}"]}}')
    assert key.cleaned(answer) == ({"[key]": ["[key]"]} if len(text) >= LEAST_SECRET else answer)


@pytest.mark.parametrize("text", ["none", "1", "token", "e"])
def test_a_key_that_is_no_secret_changes_no_answer(text: str) -> None:
    answer = {"choices": [{"text": "none", "tokens": ["1"]}]}
    assert Key(text).cleaned(answer) == answer and Key(text).without(f"bad key: {text}") != f"bad key: {text}"


@given(VALUES)
def test_what_holds_no_key_stays_as_it_is(value: Any) -> None:
    assert Key(KEY).cleaned(value) == value
    assert Key(None).cleaned(value) == value
