"""Jobs: pure functions of small values, named by their content, whose results are stored."""

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

from cotune.executor.storage import Storage, storage_at
from cotune.files import content_hash
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
        """Content hash of the function's name, what it is given and cotune's version: the name of its result."""
        return content_hash([f"{self.work.__module__}.{self.work.__qualname__}", __version__, self.given], 40)

    def smaller(self) -> Job:
        """The same job, to be done in smaller pieces."""
        return replace(self, places={**self.places, SMALLER: True})


@dataclass(frozen=True)
class Done:
    """A job that is done.

    Attributes:
        key: of the job.
        storage: where its result is stored, under the key.
        rows: of the job.
        worker: who did it, as ``host:process``.
        seconds: that the worker was busy with it.
        earlier: whether the result was there already.
    """

    key: str
    storage: Storage
    rows: int
    worker: str = ""
    seconds: float = 0.0
    earlier: bool = False

    @property
    def where(self) -> str:
        """Path or URL of the result, for messages."""
        return self.storage.where(self.key)

    def read(self) -> bytes:
        """The result, once it is here."""
        return self.storage.read_late(self.key)


def found(job: Job, storage: Storage) -> Done | None:
    """A job whose result is stored already; None where it is not."""
    return Done(job.key, storage, job.rows, earlier=True) if storage.has(job.key) else None


def perform(job: Job, storage: Path | Storage) -> Done:
    """Do a job where this process runs, and write its result; one that is there already is left as it is.

    Args:
        job: what to do.
        storage: of the results, or their folder, which the driver has made and sees too.

    Raises:
        InputError: this machine does not see the storage, or it cannot be written to.
        StorageError: it fails again and again.
    """
    storage = storage_at(storage)
    storage.check()
    if (known := found(job, storage)) is not None:
        return known
    begun = time.monotonic()
    result = job.work(job.given, job.places)
    storage.write(job.key, result)
    return Done(job.key, storage, job.rows, worker_name(), time.monotonic() - begun)


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
