"""A command's seconds and peak memory, seen from outside; its process group is killed at the limit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from cotune.files import write_json

_LOOK_S = 0.1


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        code: exit code; negative where a signal ended it.
        seconds: of wall-clock time from its start to its end, imports included.
        peak_bytes: most resident memory of all its processes together, looked at ten times a second; pages that two of them
            share count twice. Counted until ``answered`` is there.
        timed_out: whether it was killed at the limit.
    """

    code: int
    seconds: float
    peak_bytes: int
    timed_out: bool


def run_measured(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    limit_s: float,
    log: Path,
    running: Path,
    answered: Path | None = None,
) -> Measured:
    """Run a command in a new process group and measure it.

    Args:
        command: what to run.
        folder: where.
        environment: of the process.
        limit_s: seconds after which the group is killed.
        log: file for what it prints.
        running: file that names the group while it runs; see :func:`end_left_over`.
        answered: file that the command makes when all that is left is what the comparison alone needs.
    """
    start = time.perf_counter()
    with log.open("wb") as stream:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    watched = psutil.Process(child.pid)
    write_json(running, {"group": child.pid, "started": watched.create_time()})
    peak, timed_out = 0, False
    try:
        while child.poll() is None:
            if answered is None or not answered.exists():
                peak = max(peak, _resident(watched))
            if time.perf_counter() - start > limit_s:
                timed_out = True
                break
            # Waiting for the end itself, so that a short command's seconds are not rounded up to a look.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_LOOK_S)
    finally:
        # Also what a peer left behind: the next one has the machine to itself.
        kill_group(child.pid)
        code = child.wait()
        running.unlink(missing_ok=True)
    return Measured(code, time.perf_counter() - start, peak, timed_out)


def end_left_over(running: Path) -> bool:
    """Kill the group that a killed harness left at work; whether there was one."""
    try:
        told = json.loads(running.read_text(encoding="utf-8"))
        process = psutil.Process(int(told["group"]))
        same = abs(process.create_time() - float(told["started"])) < 1.0
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        running.unlink(missing_ok=True)
        return False
    # A number that another process has by now is not ours to end.
    if same:
        kill_group(process.pid)
        with contextlib.suppress(psutil.Error):
            process.wait(10)
    running.unlink(missing_ok=True)
    return same


def kill_group(group: int) -> None:
    """Kill every process of a group; none being left is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _resident(process: psutil.Process) -> int:
    return sum(_sizes(process))


def _sizes(process: psutil.Process) -> Iterator[int]:
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    for one in family:
        with contextlib.suppress(psutil.Error):
            yield int(one.memory_info().rss)
