"""How fast workers go, and how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from cotune.executor.job import Done


class Throughput:
    """Counts the rows of jobs as they are done.

    Args:
        rows: of all jobs.
        now: seconds of a clock that never goes back.

    Attributes:
        done: rows that are done.
        earlier: rows among them that an earlier command had done.
    """

    def __init__(self, rows: int, now: Callable[[], float] = time.monotonic) -> None:
        self.rows, self.done, self.earlier = rows, 0, 0
        self._now, self._begun = now, now()
        self._workers: dict[str, tuple[int, float]] = {}

    def saw(self, job: Done) -> None:
        """So much more is done."""
        self.done += job.rows
        if job.earlier:
            self.earlier += job.rows
            return
        rows, seconds = self._workers.get(job.worker, (0, 0.0))
        self._workers[job.worker] = (rows + job.rows, seconds + job.seconds)

    @property
    def rates(self) -> dict[str, float]:
        """Rows a second of each worker while it was busy, loading of the model included, the fastest first."""
        found = {name: rows / max(seconds, 1e-9) for name, (rows, seconds) in self._workers.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def left(self) -> float | None:
        """Seconds to the end at the pace since the start; None before anything is done."""
        fresh = self.done - self.earlier
        return (self.rows - self.done) * (self._now() - self._begun) / fresh if fresh else None
