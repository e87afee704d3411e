"""The journal of a run: everything that was decided and measured, in order, one JSON object a line.

The cycle is a program whose every effect goes through :meth:`Journal.step`. A run that goes on after a kill runs the same
program again: steps that stand in the journal give back what was recorded, the first one that does not is done for real.
So nothing is lost, and there is no second piece of code that rebuilds a half-finished run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cotune.cycle.budget import Clock
from cotune.errors import CotuneError, InputError
from cotune.files import canonical_json, content_hash

JOURNAL = "journal.jsonl"


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The journal's whole lines; a torn last line, as a kill leaves it, is passed over.

    Raises:
        CotuneError: a line before the last one cannot be read.
    """
    if not path.is_file():
        return []
    data = path.read_bytes()
    lines = data.split(b"\n")
    events = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or "kind" not in event:
                raise ValueError("not an event")
        except ValueError as error:
            if number == len(lines) - 1:
                break
            raise CotuneError(f"{path}: line {number} of the journal is damaged. Start a new --out folder.") from error
        events.append(event)
    return events


class Journal:
    """Append-only, flushed and fsynced record of a run.

    Args:
        folder: the run's folder.
        started: ``time.monotonic()`` from which this session counts; None means now.

    Attributes:
        replaying: whether the next step still comes from the journal.
        broken: whether a step could not be taken for the journal's own sake; then nothing else may go on either.
    """

    def __init__(self, folder: Path, *, started: float | None = None) -> None:
        self.path = folder / JOURNAL
        self._events = read_journal(self.path)
        self._next = 0
        self.broken = False
        self._cut_torn_line()
        self.clock = Clock(max((float(e.get("active_s", 0.0)) for e in self._events), default=0.0), started)
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    @property
    def replaying(self) -> bool:
        return self._next < len(self._events)

    @property
    def upcoming(self) -> str | None:
        """Kind of the step that comes from the journal next; None where it does not."""
        return str(self._events[self._next]["kind"]) if self.replaying else None

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far, earlier sessions' too."""
        return self._events

    def step(self, kind: str, key: Any, effect: Callable[[], Any]) -> Any:
        """Do something once and for all.

        Args:
            kind: what sort of step it is.
            key: JSON value that identifies the step: what goes in.
            effect: does it and returns a JSON value; not called where the journal already holds the step.

        Raises:
            CotuneError: the journal holds another step at this place, so the folder belongs to another program or config.
        """
        name = content_hash(key)
        if self.replaying:
            event = self._events[self._next]
            if event["kind"] != kind or event["key"] != name:
                self.broken = True
                raise CotuneError(
                    f"{self.path}: line {self._next + 1} records a step {event['kind']!r} where this version of cotune "
                    f"would do {kind!r}. Start a new --out folder."
                )
            self._next += 1
            return event["value"]
        value = effect()
        return self._append(kind, name, value)

    def tail(self) -> Iterator[dict[str, Any]]:
        """Events that were not replayed yet."""
        yield from self._events[self._next :]

    def _append(self, kind: str, name: str, value: Any) -> Any:
        event = {"n": len(self._events), "kind": kind, "key": name, "active_s": round(self.clock(), 3), "value": value}
        line = canonical_json(event)
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self.broken = True
            raise InputError(
                f"cannot write {self.path} ({error.strerror})",
                mend="Free some space and run the same command to go on.",
            ) from error
        # What is recorded is what a resumed run will read, so numbers take the same form now.
        stored: dict[str, Any] = json.loads(line)
        self._events.append(stored)
        self._next = len(self._events)
        for listener in self.listeners:
            listener(stored)
        return stored["value"]

    def _cut_torn_line(self) -> None:
        if not self.path.is_file():
            return
        whole = sum(len(line) + 1 for line in self.path.read_bytes().split(b"\n")[: len(self._events)])
        if whole < self.path.stat().st_size:
            with self.path.open("r+b") as stream:
                stream.truncate(whole)
                os.fsync(stream.fileno())
