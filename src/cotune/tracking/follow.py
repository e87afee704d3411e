"""Sends a run's events to a tracker from a thread, and records in the run's folder which were sent."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cotune.config import RunConfig
from cotune.cycle.folder import OPENING
from cotune.cycle.journal import read_journal
from cotune.cycle.kept import read_summary
from cotune.cycle.progress import View, say
from cotune.files import known_json, write_json
from cotune.plain import count_of, fields, number
from cotune.run_files import JOURNAL, TRACKING
from cotune.tracking.facts import estimates_of, metrics_of, settings_of, tokens_after
from cotune.tracking.tracker import Moment, Status, Tracked, Tracker, problem_of

_PATIENCE_S = 10.0
"""Seconds that an interrupted run waits for its tracker."""


@contextmanager
def tracked(tracker: Tracker | None, config: RunConfig, folder: Path, view: View) -> Iterator[View]:
    """A view that also sends the run's events to a tracker; the view itself if there is no tracker.

    Nothing is sent for a run that is refused before its search begins. For a run that resumes, or that ended while the tracker
    was unreachable, the missing events are sent. The view shows whether tracking succeeded.
    """
    if tracker is None:
        yield view
        return
    run = Tracked(folder.absolute().name, config.name, folder, settings_of(config))
    watched = TrackedView(view, Follower(tracker, str(config.tracking), run))
    try:
        yield watched
    except BaseException as error:
        watched.close("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    watched.close("finished")


class Follower:
    """Sends each event of a run to a tracker once.

    Attributes:
        where: address of the run in the tracker; empty before the run was started there.
        problem: why tracking ended before the run; empty if it did not.
    """

    def __init__(self, tracker: Tracker, name: str, run: Tracked) -> None:
        self.name, self.where, self.problem = name, "", ""
        self._tracker, self._run = tracker, run
        self._id = ""
        self._next, self._sent, self._tokens = 0, 0, 0
        self._arms = self._ended = False

    @property
    def is_behind(self) -> bool:
        """Whether the run has ended and not all of it was sent."""
        kept = self._kept().get(self.name, {})
        return not kept.get("ended") and any(event["kind"] == "done" for event in self._journal())

    def take(self, event: Mapping[str, Any]) -> None:
        """Send an event, after those before it that were not sent yet."""
        self._open(int(event["n"]))
        self._catch_up(int(event["n"]))
        self._tell(event)

    def end(self, status: Status) -> None:
        """Send what is left and the status at the end of the session."""
        if status == "finished":
            lines = len(self._journal())
            self._open(lines)
            self._catch_up(lines)
            self._finish()
        self._tracker.end(status)

    def _open(self, place: int) -> None:
        """Start or resume the tracker's run at a line of the journal that no session has sent."""
        if self._id:
            return
        kept = self._kept().get(self.name, {})
        before = str(kept.get("run") or "")
        self._id = self._tracker.start(self._run, before or None)
        self.where = self._tracker.where
        if self._id == before:
            # A journal that was truncated has fewer lines than were sent.
            self._sent, self._ended = min(count_of(kept.get("told")), place), bool(kept.get("ended"))
            self._arms = bool(kept.get("arms"))
        self._keep()

    def _catch_up(self, place: int) -> None:
        if place > self._next:
            for event in self._journal()[self._next : place]:
                self._tell(event)

    def _tell(self, event: Mapping[str, Any]) -> None:
        if event["n"] != self._next:
            return
        self._next += 1
        self._tokens = tokens_after(self._tokens, event)
        if event["n"] < self._sent:
            return
        values = metrics_of(event)
        if values:
            self._tracker.metrics(values, self._moment(event))
        self._sent = self._next
        if values:
            self._keep()

    def _finish(self) -> None:
        summary = read_summary(self._run.folder)
        if self._ended or summary is None:
            return
        if not self._arms:
            self._tracker.arms(estimates_of(summary), self._moment(self._journal()[-1]))
            # Not sent again if sending the files fails: a tracker would hold every arm twice.
            self._arms = True
            self._keep()
        self._tracker.files(self._run)
        self._ended = True
        self._keep()

    def _moment(self, event: Mapping[str, Any]) -> Moment:
        return Moment(int(event["n"]), number(event.get("active_s")) or 0.0, self._tokens)

    def _journal(self) -> list[dict[str, Any]]:
        return read_journal(self._run.folder / JOURNAL)

    def _kept(self) -> dict[str, Any]:
        """The records of earlier sessions, by tracker."""
        return {name: fields(kept) for name, kept in fields(known_json(self._run.folder / TRACKING)).items()}

    def _keep(self) -> None:
        kept = {"run": self._id, "told": self._sent, "arms": self._arms, "ended": self._ended}
        write_json(self._run.folder / TRACKING, {**self._kept(), self.name: kept})


class TrackedView:
    """A view that passes everything on to another view and sends new events to a tracker.

    It sends from a thread, so that a slow server does not delay the run. An error of the tracker ends tracking, not the run.
    """

    def __init__(self, view: View, follower: Follower) -> None:
        self._view, self._follower = view, follower
        self._queue: SimpleQueue[Mapping[str, Any] | Status] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._past, self._reported = -1, ""

    @property
    def wants_history(self) -> bool:
        """Whether the view wants the events of earlier sessions."""
        return bool(getattr(self._view, "wants_history", False))

    def event(self, event: dict[str, Any]) -> None:
        self._view.event(event)
        self._tell()
        if event["kind"] == "note":
            # The note of a run that resumes has the number of the last earlier line.
            self._past = max(self._past, int(event["n"]))
        elif event["n"] > self._past and (self._thread or event["kind"] not in OPENING):
            self._start()
            self._queue.put(event)

    def progress(self, stage: str, what: str, tokens: int) -> None:
        self._view.progress(stage, what, tokens)

    def set_time_left(self, seconds: float | None) -> None:
        self._view.set_time_left(seconds)

    def close(self, status: Status) -> None:
        """Send the rest to the tracker, and how the session ended."""
        if self._thread is None and not (status == "finished" and self._follower.is_behind):
            return
        self._start()
        self._queue.put(status)
        if status == "finished" and not self._follower.problem:
            say(self._view, f"sending the result to {self._follower.name}")
        until = math.inf if status == "finished" else time.monotonic() + _PATIENCE_S
        # Join in short steps, so that an interrupt is handled.
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < until:
            self._thread.join(0.1)
        self._tell()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="cotune-tracking", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            while isinstance(item := self._queue.get(), Mapping):
                self._follower.take(item)
            self._follower.end(item)
        except Exception as error:
            self._follower.problem = problem_of(error)

    def _tell(self) -> None:
        """Report whether tracking succeeded, from the view's own thread."""
        name, where, problem = self._follower.name, self._follower.where, self._follower.problem
        if problem and self._reported != problem:
            self._reported = problem
            rest = "The run itself goes on; run the same command again to send the rest"
            say(self._view, f"tracking in {name} stopped ({problem}). {rest}")
        elif where and not self._reported:
            self._reported = where
            say(self._view, f"tracked in {name}: {where}")
