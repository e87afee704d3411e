"""Fewer CPU threads while other programs use the processors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_WINDOW = 1.0
"""Seconds over which waiting is measured: short bursts of other programs do not count."""
_WAITING = 0.25
"""Threads that wait for a processor, on average, from which one is too many. Alone they wait for less than 0.05."""
_OTHERS = 0.25
"""Processors that other programs use, on average, from which they are why threads wait. Otherwise it is other threads of this
process, such as those of scikit-learn's linear algebra, which soon end."""
_IDLE = 0.75
"""Idle processors, on average, from which another thread has room."""
_PATIENCE, _MOST_PATIENCE = 2.0, 60.0
"""Seconds before a thread is added again; doubled each time that this was too early, up to the second number."""


@dataclass(frozen=True)
class Reading:
    """How long the threads of this process have waited for a processor, and how long processors have been idle.

    Attributes:
        at: time of the reading, in seconds.
        waited: seconds that all threads of this process together were ready to run, but did not.
        idle: seconds that the processors of this process were idle, summed over them.
        others: seconds that other programs used these processors.
    """

    at: float
    waited: float
    idle: float
    others: float


class SharedCpus:
    """Lowers torch's number of threads while other programs use the processors, and raises it again.

    After every operation torch's threads wait for each other. If another program takes one of two processors, each operation
    waits for the thread that shares it, or Linux runs both threads in turns on the other processor. Passes are then many times
    slower than with a single thread (docs/troubleshooting.md). How long threads wait for a processor is read from Linux's
    scheduler statistics (https://docs.kernel.org/scheduler/sched-stats.html); on other systems the number never changes.

    Args:
        threads: number of threads while nothing else runs.
        report: receives a message when the number is lowered for the first time.
        read: reads the scheduler's statistics; None if there are none.
        set_threads: sets the number of threads; None for torch's.

    Attributes:
        count: current number of threads.
    """

    def __init__(
        self,
        threads: int,
        report: Callable[[str], None],
        *,
        read: Callable[[], Reading | None] | None = None,
        set_threads: Callable[[int], None] | None = None,
    ) -> None:
        self.threads = self.count = threads
        self._report, self._read = report, read or read_scheduler
        self._set_threads = set_threads or _set_torch_threads
        self._before = self._read() if threads > 1 else None
        self._changed, self._patience, self._reported = 0.0, _PATIENCE, False
        self._raised: float | None = None

    def check(self) -> None:
        """Adapt the number of threads. Call it before each pass; between measurements it costs nothing."""
        before = self._before
        if before is None or time.monotonic() - before.at < _WINDOW:
            return
        now = self._read()
        if now is None:
            return
        self._before = now
        seconds = now.at - before.at
        waiting, idle = (now.waited - before.waited) / seconds, (now.idle - before.idle) / seconds
        if waiting > _WAITING and (now.others - before.others) / seconds > _OTHERS and self.count > 1:
            if self._raised is not None:
                early = now.at - self._raised < 2 * self._patience
                self._patience = min(2 * self._patience, _MOST_PATIENCE) if early else _PATIENCE
                self._raised = None
            self._change(self.count - max(1, round(waiting)), now.at)
        elif idle > _IDLE and self.count < self.threads and now.at - self._changed > self._patience:
            self._raised = now.at
            self._change(self.count + max(1, int(idle)), now.at)

    def restore(self) -> None:
        """Set the number of threads back, for other work in this process."""
        self._set(self.threads)

    def _change(self, count: int, now: float) -> None:
        self._set(min(max(count, 1), self.threads))
        self._changed = now
        if not self._reported:
            self._reported = True
            self._report(
                f"other programs use the processors: computing in {self.count} of {self.threads} threads while they do, "
                "which is faster than sharing"
            )

    def _set(self, count: int) -> None:
        self.count = count
        self._set_threads(count)


def _set_torch_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def read_scheduler(root: Path = _PROC) -> Reading | None:
    """Read the scheduler's statistics of this process and of its processors; None where there are none.

    Args:
        root: Linux's ``proc`` folder, for the threads' statistics.
    """
    import psutil

    try:
        waited = 0
        for task in (root / "self" / "task").iterdir():
            try:
                waited += int((task / "schedstat").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                # The thread has ended.
                continue
        every = psutil.cpu_times(percpu=True)
        mine = [every[number] for number in os.sched_getaffinity(0)]
        idle = sum(cpu.idle + cpu.iowait for cpu in mine)
        busy = sum(cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq + cpu.steal for cpu in mine)
        return Reading(time.monotonic(), waited / 1e9, idle, busy - time.process_time())
    except (OSError, ValueError, IndexError, AttributeError):
        return None
