"""The interface of experiment trackers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from cotune.errors import shortened

Status = Literal["finished", "failed", "stopped"]
"""Status at the end of a run or session; a stopped run was interrupted and is resumed by the same command."""

Kind = Literal["arm", "reference", "gain"]


@dataclass(frozen=True)
class Tracked:
    """The run that is tracked.

    Attributes:
        name: name of the run's folder, which distinguishes runs of one task.
        config: every key of the config that is set, such as ``tune.rank``, with a number, boolean or text.
    """

    name: str
    task: str
    folder: Path
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """The time of a measurement.

    Attributes:
        place: number of the journal's line; increases over all sessions.
        seconds: active seconds since the run began.
        tokens: tokens that the run had processed by then.
    """

    place: int
    seconds: float
    tokens: int


@dataclass(frozen=True)
class Estimate:
    """A number from the sealed test with its 95% interval; None for what it does not have.

    Attributes:
        name: as in ``summary.json``, such as ``best_tuned``, ``tfidf`` or ``both``.
        value: the score, or the difference of scores.
        n: number of test rows of an arm or reference.
        log_loss: log-loss of an arm or reference.
        p: p-value of a gain, corrected for multiple comparisons.
    """

    kind: Kind
    name: str
    value: float
    low: float | None
    high: float | None
    n: int | None = None
    log_loss: float | None = None
    p: float | None = None


def problem_of(error: BaseException) -> str:
    """An error on one line."""
    return shortened(" ".join(public(f"{type(error).__name__}: {error}").split()), 240).rstrip(".")


def public(text: str) -> str:
    """The text without user names and passwords in its addresses."""
    return re.sub(r"//[^/\s@]*@", "//", text)


class Tracker(Protocol):
    """Sends a run to an experiment tracker.

    The constructor imports the tracker's package and connects to its server, so that a missing one is found before anything is
    computed. All methods are called from one thread. An exception in a method ends tracking, not the run.

    Attributes:
        where: where to find the run once it was started: an address, a folder or a command.
    """

    where: str

    def start(self, run: Tracked, resume: str | None) -> str:
        """Start or resume a run; returns its id.

        Args:
            run: the run that is tracked.
            resume: id of the run that an earlier session started; another id is returned if that run no longer exists.
        """
        ...

    def metrics(self, values: Mapping[str, float], at: Moment) -> None:
        """Log metrics of the search, such as ``cycle/score``."""
        ...

    def arms(self, found: Sequence[Estimate], at: Moment) -> None:
        """Log the sealed test's scores of arms and references, and the gains."""
        ...

    def files(self, run: Tracked) -> None:
        """Log the files of a finished run: report, summary and bundle are in its folder."""
        ...

    def end(self, status: Status) -> None:
        """End the session with a status."""
        ...
