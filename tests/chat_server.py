"""A chat-completions server of the tests' own: real HTTP on a local port, with answers that are good, bad, slow or torn."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[["Handler"], None]


def completion(text: Any, tokens: int | None = 100) -> bytes:
    """A chat completion that says ``text``."""
    body: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return json.dumps(body if tokens is None else {**body, "usage": {"total_tokens": tokens}}).encode()


def send(status: int, body: bytes, length: int | None = None, **headers: str) -> Reply:
    """Reply at once; with ``length`` more is promised than comes."""

    def reply(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return reply


def say(*instructions: Any, tokens: int | None = 100) -> Reply:
    """The good answer."""
    items = [{"instruction": item} if isinstance(item, str) else item for item in instructions]
    return send(200, completion(json.dumps({"prompts": items}), tokens))


def torn(handler: Handler) -> None:
    """Half an answer, then the connection ends."""
    whole = completion("x" * 500)
    send(200, whole[:100], len(whole))(handler)


def hang(handler: Handler) -> None:
    """Never an answer."""
    handler.server.over.wait(60)  # type: ignore[attr-defined]
    handler.close_connection = True


def trickle(handler: Handler) -> None:
    """A byte now and then, for ever: no pause is ever as long as the timeout."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.over.wait(0.1):  # type: ignore[attr-defined]
        try:
            handler.wfile.write(b" ")
        except OSError:
            break
    handler.close_connection = True


def slow(seconds: float, reply: Reply) -> Reply:
    """The reply after some seconds."""

    def late(handler: Handler) -> None:
        time.sleep(seconds)
        reply(handler)

    return late


class Handler(BaseHTTPRequestHandler):
    """Keeps each request and gives the next reply; the last one goes on for ever.

    Attributes:
        request_body: of the present request.
    """

    protocol_version = "HTTP/1.1"
    request_body: Any = None

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.request_body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.seen.append({"path": self.path, "headers": dict(self.headers), "body": body, "at": time.monotonic()})
            reply = server.replies[min(len(server.seen), len(server.replies)) - 1]
        try:
            reply(self)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class ChatServer:
    """The running server.

    Attributes:
        url: its base URL.
        seen: requests so far.
    """

    def __init__(self, server: Any) -> None:
        self.url, self._server = f"http://127.0.0.1:{server.server_address[1]}/v1", server

    @property
    def seen(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._server.seen
        return found


@contextmanager
def chat_server(*replies: Reply, port: int = 0) -> Iterator[ChatServer]:
    """Serve these replies, one a request; on any free port where none is given."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.replies, server.seen, server.lock, server.over = replies, [], threading.Lock(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield ChatServer(server)
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
