"""The workers of a run: what they are told of it, the jobs that they do, and an account of these.

The run goes through its steps one by one, and alone writes the journal. It has jobs done ahead that it will want soon, and
takes their results in the order of its plan, whatever the order in which they are done. So it decides alike on every executor.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.cycle.crew.worker import ENGINE, RUN_ENGINE, load_worker
from cotune.errors import CotuneError
from cotune.executor import Done, Executor, Job, unlike
from cotune.executor.job import Work, found
from cotune.executor.run import appears
from cotune.files import absolute, atomic_path, content_hash, write_json
from cotune.model.adapters.slots import BASE
from cotune.model.local import LocalModel
from cotune.run_files import JOBS, WORKERS

_TELL_S = 2.0
_EFFICIENCY = 0.8
"""Share of their time that slots are taken to be busy (benchmarks/scale.py)."""


@dataclass
class _Worked:
    """What a worker has done.

    Attributes:
        jobs: that it has done.
        seconds: that it was busy with them.
        lost: how often it was lost in one.
        engine: what it computes with.
    """

    jobs: int = 0
    seconds: float = 0.0
    lost: int = 0
    engine: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """A job's result.

    Attributes:
        data: what it gave.
        worker: who did it; empty where an earlier command had it done.
        seconds: that the worker was busy.
    """

    data: bytes
    worker: str
    seconds: float


class Crew:
    """Has jobs done for a run.

    Args:
        executor: who does them; its storage is :func:`jobs_folder` of the run.
        folder: of the run.
        name: how the model was named, for workers on other machines.
        model: that the run has loaded; workers load the same.
        settings: how it runs, as the journal's ``engine`` step has it.
        max_tokens: longest prompt.
    """

    def __init__(
        self, executor: Executor, folder: Path, name: str, model: LocalModel, settings: Mapping[str, Any], max_tokens: int
    ) -> None:
        self.executor, self.folder, self._model = executor, folder, model
        self.slots = executor.slots
        place = absolute(Path(name)) if Path(name).is_dir() else name
        # Each worker sees the one GPU that it has.
        device = "cuda:0" if str(settings["device"]).startswith("cuda") else settings["device"]
        run = {"device": device, "dtype": settings["dtype"], "threads": settings["threads"]}
        run |= {"batch_tokens": settings["batch_tokens"], "memory_bytes": settings["probe"]["memory_bytes"]}
        self._about = {"model": model.fingerprint, RUN_ENGINE: {**run, "max_tokens": max_tokens}}
        self._places = {"model": str(place), "run": absolute(folder)}
        self._lock = threading.Lock()
        self._workers: dict[str, _Worked] = {}
        self._futures: dict[str, Future[Done]] = {}
        self._loading: list[Job] = []
        self._began, self._told = time.monotonic(), 0.0
        self._before = earlier_account(folder)

    # Workers ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Have every worker load the model, beside whatever the run does next."""
        self._loading = [self.job(load_worker, {"slot": slot}) for slot in range(self.slots)]
        for job in self._loading:
            (self.executor.storage / job.key).unlink(missing_ok=True)
            self.submit(job)

    def ready(self) -> None:
        """Wait until all workers have loaded the model: what they do first must not look slow.

        Raises:
            CotuneError: they cannot load it, or not this one.
        """
        for job in self._loading:
            self.result(job)
            self.forget(job)
        self._loading = []

    # Jobs ---------------------------------------------------------------------------------------------------------

    def job(self, work: Work, given: Mapping[str, Any], *, adapter: str = BASE, rows: int = 1, **places: Any) -> Job:
        """A job that is done with the run's model.

        Args:
            work: what is done.
            given: what the result hangs on besides the model and how it runs.
            adapter: the weights that are put into it.
            rows: that it is about.
            places: further things that do not change the result.
        """
        where = {} if adapter == BASE else {"adapter": absolute(self._model.adapters.folder(adapter))}
        return Job(work, {**self._about, "adapter": adapter, **given}, {**self._places, **where, **places}, rows)

    def submit(self, job: Job) -> None:
        """Have a job done; nothing where an earlier command had it done already."""
        if job.key in self._futures:
            return
        if (known := found(job, self.executor.storage)) is not None:
            future: Future[Done] = Future()
            future.set_result(known)
        else:
            future = self.executor.submit(job)
            future.add_done_callback(self._saw)
        self._futures[job.key] = future

    def result(self, job: Job) -> Result:
        """What a job gave, once it is done; it is submitted where it was not. Raises what the job raised."""
        self.submit(job)
        done = self._futures[job.key].result()
        appears(done.path)
        self.tell()
        return Result(done.path.read_bytes(), done.worker, done.seconds)

    def take_back(self, job: Job) -> bool:
        """Give a job up: whether no worker had begun it, so that none will."""
        if job.key not in self._futures:
            return True
        taken = self.executor.take_back(job)
        if taken:
            del self._futures[job.key]
        return taken

    def forget(self, job: Job) -> None:
        """Remove a job's result, which is kept elsewhere or no longer needed."""
        self._futures.pop(job.key, None)
        self.executor.take_back(job)
        with suppress(OSError):
            (self.executor.storage / job.key).unlink(missing_ok=True)

    def keep(self, data: bytes) -> str:
        """Put what jobs need where all workers find it; returns its name, a hash of the content."""
        name = f"{content_hash(data, 40)}.given"
        path = self.executor.storage / name
        if not path.is_file():
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
        return name

    def can_use(self, adapter: str) -> bool:
        """Whether workers can put an adapter into the model: a prefix that was trained stays with the run itself."""
        return self._model.adapters.trained_prefix(adapter) is None

    # The account --------------------------------------------------------------------------------------------------

    def saw_engine(self, worker: str, engine: Mapping[str, Any]) -> None:
        """A worker computes with these."""
        if worker:
            with self._lock:
                self._workers.setdefault(worker, _Worked()).engine = engine

    def by(self, results: Sequence[Result], engines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """For the record of a step that workers did: how many, how long they were busy, and what they compute with."""
        facts = {name: sorted({str(engine[name]) for engine in engines}) for name in ("processor", "dtype")}
        return {
            "slots": self.slots,
            "workers": len({one.worker for one in results if one.worker}),
            "seconds": round(sum(one.seconds for one in results), 3),
            **{name: ", ".join(values) for name, values in facts.items()},
        }

    def account(self) -> dict[str, Any]:
        """Who did how much, earlier sessions of the run included, for the summary and the report.

        ``slots`` are those of this session; ``slot_seconds`` is how long they were there, ``busy_seconds`` how long they
        worked.
        ``unlike`` says in what the workers' engines differ, empty where they do not.
        """
        with self._lock:
            lost = dict(self.executor.losses)
            idle = {"jobs": 0, "seconds": 0.0, "engine": None}
            mine = {
                name: {
                    "jobs": one.jobs,
                    "seconds": round(one.seconds, 2),
                    "lost": lost.get(name, 0),
                    "engine": None if one.engine is None else dict(one.engine),
                }
                for name, one in self._workers.items()
            }
        mine |= {name: {**idle, "lost": count} for name, count in lost.items() if name not in mine}
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
        """Write the account now and then, where a page that watches the run reads it."""
        now = time.monotonic()
        if now - self._told < _TELL_S:
            return
        self._told = now
        # What is only told must not end a run; a disk that is full ends it at its next step.
        with suppress(CotuneError, OSError):
            write_json(self.executor.storage / WORKERS, self.account())

    def _saw(self, future: Future[Done]) -> None:
        """From the thread of a slot."""
        if future.cancelled() or future.exception() is not None:
            return
        done = future.result()
        if done.worker:
            with self._lock:
                one = self._workers.setdefault(done.worker, _Worked())
                one.jobs += 1
                one.seconds += done.seconds


def pace_seconds(value: Mapping[str, Any], seconds: float) -> float:
    """Seconds from which a step's pace is learnt: what workers were busy with it, as though all slots had been so beside it.

    How long the run waited for one step says little, since jobs of several are under way at the same time.

    Args:
        value: the step's record.
        seconds: that it took.
    """
    by = value.get("by")
    return seconds if by is None else float(by["seconds"]) / int(by["slots"]) / _EFFICIENCY


def engine_of(data: Mapping[str, str]) -> Mapping[str, Any]:
    """What a worker computed with, from the metadata of its result."""
    found: Mapping[str, Any] = json.loads(data[ENGINE])
    return found


def jobs_folder(folder: Path) -> Path:
    """Where the results of a run's jobs lie until the run has ended."""
    return folder / JOBS


def earlier_account(folder: Path) -> dict[str, Any]:
    """The account that earlier sessions of a run have left; empty where no workers were there."""
    with suppress(OSError, ValueError):
        read = json.loads((jobs_folder(folder) / WORKERS).read_bytes())
        if isinstance(read, dict):
            return read
    return {}


def clean_jobs(folder: Path) -> None:
    """Remove results and account, which nothing needs once a run has ended."""
    shutil.rmtree(jobs_folder(folder), ignore_errors=True)
