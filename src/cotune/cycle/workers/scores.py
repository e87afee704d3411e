"""Label scores computed by workers. Each batch of a request is a job, whose scores are added to the model's cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cotune.cycle.workers.pending import PendingJobs
from cotune.cycle.workers.pool import WorkerPool
from cotune.cycle.workers.worker import engine_metadata, worker_model
from cotune.executor import Job
from cotune.executor.tensors import packed
from cotune.model.engine.label_scoring import score_batch_alone, unknown_batches
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow

_SCORES, _COST = "scores", "cost"


class PendingScores(PendingJobs):
    """A request for label scores of rows: one job for each batch that is not in the model's cache."""

    def __init__(
        self,
        workers: WorkerPool,
        model: LocalModel,
        prompt: Prompt,
        rows: Sequence[Mapping[str, str]],
        labels: Sequence[str],
        adapter: str,
    ) -> None:
        self._model = model
        jobs: dict[str, Job] = {}
        for batch in unknown_batches(model, prompt, rows, labels, adapter=adapter):
            length = len(batch.prefix)
            given = {
                "prefix": list(batch.prefix),
                "rows": [[list(row.prompt_ids[length:]), row.start] for row in batch.rows],
                "completions": [list(ids) for ids in batch.rows[0].completions],
                "labels": list(labels),
            }
            jobs[batch.key] = workers.job(score_job, given, adapter=adapter, rows=len(batch.rows))
        self._keys = list(jobs)
        super().__init__(workers, list(jobs.values()))

    def result(self) -> None:
        """Wait for the scores and add them to the model's cache."""
        self.submit()
        assert self._model.cache is not None or not self.jobs
        for key, job in zip(self._keys, self.jobs, strict=True):
            arrays, metadata = self.unpacked(self.workers.result(job))
            # Scores that are not finite are left out: the run computes them again and raises the error.
            if self._model.cache is not None and np.isfinite(arrays[_SCORES]).all():
                self._model.cache.put(key, arrays[_SCORES], int(metadata[_COST]))
            self.workers.forget(job)


def score_job(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """A job that scores one batch of rows."""
    model = worker_model(given, places)
    prefix, completions = tuple(given["prefix"]), tuple(tuple(ids) for ids in given["completions"])
    rows = [RenderedRow((*prefix, *own), completions, False, start=start) for own, start in given["rows"]]
    scores, cost = score_batch_alone(model, prefix, rows, given["labels"], adapter=given["adapter"])
    return packed({_SCORES: scores}, {**engine_metadata(model), _COST: str(cost)})
