"""Device, dtype and number of threads, the same for all workers so that results do not depend on the worker."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from cotune.executor.base import Executor
from cotune.executor.job import Job
from cotune.executor.run import run_all
from cotune.model.hardware.capability import check_capability

_CHOSEN = "engine.json"


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
