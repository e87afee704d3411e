"""Jobs: pure functions of small arguments, with stored results that are named by a hash of the arguments."""

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
"""Key in a job's ``places``: true if the job must run in smaller parts."""
WAITED = "waited_s"
"""Key in a job's ``places``: seconds between the making of the job and its handover to the worker, whose clock may differ."""

Work = Callable[[Mapping[str, Any], Mapping[str, Any]], bytes]
"""A module-level function from a job's ``given`` and ``places`` to its result as bytes (JSON or safetensors)."""


@dataclass(frozen=True)
class Job:
    """Work that any worker can do. Running a job twice does no harm.

    Attributes:
        work: a module-level function, which other processes find by its name.
        given: everything that the result depends on, as a JSON object.
        places: arguments that must not change the result, such as paths and the number of threads, as a JSON object. After
            workers ran out of memory in the job, or probably did, it contains :data:`SMALLER`; when a worker gets it,
            :data:`WAITED`.
        rows: number of rows, for progress.
        made: ``time.monotonic()`` of this process when the job was made.
    """

    work: Work
    given: Mapping[str, Any]
    places: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 1
    made: float = field(default_factory=time.monotonic, compare=False)

    def __post_init__(self) -> None:
        if "<" in self.work.__qualname__:
            raise ValueError(f"{self.work.__qualname__} is not a module-level function, so other processes cannot find it")

    @cached_property
    def key(self) -> str:
        """Name of the result: a hash of the function's name, ``given`` and cotune's version."""
        return content_hash([f"{self.work.__module__}.{self.work.__qualname__}", __version__, self.given], 40)

    def smaller(self) -> Job:
        return replace(self, places={**self.places, SMALLER: True})

    def handed_over(self) -> Job:
        """The same job, with the time that it has waited."""
        return replace(self, places={**self.places, WAITED: time.monotonic() - self.made})


@dataclass(frozen=True)
class Done:
    """A finished job.

    Attributes:
        key: the job's key, under which its result is stored.
        worker: the worker that ran it, as ``host:process``; empty if an earlier command or a lost worker did.
        seconds: time that the worker spent on it.
        earlier: whether an earlier command had stored the result.
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
        """The result; waits until it appears on this machine."""
        return self.storage.read_late(self.key)


def found(job: Job, storage: Storage) -> Done | None:
    """The finished job if its result is already stored, otherwise None."""
    return Done(job.key, storage, job.rows, earlier=True) if storage.has(job.key) else None


def perform(job: Job, storage: Path | Storage) -> Done:
    """Run a job in this process and store its result, unless it is already stored.

    ``storage`` may be an existing folder, which the driver can access too.

    Raises:
        InputError: this machine cannot access the storage, or cannot write to it.
        StorageError: the storage failed repeatedly.
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
    """Set up a process as a worker with a number of CPU threads. Call it before numerical libraries are imported."""
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    # The command does the same: these warnings of other libraries are for their developers.
    warnings.filterwarnings("ignore", category=FutureWarning)


def worker_name() -> str:
    """Name of this process for messages, as ``host:process``."""
    return f"{socket.gethostname()}:{os.getpid()}"
