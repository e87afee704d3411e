"""What an experiment tracker is told of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from cotune.errors import shortened

Status = Literal["finished", "failed", "stopped"]
"""How a run, or a session of it, ended: a stopped one was interrupted, and the same command resumes it."""


@dataclass(frozen=True)
class Tracked:
    """The run that a tracker is told of.

    Attributes:
        name: of the run's folder, which tells runs of one task apart.
        task: what people call the task.
        folder: the run's.
        config: every key of the config that is set, ``tune.rank`` and the like, with numbers, truth values and texts.
    """

    name: str
    task: str
    folder: Path
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """When something was measured.

    Attributes:
        place: of the journal's line, which only grows, over all sessions.
        seconds: active seconds of the run.
        tokens: that it had run by then.
    """

    place: int
    seconds: float
    tokens: int


@dataclass(frozen=True)
class Estimate:
    """A number of the sealed test with its 95% interval.

    Attributes:
        kind: ``arm``, ``reference`` or ``gain``.
        name: as in ``summary.json``, such as ``best_tuned``, ``tfidf`` or ``both``.
        value: the score, or the difference of scores.
        low: the interval's lower end; None where there is none.
        high: its upper end.
        n: test rows; None for gains.
        log_loss: None for gains and where none is known.
        p: of gains, corrected for their being read together.
    """

    kind: Literal["arm", "reference", "gain"]
    name: str
    value: float
    low: float | None
    high: float | None
    n: int | None = None
    log_loss: float | None = None
    p: float | None = None


def problem_of(error: BaseException) -> str:
    """What went wrong, on one line."""
    return shortened(" ".join(public(f"{type(error).__name__}: {error}").split()), 240).rstrip(".")


def public(text: str) -> str:
    """A text without the user and password that addresses in it may hold."""
    return re.sub(r"//[^/\s@]*@", "//", text)


class Tracker(Protocol):
    """Tells a run to an experiment tracker.

    Making one imports the tracker's package and reaches its server, so that what is missing is found before anything is
    computed. All methods are called from one thread; an exception in one of them ends the tracking, never the run.

    Attributes:
        where: where a person finds the run, once it was started: an address, a folder or a command.
    """

    where: str

    def start(self, run: Tracked, resume: str | None) -> str:
        """Begin a run there, or go on with one; returns its id.

        Args:
            run: what is tracked.
            resume: id of the run that an earlier session began; another id is returned where it is no longer there.
        """
        ...

    def metrics(self, values: Mapping[str, float], at: Moment) -> None:
        """Measurements of the search, such as ``cycle/score``."""
        ...

    def arms(self, found: Sequence[Estimate], at: Moment) -> None:
        """What the sealed test found of arms and references, and the gains."""
        ...

    def files(self, run: Tracked) -> None:
        """The run has ended: its report, summary and bundle lie in its folder."""
        ...

    def end(self, status: Status) -> None:
        """The session ends."""
        ...
