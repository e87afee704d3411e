"""Device, dtype and threads that all workers of an output share, so that a result does not depend on the worker."""

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
    """Device, dtype and threads as measured by the first worker; stored with the results and read from there later.

    A command that resumes with another number of workers therefore computes the same results.
    """
    storage = executor.storage
    if not storage.has(_CHOSEN):
        (done,) = run_all(executor, [Job(choose_engine, {}, {"threads": executor.threads})])
        storage.write(_CHOSEN, done.read())
        storage.remove(done.key)
    found: dict[str, Any] = json.loads(storage.read(_CHOSEN))
    return found


def choose_engine(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """Job that measures the machine."""
    found = check_capability(threads=places["threads"])
    return json.dumps({"device": found.device, "dtype": found.dtype, "threads": found.threads}).encode()


def unlike(engines: Collection[Mapping[str, Any]]) -> str:
    """Message that names the settings that differ between the engines of an output; empty if none does."""
    names = dict.fromkeys(name for engine in engines for name in engine)
    values = {name: sorted({str(engine.get(name)) for engine in engines}) for name in names}
    return "; ".join(f"{name}: {', '.join(found)}" for name, found in values.items() if len(found) > 1)
