"""A run's events on their way to a tracker: beside the view, from a thread, and remembered in the run's folder."""

from __future__ import annotations

import json
import threading
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
from cotune.files import write_json
from cotune.report.terminal.plain import fields, number
from cotune.run_files import JOURNAL, TRACKING
from cotune.tracking.facts import estimates_of, metrics_of, settings_of, tokens_after
from cotune.tracking.tracker import Moment, Status, Tracked, Tracker, problem_of

_PATIENCE_S = 10.0
"""How long an interrupted run waits for its tracker."""


@contextmanager
def tracked(tracker: Tracker | None, config: RunConfig, folder: Path, view: View) -> Iterator[View]:
    """A view for a run that also tells a tracker; the view itself where there is none.

    The tracker learns nothing of a run that is refused before its search begins. Of one that resumes, or that ended while the
    tracker was away, it learns what it was not told yet.

    Args:
        tracker: who is told.
        config: of the run.
        folder: of the run.
        view: is shown the run, and what became of the tracking.
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
    """Tells a tracker a run's events, each once. After a failure it is told nothing more.

    Args:
        tracker: who is told.
        name: of the tracker.
        run: what is tracked.

    Attributes:
        name: of the tracker.
        where: where a person finds the run in the tracker; empty before it was begun there.
        problem: why the tracking ended before the run; empty where it did not.
    """

    def __init__(self, tracker: Tracker, name: str, run: Tracked) -> None:
        self.name, self.where, self.problem = name, "", ""
        self._tracker, self._run = tracker, run
        self._id = ""
        self._next, self._told, self._tokens = 0, 0, 0
        self._ended = False

    @property
    def is_behind(self) -> bool:
        """Whether the run has ended and the tracker was not told all of it."""
        kept = self._kept().get(self.name, {})
        return not kept.get("ended") and any(event["kind"] == "done" for event in self._journal())

    def take(self, event: Mapping[str, Any]) -> None:
        """Tell an event, after those before it that were not told yet."""
        with _told_problem(self):
            self._open(int(event["n"]))
            self._catch_up(int(event["n"]))
            self._tell(event)

    def end(self, status: Status) -> None:
        """Tell what is left, and how the session ended."""
        with _told_problem(self):
            if status == "finished":
                journal = self._journal()
                self._open(len(journal))
                self._catch_up(len(journal))
                self._finish()
            self._tracker.end(status)

    def _open(self, place: int) -> None:
        """Begin, or go on with, the tracker's run, at a line of the journal that was not told in any session."""
        if self._id:
            return
        kept = self._kept().get(self.name, {})
        before = str(kept.get("run") or "")
        self._id = self._tracker.start(self._run, before or None)
        self.where = self._tracker.where
        if self._id == before:
            # A journal that was cut is shorter than what was told.
            self._told, self._ended = min(int(number(kept.get("told")) or 0), place), bool(kept.get("ended"))
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
        if event["n"] < self._told:
            return
        values = metrics_of(event)
        if values:
            self._tracker.metrics(values, self._moment(event))
        self._told = self._next
        if values:
            self._keep()

    def _finish(self) -> None:
        summary = read_summary(self._run.folder)
        if self._ended or summary is None:
            return
        self._tracker.arms(estimates_of(summary), self._moment(self._journal()[-1]))
        self._tracker.files(self._run)
        self._ended = True
        self._keep()

    def _moment(self, event: Mapping[str, Any]) -> Moment:
        return Moment(int(event["n"]), number(event.get("active_s")) or 0.0, self._tokens)

    def _journal(self) -> list[dict[str, Any]]:
        return read_journal(self._run.folder / JOURNAL)

    def _kept(self) -> dict[str, Any]:
        """What earlier sessions kept, by tracker."""
        try:
            found = json.loads((self._run.folder / TRACKING).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {name: fields(kept) for name, kept in fields(found).items()}

    def _keep(self) -> None:
        kept = {"run": self._id, "told": self._told, "ended": self._ended}
        write_json(self._run.folder / TRACKING, {**self._kept(), self.name: kept})


class TrackedView:
    """A view that passes everything on, and has a follower told the run's new events in a thread: a slow server delays nothing.

    Args:
        view: is shown the run.
        follower: tells the tracker.
    """

    def __init__(self, view: View, follower: Follower) -> None:
        self._view, self._follower = view, follower
        self._queue: SimpleQueue[Mapping[str, Any] | Status] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._past, self._told = -1, ""

    @property
    def wants_history(self) -> bool:
        """Whether the view wants what earlier sessions did."""
        return bool(getattr(self._view, "wants_history", False))

    def event(self, event: dict[str, Any]) -> None:
        """A line of the journal."""
        self._view.event(event)
        self._tell()
        if event["kind"] == "note":
            # That of a run that resumes stands at the last line of before.
            self._past = max(self._past, int(event["n"]))
        elif event["n"] > self._past and (self._thread or event["kind"] not in OPENING):
            self._start()
            self._queue.put(event)

    def progress(self, stage: str, what: str, tokens: int) -> None:
        """So many more tokens were run in this stage."""
        self._view.progress(stage, what, tokens)

    def set_time_left(self, seconds: float | None) -> None:
        """How long the run will take from now."""
        self._view.set_time_left(seconds)

    def close(self, status: Status) -> None:
        """Have the tracker told the rest, and how the session ended."""
        if self._thread is None and not (status == "finished" and self._follower.is_behind):
            return
        self._start()
        self._queue.put(status)
        if status == "finished" and not self._follower.problem:
            say(self._view, f"telling {self._follower.name} the result")
        waited = 0.0
        # In short steps, so that an interrupt is heard.
        while self._thread is not None and self._thread.is_alive() and (status == "finished" or waited < _PATIENCE_S):
            self._thread.join(0.1)
            waited += 0.1
        self._tell()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="cotune-tracking", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while isinstance(found := self._queue.get(), Mapping):
            if not self._follower.problem:
                self._follower.take(found)
        if not self._follower.problem:
            self._follower.end(found)

    def _tell(self) -> None:
        """Say what became of the tracking, from the thread that the view belongs to."""
        name, where, problem = self._follower.name, self._follower.where, self._follower.problem
        if problem and self._told != problem:
            self._told = problem
            say(
                self._view,
                f"{name} is told no more of this run ({problem}). The run itself goes on; the same cotune run command tells "
                "the rest later",
            )
        elif where and not self._told:
            self._told = where
            say(self._view, f"{name} is told of this run: {where}")


@contextmanager
def _told_problem(follower: Follower) -> Iterator[None]:
    """Keep a tracker's failure from the run, whatever it raises."""
    try:
        yield
    except Exception as error:
        follower.problem = problem_of(error)
