"""Threads while other programs use the processors."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cotune.model.hardware.shared_cpus import Reading, SharedCpus, read_scheduler

LONG_AGO = -1e6


class Machine:
    """Readings of one second each, with the threads that wait and the processors that are idle in it."""

    def __init__(self) -> None:
        self.at, self.waited, self.idle, self.others = LONG_AGO, 0.0, 0.0, 0.0
        self.counts: list[int] = []
        self.messages: list[str] = []

    def read(self) -> Reading:
        return Reading(self.at, self.waited, self.idle, self.others)

    def cpus(self, threads: int) -> SharedCpus:
        return SharedCpus(threads, self.messages.append, read=self.read, set_threads=self.counts.append)

    def second(self, cpus: SharedCpus, *, waiting: float = 0.0, idle: float = 0.0, others: float = 1.0) -> int:
        """One second passes; returns the number of threads after it."""
        self.at, self.waited, self.idle = self.at + 1, self.waited + waiting, self.idle + idle
        self.others += others
        cpus.check()
        return cpus.count


def test_threads_leave_processors_to_others_and_return() -> None:
    machine = Machine()
    cpus = machine.cpus(2)
    assert machine.second(cpus, waiting=0.02) == 2
    assert machine.second(cpus, waiting=1.0) == 1
    assert [machine.second(cpus) for _ in range(5)] == [1] * 5, "the other program still runs"
    assert machine.second(cpus, idle=1.0) == 2, "and now it has ended"
    assert machine.counts == [1, 2]
    assert len(machine.messages) == 1
    assert "1 of 2 threads" in machine.messages[0]


def test_as_many_threads_leave_as_wait() -> None:
    machine = Machine()
    cpus = machine.cpus(8)
    assert machine.second(cpus, waiting=2.2) == 6
    assert machine.second(cpus, waiting=9.0) == 1
    assert [machine.second(cpus, idle=3.4) for _ in range(10)][-1] == 8
    assert machine.second(cpus, waiting=1.0) == 7
    cpus.restore()
    assert (cpus.count, machine.counts[-1]) == (8, 8)


def test_returning_too_early_makes_it_more_patient() -> None:
    machine = Machine()
    cpus = machine.cpus(2)
    alone: list[int] = []
    # The other program pauses whenever the process has a single thread, as a second run of the same kind would.
    for _ in range(4):
        machine.second(cpus, waiting=1.0)
        seconds = 0
        while machine.second(cpus, idle=1.0) == 1:
            seconds += 1
        alone.append(seconds)
    assert alone == sorted(alone)
    assert alone[-1] >= 4 * alone[0]
    for _ in range(200):
        machine.second(cpus)
    assert machine.second(cpus, waiting=1.0) == 1
    assert [machine.second(cpus, idle=1.0) for _ in range(3)][-1] == 2, "patience is forgotten after a while alone"


def test_leaving_one_after_the_other_is_not_a_return_too_early() -> None:
    machine = Machine()
    cpus = machine.cpus(8)
    assert [machine.second(cpus, waiting=1.0) for _ in range(5)] == [7, 6, 5, 4, 3]
    assert [machine.second(cpus, idle=2.0) for _ in range(3)][-1] == 5


def test_waiting_for_threads_of_this_process_changes_nothing() -> None:
    machine = Machine()
    cpus = machine.cpus(2)
    assert machine.second(cpus, waiting=1.5, others=0.1) == 2
    assert machine.messages == []


def test_a_single_thread_never_changes() -> None:
    machine = Machine()
    cpus = machine.cpus(1)
    assert machine.second(cpus, waiting=5.0) == 1
    assert machine.counts == []


def test_without_scheduler_statistics_nothing_changes(tmp_path: Path) -> None:
    assert read_scheduler(tmp_path) is None
    counts: list[int] = []
    cpus = SharedCpus(4, pytest.fail, read=lambda: read_scheduler(tmp_path), set_threads=counts.append)
    cpus.check()
    assert counts == []


@pytest.fixture
def burners() -> Iterator[None]:
    """Two busy processes on one processor, next to this one."""
    place = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{place}])\nwhile True: pass"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [place])
    yield
    os.sched_setaffinity(0, before)
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's scheduler statistics")
def test_waiting_for_a_processor_is_measured(burners: None) -> None:
    first = read_scheduler()
    assert first is not None
    # On a processor that three processes share this takes about three times as long.
    worked = time.process_time()
    while time.process_time() - worked < 0.4:
        pass
    second = read_scheduler()
    assert second is not None
    seconds = second.at - first.at
    assert second.waited - first.waited > 0.25 * seconds
    assert second.others - first.others > 0.25 * seconds
