"""Running many jobs in order, with one device, dtype and number of threads, so that results do not depend on the worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from cotune.executor.base import Executor
from cotune.executor.job import Done, Job, found
from cotune.model.hardware.capability import check_capability

AHEAD = 2
"""Number of submitted jobs per slot: one runs, one waits."""
_CHOSEN = "engine.json"


def run_all(executor: Executor, jobs: Iterable[Job], told: Callable[[Done], None] = lambda done: None) -> list[Done]:
    """Run all jobs; returns them in the order of ``jobs``, so that results do not depend on the executor.

    Args:
        jobs: the jobs; the iterable is consumed as slots become free.
        told: called with each job when it is finished, in order of time.

    Raises:
        LostError: too many workers were lost in one job, or no worker is left.
        InputError: a result does not appear in the storage, although its worker wrote it.
    """
    done: dict[int, Done] = {}
    waiting: dict[Future[Done], list[int]] = {}

    def settle(future: Future[Done]) -> None:
        result = future.result()
        result.storage.wait_for(result.key)
        for place in waiting.pop(future):
            done[place] = result
            told(result)

    for place, job in enumerate(jobs):
        if (known := found(job, executor.storage)) is not None:
            done[place] = known
            told(known)
            continue
        future = executor.submit(job)
        waiting.setdefault(future, []).append(place)
        if future.done():
            settle(future)
        while len(waiting) >= AHEAD * executor.slots:
            for ready in wait(waiting, return_when=FIRST_COMPLETED).done:
                settle(ready)
    while waiting:
        for ready in wait(waiting, return_when=FIRST_COMPLETED).done:
            settle(ready)
    return [done[place] for place in range(len(done))]


def engine_of(executor: Executor) -> dict[str, Any]:
    """Device, dtype and number of threads, as chosen by the first worker.

    They are stored with the results, so that a command that resumes with another number of workers computes the same results.
    """
    storage = executor.storage
    if not storage.has(_CHOSEN):
        (done,) = run_all(executor, [Job(choose_engine, {}, {"threads": executor.threads})])
        storage.write(_CHOSEN, done.read())
        storage.remove(done.key)
    found: dict[str, Any] = json.loads(storage.read(_CHOSEN))
    return found


def choose_engine(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """Job that chooses them by measuring the machine."""
    found = check_capability(threads=places["threads"])
    return json.dumps({"device": found.device, "dtype": found.dtype, "threads": found.threads}).encode()


def unlike(engines: Collection[Mapping[str, Any]]) -> str:
    """The settings in which engines differ, as text; empty if there are none."""
    names = dict.fromkeys(name for engine in engines for name in engine)
    values = {name: sorted({str(engine.get(name)) for engine in engines}) for name in names}
    return "; ".join(f"{name}: {', '.join(found)}" for name, found in values.items() if len(found) > 1)
