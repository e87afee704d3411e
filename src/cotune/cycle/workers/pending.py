"""Requests whose jobs are submitted before the run needs their results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from cotune.cycle.workers.pool import NoWorkers, WorkerPool, Workers, engine_of
from cotune.executor import Done, Job
from cotune.executor.tensors import unpacked


class PendingJobs:
    def __init__(self, workers: WorkerPool, jobs: Sequence[Job]) -> None:
        self.workers, self.jobs = workers, tuple(jobs)

    def submit(self) -> None:
        """Queue the jobs after those that are already queued."""
        for job in self.jobs:
            self.workers.submit(job)

    def cancel(self) -> bool:
        """Cancel the jobs that no worker has started; returns whether these are all."""
        cancelled = [self.workers.cancel(job) for job in self.jobs]
        return all(cancelled)

    def forget(self) -> None:
        for job in self.jobs:
            self.workers.forget(job)

    def unpacked(self, done: Done) -> tuple[dict[str, NDArray[Any]], Mapping[str, str]]:
        """Arrays and metadata of a job's result; the worker's engine facts in it are recorded."""
        arrays, metadata = unpacked(done.read())
        self.workers.saw_engine(done.worker, engine_of(metadata))
        return arrays, metadata


P = TypeVar("P", bound=PendingJobs)


class Pending(Generic[P]):
    """Requests by name. Without workers there are none, and none is made."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._requests: dict[Hashable, P] = {}

    def get(self, name: Hashable, make: Callable[[WorkerPool], P | None]) -> P | None:
        """The request of a name; if there is none, ``make`` makes it, or returns None if it cannot be made."""
        if name in self._requests or isinstance(self._workers, NoWorkers):
            return self._requests.get(name)
        if (made := make(self._workers)) is not None:
            self._requests[name] = made
        return made

    def submit(self, name: Hashable, make: Callable[[WorkerPool], P | None]) -> None:
        """Queue the jobs of a request, unless it is pending already; see :meth:`get`."""
        if name not in self._requests and (request := self.get(name, make)) is not None:
            request.submit()

    def pop(self, name: Hashable, make: Callable[[WorkerPool], P | None] = lambda workers: None) -> P | None:
        """Like :meth:`get`, but the request is no longer pending."""
        request = self.get(name, make)
        self._requests.pop(name, None)
        return request

    def cancel(self, chosen: Callable[[Any], bool] = lambda name: True) -> None:
        """Cancel the requests with the chosen names."""
        for name in [name for name in self._requests if chosen(name)]:
            self._requests.pop(name).cancel()
