"""What requests keep in memory while they wait: the rows they ask for, and not the bodies that those came in."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bundles import Bench
from servers import Client, running

from cotune.bundle import Predictor, load_several
from cotune.bundle.serve.room import Room

MANY = b"[" + b"[]," * 340_000 + b"[]]"
PARTS = b"[" + b'{"type":"text"},' * 60_000 + b'{"type":"text"}]'
CHAT = b'{"model": "questions", "messages": [{"role": "user", "content": "a"}'
AT_ONCE = 3


@pytest.fixture(scope="module")
def predictor(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = bench.save(tmp_path_factory.mktemp("waiting") / "best")
    return load_several([folder], device="cpu", dtype="float32", threads=1)[0]


@contextlib.contextmanager
def holding(predictor: Predictor) -> Iterator[threading.Event]:
    """The model answers nothing before the event is set."""
    go = threading.Event()
    answers = predictor.answers

    def held(*arguments: Any, **options: Any) -> Any:
        assert go.wait(60)
        return answers(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "answers", held)
        try:
            yield go
        finally:
            go.set()


def wait_for(client: Client, waiting: int) -> None:
    end = time.monotonic() + 60
    while client.ask("/health").json["waiting"] < waiting:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", b'{"text": "a", "more": ' + MANY + b"}"),
        ("/predict", b'{"rows": [{"text": "a", "more": ' + MANY + b"}]}"),
        ("/v1/chat/completions", CHAT + b', {"role": "system", "content": ' + PARTS + b"}]}"),
        ("/v1/chat/completions", CHAT + b'], "more": ' + MANY + b"}"),
    ],
    ids=["another key", "another key of a row", "another message", "another key of a chat"],
)
def test_a_body_is_not_kept_while_its_rows_wait(predictor: Predictor, path: str, body: bytes) -> None:
    with running([predictor]) as client, ThreadPoolExecutor(AT_ONCE + 1) as pool, holding(predictor) as go:
        first = pool.submit(client.ask, "/predict", {"text": "a"})
        while client.ask("/health").json["waiting"]:
            time.sleep(0.02)
        before = sys.getallocatedblocks()
        waiting = [pool.submit(client.ask, path, body) for _ in range(AT_ONCE)]
        wait_for(client, AT_ONCE)
        kept = (sys.getallocatedblocks() - before) / AT_ONCE
        go.set()
        assert {each.result().status for each in (first, *waiting)} == {200}
    # The structure of one such body is 60,000 objects or more.
    assert kept < 5000


def test_bodies_that_arrive_at_once_are_bounded(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room()
    monkeypatch.setattr(Room, "most", 2**20)
    monkeypatch.setattr("cotune.bundle.serve.batcher.Room", lambda: room)
    body = json.dumps({"text": "a " * 200_000}).encode()
    with running([predictor]) as client, contextlib.ExitStack() as stack:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nContent-Length: {len(body)}\r\n\r\n"
        for _ in range(2):
            held = stack.enter_context(client.raw())
            held.sendall(head.encode() + body[:-1])
        while room.used < 2 * len(body) - 2:
            time.sleep(0.02)
        reply = client.ask("/predict", body)
        assert reply.status == 429 and int(reply.headers["retry-after"]) >= 1 and reply.json["error"]["code"] == "queue_full"
        assert client.ask("/predict", {"text": "short"}).status == 200, "what is short finds a place"
        # A client that sends on over the same connection is not lost.
        refused = stack.enter_context(client.raw())
        refused.sendall(head.encode() + body)
        assert refused.recv(100).startswith(b"HTTP/1.1 429 ")
        small = b'{"text": "short"}'
        refused.sendall(head.replace(str(len(body)), str(len(small))).encode() + small)
        told = b""
        while b"probabilities" not in told:
            told += refused.recv(65536)
        assert b"HTTP/1.1 200 " in told
        stack.close()
        while room.used:
            time.sleep(0.02)
        assert client.ask("/predict", body).status == 200, "those who hang up make room"
    assert room.used == 0
