"""Progress and summary of a file's rows on an executor."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.cli.program import tell
from cotune.errors import BusyError, counted
from cotune.plain import duration

if TYPE_CHECKING:
    from cotune.executor import Choice, Done, Executor

_IN_PLACE_S, _LINES_S = 0.25, 30.0
_NAMED = 2
"""Maximum number of workers whose speeds are shown one by one."""


def choice_of(executor: str | None, workers: int | None, storage: str | None = None) -> Choice | None:
    """The executor of a command line; None if none is given."""
    if executor is None and workers is None and storage is None:
        return None
    from cotune.executor import Choice

    return Choice.named(executor, workers, storage)


class Throughput:
    """Counts the rows of finished jobs.

    Attributes:
        rows: number of rows of all jobs.
        done: number of finished rows.
        earlier: how many of them an earlier command had finished.
    """

    def __init__(self, rows: int, now: Callable[[], float] = time.monotonic) -> None:
        self.rows, self.done, self.earlier = rows, 0, 0
        self._now, self._begun = now, now()
        self._workers: dict[str, tuple[int, float]] = {}

    def saw(self, job: Done) -> None:
        self.done += job.rows
        if job.earlier:
            self.earlier += job.rows
            return
        if job.worker:
            rows, seconds = self._workers.get(job.worker, (0, 0.0))
            self._workers[job.worker] = (rows + job.rows, seconds + job.seconds)

    @property
    def rates(self) -> dict[str, float]:
        """Rows per second of each worker while it was busy, including model loading; the fastest worker comes first."""
        found = {name: rows / max(seconds, 1e-9) for name, (rows, seconds) in self._workers.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def left(self) -> float | None:
        """Remaining seconds at the pace since the start; None before the first job is finished."""
        fresh = self.done - self.earlier
        return (self.rows - self.done) * (self._now() - self._begun) / fresh if fresh else None


class Meter:
    """Shows the workers' progress on standard error: on one line of a terminal, else as occasional lines."""

    def __init__(self, rows: int, what: str = "row", now: Callable[[], float] = time.monotonic) -> None:
        self.what, self.seen, self._now = what, Throughput(rows, now), now
        self._terminal = sys.stderr.isatty()
        self._shown, self._width = now(), 0

    def told(self, done: Done) -> None:
        self.seen.saw(done)
        whole = self.seen.done >= self.seen.rows
        if self._now() - self._shown < (_IN_PLACE_S if self._terminal else _LINES_S) and not (whole and self._terminal):
            return
        self._shown = self._now()
        text = self._text()
        if self._terminal:
            sys.stderr.write("\r" + text.ljust(self._width) + ("\n" if whole else ""))
            sys.stderr.flush()
            self._width = len(text)
        else:
            tell(text, err=True)

    def summary(self, executor: Executor) -> dict[str, Any]:
        """The summary at the end, for JSON."""
        return {
            "workers": {name: round(rate, 2) for name, rate in self.seen.rates.items()},
            "lost_workers": executor.lost,
            "done_before": self.seen.earlier,
        }

    def _text(self) -> str:
        seen = self.seen
        left = seen.left
        parts = [f"{seen.done:,} of {counted(seen.rows, self.what)}", *([f"about {duration(left)} left"] if left else [])]
        return ", ".join(parts) + (f"; {paces}" if (paces := _paces([*seen.rates.values()], self.what)) else "")


def _paces(rates: list[float], what: str) -> str:
    if not rates:
        return ""
    many = len(rates) > _NAMED
    shown = f"{min(rates):.1f} to {max(rates):.1f}" if many else " and ".join(f"{rate:.1f}" for rate in rates)
    return f"{counted(len(rates), 'worker')}, {shown} {what}s/s"


def tell_summary(summary: Mapping[str, Any], what: str = "row", unlike: str = "") -> None:
    """Print the workers' summary."""
    parts = [_paces([*summary["workers"].values()], what)]
    if lost := summary["lost_workers"]:
        parts.append(f"{counted(lost, 'worker')} lost, {'its chunk was' if lost == 1 else 'their chunks were'} done again")
    if before := summary["done_before"]:
        parts.append(f"{counted(before, what)} done before")
    tell("; ".join(part for part in parts if part), err=True)
    if unlike:
        tell(f"The workers differ, so last digits may depend on which worker computed a {what}: {unlike}.", err=True)


@contextmanager
def running(choice: Choice, out: Path) -> Iterator[Executor]:
    """Open an executor, and remove the folder of an output's chunks at the end.

    After an interrupt the folder is kept, with a message."""
    from cotune.executor import open_executor, part_folder
    from cotune.executor.parts import finished, part_folder_of

    try:
        with part_folder(out) as folder, open_executor(choice, folder) as executor:
            yield executor
    except BusyError:
        # The chunks there belong to the other command.
        raise
    except BaseException:
        place = part_folder_of(out)
        if kept := finished(place):
            if sys.stderr.isatty():
                # Start below the progress line.
                sys.stderr.write("\n")
            tell(f"{counted(kept, 'chunk')} kept in {place}; the same command resumes.", err=True)
        raise
