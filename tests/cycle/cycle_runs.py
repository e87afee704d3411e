"""Tiny runs: a labelled file, a tiny model, and commands in processes that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from filelock import FileLock

from cotune.cache import cache_folder

if TYPE_CHECKING:
    from conftest import Bench

_WORDS = {
    "fruit": ("apple", "pear", "plum", "fig"),
    "animal": ("cat", "dog", "cow", "hen"),
    "tool": ("saw", "axe", "drill", "file"),
}
SETTINGS = (
    # The loop of words is that of written answers too; probes have tests of their own.
    "tune.readout=words",
    "tune.batch_size=8",
    "tune.rank=4",
    "tune.learning_rate=0.01",
    "search.pool=6",
    "tune.max_epochs=2",
    "engine.threads=1",
    "engine.dtype=float32",
)


def labelled_rows(count: int = 120, seed: int = 0) -> list[dict[str, str]]:
    """Rows whose label is named by a word in them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        label = list(_WORDS)[i % len(_WORDS)]
        word = rng.choice(_WORDS[label])
        rows.append({"text": f"{word} {i} {word}", "label": label})
    return rows


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: the signal that ended it; None: it stopped), and what it printed."""

    code: int | None
    pid: int
    stdout: str
    stderr: str


class Commands:
    """Runs ``cotune`` commands in children of a server process; see ``cycle_server``.

    Args:
        folder: for what they print.
        shared: a folder of all test processes. The first of them that runs a command starts the server there.
    """

    def __init__(self, folder: Path, shared: Path) -> None:
        self._folder, self._shared, self._count = folder, shared, 0
        self._server: subprocess.Popen[bytes] | None = None
        self._stream: TextIO | None = None

    def run(
        self,
        *arguments: str,
        at: tuple[str, str, int] | None = None,
        signal: str = "KILL",
        file_limit: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> Ended:
        """Run a command to its end, or until a signal hits it."""
        self._count += 1
        output = self._folder / str(self._count)
        output.mkdir(parents=True)
        request = {"arguments": list(arguments), "output": str(output), "at": at, "signal": signal, "file_limit": file_limit}
        # The server may be another test process's, which has a cache of its own.
        return self._ask({**request, "environment": {**os.environ, **(environment or {})}}, output)

    def send(self, stopped: Ended, signal: str) -> Ended:
        """Wake or end a command that stopped, and wait for its end."""
        return self._ask({"pid": stopped.pid, "signal": signal}, None)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait(timeout=120)

    def _ask(self, request: dict[str, Any], output: Path | None) -> Ended:
        if self._stream is None:
            self._stream = self._opened()
        print(json.dumps(request), file=self._stream, flush=True)
        found = json.loads(self._stream.readline())
        texts = [(output / name).read_text(encoding="utf-8") if output else "" for name in ("stdout", "stderr")]
        return Ended(found["code"], found["pid"], *texts)

    def _opened(self) -> TextIO:
        """A connection to the server, which is started where there is none."""
        with FileLock(self._shared / "commands.lock"):
            # The path of a socket may have about a hundred characters: hence a short folder, named in a file.
            named = self._shared / "commands.txt"
            for _ in range(2):
                with contextlib.suppress(OSError, ValueError):
                    return self._connected(named.read_text(encoding="utf-8"))
                place = tempfile.mkdtemp(prefix="cotune-") + "/s"
                self._server = subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name("cycle_server.py")), place], stdin=subprocess.PIPE
                )
                while not Path(place).exists():
                    assert self._server.poll() is None, "the server of commands has ended"
                    time.sleep(0.05)
                named.write_text(place, encoding="utf-8")
            raise AssertionError("the server of commands cannot be reached")

    @staticmethod
    def _connected(place: str) -> TextIO:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(place)
            stream = connection.makefile("rw", encoding="utf-8")
        # A server that ends just now may still take a connection, and then closes it.
        json.loads(stream.readline())
        return stream


BRIEF = ("search.max_cycles=1", "tune.max_epochs=1")
"""For runs of which it matters how they begin, or that they come to an end."""


def run_by_probes(
    bench: Bench, rows: Path, columns: tuple[str, str], out: Path, *more: str, budget: str = "160ktok", **options: Any
) -> Ended:
    """A small run that reads answers off hidden states, unless ``more`` names a read-out; ``columns`` are input and output."""
    if not out.exists():
        # Else each run would be told that the ones before had opened its test.
        shutil.rmtree(cache_folder("ledger"), ignore_errors=True)
    settings = ("--model", str(bench.model), "--budget", budget, "--seed", "1", "--out", str(out))
    limits = ("limit.test=16", "limit.train=56", "limit.dev=12", "search.max_cycles=2", "tune.max_epochs=4")
    readout = () if any(one.startswith("tune.readout") for one in more) else ("tune.readout=auto",)
    named = ("--input", columns[0], "--output", columns[1])
    return bench.commands.run("run", str(rows), *named, *settings, *SETTINGS, *limits, *readout, *more, **options)


def journal_of(folder: Path) -> list[dict[str, Any]]:
    """The journal as it is."""
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]


def of_kind(folder: Path, kind: str) -> list[Any]:
    """The values of a run's steps of a kind."""
    return [event["value"] for event in journal_of(folder) if event["kind"] == kind]


def without_times(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must be the same in every run of the same seed: a journal but for its times and its memory."""
    kept = []
    for event in events:
        value = event["value"]
        if event["kind"] == "cost":
            value = None
        elif event["kind"] == "engine":
            value = {name: value.get(name) for name in ("device", "dtype", "threads", "batch_tokens")}
        elif event["kind"] == "verdict":
            value = {name: item for name, item in value.items() if name not in ("seconds", "text")}
        elif isinstance(value, dict):
            value = {name: item for name, item in value.items() if name not in ("seconds", "timed_tokens", "timed_seconds")}
        kept.append({"n": event["n"], "kind": event["kind"], "key": event["key"], "value": value})
    return kept


def summary_of(folder: Path) -> dict[str, Any]:
    """The summary, but for its times and its memory."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    del found["cost"]["wall_s"], found["cost"]["peak_rss_mb"]
    if found.get("first_verdict"):
        del found["first_verdict"]["seconds"]
    return found
