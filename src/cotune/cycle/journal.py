"""The journal of a run: all decisions and measurements in order, one JSON object per line.

All effects of a run go through :meth:`Journal.step`. A run that resumes after a kill executes the same program again: steps in
the journal return their recorded values, and further steps are executed. So nothing is lost, and no other code has to restore
the state of an unfinished run.

Each line holds a hash of itself and of the line before, so that a changed, lost or moved line is detected. This protects
against damage and accidental edits, but not against someone who rewrites the whole file with its hashes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cotune.cycle.budget.budget import Clock
from cotune.errors import CotuneError, DivergedError, InputError
from cotune.files import atomic_path, cannot_write, canonical_json, content_hash, decode_json, sync_names
from cotune.run_files import JOURNAL

CHAIN = "chain"
"""Key of the hash in a line."""
DIVERGED = "diverged"
"""Kind of the line of a step whose numbers were not finite."""


class DamagedJournalError(CotuneError):
    """A line of a journal before the last one cannot be read or was changed.

    Attributes:
        line: number of the line, from 1.
    """

    def __init__(self, path: Path, line: int) -> None:
        self.line = line
        super().__init__(
            f"{path}: line {line} of the journal is damaged or was altered. The same cotune run command with --cut-journal "
            "keeps a copy, cuts the journal there and resumes from the step before; or start a new --out folder."
        )


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read the journal's whole lines; a torn last line, as a kill leaves it, is ignored.

    Raises:
        InputError: the file cannot be read.
        DamagedJournalError: a line before the last one cannot be read, or a line was changed.
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
    before: str | None = None
    for number, line in enumerate(lines[:-1], start=1):
        try:
            event = decode_json(line)
            # Every step has a value, which may be null.
            if not isinstance(event, dict) or not isinstance(event.get("kind"), str) or "value" not in event:
                raise ValueError("not an event")
            if not isinstance(event.get("active_s", 0.0), (int, float)):
                raise ValueError("its time is no number")
        except ValueError as error:
            if number == len(lines) - 1:
                break
            raise DamagedJournalError(path, number) from error
        if event.get(CHAIN) != _link(before, event):
            raise DamagedJournalError(path, number)
        before = event[CHAIN]
        events.append(event)
    return events


def cut_journal(folder: Path) -> Path | None:
    """Cut a damaged journal before its first damaged line; returns the path of a copy, or None if nothing is damaged.

    The caller must ensure that no process works in the run's folder.

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
    """The hash of a line, by its content and the hash of the line before."""
    return content_hash([before, {name: value for name, value in event.items() if name != CHAIN}])


class Journal:
    """Append-only record of a run; each line is flushed and fsynced.

    Args:
        folder: the run's folder.
        started: ``time.monotonic()`` from which this session counts; None means now.

    Attributes:
        replaying: whether the next step still comes from the journal.
        broken: whether a step failed because of the journal itself; then the run must end.
    """

    _within = ""
    """Kind of the step that is being executed."""

    def __init__(self, folder: Path, *, started: float | None = None) -> None:
        self.path = folder / JOURNAL
        self._events = read_journal(self.path)
        self._next = 0
        self.broken = False
        self._cut_torn_line()
        self.clock = Clock(max((float(e.get("active_s", 0.0)) for e in self._events), default=0.0), started)
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    def tell(self, text: str) -> None:
        """Tell the listeners a note that is not recorded."""
        for listener in self.listeners:
            listener({"n": -1, "kind": "note", "value": {"text": text}})

    @property
    def replaying(self) -> bool:
        return self._next < len(self._events)

    @property
    def upcoming(self) -> str | None:
        """Kind of the next step if it comes from the journal, otherwise None."""
        return str(self._events[self._next]["kind"]) if self.replaying else None

    def holds_next(self, kind: str, key: Any) -> bool:
        """Whether the next step in the journal is this one."""
        if not self.replaying:
            return False
        event = self._events[self._next]
        return event["kind"] == kind and event.get("key") == content_hash(key)

    def holds(self, kind: str, key: Any) -> bool:
        """Whether a step is anywhere in the journal."""
        name = content_hash(key)
        return any(event["kind"] == kind and event.get("key") == name for event in self._events)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events so far, including those of earlier sessions."""
        return self._events

    def step(self, kind: str, key: Any, effect: Callable[[], Any]) -> Any:
        """Execute an effect once and record its value; returns the recorded value.

        Args:
            key: JSON value that identifies the step by its inputs.
            effect: executes the step and returns a JSON value; not called if the journal already holds the step. It must not
                take steps itself: they would be recorded before this one, where a resumed run does not expect them.

        Raises:
            CotuneError: the journal holds another step at this place, so the folder belongs to another version or config; or
                the step is taken within another step.
            DivergedError: the effect raised it, now or when it was executed. It is recorded, because a run may go on without
                the prompt or the weights that diverged.
        """
        if self._within:
            self.broken = True
            raise CotuneError(f"the step {kind!r} was taken inside the step {self._within!r}, and could not be resumed")
        name = content_hash(key)
        if self.replaying:
            event = self._events[self._next]
            if event["kind"] == DIVERGED and event.get("key") == name and event["value"]["step"] == kind:
                self._next += 1
                raise DivergedError(event["value"]["error"])
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
        except DivergedError as error:
            self._append(DIVERGED, name, {"step": kind, "error": str(error)})
            raise
        finally:
            self._within = ""
        return self._append(kind, name, value)

    def _append(self, kind: str, name: str, value: Any) -> Any:
        event = {"n": len(self._events), "kind": kind, "key": name, "active_s": round(self.clock(), 3), "value": value}
        # The hash must be the same before and after a round trip through JSON.
        event = json.loads(canonical_json(event))
        event[CHAIN] = _link(self._events[-1][CHAIN] if self._events else None, event)
        line = canonical_json(event)
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            if not self._events:
                # The file's name must survive a power failure too.
                sync_names(self.path.parent)
        except OSError as error:
            self.broken = True
            raise InputError(
                f"cannot write {self.path} ({error.strerror})",
                hint="Free some space and run the same command again to resume.",
            ) from error
        # Return the value as a resumed run will read it, so that numbers are equal.
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
    """Result of an optional effect, or its error under the name ``skipped``.

    A result that the journal cannot hold, such as NaN, is a failure too. An error of the journal itself still ends the run.
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
