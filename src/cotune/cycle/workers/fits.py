"""Cross-fitting of probes by workers, which read the states that the run has stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.probe_search.fit_task import FitTask
from cotune.cycle.workers.exchange import exchange_of
from cotune.cycle.workers.pending import PendingJobs
from cotune.cycle.workers.pool import WorkerPool
from cotune.cycle.workers.worker import engine_metadata, worker_model
from cotune.errors import CotuneError
from cotune.executor.storage import appears
from cotune.executor.tensors import packed
from cotune.files import canonical_json
from cotune.model.engine.state_store import Half
from cotune.probe.cross_fitting import CrossFit, LayerFit

_APPEARS_S = 20.0
_ABOUT = "fit"
_NUMBERS, _ARRAYS = ("layer", "strength", "word_scale"), ("losses", "correct", "log_probs")


class StatesGoneError(CotuneError):
    """The states of a fit are no longer stored."""


@dataclass(frozen=True, eq=False)
class StoredStates:
    """Where the states of rows are stored.

    Attributes:
        files: name and layers of each file.
        rows: for each row, the index of its file and the row's index in the file.
        layers: numbers of the layers to read.
    """

    folder: Path
    files: tuple[tuple[str, tuple[int, ...]], ...]
    rows: tuple[tuple[int, int], ...]
    layers: tuple[int, ...]

    def of(self, places: Sequence[int]) -> StoredStates:
        """The states of some of the rows, by index."""
        return StoredStates(self.folder, self.files, tuple(self.rows[i] for i in places), self.layers)


class PendingFit(PendingJobs):
    """A fit that a worker does if one is free before the run needs the result."""

    def __init__(self, workers: WorkerPool, task: FitTask, states: StoredStates) -> None:
        given = {"task": task.to_json(), "files": states.files, "rows": states.rows, "layers": states.layers}
        offered = workers.exchange.offer_states(states.folder, [name for name, _ in states.files])
        super().__init__(workers, [workers.job(fit_probe, json.loads(canonical_json(given)), **offered)])

    def result(self) -> CrossFit | None:
        """The fit; None if no worker has started it or its states were removed, so that the run must do it."""
        if self.cancel():
            return None
        try:
            done = self.workers.result(self.jobs[0])
        except StatesGoneError:
            return None
        arrays, metadata = self.unpacked(done)
        return _unpacked(arrays, json.loads(metadata[_ABOUT]))


def fit_probe(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """A job that cross-fits a probe."""
    model = worker_model(given, places)
    states = _states(places, given["files"], given["rows"], given["layers"])
    found = FitTask.from_json(given["task"]).fit(model, states)
    arrays, about = _packed(found)
    return packed(arrays, {**engine_metadata(model), _ABOUT: json.dumps(about)})


def _states(
    places: Mapping[str, Any],
    files: Sequence[tuple[str, Sequence[int]]],
    rows: Sequence[tuple[int, int]],
    layers: Sequence[int],
) -> Half:
    """States ``[layers, rows, 2 x width]`` from the files that contain them."""
    found, exchange = [], exchange_of(places)
    for name, stored_layers in files:
        stored = appears(partial(exchange.states, places, name), _APPEARS_S)
        if stored is None:
            raise StatesGoneError(f"the states {name} that a fit needs were removed")
        found.append(stored[[stored_layers.index(layer) for layer in layers]])
    return np.stack([found[number][:, place] for number, place in rows], axis=1)


def _packed(found: CrossFit) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    layers = []
    for number, fit in enumerate(found.by_layer):
        arrays |= {f"{number}/{name}": getattr(fit, name) for name in _ARRAYS}
        layers.append({name: getattr(fit, name) for name in _NUMBERS})
    about = {
        "layers": layers,
        "best": next(number for number, fit in enumerate(found.by_layer) if fit is found.best),
        "ridge": list(found.ridge.items()),
        "temperature": found.temperature,
        "sizes": list(found.sizes),
    }
    return arrays, about


def _unpacked(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> CrossFit:
    fits = []
    for number, one in enumerate(about["layers"]):
        fits.append(LayerFit(**one | {name: arrays[f"{number}/{name}"] for name in _ARRAYS}))
    return CrossFit(fits[about["best"]], tuple(fits), dict(about["ridge"]), about["temperature"], tuple(about["sizes"]))
