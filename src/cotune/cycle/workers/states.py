"""Hidden states computed by workers. Each pass of a request is a job, so that the states do not depend on worker or order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cotune.cycle.workers.pending import PendingJobs
from cotune.cycle.workers.pool import WorkerPool, engine_of
from cotune.cycle.workers.worker import engine_metadata, with_less_memory, worker_model
from cotune.errors import DivergedError
from cotune.executor.tensors import packed
from cotune.model.engine.hidden_states import layer_states, passes_of
from cotune.model.engine.state_store import Half, as_half
from cotune.prompt.reads import Read

_NAME = "states"
_LONG = 0.75
"""Share of a full pass from which a pass counts as long."""


class PendingStates(PendingJobs):
    """A request for hidden states: one job for each pass.

    Args:
        sequences: token ids of each row's prompt.
        reads: what is read of each row, see :mod:`cotune.prompt.reads`.
        batch_tokens: most tokens in a pass, without the shared prefix.
    """

    def __init__(
        self,
        workers: WorkerPool,
        sequences: Sequence[Sequence[int]],
        reads: Sequence[Read],
        layers: Sequence[int],
        adapter: str,
        batch_tokens: int,
    ) -> None:
        self._layers, self._rows, self._limit = tuple(layers), len(sequences), batch_tokens
        self._shared, self._passes = passes_of(sequences, reads, batch_tokens)
        self.sizes = [sum(len(sequences[i]) - self._shared for i in part) for part in self._passes]
        prefix = list(sequences[0][: self._shared])
        jobs = []
        for part in self._passes:
            given = {
                "prefix": prefix,
                "rows": [list(sequences[i][self._shared :]) for i in part],
                "reads": [reads[i] for i in part],
                "layers": list(layers),
            }
            jobs.append(workers.job(embed_pass, given, adapter=adapter, rows=len(part)))
        super().__init__(workers, jobs)

    def submit(self) -> None:
        submit_all([self])

    def submit_long(self) -> None:
        """Queue the passes that are nearly full."""
        for size, job in zip(self.sizes, self.jobs, strict=True):
            if size >= _LONG * self._limit:
                self.workers.submit(job)

    def result(self, progress: Callable[[int], None]) -> tuple[Half, int, dict[str, Any]]:
        """The states ``[layers, rows, 2 x width]``, the number of tokens run, and the journal entry ``by``.

        Tokens are counted as in one process: the shared prefix counts once, however many workers ran it.

        Raises:
            DivergedError: a state is not finite.
        """
        self.submit()
        if self._shared:
            progress(self._shared)
        found: Half | None = None
        done, engines = [], []
        try:
            for job, part, size in zip(self.jobs, self._passes, self.sizes, strict=True):
                done.append(self.workers.result(job))
                arrays, metadata = self.unpacked(done[-1])
                engines.append(engine_of(metadata))
                states = arrays[_NAME]
                if found is None:
                    found = np.empty((len(self._layers), self._rows, states.shape[2]), dtype=np.float16)
                found[:, part] = states
                progress(size)
        except BaseException:
            self.cancel()
            raise
        assert found is not None
        return found, self._shared + sum(self.sizes), self.workers.by(done, engines)


def submit_all(requests: Sequence[PendingStates]) -> None:
    """Queue the passes of several requests, longest first, so that no worker starts a long pass while the others idle."""
    passes = [(size, one, job) for one in requests for size, job in zip(one.sizes, one.jobs, strict=True)]
    for _, one, job in sorted(passes, key=lambda item: -item[0]):
        one.workers.submit(job)


def embed_pass(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """Job that runs one pass; returns states in half precision."""
    model = worker_model(given, places)
    prefix, reads = given["prefix"], given["reads"]
    sequences = [[*prefix, *own] for own in given["rows"]]

    def run(smaller: bool) -> Half:
        middle = max(1, len(sequences) // 2) if smaller else len(sequences)
        parts = []
        for part in (slice(0, middle), slice(middle, None)):
            if sequences[part]:
                found = layer_states(
                    model,
                    sequences[part],
                    given["layers"],
                    reads=reads[part],
                    adapter=given["adapter"],
                    progress=None,
                    shared=len(prefix),
                )
                if not np.isfinite(found).all():
                    raise DivergedError("hidden states are not finite")
                parts.append(as_half(found))
        return np.concatenate(parts, axis=1)

    return packed({_NAME: with_less_memory(model, places, run)}, engine_metadata(model))
