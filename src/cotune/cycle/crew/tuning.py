"""Tuning of a window of layers. The run and its workers use the same function, so both give the same weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cotune.cycle.budget.budget import Budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.budget.reserve import spent_to
from cotune.cycle.crew.crew import Crew
from cotune.cycle.crew.exchange import exchange_of
from cotune.cycle.crew.worker import ENGINE, WorkerMemoryError, with_less_memory, worker_model
from cotune.errors import DivergedError
from cotune.executor import Job, LostError
from cotune.executor.tensors import packed, unpacked
from cotune.files import canonical_json
from cotune.model.adapters.files import LoraSettings
from cotune.model.engine.facts import engine_facts
from cotune.model.local import LocalModel
from cotune.probe.readout import Probe
from cotune.tune.window import StartHead, WindowRun, WindowSettings, WindowStates

_HEAD = ("weight", "bias", "mean", "spread")


@dataclass(frozen=True, eq=False)
class WindowTask:
    """Arguments of :func:`tune_window`.

    Attributes:
        sequences: token ids of each row's prompt.
        starts: position of each row's first token that belongs to the row, not to the prompt.
        truth: the rows' labels, as numbers.
        labels: the task's labels.
        first: number of layers below the window.
        last: layer that the head reads, the last of the window.
        head: initial weights of the head.
        settings: settings of the tuning.
        steps: number of optimizer steps.
        seed: seed of the initial weights and of the order of rows.
        start: id of the adapter that tuning starts from.
    """

    sequences: Sequence[Sequence[int]]
    starts: Sequence[int]
    truth: Sequence[int]
    labels: tuple[str, ...]
    first: int
    last: int
    head: StartHead
    settings: WindowSettings
    steps: int
    seed: int
    start: str

    def share(self, model: LocalModel) -> float:
        """Share of the model's layers that a step runs; without the shared-prefix engine, those below the window too."""
        return (self.last - self.first if model.shared else self.last) / model.depth

    def to_bytes(self) -> bytes:
        """The task in safetensors format, for :meth:`from_bytes`."""
        names = ("sequences", "starts", "truth", "labels", "first", "last", "steps", "seed", "start")
        data = {name: getattr(self, name) for name in names} | {"settings": asdict(self.settings)}
        return packed({name: getattr(self.head, name) for name in _HEAD}, {"task": canonical_json(data)})

    @classmethod
    def from_bytes(cls, data: bytes) -> WindowTask:
        """Inverse of :meth:`to_bytes`."""
        arrays, metadata = unpacked(data)
        task = json.loads(metadata["task"])
        lora = task["settings"].pop("lora")
        lora["layers"] = tuple(lora["layers"])
        task["settings"] = WindowSettings(lora=LoraSettings(**lora), **task["settings"])
        task["labels"] = tuple(task["labels"])
        return cls(head=StartHead(**{name: arrays[name] for name in _HEAD}), **task)


@dataclass(frozen=True)
class Deadline:
    """The time at which tuning must end so that later steps fit the budget, see :func:`cotune.cycle.budget.reserve.spent_to`.

    Attributes:
        keep: cost of the later steps.
        amount: the time budget in seconds.
        train_rate: training tokens per second.
        clock: seconds of the budget that were spent at the time ``at``.
        at: a time in seconds since 1970.
        guess: as for ``spent_to``.
    """

    keep: float
    amount: float
    train_rate: float
    clock: float
    at: float
    guess: float

    def spent(self, step_tokens: float) -> Callable[[], bool] | None:
        """A function that tells after each step whether to stop, by this machine's clock; None without a limit."""
        costs = CostModel(Budget("time", self.amount), self.train_rate, self.train_rate)
        return spent_to(self.keep, costs, step_tokens, lambda: self.clock + time.time() - self.at, guess=self.guess)


def tune_window(
    model: LocalModel,
    task: WindowTask,
    folder: Path,
    *,
    until: Callable[[float], Callable[[], bool] | None] = lambda step_tokens: None,
    edge_progress: Callable[[int], None] = lambda tokens: None,
    report: Callable[[int, float, int], None] = lambda step, loss, tokens: None,
) -> dict[str, Any]:
    """Tune a window; save its weights as an adapter of the run, and its head as the adapter's probe.

    Args:
        model: the model, with the adapter ``task.start`` registered.
        task: what to tune.
        folder: the run's folder.
        until: takes the number of tokens of a step and returns a function that tells after each step whether to stop, or None.
        edge_progress: called with the number of tokens that ran below the window.
        report: called after each step with its number, loss and number of tokens.

    Returns:
        The value of a journal step ``train``, with ``adapter_id`` and ``probe_id``, or ``failed`` with the reason if the loss
        diverged.
    """
    started = time.monotonic()
    share = task.share(model)
    edge = WindowStates(model, task.sequences, task.first, starts=task.starts, adapter=task.start, progress=edge_progress)
    run = WindowRun(
        model,
        edge,
        range(len(task.sequences)),
        list(task.truth),
        task.last,
        task.head,
        task.settings,
        steps=task.steps,
        seed=task.seed,
        folder=folder / "checkpoints",
        start=task.start,
    )
    trained: list[tuple[float, int]] = []

    def stepped(step: int, loss: float, tokens: int) -> None:
        trained.append((time.monotonic(), tokens))
        report(step, loss, tokens)

    adapters = folder / "adapters"
    try:
        run.advance(report=stepped, until=until(run.tokens_per_step * share))
        adapter = run.save(adapters)
        probe = Probe(task.labels, *run.head().folded(), task.last)
        made = {"adapter_id": adapter, "probe_id": model.adapters.add_probe(adapter, probe, adapters)}
    except DivergedError as error:
        made = {"failed": str(error)}
    timed = trained[1:] if len(trained) > 1 else trained
    return {
        "asked": task.steps,
        "steps": run.step,
        "decayed": True,
        "window": [task.first, task.last],
        "rows": len(task.sequences),
        "losses": [round(loss, 4) for loss in run.losses],
        "loss": round(float(np.mean(run.losses[-5:])), 4) if run.losses else None,
        "tokens": run.tokens,
        "new_tokens": round(run.tokens * share + edge.tokens * task.first / model.depth),
        "timed_tokens": round(sum(tokens for _, tokens in timed) * share),
        "timed_seconds": round(timed[-1][0] - trained[0][0], 3) if len(trained) > 1 else 0.0,
        "seconds": round(time.monotonic() - started, 3),
        **made,
    }


class TuningAhead:
    """Tuning as a job of a worker.

    Args:
        crew: the workers.
        task: what to tune.
        deadline: the time at which it must end; None without a time budget.
    """

    def __init__(self, crew: Crew, task: WindowTask, deadline: Deadline | None) -> None:
        self._crew, self._task = crew, task
        given = {"task": crew.keep(task.to_bytes())}
        places = {} if deadline is None else {"deadline": asdict(deadline)}
        self._job: Job = crew.job(tune_job, given, adapter=task.start, rows=len(task.sequences), **places)

    def submit(self) -> None:
        """Queue the job."""
        self._crew.submit(self._job)

    def take_back(self) -> None:
        """Cancel the job if no worker has started it."""
        self._crew.take_back(self._job)

    def result(self) -> dict[str, Any]:
        """The value of a journal step ``train``; with ``failed`` if workers ran out of memory or were lost too often."""
        started = time.monotonic()
        try:
            result = self._crew.result(self._job)
        except (WorkerMemoryError, LostError) as error:
            if isinstance(error, LostError) and not error.of_job:
                raise
            none: dict[str, Any] = {"asked": self._task.steps, "steps": 0, "decayed": True, "rows": len(self._task.sequences)}
            none |= {"window": [self._task.first, self._task.last], "losses": [], "loss": None, "tokens": 0, "new_tokens": 0}
            return {**none, "seconds": round(time.monotonic() - started, 3), "failed": str(error)}
        found: dict[str, Any] = json.loads(result.data)
        engine = found.pop(ENGINE)
        for adapter in _adapters(found):
            self._crew.exchange.receive(adapter)
        self._crew.saw_engine(result.worker, engine)
        return {**found, "by": self._crew.by([result], [engine])}


def _adapters(found: Mapping[str, Any]) -> list[str]:
    """Ids of the adapters that tuning made; empty if it failed."""
    return [str(found[name]) for name in ("adapter_id", "probe_id") if name in found]


def tune_job(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """Job that tunes a window and saves the weights as adapters of the run."""
    model, exchange = worker_model(given, places), exchange_of(places)
    task = WindowTask.from_bytes(exchange.storage.read_late(given["task"]))
    deadline = Deadline(**places["deadline"]) if "deadline" in places else None

    def tune(smaller: bool) -> dict[str, Any]:
        settings = task.settings
        if smaller:
            settings = replace(settings, micro_tokens=settings.micro_tokens // 2)
        until = (lambda tokens: None) if deadline is None else deadline.spent
        return tune_window(model, replace(task, settings=settings), exchange.tuning_folder, until=until)

    found = with_less_memory(model, places, tune)
    exchange.publish(_adapters(found))
    return canonical_json({**found, ENGINE: engine_facts(model)}).encode()
