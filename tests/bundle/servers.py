"""Bundles behind HTTP: in a thread of the tests' own process, which starts at once, or as ``cotune serve``."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cotune.bundle import Predictor
from cotune.bundle.serve import ServeSettings
from cotune.bundle.serve.serve import prepared
from cotune.web import listen


@dataclass(frozen=True)
class Reply:
    """An answer over HTTP."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Client:
    """Somebody who asks a server."""

    port: int
    models: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, path: str, body: Any = None, *, method: str = "", sent: Callable[[], object] = lambda: None, **headers: str
    ) -> Reply:
        """Send a body (bytes as they are, else as JSON), or ask for what is there; ``sent`` is told before the reply."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method or ("GET" if body is None else "POST"), path, data, named)
            sent()
            reply = connection.getresponse()
            return Reply(reply.status, reply.read().decode(), {k.lower(): v for k, v in reply.getheaders()})

    def raw(self) -> socket.socket:
        """A connection of one's own."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


@contextlib.contextmanager
def running(predictors: Sequence[Predictor], *, token: str | None = None, **settings: Any) -> Iterator[Client]:
    """Serve loaded bundles from a thread."""
    up = threading.Event()
    found: list[tuple[str, ...]] = []

    def ready(address: str, ids: list[str]) -> None:
        found.append(tuple(ids))
        up.set()

    with listen(0) as listening:
        port = listening.getsockname()[1]
        with prepared(predictors, listening, ServeSettings(port=port, **settings), token=token, ready=ready) as server:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                assert up.wait(60)
                yield Client(port, found[0])
            finally:
                server.should_exit = True
                thread.join(60)


@contextlib.contextmanager
def process(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """``cotune serve`` on a free port, in fp32."""
    command = [sys.executable, "-m", "cotune.cli", "serve", *map(str, arguments), "--port", "0", "--json", "--dtype", "float32"]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line, started.communicate()[1]
        told = json.loads(line)
        yield started, Client(int(told["url"].rsplit(":", 1)[1]), tuple(told["models"]))
    finally:
        started.kill()
        started.communicate()


def texts(count: int, start: int = 0) -> list[str]:
    """Unlike texts of unlike length."""
    words = ("card", "tower", "river", "my", "who", "built", "where", "is", "arrival", "the")
    return [
        " ".join(words[(i * k + i) % len(words)] for k in range(1, 3 + i % 6)) + f" {i}?" for i in range(start, start + count)
    ]
