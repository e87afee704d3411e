"""Vectors from an endpoint over real HTTP: of any common width, in order, kept, and counted alike when a run goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from chat_server import Handler, chat_server, send
from cotune.embed import EndpointEmbedder
from cotune.endpoint import AnswerCache, Client, Endpoint, EndpointError
from cotune.endpoint.prices import tokens_of

TEXTS = [f"row {i}" for i in range(70)]


def vector_of(text: str, width: int = 1536) -> list[float]:
    """As many digits as servers send: double precision."""
    numbers = np.random.default_rng(hashlib.sha256(text.encode()).digest()[0]).normal(size=width)
    return [float(number) for number in numbers / np.linalg.norm(numbers)]


def embedding(handler: Handler) -> None:
    """The vectors, last text first, in an indented answer."""
    body = handler.request_body
    data = [{"index": i, "embedding": vector_of(text)} for i, text in enumerate(body["input"])]
    send(200, json.dumps({"data": data[::-1]}, indent=2).encode())(handler)


def embedder(client: Client, path: Path, told: list[int]) -> EndpointEmbedder:
    return EndpointEmbedder(client, "wide", AnswerCache(path), patience=20.0, progress=told.append)


def test_vectors_of_a_usual_width_come_in_order_and_are_asked_for_once(tmp_path: Path) -> None:
    """64 vectors of 1536 numbers are more than a megabyte."""
    told: list[int] = []
    with chat_server(embedding) as server, Client(Endpoint(server.url, "m")) as client:
        found = embedder(client, tmp_path / "a.sqlite", told).embed([*TEXTS, TEXTS[0]])
        assert [request["path"] for request in server.seen] == ["/v1/embeddings"] * 2
        assert [len(request["body"]["input"]) for request in server.seen] == [64, 6]
        assert {request["body"]["model"] for request in server.seen} == {"wide"}
        np.testing.assert_allclose(found, [vector_of(text) for text in (*TEXTS, TEXTS[0])], rtol=1e-6)
        # Another session counts the same tokens, though it asks for nothing.
        again = embedder(client, tmp_path / "a.sqlite", told).embed([*TEXTS, TEXTS[0]])
        assert len(server.seen) == 2 and (again == found).all()
    assert told == [sum(map(tokens_of, TEXTS))] * 2


def test_an_endless_answer_is_cut_off(tmp_path: Path) -> None:
    with chat_server(send(200, b" " * 3_000_000)) as server, Client(Endpoint(server.url, "m")) as client:
        with pytest.raises(EndpointError, match="longer than 800,000 bytes"):
            embedder(client, tmp_path / "a.sqlite", []).embed(["one"])
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    "data",
    [[], [{"index": 0, "embedding": []}], [{"index": 0, "embedding": [1e999]}], [{"embedding": [1.0]}]],
    ids=["none", "empty", "not finite", "no place"],
)
def test_a_broken_answer_is_asked_for_again(tmp_path: Path, data: list[object]) -> None:
    replies = [send(200, json.dumps({"data": data}).encode()), embedding]
    with chat_server(*replies) as server, Client(Endpoint(server.url, "m"), sleep=lambda s: None) as client:
        assert embedder(client, tmp_path / "a.sqlite", []).embed(["one"]).shape == (1, 1536)
        assert len(server.seen) == 2
