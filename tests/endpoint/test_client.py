"""Many questions at once over real HTTP: how many, what a busy server changes, and what a failure leaves behind."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from chat_server import Handler, chat_server, completion, hang, send, slow
from cotune.endpoint import Client, Endpoint, EndpointError
from cotune.endpoint.chat import CHAT, message_text
from cotune.endpoint.pacing import Gate


def bodies(count: int) -> dict[int, dict[str, Any]]:
    return {i: {"model": "m", "messages": [{"role": "user", "content": str(i)}]} for i in range(count)}


class Together:
    """Answers with the question, after a moment, and counts how many were under way at once."""

    def __init__(self) -> None:
        self.now, self.most, self.lock = 0, 0, threading.Lock()

    def __call__(self, handler: Handler) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.1)
        with self.lock:
            self.now -= 1
        said = handler.request_body["messages"][0]["content"]
        send(200, completion(said))(handler)


def text_of(number: int, body: Any) -> str:
    return message_text(body)


def gather(client: Client, count: int, patience: float = 30.0) -> dict[int, str]:
    found: dict[int, str] = {}
    client.post_all(CHAT, bodies(count), text_of, patience=patience, received=found.__setitem__)
    return found


def test_many_questions_are_asked_together_but_never_more_than_allowed() -> None:
    together = Together()
    with chat_server(together) as server, Client(Endpoint(server.url, "m"), most=4) as client:
        found = gather(client, 24)
        assert len(found) == len(server.seen) == 24
        assert client.gate.width == 4
    assert 2 <= together.most <= 4


def test_a_busy_server_is_asked_by_fewer_and_then_by_more_again() -> None:
    replies = [send(200, completion("x"))] * 12 + [send(429, b"slow down")] * 3 + [send(200, completion("x"))]
    with chat_server(*replies) as server, Client(Endpoint(server.url, "m"), most=8, sleep=lambda s: None) as client:
        widths: list[float] = []
        client.post_all(
            CHAT,
            bodies(60),
            text_of,
            patience=30,
            received=lambda i, text: widths.append(client.gate.width),
        )
        assert len(server.seen) == 63
        assert client.gate.generation >= 1
    # It had grown before it was turned down, and grew again after.
    assert max(widths[:12]) > 3 and min(widths[12:30]) < max(widths[:12]) and widths[-1] > min(widths[12:30])


def test_while_one_waits_as_asked_nobody_else_asks() -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        before = len(server.seen)
        time.sleep(0.15)
        waited.append(seconds)
        # Only what was under way already may have come in.
        assert len(server.seen) - before <= 1

    replies = [send(200, completion("x"))] * 4 + [send(429, b"", Retry_After="5")] + [send(200, completion("x"))]
    with chat_server(*replies) as server, Client(Endpoint(server.url, "m"), most=2, sleep=sleep) as client:
        assert len(gather(client, 20)) == 20
    assert waited and 5 <= waited[0] <= 5.5


def test_a_final_failure_ends_all_and_what_came_is_kept() -> None:
    replies = [*[send(200, completion("x"))] * 5, send(401, b"no such key")]
    with chat_server(*replies) as server, Client(Endpoint(server.url, "m"), most=2) as client:
        found: list[int] = []
        with pytest.raises(EndpointError, match="401") as told:
            client.post_all(CHAT, bodies(50), text_of, patience=30, received=lambda i, text: found.append(i))
        assert told.value.status == 401
        # What was under way comes in, however slowly this machine tells of the failure; all 50 would not have ended.
        assert len(found) == 5 and len(server.seen) < 30


def test_after_a_failure_others_go_on_and_new_questions_are_asked() -> None:
    def reply(handler: Handler) -> None:
        said = handler.request_body["messages"][0]["content"]
        failing = said == "1" and sum(one["body"] == handler.request_body for one in server.seen) == 1
        send(401, b"no")(handler) if failing else slow(0.3, send(200, completion(said)))(handler)

    with chat_server(reply) as server, Client(Endpoint(server.url, "m"), most=4) as client:
        alone: list[str] = []

        def ask() -> None:
            # It waits for its turn while the others fail.
            alone.extend(client.post(CHAT, bodies(10)[i], message_text, patience=30).value for i in (7, 8, 9))

        other = threading.Thread(target=ask)
        other.start()
        with pytest.raises(EndpointError, match="401"):
            gather(client, 5)
        assert gather(client, 5) == {i: str(i) for i in range(5)}
        other.join(30)
        assert alone == ["7", "8", "9"]


def test_a_refused_question_ends_no_other() -> None:
    def reply(handler: Handler) -> None:
        said = handler.request_body["messages"][0]["content"]
        send(422, b"too long")(handler) if said in "36" else send(200, completion(said))(handler)

    with chat_server(reply) as server, Client(Endpoint(server.url, "m"), most=2) as client:
        found, refused = list[int](), dict[int, EndpointError]()
        take = {"received": lambda i, text: found.append(i), "refused": refused.__setitem__}
        client.post_all(CHAT, bodies(9), text_of, patience=30, **take)
        assert sorted(found) == [0, 1, 2, 4, 5, 7, 8] and sorted(refused) == [3, 6] and len(server.seen) == 9
        assert "422: too long" in str(refused[3])


def test_closing_ends_waits() -> None:
    with chat_server(send(503, b"")) as server:
        client = Client(Endpoint(server.url, "m"))
        threading.Timer(0.2, client.close).start()
        before = time.monotonic()
        with pytest.raises((EndpointError, RuntimeError)):
            client.post(CHAT, bodies(1)[0], message_text, patience=600)
        assert time.monotonic() - before < 20


def test_patience_bounds_a_question_that_is_never_answered() -> None:
    with chat_server(hang) as server, Client(Endpoint(server.url, "m", timeout=0.2)) as client:
        before = time.monotonic()
        with pytest.raises(EndpointError):
            client.post(CHAT, bodies(1)[0], message_text, patience=0.6)
        assert time.monotonic() - before < 10


def test_slow_answers_are_not_lost() -> None:
    with chat_server(slow(0.3, send(200, completion("late")))) as server, Client(Endpoint(server.url, "m"), most=3) as client:
        assert set(gather(client, 6).values()) == {"late"}


def test_connections_are_used_again_only_where_that_is_asked_for() -> None:
    def reply(handler: Handler) -> None:
        body = completion(str(handler.client_address[1]))
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with chat_server(reply) as server:
        for keep, ports in ((True, 1), (False, 5)):
            with Client(Endpoint(server.url, "m"), keep=keep) as client:
                assert len({client.post(CHAT, body, message_text, patience=9).value for body in bodies(5).values()}) == ports


def test_the_window_grows_by_one_a_round_and_halves_once_a_burst() -> None:
    gate = Gate(16, width=4.0)
    for _ in range(4):
        gate.leave(0, well=True)
    assert 4.8 < gate.width < 5.0
    for _ in range(5):
        gate.leave(0, well=False, crowded=True)
    assert gate.width == pytest.approx(2.45, abs=0.05) and gate.generation == 1
    for generation in (1, 2, 3, 4):
        gate.leave(generation, well=False, crowded=True)
    assert gate.width == 1.0
    for _ in range(500):
        gate.leave(5, well=True)
    assert gate.width == 16.0


def test_a_gate_lets_nobody_through_once_stopped() -> None:
    gate, stop = Gate(1), threading.Event()
    assert gate.enter(stop) == 0
    stop.set()
    assert gate.enter(stop) == -1


def test_an_error_in_the_body_of_a_good_answer_is_told() -> None:
    told = send(200, b'{"error": {"message": "the model is loading"}}')
    wanted = pytest.raises(EndpointError, match="the model is loading")
    with chat_server(told) as server, Client(Endpoint(server.url, "m"), sleep=lambda s: None) as client, wanted:
        client.post(CHAT, bodies(1)[0], message_text, tries=2, patience=20)


def test_waiting_for_ones_turn_takes_no_patience() -> None:
    """Of sixteen questions at once one is answered at a time; the last but one is asked to come again."""
    good = slow(0.25, send(200, completion("x")))
    replies = [*[good] * 14, send(429, b"slow down"), good]
    with chat_server(*replies) as server, Client(Endpoint(server.url, "m"), most=16) as client:
        client.gate.most, client.gate.width = 1, 1.0
        assert len(gather(client, 16, patience=3.0)) == 16


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_nobody_signed_is_told_at_once(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("key.pem", "certificate.pem")]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-keyout", names[0], "-out", names[1]], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(names[1], names[0])
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    asked.append(connection)
                    with contextlib.suppress(OSError):
                        context.wrap_socket(connection, server_side=True)

        threading.Thread(target=serve, daemon=True).start()
        client = Client(Endpoint(f"https://localhost:{server.getsockname()[1]}/v1", "m"))
        with pytest.raises(EndpointError, match=r"the endpoint cannot be used .*certificate"):
            client.post(CHAT, {}, lambda answer: answer, patience=30)
    assert len(asked) == 1
