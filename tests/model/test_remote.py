"""A model behind an endpoint over real HTTP: probabilities, words, bounds, and nothing asked twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chat_server import Handler, Reply, chat_server, completion, send
from cotune.bundle import load, save_bundle
from cotune.embed import Neighbours
from cotune.endpoint import AnswerCache, Client, Endpoint, EndpointError, Prices
from cotune.endpoint.request_format import FORMS, RequestFormat, answer_tokens
from cotune.errors import CotuneError, InputError
from cotune.evaluate.decision import RAW
from cotune.model.remote.model import RemoteModel
from cotune.prompt.messages import turns_of
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.prompt.render import Renderer
from cotune.task.values.output import Output
from tiny import tiny_tokenizer

LABELS = ("fruit", "animal")
PROMPT = Prompt("Name the kind: {labels}.", "Text: {text}", "Kind:")


def row(text: str) -> dict[str, str]:
    return {"text": text}


def answering(say: Callable[[str], Any]) -> Reply:
    """Replies by what the last message says."""

    def reply(handler: Handler) -> None:
        body = handler.request_body
        found = say(body["messages"][-1]["content"])
        send(200, found if isinstance(found, bytes) else completion(found))(handler)

    return reply


def with_alternatives(word: str, *tokens: tuple[str, float], usage: dict[str, Any] | None = None) -> bytes:
    content = [{"token": tokens[0][0], "logprob": math.log(tokens[0][1]), "top_logprobs": []}]
    content[0]["top_logprobs"] = [{"token": t, "logprob": math.log(p)} for t, p in tokens]
    choice = {"message": {"role": "assistant", "content": word}, "logprobs": {"content": content}}
    return json.dumps({"choices": [choice], "usage": usage or {"prompt_tokens": 40, "completion_tokens": 2}}).encode()


def model(url: str, path: Path | None = None, *, way: RequestFormat | None = None, **more: Any) -> RemoteModel:
    client = Client(Endpoint(url, "m"), most=4, sleep=lambda s: None)
    return RemoteModel(client, way=way or RequestFormat(), answers=AnswerCache(path) if path else None, **more)


def test_alternatives_become_probabilities_of_the_labels_in_their_order() -> None:
    fruit = with_alternatives("fruit", ("fr", 0.6), ("an", 0.2), ("The", 0.2))
    animal = with_alternatives("animal", ("animal", 0.9), ("fr", 0.1))
    with chat_server(answering(lambda text: fruit if "apple" in text else animal)) as server:
        found = model(server.url).score(PROMPT, [row("a cat"), row("an apple"), row("a dog")], LABELS)
        request = server.seen[0]["body"]
    assert np.exp(found.log_probs) == pytest.approx(np.array([[0.1, 0.9], [0.75, 0.25], [0.1, 0.9]]))
    assert (found.tokens, found.unmatched, found.cached) == (126, 0, 0)
    assert request["temperature"] == 0 and request["logprobs"] is True and request["top_logprobs"] == 20
    assert request["max_tokens"] == RequestFormat().tokens


def test_words_name_labels_where_no_probabilities_are_told() -> None:
    with chat_server(answering(lambda text: "It is a fruit." if "apple" in text else "No idea")) as server:
        found = model(server.url).score(PROMPT, [row("an apple"), row("a stone")], LABELS)
    assert np.exp(found.log_probs) == pytest.approx(np.array([[0.9, 0.1], [0.5, 0.5]]))
    assert found.unmatched == 1


def test_label_words_are_what_is_looked_for() -> None:
    prompt = PROMPT.edit(label_words=(("fruit", "A"), ("animal", "B")))
    with chat_server(answering(lambda text: "B")) as server:
        found = model(server.url).score(prompt, [row("x")], LABELS)
        assert "A, B" in server.seen[0]["body"]["messages"][0]["content"]
    assert found.log_probs[0].argmax() == 1


def test_nothing_is_asked_twice_also_not_by_another_process(tmp_path: Path) -> None:
    prices = Prices(1.0, 10.0)
    with chat_server(answering(lambda text: with_alternatives("fruit", ("fruit", 0.9), ("animal", 0.1)))) as server:
        first = model(server.url, tmp_path / "a.sqlite", prices=prices)
        rows = [row("one"), row("two"), row("one")]
        found = first.score(PROMPT, rows, LABELS)
        assert len(server.seen) == 2 and found.cost == pytest.approx(2 * (40 + 20) / 1e6)
        # In the same run it was paid for already; in a run that goes on it counts as it did when it was asked.
        assert first.score(PROMPT, rows, LABELS).cost == 0
        again = model(server.url, tmp_path / "a.sqlite", prices=prices).score(PROMPT, rows, LABELS)
        assert len(server.seen) == 2
    assert again.cost == found.cost and again.tokens == found.tokens
    assert np.array_equal(again.log_probs, found.log_probs)


@pytest.mark.parametrize("change", ["prompt", "labels", "way", "model", "server"])
def test_whatever_could_change_an_answer_asks_anew(tmp_path: Path, change: str) -> None:
    with chat_server(answering(lambda text: "fruit")) as server, chat_server(answering(lambda text: "fruit")) as other:
        model(server.url, tmp_path / "a.sqlite").score(PROMPT, [row("one")], LABELS)
        changed = model(
            other.url if change == "server" else server.url,
            tmp_path / "a.sqlite",
            way=RequestFormat(alternatives=0) if change == "way" else None,
        )
        if change == "model":
            changed.client.endpoint = Endpoint(server.url, "another")
        prompt = PROMPT.edit(cue="What kind?") if change == "prompt" else PROMPT
        changed.score(prompt, [row("one")], (*LABELS, "tool") if change == "labels" else LABELS)
        assert len(server.seen) + len(other.seen) == 2


def test_answers_that_came_before_a_failure_are_kept(tmp_path: Path) -> None:
    good, refusal = send(200, completion("fruit")), send(403, b"not for you")
    rows = [row(str(i)) for i in range(9)]
    with chat_server(good, good, good, refusal, good) as server:
        with pytest.raises(EndpointError, match="403"):
            model(server.url, tmp_path / "a.sqlite").score(PROMPT, rows, LABELS)
        asked = len(server.seen)
        model(server.url, tmp_path / "a.sqlite").score(PROMPT, rows, LABELS)
        assert len(server.seen) == asked + 9 - (asked - 1)


def test_an_answer_that_cannot_be_kept_stops_the_run(tmp_path: Path) -> None:
    with chat_server(answering(lambda text: "fruit")) as server:
        found = model(server.url, tmp_path / "a.sqlite")
        assert found.answers is not None
        found.answers.close()
        with pytest.raises(InputError, match="stored answers of the endpoint cannot be"):
            found.score(PROMPT, [row("one")], LABELS)


def test_an_empty_answer_is_no_reason_to_ask_again() -> None:
    with chat_server(send(200, completion(None))) as server:
        assert model(server.url).score(PROMPT, [row("one")], LABELS).unmatched == 1
        assert len(server.seen) == 1


def test_an_answer_without_a_message_is_empty_and_one_with_an_odd_message_is_asked_for_again() -> None:
    """Servers send null in place of a message that they filtered."""
    nothing, odd = (json.dumps({"choices": [{"message": message}]}).encode() for message in (None, ["fruit"]))
    with chat_server(send(200, nothing)) as server:
        assert model(server.url).score(PROMPT, [row("one")], LABELS).unmatched == 1
        assert len(server.seen) == 1
    with chat_server(send(200, odd), send(200, completion("fruit"))) as server:
        assert model(server.url).score(PROMPT, [row("one")], LABELS).unmatched == 0
        assert len(server.seen) == 2


def test_half_a_surrogate_pair_in_an_answer_can_be_written_to_a_file(tmp_path: Path) -> None:
    """A server that cuts an answer by tokens may send one."""
    with chat_server(send(200, b'{"choices": [{"message": {"content": "fine \\ud83d\\ude00 cut \\ud83d"}}]}')) as server:
        (text,) = model(server.url, tmp_path / "a.sqlite").generate(PROMPT, [row("one")]).texts
    assert text == "fine \U0001f600 cut \ufffd" and text.encode()


def test_an_empty_system_message_is_not_sent() -> None:
    """Some servers refuse it, which would end a run: prompts of the bank have one."""
    with chat_server(send(200, completion("fruit"))) as server:
        model(server.url).score(PROMPT.edit(system=""), [row("one")], LABELS)
        model(server.url).score(PROMPT.edit(system="Be brief."), [row("one")], LABELS)
    roles = [[message["role"] for message in request["body"]["messages"]] for request in server.seen]
    assert roles == [["user"], ["system", "user"]]


@pytest.mark.parametrize("keeps_on", [True, False])
def test_a_row_that_a_filter_refuses_does_not_end_a_run(tmp_path: Path, keeps_on: bool) -> None:
    def filtering(handler: Handler) -> None:
        asked = handler.request_body["messages"][-1]["content"]
        send(*((400, b"content filter") if "bad" in asked else (200, completion("fruit"))))(handler)

    with chat_server(filtering) as server:
        found = model(server.url, tmp_path / "a.sqlite", keeps_on=keeps_on)
        rows = [row("an apple"), row("a bad one"), row("a pear")]
        if not keeps_on:
            with pytest.raises(EndpointError, match="content filter"):
                found.score(PROMPT, rows, LABELS)
            return
        with pytest.raises(EndpointError, match="content filter"):
            found.score(PROMPT, rows[1:2], LABELS)
        assert found.score(PROMPT, rows, LABELS).unmatched == 1
        assert found.generate(PROMPT, rows).texts == ("fruit", "", "fruit")
        # A row alone, after others were answered; but not a server that refuses everything.
        assert found.score(PROMPT, rows[1:2], LABELS).unmatched == 1
        with pytest.raises(EndpointError, match="content filter"):
            found.score(PROMPT, [row("bad too"), row("bad as well"), row("a fig")], LABELS)
        # A run that goes on reads the same, and asks nothing again.
        asked = len(server.seen)
        again = model(server.url, tmp_path / "a.sqlite", keeps_on=True)
        assert again.score(PROMPT, rows, LABELS).unmatched == 1 and len(server.seen) == asked


def test_a_refused_trial_question_leaves_the_first_request_format_for_the_next_one() -> None:
    def filtering(handler: Handler) -> None:
        asked = handler.request_body["messages"][-1]["content"]
        send(*((400, b"content filter") if "bad" in asked else (200, completion("fruit"))))(handler)

    with chat_server(filtering) as server:
        found = model(server.url)
        with pytest.raises(EndpointError, match="content filter"):
            found.settle(PROMPT, row("a bad one"), LABELS)
        assert found.way == RequestFormat()
        assert found.settle(PROMPT, row("a good one"), LABELS) == RequestFormat(tells_probabilities=False)


def test_what_is_paid_in_vain_is_bounded() -> None:
    with chat_server(send(200, b"{}")) as server:
        with pytest.raises(EndpointError, match="has an unexpected format"):
            model(server.url).score(PROMPT, [row("one")], LABELS)
        assert len(server.seen) == 8


def understanding(**needs: Any) -> Reply:
    """A server that refuses what it does not know."""

    def reply(handler: Handler) -> None:
        body = handler.request_body
        if any((body.get(key) != value) if value is not None else (key in body) for key, value in needs.items()):
            send(400, b'{"error": "Unsupported parameter"}')(handler)
        elif body.get("logprobs"):
            send(200, with_alternatives("fruit", ("fruit", 1.0)))(handler)
        else:
            send(200, completion("fruit"))(handler)

    return reply


@pytest.mark.parametrize(
    ("needs", "way"),
    [
        ({}, RequestFormat()),
        ({"top_logprobs": 5}, RequestFormat(alternatives=5)),
        ({"max_tokens": None}, RequestFormat(limit="max_completion_tokens")),
        ({"logprobs": None}, RequestFormat(alternatives=0, tells_probabilities=False)),
        (
            {"logprobs": None, "temperature": None, "max_tokens": None},
            RequestFormat(alternatives=0, limit="max_completion_tokens", greedy=False, tells_probabilities=False),
        ),
    ],
    ids=["all", "few alternatives", "newer limit", "no probabilities", "own temperature"],
)
def test_requests_are_made_as_the_server_understands_them(tmp_path: Path, needs: dict[str, Any], way: RequestFormat) -> None:
    with chat_server(understanding(**needs)) as server:
        found = model(server.url, tmp_path / "a.sqlite")
        assert found.settle(PROMPT, row("one"), LABELS) == way
        assert RequestFormat.from_json(json.loads(json.dumps(way.to_json()))) == way
        asked = len(server.seen)
        # The question that it was found with is answered already.
        found.score(PROMPT, [row("one")], LABELS)
        model(server.url, tmp_path / "a.sqlite", way=found.way).score(PROMPT, [row("one")], LABELS)
        assert len(server.seen) == asked


def test_a_server_that_takes_probabilities_but_tells_none_is_asked_for_words() -> None:
    with chat_server(answering(lambda text: "fruit")) as server:
        found = model(server.url)
        assert not found.settle(PROMPT, row("one"), LABELS).tells_probabilities
        assert not found.tells_probabilities


def test_a_server_that_refuses_everything_is_told() -> None:
    with chat_server(send(400, b"no")) as server, pytest.raises(EndpointError, match="400: no"):
        model(server.url).settle(PROMPT, row("one"), LABELS)


def test_messages_are_the_ones_that_the_renderer_makes() -> None:
    shown = (Demonstration((("text", "a pear"),), "fruit"), Demonstration((("text", "a hen"),), "animal"))
    tokenizer = tiny_tokenizer()
    for prompt in (
        PROMPT,
        PROMPT.edit(system="You know {labels}.", demonstrations=shown),
        PROMPT.edit(order="input_first", separator="\n\n", label_words=(("fruit", "F"),), demonstrations=shown[:1]),
    ):
        messages = turns_of(prompt, row("an {text} apple"), LABELS).messages
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text == Renderer(tokenizer).text(prompt, row("an {text} apple"), LABELS)


def test_an_adapter_is_refused() -> None:
    with chat_server(send(200, completion("fruit"))) as server, pytest.raises(InputError, match="takes no adapter"):
        model(server.url).score(PROMPT, [row("x")], LABELS, adapter="abc")


def test_answers_are_long_enough_for_the_longest_label() -> None:
    assert answer_tokens(["a", "b"]) == 8
    assert answer_tokens(["x" * 40]) == 24
    assert answer_tokens(["x" * 400]) == 64


SCHEMA = {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("newer", [False, True])
def test_a_schema_is_asked_for_as_far_as_the_server_understands_it(tmp_path: Path, form: str, newer: bool) -> None:
    def picky(handler: Handler) -> None:
        wanted = handler.request_body.get("response_format")
        held = (wanted or {}).get("json_schema", {})
        loosely = "inside" if "schema" in (wanted or {}) else "object" if wanted else ""
        asked = "strict" if held.get("strict") else "schema" if held else loosely
        known = FORMS.index(asked) >= FORMS.index(form) and ("max_tokens" in handler.request_body) != newer
        send(200, completion('{"kind": "fruit"}'))(handler) if known else send(422, b"what?")(handler)

    with chat_server(picky) as server:
        found = model(server.url, tmp_path / "a.sqlite", way=RequestFormat(0, tokens=30, form="strict"), schema=SCHEMA)
        way = found.settle(PROMPT, row("one"), ())
        assert (way.form, way.limit) == (form, "max_completion_tokens" if newer else "max_tokens")
        assert RequestFormat.from_json(json.loads(json.dumps(way.to_json()))) == way
        assert found.generate(PROMPT, [row("one"), row("two")]).texts == ('{"kind": "fruit"}',) * 2


def test_what_is_written_is_kept_and_paid_once(tmp_path: Path) -> None:
    with chat_server(answering(lambda text: f" about {text[-3:]}\n")) as server:
        found = model(server.url, tmp_path / "a.sqlite", prices=Prices(1.0, 1.0))
        told = found.generate(PROMPT, [row("one"), row("two"), row("one")])
        assert len(server.seen) == 2 and told.tokens == 200 and told.cost == pytest.approx(2e-4)
        assert told.texts[0] == told.texts[2] and all(text == text.strip() for text in told.texts)
        assert found.generate(PROMPT, [row("two")]).cost == 0
        with pytest.raises(InputError, match="no adapter"):
            found.generate(PROMPT, [row("one")], adapter="x")


def test_an_answer_that_the_limit_cut_has_not_ended_also_where_it_was_kept(tmp_path: Path) -> None:
    def said(text: str) -> bytes:
        reason = "length" if "two" in text else "stop"
        return json.dumps({"choices": [{"message": {"content": "12"}, "finish_reason": reason}]}).encode()

    with chat_server(answering(said)) as server:
        for _ in range(2):
            found = model(server.url, tmp_path / "a.sqlite").generate(PROMPT, [row("one"), row("two")])
            assert found.ended == (True, False)
        assert len(server.seen) == 2


STOCK = tuple(
    Demonstration((("text", text),), label)
    for text, label in (("a red apple", "fruit"), ("an old cat", "animal"), ("a ripe plum", "fruit"), ("a grey dog", "animal"))
)


def test_each_row_is_shown_what_its_letters_are_nearest_to(tmp_path: Path) -> None:
    prompt = PROMPT.edit(demonstrations=STOCK, nearest=1)
    with chat_server(answering(lambda text: "fruit")) as server:
        found = model(server.url, tmp_path / "a.sqlite")
        with pytest.raises(CotuneError, match="no chooser for them"):
            found.score(prompt, [row("x")], LABELS)
        found.chooser = Neighbours()
        asked = found.messages(prompt, [row("a green apple"), row("an OLD cat "), row("two dogs")], LABELS)
        assert [messages[1]["content"] for messages in asked] == ["fruit", "fruit", "animal"]
        assert "red apple" in asked[0][0]["content"] and "grey dog" in asked[2][0]["content"]
        # A row is not shown itself, whatever its case and white space.
        assert "old cat" not in asked[1][0]["content"]
        assert found.row_tokens(prompt, [row("a green apple")], LABELS) > found.row_tokens(
            PROMPT, [row("a green apple")], LABELS
        )
        found.score(prompt, [row("a green apple")], LABELS)
        assert server.seen[-1]["body"]["messages"] == asked[0]
        bundle = save_bundle(
            tmp_path / "bundle",
            task_name="kinds",
            input_fields=("text",),
            output_field="kind",
            output=Output("label", LABELS),
            metric="accuracy",
            prompt=prompt,
            decision=RAW,
            adapter_folder=None,
            model=found,
            metrics={},
            model_name="openai:m",
        )
        assert load(bundle).predict("a green apple") == ["fruit"]
        assert server.seen[-1]["body"]["messages"] == asked[0]
        assert "the 1 most similar of 4 examples" in (bundle / "README.md").read_text()
