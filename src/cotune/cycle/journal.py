"""The journal of a run: everything that was decided and measured, in order, one JSON object a line.

The cycle is a program whose every effect goes through :meth:`Journal.step`. A run that goes on after a kill runs the same
program again: steps that stand in the journal give back what was recorded, the first one that does not is done for real.
So nothing is lost, and there is no second piece of code that rebuilds a half-finished run.

Each line holds a hash of itself and of the line before, so that one that was altered, lost or moved is noticed. It tells damage
and editing by mistake; whoever writes the whole file anew can write its hashes too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cotune.cycle.budget.budget import Clock
from cotune.errors import CotuneError, InputError
from cotune.files import atomic_path, cannot_write, canonical_json, content_hash, sync_names
from cotune.run_files import JOURNAL

CHAIN = "chain"
"""Key of a line's hash."""


class DamagedJournalError(CotuneError):
    """A line of a journal that is not its last cannot be read, or is not what was written there.

    Attributes:
        line: its number, from 1.
    """

    def __init__(self, path: Path, line: int) -> None:
        self.line = line
        super().__init__(
            f"{path}: line {line} of the journal is damaged or was altered. The same cotune run command with --cut-journal "
            "keeps a copy, cuts the journal there and goes on from the step before; or start a new --out folder."
        )


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The journal's whole lines; a torn last line, as a kill leaves it, is passed over.

    Raises:
        InputError: the file cannot be read.
        DamagedJournalError: a line before the last one cannot be read, or a line is not the one that was written there.
    """
    if not path.is_file():
        return []
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the journal cannot be read ({error.strerror or error})", where=str(path), hint="Check its permissions."
        ) from error
    lines = data.split(b"\n")
    events: list[dict[str, Any]] = []
    chain: str | None = None
    for number, line in enumerate(lines[:-1], start=1):
        try:
            event = json.loads(line)
            # Whatever a step has, it has a value: null where there is nothing to say.
            if not isinstance(event, dict) or not isinstance(event.get("kind"), str) or "value" not in event:
                raise ValueError("not an event")
            if not isinstance(event.get("active_s", 0.0), (int, float)):
                raise ValueError("its time is no number")
        except (ValueError, RecursionError) as error:
            if number == len(lines) - 1:
                break
            raise DamagedJournalError(path, number) from error
        # Journals of versions before this hash have none.
        if (chain is not None or CHAIN in event) and event.get(CHAIN) != _link(chain, event):
            raise DamagedJournalError(path, number)
        chain = event.get(CHAIN)
        events.append(event)
    return events


def cut_journal(folder: Path) -> Path | None:
    """Cut a damaged journal before its first damaged line; returns the copy that was kept, None where nothing is damaged.

    Args:
        folder: the run's. The caller sees to it that no run is at work there.

    Raises:
        InputError: the journal or its copy cannot be written.
    """
    path = folder / JOURNAL
    try:
        read_journal(path)
        return None
    except DamagedJournalError as error:
        line = error.line
    data = path.read_bytes()
    number = sum(1 for _ in folder.glob(f"{JOURNAL}.damaged-*")) + 1
    copy = folder / f"{JOURNAL}.damaged-{number}"
    with atomic_path(copy) as temporary:
        temporary.write_bytes(data)
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(part + b"\n" for part in data.split(b"\n")[: line - 1]))
    return copy


def _link(before: str | None, event: Mapping[str, Any]) -> str:
    """What a line's hash must be, by the line and the hash of the one before."""
    return content_hash([before, {name: value for name, value in event.items() if name != CHAIN}])


class Journal:
    """Append-only, flushed and fsynced record of a run.

    Args:
        folder: the run's folder.
        started: ``time.monotonic()`` from which this session counts; None means now.

    Attributes:
        replaying: whether the next step still comes from the journal.
        broken: whether a step could not be taken for the journal's own sake; then nothing else may go on either.
    """

    _within = ""
    """Kind of the step that is being taken."""

    def __init__(self, folder: Path, *, started: float | None = None) -> None:
        self.path = folder / JOURNAL
        self._events = read_journal(self.path)
        self._next = 0
        self.broken = False
        self._cut_torn_line()
        self.clock = Clock(max((float(e.get("active_s", 0.0)) for e in self._events), default=0.0), started)
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    def tell(self, text: str) -> None:
        """Tell the listeners what is no step; it is not written down."""
        for listener in self.listeners:
            listener({"n": -1, "kind": "note", "value": {"text": text}})

    @property
    def replaying(self) -> bool:
        return self._next < len(self._events)

    @property
    def upcoming(self) -> str | None:
        """Kind of the step that comes from the journal next; None where it does not."""
        return str(self._events[self._next]["kind"]) if self.replaying else None

    def holds_next(self, kind: str, key: Any) -> bool:
        """Whether the step that comes from the journal next is this one."""
        if not self.replaying:
            return False
        event = self._events[self._next]
        return event["kind"] == kind and event.get("key") == content_hash(key)

    def holds(self, kind: str, key: Any) -> bool:
        """Whether a step stands in the journal, wherever."""
        name = content_hash(key)
        return any(event["kind"] == kind and event.get("key") == name for event in self._events)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far, earlier sessions' too."""
        return self._events

    def step(self, kind: str, key: Any, effect: Callable[[], Any]) -> Any:
        """Do something once and for all.

        Args:
            kind: what sort of step it is.
            key: JSON value that identifies the step: what goes in.
            effect: does it and returns a JSON value; not called where the journal already holds the step. It takes no step
                itself: that would stand before this one, where a resumed run does not look for it.

        Raises:
            CotuneError: the journal holds another step at this place, so the folder belongs to another program or config; or
                this is taken inside of another step.
        """
        if self._within:
            self.broken = True
            raise CotuneError(f"the step {kind!r} was taken inside the step {self._within!r}, and could not be resumed")
        name = content_hash(key)
        if self.replaying:
            event = self._events[self._next]
            if event["kind"] != kind or event.get("key") != name:
                self.broken = True
                raise CotuneError(
                    f"{self.path}: line {self._next + 1} records a step {event['kind']!r} where this version of cotune "
                    f"would do {kind!r}. Start a new --out folder."
                )
            self._next += 1
            return event["value"]
        self._within = kind
        try:
            value = effect()
        finally:
            self._within = ""
        return self._append(kind, name, value)

    def _append(self, kind: str, name: str, value: Any) -> Any:
        event = {"n": len(self._events), "kind": kind, "key": name, "active_s": round(self.clock(), 3), "value": value}
        # Numbers that JSON writes otherwise than Python must give one hash on either way.
        event = json.loads(canonical_json(event))
        before = self._events[-1].get(CHAIN) if self._events else None
        # A journal that an older version began stays without.
        if before is not None or not self._events:
            event[CHAIN] = _link(before, event)
        line = canonical_json(event)
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            if not self._events:
                # The file's name must outlast a loss of power too.
                sync_names(self.path.parent)
        except OSError as error:
            self.broken = True
            raise InputError(
                f"cannot write {self.path} ({error.strerror})",
                hint="Free some space and run the same command to go on.",
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
            try:
                with self.path.open("r+b") as stream:
                    stream.truncate(whole)
                    os.fsync(stream.fileno())
            except OSError as error:
                raise cannot_write(self.path, error) from error


def attempt(journal: Journal, effect: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``effect`` returns, or its error under the name ``skipped``; for what a run may go on without.

    What no journal can hold, such as a number that is none, is a failure too.

    A journal that cannot be written, or that holds another step, still ends the run: without it nothing may go on.

    Args:
        journal: of the run.
        effect: measures or asks something.
    """
    try:
        found = effect()
        canonical_json(found)
        return found
    except Exception as error:
        if journal.broken:
            raise
        what = str(error) if isinstance(error, CotuneError) else f"{type(error).__name__}: {error}"
        return {"skipped": f"it failed ({what})"}
