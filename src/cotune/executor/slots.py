"""The scheduler: runs jobs in the order of submission, each on the first free slot.

Every slot is a thread that gives its worker one job at a time. If a worker is lost, its job returns to the front of the queue.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cotune.errors import CotuneError, counted
from cotune.executor.base import LostError, Worker, WorkerLost
from cotune.executor.job import Done, Job
from cotune.executor.storage import Storage, storage_at

MOST_LOSSES = 3
"""Number of workers that may be lost in one job; after one more, the job fails."""
_MEMORY_LOSSES = 2
"""Number of workers lost in one job after which it probably needs too much memory, even if no worker says so."""


@dataclass(eq=False)
class _Waiting:
    """A submitted job and its future."""

    job: Job
    future: Future[Done] = field(default_factory=Future)
    losses: int = 0


class SlotExecutor:
    """Runs jobs on workers, one for each slot, and repeats a job on another worker if its worker is lost.

    A worker is started with its first job. ``threads`` is the number of CPU threads of each worker.
    """

    def __init__(self, workers: Sequence[Worker], storage: Path | Storage, threads: int) -> None:
        self.slots, self.threads, self.storage, self.lost = len(workers), threads, storage_at(storage), 0
        self._losses: Counter[str] = Counter()
        self.losses: Mapping[str, int] = self._losses
        self._workers = tuple(workers)
        self._queue: deque[_Waiting] = deque()
        self._futures: dict[str, Future[Done]] = {}
        self._running: set[_Waiting] = set()
        self._serving = len(workers)
        self._ended: CotuneError | None = None
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True) for worker in workers]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> Future[Done]:
        with self._changed:
            if (known := self._futures.get(job.key)) is not None:
                return known
            waiting = _Waiting(job)
            self._futures[job.key] = waiting.future
            if self._ended is not None:
                waiting.future.set_exception(self._ended)
            else:
                self._queue.append(waiting)
                self._changed.notify()
            return waiting.future

    def cancel(self, job: Job) -> bool:
        with self._changed:
            future = self._futures.get(job.key)
            waiting = next((one for one in self._queue if one.future is future), None)
            if waiting is None:
                if future is not None and future.done():
                    del self._futures[job.key]
                return False
            self._queue.remove(waiting)
            del self._futures[job.key]
        waiting.future.cancel()
        return True

    def abandon(self, error: CotuneError) -> None:
        """Fail all jobs, running ones included, without waiting for the workers."""
        self._end(error)
        with self._changed:
            running = [*self._running]
        for waiting in running:
            _resolve(waiting.future, error)

    def close(self) -> None:
        self._end(LostError("the executor was closed"))
        for worker in self._workers:
            worker.stop()
        for thread in self._threads:
            thread.join(5.0)

    def _serve(self, worker: Worker) -> None:
        """Run jobs on a slot's worker until the executor ends or the worker cannot be started."""
        while (waiting := self._next()) is not None:
            try:
                worker.start()
            except Exception as error:
                if isinstance(error, WorkerLost):
                    # The job has not run, so another slot takes it.
                    self._back(waiting)
                else:
                    _resolve(waiting.future, error)
                self._retire(error)
                return
            try:
                performed = worker.perform(waiting.job.handed_over(), self.storage)
                # A worker may have stored the result and been lost before it could say so: this command did the job.
                done: Done | Exception = replace(performed, earlier=False) if waiting.losses else performed
            except WorkerLost as lost:
                self._lose(waiting, worker, lost)
                # Another slot takes the job while this worker restarts, which may take long.
                if not self._restart(worker):
                    return
                continue
            except Exception as error:
                done = error
            with self._changed:
                self._running.discard(waiting)
            _resolve(waiting.future, done)

    def _next(self) -> _Waiting | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ended is not None)
            if self._ended is not None:
                return None
            waiting = self._queue.popleft()
            self._running.add(waiting)
            return waiting

    def _lose(self, waiting: _Waiting, worker: Worker, lost: WorkerLost) -> None:
        waiting.losses += 1
        with self._changed:
            self._running.discard(waiting)
            self.lost += self._ended is None
            self._losses[worker.name] += self._ended is None
        if lost.memory or waiting.losses >= _MEMORY_LOSSES:
            waiting.job = waiting.job.smaller()
        if waiting.losses <= MOST_LOSSES:
            self._back(waiting)
            return
        _resolve(
            waiting.future,
            LostError(
                f"{counted(waiting.losses, 'worker')} ended during the same job ({worker.name}: {lost}). If memory is short, "
                "use fewer --workers or smaller batches (--batch, engine.batch_tokens), and run the same command again.",
                of_job=True,
            ),
        )

    def _back(self, waiting: _Waiting) -> None:
        with self._changed:
            self._running.discard(waiting)
            if self._ended is None:
                self._queue.appendleft(waiting)
                self._changed.notify()
                return
            ended = self._ended
        _resolve(waiting.future, ended)

    def _restart(self, worker: Worker) -> bool:
        """Start a lost worker again; False if this slot must end."""
        if self._ended is not None:
            return False
        try:
            worker.start()
        except Exception as error:
            self._retire(error)
            return False
        return True

    def _retire(self, error: Exception) -> None:
        """Give up a slot whose worker cannot be started; ends the executor if no slot is left or no worker can be used."""
        if not isinstance(error, WorkerLost):
            self._end(error if isinstance(error, CotuneError) else LostError(f"a worker cannot be started: {error!r}"))
            return
        with self._changed:
            self._serving -= 1
            last = not self._serving
        if last:
            self._end(LostError(f"no worker is left ({error}). Finished jobs are stored: run the same command again."))

    def _end(self, error: CotuneError) -> None:
        with self._changed:
            if self._ended is None:
                self._ended = error
            left = [*self._queue]
            self._queue.clear()
            self._changed.notify_all()
        for waiting in left:
            _resolve(waiting.future, self._ended)


def _resolve(future: Future[Done], done: Done | Exception) -> None:
    with suppress(InvalidStateError):
        if isinstance(done, Exception):
            future.set_exception(done)
        else:
            future.set_result(done)
