"""The thread that owns the models, with a bounded queue from which it takes batches of requests of the same kind."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

from cotune.bundle.serve.kind import Ending, Kind, ModelStopped, QueueFull, WorkFailed
from cotune.bundle.serve.long_texts import LongTexts
from cotune.bundle.serve.room import Room

MODEL_THREAD = "cotune-model"
_LOG = logging.getLogger(__name__)
# Seconds to wait for a running batch after shutdown was forced.
_LAST_S = 1.0
_LINGER_S = 0.02
"""Maximum seconds to wait for further jobs before a batch starts; at most a quarter of the last batch's time, and not at all if
as many jobs wait as were in that batch.
"""


class Job:
    """The work of one request.

    Attributes:
        future: results in the order of the items, or an error.
    """

    def __init__(self, kind: Kind, items: Sequence[Any]) -> None:
        self.kind, self.items = kind, items
        self.future: Future[list[Any]] = Future()
        self.arrived = time.monotonic()
        self.taken = 0
        self._results: list[Any] = []
        self._begun = self._abandoned = False

    def abandon(self) -> None:
        """Drop items that have not started, after the client has disconnected."""
        self._abandoned = True

    @property
    def left(self) -> int:
        """Items that are not in a batch yet."""
        return len(self.items) - self.taken

    def _wanted(self) -> bool:
        if self._abandoned or self.future.done():
            return False
        self._begun = self._begun or self.future.set_running_or_notify_cancel()
        return self._begun

    def _add(self, results: Sequence[Any]) -> None:
        self._results += results
        if len(self._results) == len(self.items):
            # Another thread may have cancelled the future.
            with contextlib.suppress(InvalidStateError):
                self.future.set_result(self._results)

    def _fail(self, error: BaseException) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


class Batcher:
    """Runs jobs in batches, oldest first, alternating between kinds; a long job yields to others after each batch.

    Args:
        most_waiting: maximum number of waiting items.
        most_together: maximum number of items in a batch.
        start: called by the thread first, for example to warm up the models.

    Attributes:
        long_texts: shortens very long texts before they are queued.
        room: memory for bodies that are not parsed yet.
    """

    def __init__(self, *, most_waiting: int = 1024, most_together: int = 64, start: Callable[[], None] = lambda: None) -> None:
        self.most_waiting, self.most_together = most_waiting, most_together
        self._start = start
        self.long_texts, self.room = LongTexts(), Room()
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._closing = self._stopped = self._gave_up = False
        self._running: list[Job] = []
        self._last_s, self._last_jobs, self._item_s = 0.0, 1, 0.05
        self._begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name=MODEL_THREAD, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        with self._changed:
            return self._waiting()

    @property
    def alive(self) -> bool:
        with self._changed:
            return not self._stopped

    def ready(self) -> None:
        """Wait until ``start`` has ended; raises its error."""
        self._begun.result()

    def submit(self, kind: Kind, items: Sequence[Any]) -> Job:
        """Queue a job.

        Raises:
            QueueFull: the queue is full or closed.
            ModelStopped: the model's thread has ended.
            Ending: shutdown was forced.
        """
        job = Job(kind, items)
        with self._changed:
            if self._gave_up:
                raise Ending
            if self._stopped and not self._closing:
                raise ModelStopped
            waiting = self._waiting()
            if self._closing or waiting + len(items) > self.most_waiting:
                raise QueueFull(min(60, max(1, math.ceil(waiting * self._item_s))))
            self._jobs.append(job)
            self._changed.notify()
        return job

    def give_up(self) -> int:
        """Fail all waiting and running jobs and accept no more; returns their number."""
        with self._changed:
            self._closing = self._gave_up = True
            known, self._jobs = dict.fromkeys([*self._running, *self._jobs]), deque()
            self._changed.notify()
        self.long_texts.give_up()
        left = [job for job in known if job._wanted()]
        for job in left:
            job._fail(Ending())
        return len(left)

    def close(self) -> bool:
        """Accept no more jobs, finish the waiting ones unless shutdown was forced, and end the thread.

        Returns:
            Whether the thread has ended: a running batch cannot be interrupted, and a forced shutdown does not wait long for
            it.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_LAST_S if self._gave_up else None)
        self.long_texts.close()
        return not self._thread.is_alive()

    def _waiting(self) -> int:
        return sum(job.left for job in self._jobs)

    def _work(self) -> None:
        try:
            self._start()
        except BaseException as error:
            self._begun.set_exception(error)
            return
        self._begun.set_result(None)
        parts: list[tuple[Job, Sequence[Any]]] = []
        try:
            while parts := self._next():
                began = time.monotonic()
                self._run(parts)
                self._running = []
                self._last_s = time.monotonic() - began
                items = sum(len(part) for _, part in parts)
                self._item_s += 0.2 * (self._last_s / items - self._item_s)
        except BaseException as error:
            # The traceback could contain the request.
            _LOG.critical("the model's thread ended: %s", type(error).__name__)
        finally:
            self._stop([job for job, _ in parts])

    def _stop(self, running: Sequence[Job]) -> None:
        """Accept no more jobs, and fail all waiting ones."""
        with self._changed:
            self._stopped = True
            left, self._jobs = [*running, *self._jobs], deque()
        for job in left:
            if job._wanted():
                job._fail(ModelStopped())

    def _next(self) -> list[tuple[Job, Sequence[Any]]]:
        """The next batch as jobs with their items; empty at the end."""
        with self._changed:
            while True:
                while not self._jobs and not self._closing:
                    self._changed.wait()
                if not self._jobs:
                    return []
                self._gather()
                self._jobs = deque(job for job in self._jobs if job._wanted())
                if self._jobs:
                    return self._take()

    def _gather(self) -> None:
        """Wait briefly if more jobs are likely to arrive."""
        until = self._jobs[0].arrived + min(_LINGER_S, self._last_s / 4)
        while (
            not self._closing
            and len(self._jobs) < self._last_jobs
            and self._waiting() < self.most_together
            and (left := until - time.monotonic()) > 0
        ):
            self._changed.wait(left)

    def _take(self) -> list[tuple[Job, Sequence[Any]]]:
        kind = self._jobs[0].kind
        same = [job for job in self._jobs if job.kind is kind]
        # Take a share of each job first, so that a request of many rows does not delay small ones.
        share, room = max(1, self.most_together // len(same)), self.most_together
        counts = dict.fromkeys(same, 0)
        for limit in (share, self.most_together):
            for job in same:
                more = min(limit, job.left - counts[job], room)
                counts[job] += more
                room -= more
        parts = []
        for job, count in counts.items():
            if count:
                parts.append((job, job.items[job.taken : job.taken + count]))
                job.taken += count
        late = [job for job in self._jobs if job in counts and job.left]
        self._jobs = deque([*(job for job in self._jobs if job not in counts), *late])
        self._last_jobs = len(parts)
        self._running = [job for job, _ in parts]
        return parts

    def _run(self, parts: Sequence[tuple[Job, Sequence[Any]]]) -> None:
        items = [item for _, part in parts for item in part]
        try:
            results = list(parts[0][0].kind.run(items))
            if len(results) != len(items):
                raise WorkFailed(f"{len(items)} items gave {len(results)} results")
        except BaseException as error:
            # A panic in a Rust library is a BaseException. The thread must survive it, or all requests would hang.
            if len(parts) == 1:
                parts[0][0]._fail(error if isinstance(error, Exception) else WorkFailed(type(error).__name__))
                return
            # A row that fails must not affect other requests.
            for one in parts:
                self._run([one])
            return
        done = 0
        for job, part in parts:
            job._add(results[done : done + len(part)])
            done += len(part)
