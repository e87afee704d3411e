"""Jobs: pure functions of small values, named by their content, whose results are files."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cotune.errors import InputError
from cotune.files import atomic_path, content_hash
from cotune.version import __version__

SMALLER = "smaller"
"""Among a job's places: true where it is to be done in smaller pieces."""

Work = Callable[[Mapping[str, Any], Mapping[str, Any]], bytes]
"""A module's function from a job's ``given`` and ``places`` to the bytes of its result, JSON or safetensors."""


@dataclass(frozen=True)
class Job:
    """A piece of work that any worker can do, and that does no harm when it is done twice.

    Attributes:
        work: what is done; a function that a module holds by its name, so that another process finds it.
        given: all that the result hangs on, as a JSON object.
        places: where things lie and how many threads there are, which must not change the result; as a JSON object. Where
            workers ran out of memory in the job, or seem to have, the next one finds :data:`SMALLER` there.
        rows: how many rows it is about, for progress.
    """

    work: Work
    given: Mapping[str, Any]
    places: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 1

    def __post_init__(self) -> None:
        if "<" in self.work.__qualname__:
            raise ValueError(f"{self.work.__qualname__} is no function that another process could find by its name")

    @cached_property
    def key(self) -> str:
        """Content hash of the function's name, what it is given and cotune's version: the name of the result's file."""
        return content_hash([f"{self.work.__module__}.{self.work.__qualname__}", __version__, self.given], 40)

    def smaller(self) -> Job:
        """The same job, to be done in smaller pieces."""
        return replace(self, places={**self.places, SMALLER: True})


@dataclass(frozen=True)
class Done:
    """A job that is done.

    Attributes:
        key: of the job.
        path: the file with its result.
        rows: of the job.
        worker: who did it, as ``host:process``.
        seconds: that the worker was busy with it.
        earlier: whether the result was there already.
    """

    key: str
    path: Path
    rows: int
    worker: str = ""
    seconds: float = 0.0
    earlier: bool = False


def found(job: Job, storage: Path) -> Done | None:
    """A job whose result lies in the storage folder already; None where it does not."""
    path = storage / job.key
    return Done(job.key, path, job.rows, earlier=True) if path.is_file() else None


def perform(job: Job, storage: Path) -> Done:
    """Do a job where this process runs, and write its result; one that is there already is left as it is.

    Args:
        job: what to do.
        storage: folder of the results, which the driver has made and sees too.

    Raises:
        InputError: this machine does not see the folder, or it cannot be written to.
    """
    if not storage.is_dir():
        raise InputError(
            f"the worker on {socket.gethostname()} does not see this folder",
            where=str(storage),
            hint="Choose an output in a folder that every node has under the same path.",
        )
    if (known := found(job, storage)) is not None:
        return known
    begun = time.monotonic()
    result = job.work(job.given, job.places)
    path = storage / job.key
    with atomic_path(path) as temporary:
        temporary.write_bytes(result)
    return Done(job.key, path, job.rows, worker_name(), time.monotonic() - begun)


def settle(threads: int) -> None:
    """Set up a process as a worker, before it imports what computes.

    Args:
        threads: CPU threads that it may use.
    """
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    # As for the command itself: other libraries' notes to their developers.
    warnings.filterwarnings("ignore", category=FutureWarning)


def worker_name() -> str:
    """This process, as messages name it."""
    return f"{socket.gethostname()}:{os.getpid()}"
