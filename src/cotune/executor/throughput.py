"""Speed of workers, and the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable

from cotune.executor.job import Done


class Throughput:
    """Counts the rows of finished jobs.

    Attributes:
        rows: number of rows of all jobs.
        done: number of finished rows.
        earlier: how many of them an earlier command had finished.
    """

    def __init__(self, rows: int, now: Callable[[], float] = time.monotonic) -> None:
        self.rows, self.done, self.earlier = rows, 0, 0
        self._now, self._begun = now, now()
        self._workers: dict[str, tuple[int, float]] = {}

    def saw(self, job: Done) -> None:
        self.done += job.rows
        if job.earlier:
            self.earlier += job.rows
            return
        if job.worker:
            rows, seconds = self._workers.get(job.worker, (0, 0.0))
            self._workers[job.worker] = (rows + job.rows, seconds + job.seconds)

    @property
    def rates(self) -> dict[str, float]:
        """Rows per second of each worker while it was busy, including model loading; the fastest worker comes first."""
        found = {name: rows / max(seconds, 1e-9) for name, (rows, seconds) in self._workers.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def left(self) -> float | None:
        """Remaining seconds at the pace since the start; None before the first job is finished."""
        fresh = self.done - self.earlier
        return (self.rows - self.done) * (self._now() - self._begun) / fresh if fresh else None
