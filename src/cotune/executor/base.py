"""The contract of whatever runs jobs, and of a worker that may be lost."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Protocol

from cotune.errors import CotuneError
from cotune.executor.job import Done, Job
from cotune.executor.storage import Storage


class Executor(Protocol):
    """Runs jobs. The result is stored before a job's future resolves.

    Attributes:
        slots: jobs that run at the same time.
        threads: CPU threads that each of them may use.
        lost: workers that ended while they had a job, so far.
        losses: the same by the worker's name.
        storage: storage of the results.
    """

    slots: int
    threads: int
    lost: int
    losses: Mapping[str, int]
    storage: Storage

    def submit(self, job: Job) -> Future[Done]:
        """Have a job done; one with the key of an earlier one is the earlier one.

        The future raises what the job raised, or :class:`LostError` where workers were lost in it again and again.
        """
        ...

    def take_back(self, job: Job) -> bool:
        """Forget a job: whether no worker had begun it, so that none will.

        One that runs goes on. One that is done counts as new where it is submitted again.
        """
        ...

    def close(self) -> None:
        """End all workers, whatever they do. May be called again."""
        ...


class LostError(CotuneError):
    """A job whose workers were lost every time, or one that has no worker left.

    Attributes:
        of_job: whether it was this job's workers alone, so that others may still be done.
    """

    def __init__(self, what: str, *, of_job: bool = False) -> None:
        self.of_job = of_job
        super().__init__(what)


class WorkerLost(Exception):
    """A worker ended before its job did, or does not come back; says how.

    Attributes:
        memory: whether it is known that memory ran out.
    """

    def __init__(self, how: str, *, memory: bool = False) -> None:
        self.memory = memory
        super().__init__(how)


class Worker(Protocol):
    """One slot's worker: a process on this machine or elsewhere. All calls but ``stop`` come from one thread.

    Attributes:
        name: where it is, for messages.
    """

    name: str

    def start(self) -> None:
        """Have it ready: made, made again after it was lost, or as it is.

        Raises:
            WorkerLost: it cannot be had.
            CotuneError: no worker like this will do, such as one of another version.
        """
        ...

    def perform(self, job: Job, storage: Storage) -> Done:
        """Do a job there; raises what the job raises.

        Raises:
            WorkerLost: it ended before the job did.
        """
        ...

    def stop(self) -> None:
        """End it at once, also while it has a job; from any thread."""
        ...
