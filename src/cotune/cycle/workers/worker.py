"""The run's model in a worker: loaded once, checked against the run's own, with the adapters that jobs need."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from cotune.cycle.workers.exchange import exchange_of
from cotune.errors import CotuneError, InputError
from cotune.executor.job import SMALLER
from cotune.files import canonical_json
from cotune.garbage import collection_paused
from cotune.model.adapters.slots import BASE
from cotune.model.engine.settings import EngineSettings
from cotune.model.hardware.machine import give_back_memory, out_of_memory
from cotune.model.loading.bundled import resolve_model
from cotune.model.local import LocalModel

RUN_ENGINE = "run_engine"
"""Key of the engine settings in a job's ``given``."""
ENGINE = "engine"
"""Key of the worker's engine facts in a result."""

T = TypeVar("T")


class WorkerMemoryError(CotuneError):
    """A worker ran out of memory in a job, even with smaller passes."""


def load_worker(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """Job that only loads the model; returns the worker's engine facts."""
    return canonical_json(worker_model(given, places).facts()).encode()


def worker_model(given: Mapping[str, Any], places: Mapping[str, Any]) -> LocalModel:
    """The run's model, with the job's adapter registered.

    Raises:
        InputError: the model cannot be loaded or is not the run's, or this machine cannot access the adapter.
    """
    model = _loaded(places["model"], given["model"], json.dumps(given[RUN_ENGINE], sort_keys=True))
    if (adapter := given["adapter"]) != BASE and adapter not in _registered:
        found = model.adapters.register(exchange_of(places).adapter(places, adapter))
        _registered.update({adapter, found, model.adapters.without_probe(found)})
    return model


_registered: set[str] = set()


@lru_cache(maxsize=1)
def _loaded(name: str, fingerprint: str, engine: str) -> LocalModel:
    # A newly loaded model has no adapters.
    _registered.clear()
    with collection_paused():
        model = LocalModel.load(resolve_model(name), settings=EngineSettings(**json.loads(engine)), name=name)
    if model.fingerprint != fingerprint:
        raise InputError(
            "a worker has a different model under this name than the run",
            where=name,
            hint="Put the model into a folder that every node has under the same path, or give all nodes the same cache.",
        )
    return model


def engine_metadata(model: LocalModel) -> dict[str, str]:
    """The worker's engine facts, as metadata of a result."""
    return {ENGINE: canonical_json(model.facts())}


def with_less_memory(model: LocalModel, places: Mapping[str, Any], do: Callable[[bool], T]) -> T:
    """Call a function; if memory runs out, call it once more with smaller passes.

    Args:
        model: the model, whose device's memory is freed between the calls.
        places: the job's ``places``; passes are small from the start if earlier workers ran out of memory in the job.
        do: the function; its argument says whether passes must be smaller.

    Raises:
        WorkerMemoryError: memory ran out again.
    """
    for smaller in (True,) if places.get(SMALLER) else (False, True):
        try:
            return do(smaller)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
        # Not in the handler, because the exception's traceback holds references to tensors.
        give_back_memory(model.runner.device)
    raise WorkerMemoryError(
        "a worker ran out of memory twice, the second time with half the tokens in a pass. Use fewer --workers, a smaller "
        "engine.batch_tokens or tune.batch_size, or machines with more memory."
    )
