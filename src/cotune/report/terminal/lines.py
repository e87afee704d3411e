"""What a view of a run is, and views that write lines: plain text for pipes and logs, JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, TextIO

from cotune.plain import clock, number, one_line, time_left
from cotune.report.terminal.narration import Story, stage_name
from cotune.report.terminal.pace import Pace
from cotune.task.reading.sheet import plain_json

_PROGRESS_S = 1.0
"""Minimum seconds between two progress objects."""


class RunView:
    """Shows a run; this one shows nothing.

    A view never makes the run fail: a closed pipe silences it, and unknown events are shown as they are.
    """

    def start(self) -> None:
        """Begin to draw. The caller must call :meth:`close` afterwards, also after an exception."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Show an event of the run's journal: an object with ``kind``, ``value`` and ``active_s``."""

    def progress(self, stage: str, what: str, tokens: int) -> None:
        """Report that ``tokens`` further tokens were processed in ``stage``; ``what`` describes the work."""

    def set_time_left(self, seconds: float | None) -> None:
        """Set the estimated seconds until the run ends; None if not known."""

    def close(self) -> None:
        """Stop showing and restore the terminal. May be called more than once."""


class FollowingView(RunView):
    """A view that keeps the run's state; ``now`` is a monotonic clock, in seconds."""

    # A resumed run passes events of earlier sessions, so that the best so far and the prompts' texts are known.
    wants_history = True

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self._story, self._pace = now, Story(), Pace(now)

    def set_time_left(self, seconds: float | None) -> None:
        self._pace.set_left(seconds)


class PlainView(FollowingView):
    """Writes a line for each noteworthy event, with the elapsed time and without control codes, for pipes and logs.

    After ``heartbeat`` seconds without a line, a line describes the current work.
    """

    def __init__(self, stream: TextIO, *, now: Callable[[], float] = time.monotonic, heartbeat: float = 60.0) -> None:
        super().__init__(now)
        self._out, self._heartbeat = Output(stream), heartbeat
        self._last, self._past = now(), -1

    def event(self, event: Mapping[str, Any]) -> None:
        place = number(event.get("n"))
        if event.get("kind") == "note":
            # The note of a run that resumes has the number of the last earlier line.
            self._past = max(self._past, int(place if place is not None else -1))
        elif place is not None and place <= self._past:
            self._story.tell(event)
            return
        self._pace.saw_event(event)
        for line in self._story.tell(event):
            self._say(line.text)

    def progress(self, stage: str, what: str, tokens: int) -> None:
        self._pace.saw_tokens(tokens)
        if self._now() - self._last < self._heartbeat:
            return
        rate, left = self._pace.rate, self._pace.left
        speed = f", {rate:,.0f} tokens/s" if rate is not None else ""
        rest = f", {time_left(left)}" if left is not None else ""
        self._say(f"{stage_name(stage)}: {one_line(what, 80)}{speed}{rest}")

    def _say(self, text: str) -> None:
        self._last = self._now()
        self._out.line(f"[{clock(self._pace.elapsed)}] {text}")


class JsonView(RunView):
    """Writes one JSON object per line: the journal's events unchanged, and ``progress`` objects between them.

    A progress object holds ``stage``, ``what``, the ``tokens`` since the last one and ``time_left_s``. Numbers that are not
    finite become null. ``now`` is a monotonic clock, in seconds.
    """

    def __init__(self, stream: TextIO, *, now: Callable[[], float] = time.monotonic) -> None:
        self._out, self._now = Output(stream), now
        self._pace = Pace(now)
        self._last = float("-inf")
        self._pending: tuple[str, str, int] | None = None

    def event(self, event: Mapping[str, Any]) -> None:
        self._flush()
        self._out.line(json.dumps(plain_json(event)))

    def progress(self, stage: str, what: str, tokens: int) -> None:
        if self._pending and self._pending[0] != stage:
            self._flush()
        self._pending = (stage, what, tokens + (self._pending[2] if self._pending else 0))
        if self._now() - self._last >= _PROGRESS_S:
            self._flush()

    def set_time_left(self, seconds: float | None) -> None:
        self._pace.set_left(seconds)

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._pending is None:
            return
        stage, what, tokens = self._pending
        left = self._pace.left
        line = {"kind": "progress", "stage": stage, "what": what, "tokens": tokens}
        self._out.line(json.dumps(plain_json({**line, "time_left_s": None if left is None else round(left, 1)})))
        self._pending, self._last = None, self._now()


def speaks_unicode(stream: object) -> bool:
    """Whether a text stream can represent Unicode; one without an encoding, such as StringIO, can."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")


_ASCII = str.maketrans({"·": "-", "→": "->", "…": "...", "“": '"', "”": '"', "≈": "~", "│": "|", "─": "-"})


def write_line(stream: IO[str], text: str) -> None:
    """Write a line; characters that the stream's encoding lacks are replaced or escaped.

    Raises:
        OSError: if the stream's other end is closed.
        ValueError: if the stream is closed.
    """
    if not speaks_unicode(stream):
        encoding = str(getattr(stream, "encoding", None))
        text = text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    stream.write(text + "\n")
    stream.flush()


class Output:
    """Writes lines until the stream's other end is closed, without an error, so that a closed pipe does not end the run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def line(self, text: str) -> None:
        self._write(lambda stream: write_line(stream, text))

    def redraw(self, text: str) -> None:
        """Replace the terminal's current line by a text."""

        def put(stream: TextIO) -> None:
            stream.write(f"\r\x1b[K{text}")
            stream.flush()

        self._write(put)

    def _write(self, write: Callable[[TextIO], None]) -> None:
        if self._stream is None:
            return
        try:
            write(self._stream)
        except (OSError, ValueError):
            self._stream = None
