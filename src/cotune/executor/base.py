"""The interfaces of executors and of their workers, and the errors of lost workers."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Protocol

from cotune.errors import CotuneError
from cotune.executor.job import Done, Job
from cotune.executor.storage import Storage


class Executor(Protocol):
    """Runs jobs. A job's result is stored before its future resolves.

    Attributes:
        slots: number of jobs that run at the same time.
        threads: number of CPU threads that each job may use.
        lost: number of workers that ended during a job, so far.
        losses: the same number by the worker's name.
    """

    slots: int
    threads: int
    lost: int
    losses: Mapping[str, int]
    storage: Storage

    def submit(self, job: Job) -> Future[Done]:
        """Queue a job; returns the earlier future if a job with the same key was submitted before.

        The future raises the job's error, or :class:`LostError` if too many workers were lost in the job.
        """
        ...

    def cancel(self, job: Job) -> bool:
        """Cancel a job that no worker has started; returns whether it was cancelled.

        A running job continues. A finished job is forgotten, so that it runs again if it is submitted again.
        """
        ...

    def close(self) -> None:
        """End all workers, busy ones included. May be called more than once."""
        ...


class LostError(CotuneError):
    """A job failed because its workers were lost again and again, or because no worker is left.

    Attributes:
        of_job: whether only this job is affected, so that other jobs may still succeed.
    """

    def __init__(self, what: str, *, of_job: bool = False) -> None:
        self.of_job = of_job
        super().__init__(what)


class WorkerLost(Exception):
    """A worker ended during a job or cannot be started; the message gives the reason.

    Attributes:
        memory: whether memory is known to be the reason.
    """

    def __init__(self, how: str, *, memory: bool = False) -> None:
        self.memory = memory
        super().__init__(how)


class Worker(Protocol):
    """The worker of one slot: a process on this machine or another. All methods but ``stop`` are called from one thread.

    Attributes:
        name: host and process id, for messages.
    """

    name: str

    def start(self) -> None:
        """Start the worker, or restart it after it was lost; does nothing if it is running.

        Raises:
            WorkerLost: this worker cannot be started.
            CotuneError: no worker can be used, for example because another version of cotune is installed there.
        """
        ...

    def perform(self, job: Job, storage: Storage) -> Done:
        """Run a job in the worker; raises the job's error if it fails.

        Raises:
            WorkerLost: the worker ended during the job.
        """
        ...

    def stop(self) -> None:
        """End the worker at once, even during a job. May be called from any thread."""
        ...
