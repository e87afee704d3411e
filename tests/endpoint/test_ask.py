"""Asking a language model over real HTTP: what is tried again, what is given up, and what is never told."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chat_server import Handler, Reply, chat_server, completion, hang, send, slow, torn, trickle
from cotune.endpoint import TRIES, Client, Endpoint, EndpointError, ask, estimate_tokens
from cotune.endpoint.request_format import RequestFormat

MESSAGES = [{"role": "user", "content": "What would help?"}]
LOST = estimate_tokens(MESSAGES) + 50
"""What a try that brings nothing may have used: the question, and an answer as long as it may be."""
SLOW_S = 30
"""No answer may take longer than this, however busy the machine."""


class Waits:
    """A clock that does not wait, and keeps for how long it was asked to."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def asked(
    url: str,
    *,
    waits: Waits | None = None,
    timeout: float = 20.0,
    key_env: str | None = None,
    jitter: Callable[[], float] = random.random,
    **more: Any,
) -> Any:
    given = {"way": RequestFormat(0, tokens=50), "schema": None, "tries": TRIES, "most": 99, "patience": 2 * timeout, **more}
    with Client(Endpoint(url, "writer", key_env, timeout), sleep=waits or Waits(), jitter=jitter) as client:
        return ask(client, MESSAGES, **given)


def test_a_good_answer_comes_with_what_it_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITER_KEY", "secret-123\n")
    with chat_server(send(200, completion("hello", 77))) as server:
        answer = asked(server.url + "/", key_env="WRITER_KEY")
    assert (answer.text, answer.requests, answer.usage.total) == ("hello", 1, 77)
    request = server.seen[0]
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == "Bearer secret-123"
    assert request["body"]["model"] == "writer" and request["body"]["messages"] == MESSAGES
    assert request["body"]["max_tokens"] == 50


def test_without_a_key_none_is_sent_and_uncounted_tokens_are_estimated() -> None:
    with chat_server(send(200, completion("hello" * 30, None))) as server:
        answer = asked(server.url)
    assert "Authorization" not in server.seen[0]["headers"]
    assert answer.usage.total >= estimate_tokens(MESSAGES) + 30


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again_with_growing_waits(status: int) -> None:
    waits = Waits()
    busy = send(status, b"busy")
    with chat_server(busy, busy, busy, send(200, completion("at last"))) as server:
        answer = asked(server.url, waits=waits, jitter=lambda: 0.5)
    assert (answer.text, answer.requests) == ("at last", 4)
    assert waits.seconds == [pytest.approx(0.375), pytest.approx(0.75), pytest.approx(1.5)]


def test_retry_after_is_obeyed_in_seconds_and_as_a_date() -> None:
    waits = Waits()
    date = email.utils.formatdate(time.time() + 9, usegmt=True)
    replies = (send(429, b"", Retry_After="7"), send(503, b"", Retry_After=date), send(200, completion("yes")))
    with chat_server(*replies) as server:
        assert asked(server.url, waits=waits, jitter=lambda: 0.0).text == "yes"
    assert waits.seconds[0] == pytest.approx(7.0)
    assert 4 < waits.seconds[1] <= 9


def test_a_server_that_asks_for_more_patience_than_there_is_is_given_up() -> None:
    waits = Waits()
    with chat_server(send(429, b"tomorrow", Retry_After="86400")) as server:
        with pytest.raises(
            EndpointError, match=r"429: tomorrow; another try in 86400 s would come too late \(1 request\)"
        ) as told:
            asked(server.url, waits=waits)
        assert len(server.seen) == 1
    assert not waits.seconds and told.value.requests == 1 and told.value.usage.total == 0


@pytest.mark.parametrize("header", ["soon", "nan", "-5", "inf", ""])
def test_an_odd_retry_after_does_no_harm(header: str) -> None:
    waits = Waits()
    with chat_server(send(429, b"", Retry_After=header), send(200, completion("yes"))) as server:
        assert asked(server.url, waits=waits).text == "yes"
    assert 0 <= waits.seconds[0] < 2


@pytest.mark.parametrize(
    "reply",
    [
        torn,
        send(200, b"<html>not JSON"),
        send(200, b'{"choices": []}'),
        send(200, completion(None)),
        send(200, b"[" * 100_000),
        send(200, b""),
    ],
    ids=["torn", "html", "no choice", "no text", "deep", "empty"],
)
def test_a_broken_answer_is_asked_for_again_and_counts_as_a_whole_one(reply: Any) -> None:
    with chat_server(reply, send(200, completion("whole", 10))) as server:
        answer = asked(server.url)
    assert (answer.text, answer.requests) == ("whole", 2)
    assert answer.usage.total == 10 + LOST and answer.usage.output >= 50


def test_tries_are_bounded() -> None:
    with chat_server(torn) as server:
        with pytest.raises(EndpointError, match=r"\(3 requests\)") as told:
            asked(server.url, tries=3)
        assert len(server.seen) == told.value.requests == 3
    assert told.value.usage.total == 3 * LOST and told.value.usage.output == 150


@pytest.mark.parametrize("reply", [hang, trickle, slow(3, send(200, completion("late")))], ids=["never", "trickle", "slow"])
def test_no_request_takes_longer_than_its_timeout(reply: Any) -> None:
    before = time.monotonic()
    with chat_server(reply) as server:
        with pytest.raises(EndpointError, match=r"no answer within|took longer than"):
            asked(server.url, timeout=0.6, tries=2)
        assert time.monotonic() - before < SLOW_S


def test_all_tries_together_are_bounded_in_time() -> None:
    with chat_server(hang) as server:
        before = time.monotonic()
        with pytest.raises(EndpointError) as told:
            asked(server.url, timeout=20, patience=0.5)
        assert time.monotonic() - before < SLOW_S / 2
    assert told.value.requests == 1 and told.value.usage.total == LOST


def test_a_refusal_is_not_tried_again_and_the_key_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITER_KEY", "secret-123")
    with chat_server(send(401, b'{"error": "Incorrect API key: secret-123"}')) as server:
        with pytest.raises(EndpointError, match="401") as told:
            asked(server.url, key_env="WRITER_KEY")
        assert len(server.seen) == 1
    assert "secret" not in str(told.value) and "[key]" in str(told.value)
    with chat_server(send(200, completion("you sent secret-123"))) as server:
        assert asked(server.url, key_env="WRITER_KEY").text == "you sent [key]"


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITER_KEY", "secret-123")
    with chat_server(send(200, completion("caught"))) as other, chat_server(send(307, b"", Location=other.url)) as server:
        with pytest.raises(EndpointError, match="307"):
            asked(server.url, key_env="WRITER_KEY")
        assert not other.seen


def test_an_endless_answer_is_cut_off() -> None:
    with chat_server(send(200, b" " * 3_000_000)) as server, pytest.raises(EndpointError, match="longer than 1,000,000 bytes"):
        asked(server.url)


def test_a_port_where_nobody_listens_is_told() -> None:
    with chat_server(hang) as server:
        url = server.url
    with pytest.raises(EndpointError, match="the connection broke") as told:
        asked(url, tries=2)
    assert told.value.requests == 2


@pytest.mark.parametrize("value", [None, "", "  ", "schlüssel", "two\nlines"])
def test_a_key_that_is_missing_or_cannot_be_sent_is_told_before_asking(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("WRITER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("WRITER_KEY", value)
    with chat_server(send(200, completion("hello"))) as server:
        with pytest.raises(EndpointError, match="WRITER_KEY") as told:
            asked(server.url, key_env="WRITER_KEY")
        assert not server.seen
    assert not value or not value.strip() or value not in str(told.value)


@pytest.mark.parametrize("url", ["http://" + "a" * 300 + ".invalid/v1", "http://x..y/v1"])
def test_a_host_that_cannot_be_is_told(url: str) -> None:
    with pytest.raises(EndpointError):
        asked(url, tries=1)


SCHEMA = {"type": "object", "properties": {"prompts": {"type": "array", "items": {"type": "string"}}}, "required": ["prompts"]}
FIRM = RequestFormat(0, tokens=50, form="strict")


def refusing(names: Callable[[dict[str, Any]], bool], refusal: Reply) -> Reply:
    """Refuses the requests that ``names`` finds wrong, and answers others."""

    def reply(handler: Handler) -> None:
        (refusal if names(handler.request_body) else send(200, completion("[]", 10)))(handler)

    return reply


def test_a_server_that_honours_a_schema_is_asked_for_it_once() -> None:
    with chat_server(send(200, completion("{}"))) as server:
        answer = asked(server.url, way=FIRM, schema=SCHEMA)
    assert answer.way == replace(FIRM, tells_probabilities=False) and answer.requests == 1
    assert server.seen[0]["body"]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }


@pytest.mark.parametrize(
    "refusal",
    [
        send(400, b"bad request"),
        send(400, b"response_format is unknown here"),
        send(500, b"1 validation error: {'loc': ('body', 'response_format')}"),
    ],
    ids=["unsaid", "named", "as 500"],
)
def test_a_server_that_refuses_any_format_is_asked_without_and_it_is_remembered(refusal: Reply) -> None:
    with chat_server(refusing(lambda body: "response_format" in body, refusal)) as server:
        waits = Waits()
        first = asked(server.url, way=FIRM, schema=SCHEMA, tries=1, waits=waits)
        formats = [(request["body"].get("response_format") or {}).get("type") for request in server.seen]
        second = asked(server.url, way=first.way, schema=SCHEMA, tries=1)
    assert (first.text, first.requests, first.usage.total, first.way.form) == ("[]", 5, 10, "")
    assert formats == ["json_schema", "json_schema", "json_object", "json_object", None]
    assert second.requests == 1 and not waits.seconds


def test_what_a_refusal_names_is_not_sent_again() -> None:
    refusal = send(400, b"Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    with chat_server(refusing(lambda body: "max_tokens" in body, refusal)) as server:
        answer = asked(server.url, way=FIRM, schema=SCHEMA)
    assert (answer.requests, answer.way.form, answer.way.limit) == (2, "strict", "max_completion_tokens")
    warm = send(400, b"temperature cannot be set")
    with chat_server(refusing(lambda body: "temperature" in body, warm)) as server:
        answer = asked(server.url, way=FIRM, schema=SCHEMA)
    assert (answer.requests, answer.way.form, answer.way.greedy) == (2, "strict", False)


def test_refused_requests_count_where_requests_are_bounded() -> None:
    with chat_server(send(400, b"no")) as server, pytest.raises(EndpointError, match="requests are used up") as told:
        asked(server.url, way=FIRM, schema=SCHEMA, most=3)
    assert len(server.seen) == told.value.requests == 3 and told.value.usage.total == 0


@pytest.mark.parametrize(
    "said",
    [
        "The model `writer` does not exist or you do not have access to it.",
        "model 'writer' not found, try pulling it first",
        '{"error": {"message": "No such deployment", "param": null, "code": "model_not_found"}}',
    ],
)
def test_a_model_that_is_not_there_is_told_at_once(said: str) -> None:
    with chat_server(send(404, said.encode())) as server:
        with pytest.raises(EndpointError, match="has no model 'writer'; check its name") as told:
            asked(server.url, way=FIRM, schema=SCHEMA)
        assert len(server.seen) == told.value.requests == 1
    assert said[:40] in str(told.value) and told.value.usage.total == 0


@pytest.mark.parametrize(
    "said", [b"Not Found", b"No endpoint of writer knows the parameter", b"writer: response_format is unknown"]
)
def test_another_404_may_be_about_the_request(said: bytes) -> None:
    with chat_server(refusing(lambda body: "response_format" in body, send(404, said))) as server:
        answer = asked(server.url, way=FIRM, schema=SCHEMA)
    assert (answer.text, answer.requests, answer.way.form) == ("[]", 5, "")


def test_a_server_that_fails_is_still_asked_again() -> None:
    with chat_server(send(500, b"out of memory"), send(200, completion("whole"))) as server:
        answer = asked(server.url, way=FIRM, schema=SCHEMA)
    assert (answer.requests, answer.way.form) == (2, "strict")
