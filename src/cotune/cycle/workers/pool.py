"""The workers of a run: their jobs, and what each worker has done.

The run takes its steps one by one, and only the run writes the journal. It submits the jobs of later steps in advance and reads
all results in the order of its plan, whatever order they finish in. Decisions are therefore the same on every executor.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from cotune.cycle.workers.exchange import clean_storage, exchange_for
from cotune.cycle.workers.worker import ENGINE, RUN_ENGINE, load_worker
from cotune.errors import CotuneError, counted
from cotune.executor import Done, Executor, Job, unlike
from cotune.executor.job import Work, found
from cotune.executor.storage import UrlStorage
from cotune.files import absolute, content_hash, load_json, write_json
from cotune.model.adapters.slots import BASE
from cotune.model.local import LocalModel
from cotune.run_files import JOBS, WORKERS

_TELL_S = 2.0
_EFFICIENCY = 0.8
"""Assumed busy share of slots, see benchmarks/scale.py."""


class NoWorkers:
    """The workers of a run that does all its work itself; an earlier session may have had workers."""

    slots = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ready(self, tell: Callable[[str], None]) -> None:
        """Return at once."""

    def account(self) -> dict[str, Any]:
        """The account that earlier sessions of the run wrote; empty if there is none."""
        return earlier_account(self.folder)

    def clean(self) -> None:
        """Remove what workers of earlier sessions left in the run's folder."""
        shutil.rmtree(self.folder / JOBS, ignore_errors=True)


class WorkerPool:
    """Submits a run's jobs and collects their results.

    Args:
        executor: runs the jobs; its storage is the folder ``jobs`` of the run, or is at a URL.
        name: the model as the user named it; workers load it by this name.
        model: the run's own copy.
        settings: value of the journal's ``engine`` step.
    """

    def __init__(self, executor: Executor, folder: Path, name: str, model: LocalModel, settings: Mapping[str, Any]) -> None:
        self.executor, self.folder, self._model = executor, folder, model
        self.slots = executor.slots
        place = absolute(Path(name)) if Path(name).is_dir() else name
        # Each worker sees only its own GPU.
        device = "cuda:0" if str(settings["device"]).startswith("cuda") else settings["device"]
        run = {"device": device, "dtype": settings["dtype"], "threads": settings["threads"]}
        run |= {"batch_tokens": settings["batch_tokens"], "memory_bytes": settings["probe"]["memory_bytes"]}
        run |= {"max_tokens": model.settings.max_tokens, "truncate": model.settings.truncate}
        self._about = {"model": model.fingerprint, RUN_ENGINE: run}
        self.exchange = exchange_for(executor.storage, folder)
        self._places = {"model": str(place), **self.exchange.places}
        # Results of earlier sessions. One request lists them all; a storage at a URL answers slowly.
        self._stored = executor.storage.names()
        self._lock = threading.Lock()
        # The engine's facts are known with the worker's first result.
        self._workers: defaultdict[str, dict[str, Any]] = defaultdict(
            lambda: {"jobs": 0, "seconds": 0.0, "lost": 0, "engine": None}
        )
        self._futures: dict[str, Future[Done]] = {}
        self._loading: list[Job] = []
        self._began, self._told = time.monotonic(), 0.0
        self._before = earlier_account(folder)

    # Workers ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start loading the model in every worker, without waiting for it."""
        self._loading = [self.job(load_worker, {"slot": slot}) for slot in range(self.slots)]
        for job in self._loading:
            self._remove(job.key)
            self.submit(job)

    def ready(self, tell: Callable[[str], None]) -> None:
        """Wait until all workers have loaded the model, so that loading does not count as a slow first job.

        Returns at once if they are known to have.

        Raises:
            CotuneError: a worker cannot load it, or finds a different model under its name.
        """
        if not self._loading:
            return
        tell(f"waiting for {counted(self.slots, 'worker')}")
        for job in self._loading:
            # Read, so that a folder that workers do not share is found now.
            self.result(job).read()
            self.forget(job)
        self._loading = []

    # Jobs ---------------------------------------------------------------------------------------------------------

    def job(self, work: Work, given: Mapping[str, Any], *, adapter: str = BASE, rows: int = 1, **places: Any) -> Job:
        """A job that uses the run's model and an adapter.

        ``given`` are the arguments that the result depends on, besides the model and its engine settings, ``places`` those that
        do not change the result, and ``rows`` is the number of rows, for progress.
        """
        where = {} if adapter == BASE else self.exchange.offer_adapter(adapter, self._model.adapters.folder(adapter))
        return Job(work, {**self._about, "adapter": adapter, **given}, {**self._places, **where, **places}, rows)

    def submit(self, job: Job) -> None:
        """Queue a job, unless it is queued already or an earlier session has done it."""
        if job.key in self._futures:
            return
        if job.key in self._stored and (known := found(job, self.executor.storage)) is not None:
            future: Future[Done] = Future()
            future.set_result(known)
        else:
            future = self.executor.submit(job)
            future.add_done_callback(self._saw)
        self._futures[job.key] = future

    def result(self, job: Job) -> Done:
        """Wait until a job is done; submits the job if necessary, and raises the job's error if it failed."""
        self.submit(job)
        done = self._futures[job.key].result()
        self.tell()
        return done

    def cancel(self, job: Job) -> bool:
        """Cancel a job that no worker has started; returns False if one has."""
        if job.key not in self._futures:
            return True
        cancelled = self.executor.cancel(job)
        if cancelled:
            del self._futures[job.key]
        return cancelled

    def forget(self, job: Job) -> None:
        self._futures.pop(job.key, None)
        self.executor.cancel(job)
        self._remove(job.key)

    def keep(self, data: bytes) -> str:
        """Store an input of jobs for all workers; returns its name, a content hash."""
        name = f"{content_hash(data, 40)}.given"
        if name not in self._stored:
            self.executor.storage.write(name, data)
            self._stored.add(name)
        return name

    def _remove(self, name: str) -> None:
        self._stored.discard(name)
        self.executor.storage.remove(name)

    # The account --------------------------------------------------------------------------------------------------

    def saw_engine(self, worker: str, engine: Mapping[str, Any]) -> None:
        """Record the engine facts of a worker."""
        if worker:
            with self._lock:
                self._workers[worker]["engine"] = dict(engine)

    def by(self, jobs: Sequence[Done], engines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The entry ``by`` of a journal step: slots, workers, their busy seconds, processor and dtype."""
        facts = {name: sorted({str(engine[name]) for engine in engines}) for name in ("processor", "dtype")}
        return {
            "slots": self.slots,
            "workers": len({one.worker for one in jobs if one.worker}),
            "seconds": round(sum(one.seconds for one in jobs), 3),
            **{name: ", ".join(values) for name, values in facts.items()},
        }

    def account(self) -> dict[str, Any]:
        """What each worker has done, in this and earlier sessions of the run; ``cost.workers`` in the summary.

        ``slots`` counts the slots of this session, ``slot_seconds`` adds up the time that slots existed, and ``busy_seconds``
        the time in jobs. ``unlike`` names the engine facts that differ between workers.
        """
        with self._lock:
            for name, lost in dict(self.executor.losses).items():
                self._workers[name]["lost"] = lost
            mine = {name: {**one, "seconds": round(one["seconds"], 2)} for name, one in self._workers.items()}
        workers = {**self._before.get("workers", {}), **mine}
        engines = [one["engine"] for one in workers.values() if one["engine"]]
        seconds = self.slots * (time.monotonic() - self._began)
        return {
            "slots": self.slots,
            "slot_seconds": round(float(self._before.get("slot_seconds", 0.0)) + seconds, 1),
            "busy_seconds": round(sum(one["seconds"] for one in workers.values()), 1),
            "jobs": sum(one["jobs"] for one in workers.values()),
            "lost": sum(one["lost"] for one in workers.values()),
            "unlike": unlike(engines),
            "workers": dict(sorted(workers.items())),
        }

    def tell(self) -> None:
        """Write the account every few seconds, for the live view and for a session that resumes."""
        now = time.monotonic()
        if now - self._told < _TELL_S:
            return
        self._told = now
        # A full disk is reported by the next step of the run.
        with suppress(CotuneError, OSError):
            write_json(self.folder / JOBS / WORKERS, self.account())

    def clean(self) -> None:
        """Remove the job results and the account of a finished run.

        Raises:
            StorageError: a storage at a URL does not answer.
        """
        try:
            if isinstance(self.executor.storage, UrlStorage):
                clean_storage(self.executor.storage)
        finally:
            shutil.rmtree(self.folder / JOBS, ignore_errors=True)

    def _saw(self, future: Future[Done]) -> None:
        """Count a finished job; called from an executor's thread."""
        if future.cancelled() or future.exception() is not None:
            return
        done = future.result()
        if done.worker:
            with self._lock:
                one = self._workers[done.worker]
                one["jobs"] += 1
                one["seconds"] += done.seconds


Workers = WorkerPool | NoWorkers
"""The workers of a run, if it has any."""


def pace_seconds(value: Mapping[str, Any], seconds: float) -> float:
    """Seconds of a step for estimating the speed of later steps: the workers' busy seconds per slot.

    The time that the run waited for the step says little, since jobs of several steps run at the same time. It is returned if
    no workers were used.
    """
    by = value.get("by")
    return seconds if by is None else float(by["seconds"]) / int(by["slots"]) / _EFFICIENCY


def engine_of(data: Mapping[str, str]) -> Mapping[str, Any]:
    """The worker's engine facts, from the metadata of a result."""
    found: Mapping[str, Any] = json.loads(data[ENGINE])
    return found


def earlier_account(folder: Path) -> dict[str, Any]:
    """The account that earlier sessions of a run wrote; empty if there is none."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        read = load_json(folder / JOBS / WORKERS)
        workers = {
            str(name): {
                "jobs": int(one["jobs"]),
                "seconds": float(one["seconds"]),
                "lost": int(one["lost"]),
                "engine": dict(one["engine"]) if one["engine"] else None,
            }
            for name, one in dict(read["workers"]).items()
        }
        return {**read, "slot_seconds": float(read["slot_seconds"]), "workers": workers}
    return {}
