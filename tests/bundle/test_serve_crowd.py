"""More connections than there may be files open: the server lives on, answers others, and does not fill the log."""

from __future__ import annotations

import contextlib
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from bundles import Bench
from servers import running

from cotune.bundle import Predictor, load_several
from cotune.errors import InputError
from cotune.web.server import most_connections

FLOOD = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]) + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = []
for _ in range(int(sys.argv[2])):
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", int(sys.argv[1])))
    held.append(one)
print("all", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def predictor(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = bench.save(tmp_path_factory.mktemp("crowded") / "best")
    return load_several([folder], device="cpu", dtype="float32", threads=1)[0]


@contextlib.contextmanager
def flood(port: int, count: int) -> Iterator[None]:
    """Another process holds connections that ask for nothing."""
    command = [sys.executable, "-c", FLOOD, str(port), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as others:
        try:
            assert others.stdout is not None and others.stdout.readline() == "all\n"
            yield
        finally:
            others.kill()


@contextlib.contextmanager
def files(free: int) -> Iterator[None]:
    """This process may open so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_are_bounded_by_the_files_that_may_be_open() -> None:
    with files(free=2000):
        assert most_connections(1024) == 1024
    with files(free=300):
        assert 64 <= most_connections(1024) < 300 and most_connections(32) == 32
    with files(free=100), pytest.raises(InputError, match=r"ulimit -n.*room for connections.* ulimit -n 1\d\d\d$"):
        most_connections(1024)


def test_silent_connections_beyond_all_bounds_keep_nobody_out(predictor: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    with files(free=250), running([predictor]) as client, flood(client.port, 500):
        for _ in range(5):
            started = time.monotonic()
            assert client.ask("/predict", {"text": "a"}).status == 200
            # Long before the silent ones' time is over.
            assert time.monotonic() - started < 10
    assert caplog.text == ""


def test_it_is_said_once_that_no_connection_can_be_taken(predictor: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    with running([predictor]) as client, caplog.at_level(logging.WARNING):
        with files(free=3), flood_later(client.port):
            patience = time.monotonic() + 120
            while not caplog.records and time.monotonic() < patience:
                time.sleep(0.05)
            # Meanwhile the server tries again, each second.
            time.sleep(2.5)
        assert client.ask("/health").status == 200
    (said,) = caplog.records
    assert "no connection can be accepted" in said.getMessage() and said.exc_info is None


@contextlib.contextmanager
def flood_later(port: int) -> Iterator[None]:
    """The same, begun without a pipe: this process may open hardly any file."""
    others = subprocess.Popen([sys.executable, "-c", FLOOD, str(port), "40"], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        others.kill()
        others.wait()
