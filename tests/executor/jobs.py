"""Jobs for tests: what a worker does stands in files that it leaves."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cotune.errors import InputError
from cotune.executor import Job
from cotune.executor.job import WAITED
from cotune.executor.on_ray import Slot

kept: list[Any] = []


def double(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """Twice a number; each call leaves a line in ``places["log"]``."""
    if "log" in places:
        with Path(places["log"]).open("a", encoding="utf-8") as file:
            file.write(f"{given['number']} {os.getpid()}\n")
    return json.dumps(2 * given["number"]).encode()


def slow_double(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    time.sleep(0.2)
    return double(given, places)


def waited(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """The seconds that the job waited for its worker; it takes a fifth of a second itself."""
    time.sleep(0.2)
    return json.dumps(places.get(WAITED, 0.0)).encode()


def killed_once(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """The first worker that does it is killed."""
    # Of workers that begin at the same moment one alone can make the file.
    with suppress(FileExistsError), Path(places["mark"]).open("x", encoding="utf-8") as file:
        file.write(str(os.getpid()))
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return double(given, places)


def killed_always(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    with Path(places["log"]).open("a", encoding="utf-8") as file:
        file.write("killed\n")
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def lock_kept(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """The worker keeps a lock of the system, as progress bars do."""
    kept.append(get_context("spawn").RLock())
    return double(given, places)


def card(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """The GPUs that Ray lets the worker see."""
    return json.dumps(os.environ.get("CUDA_VISIBLE_DEVICES", "")).encode()


def refused(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    raise InputError("the cell is blank", where="rows.csv, line 3", hint="Fill it.")


def broken(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    raise ZeroDivisionError("a slip")


class BrokenSlot(Slot):
    """An actor that cannot be made."""

    def __init__(self, threads: int) -> None:
        raise ImportError("No module named 'torch'")


def numbers(count: int, work: Any = double, **places: Any) -> list[Job]:
    return [Job(work, {"number": number}, {name: str(place) for name, place in places.items()}) for number in range(count)]
