"""The task of tuning a window of layers, which a run does itself or gives to a worker: both get the same weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cotune.errors import DivergedError
from cotune.executor.tensors import packed, unpacked
from cotune.files import canonical_json
from cotune.model.adapters.files import LoraSettings
from cotune.model.local import LocalModel
from cotune.probe.readout import Probe
from cotune.prompt.reads import Read, by_words
from cotune.tune.settings import WindowSettings
from cotune.tune.window import StartHead, WindowRun, WindowStates

_HEAD = ("weight", "bias", "mean", "spread")


@dataclass(frozen=True, eq=False)
class WindowTask:
    """Arguments of :func:`tune_window`.

    Attributes:
        sequences: token ids of each row's prompt.
        reads: what the head reads of each row, see :mod:`cotune.prompt.reads`.
        truth: the rows' labels, as numbers; with several fields the places of each row's classes, or of those of its words.
        first: number of layers below the window.
        last: layer that the head reads, the last of the window.
        head: initial weights of the head.
        steps: number of optimizer steps.
        seed: seed of the initial weights and of the order of rows.
        start: id of the adapter that tuning starts from.
        sizes: number of classes of each of several fields; empty for one.
    """

    sequences: Sequence[Sequence[int]]
    reads: Sequence[Read]
    truth: Sequence[int] | Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]]
    labels: tuple[str, ...]
    first: int
    last: int
    head: StartHead
    settings: WindowSettings
    steps: int
    seed: int
    start: str
    sizes: tuple[int, ...] = ()

    def share(self, model: LocalModel) -> float:
        """Share of the model's layers that a step runs; without the shared-prefix engine, those below the window too."""
        return (self.last - self.first if model.shared else self.last) / model.depth

    def to_bytes(self) -> bytes:
        """The task in safetensors format, for :meth:`from_bytes`."""
        names = ("sequences", "reads", "truth", "labels", "first", "last", "steps", "seed", "start", "sizes")
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
        task["labels"], task["sizes"] = tuple(task["labels"]), tuple(task["sizes"])
        task["reads"] = [read if isinstance(read, int) else tuple(map(tuple, read)) for read in task["reads"]]
        return cls(head=StartHead(**{name: arrays[name] for name in _HEAD}), **task)


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
        folder: the run's folder.
        until: takes the number of tokens of a step and returns a function that tells after each step whether to stop, or None.
        edge_progress: called with the number of tokens that ran below the window.
        report: called after each step with its number, loss and number of tokens.

    Returns:
        What was done: steps, losses, tokens and seconds, with ``adapter_id`` and ``probe_id``, or ``failed`` with the reason if
        the loss diverged.
    """
    started = time.monotonic()
    share = task.share(model)
    edge = WindowStates(model, task.sequences, task.first, reads=task.reads, adapter=task.start, progress=edge_progress)
    run = WindowRun(
        model,
        edge,
        range(len(task.sequences)),
        task.truth,
        task.last,
        task.head,
        task.settings,
        sizes=task.sizes,
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
        words = by_words(task.reads)
        probe = Probe(task.labels, *run.head().folded(), task.last, sizes=task.sizes, words=words)
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
