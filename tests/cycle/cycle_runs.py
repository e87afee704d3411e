"""Tiny runs: a labelled file, a tiny model, and commands in processes that can be killed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
    "tune.learning_rate=0.02",
    "search.pool=6",
    "search.entrants=3",
    "tune.max_epochs=4",
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
    """Runs ``cotune`` commands in children of a server process; see ``cycle_server``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        server = Path(__file__).with_name("cycle_server.py")
        self._process = subprocess.Popen(
            [sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == {"ready": True}

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
        return self._ask({**request, "environment": environment}, output)

    def send(self, stopped: Ended, signal: str) -> Ended:
        """Wake or end a command that stopped, and wait for its end."""
        return self._ask({"pid": stopped.pid, "signal": signal}, None)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _ask(self, request: dict[str, Any], output: Path | None) -> Ended:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        found = self._answer()
        texts = [(output / name).read_text(encoding="utf-8") if output else "" for name in ("stdout", "stderr")]
        return Ended(found["code"], found["pid"], *texts)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


def journal_of(folder: Path) -> list[dict[str, Any]]:
    """The journal as it is."""
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]


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
