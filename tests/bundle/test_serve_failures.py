"""``cotune serve`` when what it is built on breaks: requests get an answer, and the server says that it is broken."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bundles import Bench
from servers import running

from cotune.bundle import Predictor, load_several
from cotune.bundle.serve.batcher import Batcher
from cotune.bundle.serve.kind import ModelStopped
from cotune.bundle.serve.shelf import Shelf


@pytest.fixture(scope="module")
def predictor(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = bench.save(tmp_path_factory.mktemp("failing") / "best")
    return load_several([folder], device="cpu", dtype="float32", threads=1)[0]


class Panic(BaseException):
    """As pyo3 raises it for a panic in Rust, of the tokenizers or of llguidance: no ``Exception``."""


class Work:
    """Doubles numbers; panics at -1, and returns one result too few at -2."""

    def size(self, item: int) -> int:
        return 0

    def shortened(self, item: int) -> None:
        pass

    def run(self, items: Sequence[int]) -> list[int]:
        if -1 in items:
            raise Panic("index out of bounds: a confidential text")
        return [item * 2 for item in items if item != -2]


@pytest.mark.parametrize("bad", [-1, -2], ids=["panic", "too few results"])
def test_a_panic_fails_its_own_job_and_the_thread_goes_on(bad: int) -> None:
    go, work = threading.Event(), Work()
    held: Any = Work()
    held.run = lambda items: go.wait(60) and list(items)
    batcher = Batcher()
    try:
        batcher.submit(held, [0])
        while batcher.waiting:
            time.sleep(0.01)
        jobs = [batcher.submit(work, [item]) for item in (1, bad, 3)]
        go.set()
        assert jobs[0].future.result(20) == [2] and jobs[2].future.result(20) == [6]
        # An Exception, which the event loop and the application know how to end a request with.
        error = jobs[1].future.exception(20)
        assert isinstance(error, Exception) and "confidential" not in str(error)
        assert batcher.submit(work, [5]).future.result(20) == [10] and batcher.alive
    finally:
        go.set()
        batcher.close()


def test_a_thread_that_ends_fails_all_that_waits_and_takes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    held: Any = Work()
    held.run = lambda items: go.wait(60) and list(items)
    batcher = Batcher()
    try:
        begun = batcher.submit(held, [0])
        while batcher.waiting:
            time.sleep(0.01)
        waiting = [batcher.submit(Work(), [1]), batcher.submit(held, [2])]
        monkeypatch.setattr(batcher, "_take", lambda: 1 / 0)
        go.set()
        assert begun.future.result(20) == [0]
        for job in waiting:
            with pytest.raises(ModelStopped):
                job.future.result(20)
        with pytest.raises(ModelStopped):
            batcher.submit(held, [3])
        assert not batcher.alive and batcher.waiting == 0
    finally:
        go.set()
        batcher.close()


def test_requests_are_answered_when_the_model_panics(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def panic(*arguments: Any, **options: Any) -> Any:
        raise Panic("a confidential text")

    long = "who built the river? " * 2000
    with running([predictor]) as client:
        # On the model's thread, and on that which reads long texts.
        for name, text in (("answers", "a"), ("shortened", long)):
            with monkeypatch.context() as patch:
                patch.setattr(predictor, name, panic)
                reply = client.ask("/predict", {"text": text})
                assert reply.status == 500 and reply.json["error"]["type"] == "server_error"
                assert "confidential" not in reply.text
            assert client.ask("/predict", {"text": text}).status == 200
        assert client.ask("/health").json["status"] == "ok"
    assert "confidential" not in caplog.text


def test_what_fails_without_the_model_is_answered_in_the_same_shape(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def panic(shelf: Shelf, served: Any) -> Any:
        raise Panic("a confidential text")

    monkeypatch.setattr(Shelf, "card", panic)
    with running([predictor]) as client:
        reply = client.ask("/v1/models")
        assert reply.status == 500 and reply.json["error"]["type"] == "server_error"
        assert client.ask("/health").status == 200
    assert "Panic" in caplog.text and "confidential" not in caplog.text + reply.text


def test_a_server_whose_model_stopped_says_so(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    go, busy = threading.Event(), threading.Event()
    answers = predictor.answers

    def held(*arguments: Any, **options: Any) -> Any:
        busy.set()
        assert go.wait(60)
        return answers(*arguments, **options)

    monkeypatch.setattr(predictor, "answers", held)
    with running([predictor]) as client, ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.ask, "/predict", {"text": "a"})
        assert busy.wait(60)
        waiting = [pool.submit(client.ask, "/predict", {"text": text}) for text in "bc"]
        while client.ask("/health").json["waiting"] < 2:
            time.sleep(0.02)
        monkeypatch.setattr(Batcher, "_take", lambda self: 1 / 0)
        go.set()
        assert first.result().status == 200
        for each in waiting:
            assert each.result().status == 503 and each.result().json["error"]["code"] == "model_stopped"
        for path, body in (("/predict", {"text": "d"}), ("/health", None)):
            reply = client.ask(path, body)
            assert reply.status == 503 and reply.json["error"]["type"] == "server_error"
            assert "restart" in reply.json["error"]["message"]


def test_the_end_waits_for_no_more_than_the_drain(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go, busy, reading = threading.Event(), threading.Event(), threading.Event()
    answers, shortened = predictor.answers, predictor.shortened

    def held(*arguments: Any, **options: Any) -> Any:
        busy.set()
        assert go.wait(60)
        return answers(*arguments, **options)

    def read(row: Any) -> Any:
        reading.set()
        assert go.wait(60)
        return shortened(row)

    monkeypatch.setattr(predictor, "answers", held)
    monkeypatch.setattr(predictor, "shortened", read)
    long = "who built the river? " * 2000
    try:
        with ThreadPoolExecutor(5) as pool, contextlib.ExitStack() as stack:
            with running([predictor], drain_s=0.5) as client:
                found = [pool.submit(client.ask, "/predict", {"text": "a"})]
                assert busy.wait(60)
                found += [pool.submit(client.ask, "/predict", {"text": text}) for text in ("b", "c", long)]
                assert reading.wait(60)
                found.append(pool.submit(client.ask, "/predict", {"text": long}))
                while client.ask("/health").json["waiting"] < 2:
                    time.sleep(0.02)
                late = stack.enter_context(client.raw())
                late.sendall(f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nContent-Length: 50\r\n\r\n".encode())
                started = time.monotonic()
            assert time.monotonic() - started < 15
            for place, each in enumerate(found[:3]):
                reply = each.result()
                assert reply.status == 503 and reply.json["error"]["code"] == "ending", place
                assert reply.headers["connection"] == "close"
            assert found[4].result().status == 503, "the long text that had not begun"
            # What is being read cannot be broken off, and what has not arrived has no answer.
            for cut in (lambda: found[3].result(), lambda: late.recv(100) or 1 / 0):
                with pytest.raises((OSError, http.client.HTTPException, ZeroDivisionError)):
                    cut()
        assert "3 requests were not answered" in caplog.text
    finally:
        go.set()
