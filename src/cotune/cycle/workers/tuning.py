"""Tuning of a window of layers by a worker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.budget.reserve import spent_to
from cotune.cycle.workers.exchange import exchange_of
from cotune.cycle.workers.pending import PendingJobs
from cotune.cycle.workers.pool import WorkerPool
from cotune.cycle.workers.worker import ENGINE, WorkerMemoryError, with_less_memory, worker_model
from cotune.executor import LostError
from cotune.executor.job import WAITED
from cotune.files import canonical_json
from cotune.tune.window_task import WindowTask, tune_window


@dataclass(frozen=True)
class Deadline:
    """The time at which tuning must end so that later steps fit the budget, see :func:`cotune.cycle.budget.reserve.spent_to`.

    It holds no time of day: clocks of machines differ, and that of a single one may be set.

    Attributes:
        keep: cost of the later steps.
        amount: the time budget in seconds.
        train_rate: training tokens per second.
        clock: seconds of the budget that are spent now.
        guess: as for ``spent_to``.
    """

    keep: float
    amount: float
    train_rate: float
    clock: float
    guess: float

    def spent(self, step_tokens: float, elapsed: Callable[[], float]) -> Callable[[], bool] | None:
        """A function that tells after each step whether to stop; None without a limit.

        Args:
            step_tokens: tokens of a step.
            elapsed: returns the seconds since the deadline was made.
        """
        costs = CostModel(Budget("time", self.amount), self.train_rate, self.train_rate)
        return spent_to(self.keep, costs, step_tokens, lambda: self.clock + elapsed(), guess=self.guess)


class PendingTuning(PendingJobs):
    """Tuning as a job of a worker; ``deadline`` makes the deadline when the job is made, None without a time budget."""

    def __init__(self, workers: WorkerPool, task: WindowTask, deadline: Callable[[], Deadline] | None) -> None:
        self._task = task
        given = {"task": workers.keep(task.to_bytes())}
        places = {} if deadline is None else {"deadline": asdict(deadline())}
        super().__init__(workers, [workers.job(tune_job, given, adapter=task.start, rows=len(task.sequences), **places)])

    def result(self) -> dict[str, Any]:
        """The value of a journal step ``train``; with ``failed`` if workers ran out of memory or were lost too often."""
        started = time.monotonic()
        try:
            done = self.workers.result(self.jobs[0])
        except (WorkerMemoryError, LostError) as error:
            if isinstance(error, LostError) and not error.of_job:
                raise
            none: dict[str, Any] = {"asked": self._task.steps, "steps": 0, "decayed": True, "rows": len(self._task.sequences)}
            none |= {"window": [self._task.first, self._task.last], "losses": [], "loss": None, "tokens": 0, "new_tokens": 0}
            return {**none, "seconds": round(time.monotonic() - started, 3), "failed": str(error)}
        found: dict[str, Any] = json.loads(done.read())
        engine = found.pop(ENGINE)
        for adapter in _adapters(found):
            self.workers.exchange.receive(adapter)
        self.workers.saw_engine(done.worker, engine)
        return {**found, "by": self.workers.by([done], [engine])}


def _adapters(found: Mapping[str, Any]) -> list[str]:
    """Ids of the adapters that tuning made; empty if it failed."""
    return [str(found[name]) for name in ("adapter_id", "probe_id") if name in found]


def tune_job(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """Job that tunes a window and saves the weights as adapters of the run."""
    elapsed = since_making(places)
    model, exchange = worker_model(given, places), exchange_of(places)
    task = WindowTask.from_bytes(exchange.storage.read_late(given["task"]))
    deadline = Deadline(**places["deadline"]) if "deadline" in places else None

    def tune(smaller: bool) -> dict[str, Any]:
        settings = task.settings
        if smaller:
            settings = replace(settings, micro_tokens=settings.micro_tokens // 2)

        def until(step_tokens: float) -> Callable[[], bool] | None:
            return None if deadline is None else deadline.spent(step_tokens, elapsed)

        return tune_window(model, replace(task, settings=settings), exchange.tuning_folder, until=until)

    found = with_less_memory(model, places, tune)
    exchange.publish(_adapters(found))
    return canonical_json({**found, ENGINE: model.facts()}).encode()


def since_making(places: Mapping[str, Any]) -> Callable[[], float]:
    """A function that returns the seconds since the job was made, by the monotonic clock of this machine."""
    start = time.monotonic() - float(places.get(WAITED, 0.0))
    return lambda: time.monotonic() - start
