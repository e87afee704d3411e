"""Tuning of adapters on a model's outputs: optimizer runs by prompt and start, with journal and budget."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from cotune.cycle.answering.base import Answering
from cotune.cycle.budget.reserve import spent_to
from cotune.cycle.budget.spending import Spending
from cotune.cycle.journal import Journal
from cotune.cycle.kept import register_kept
from cotune.cycle.progress import Watcher
from cotune.errors import DivergedError
from cotune.files import content_hash
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example
from cotune.tune.settings import TuneSettings
from cotune.tune.trainer import TuningRun

_STEP_ROWS = 16
"""Number of train rows that the tokens of a step are estimated from."""


class Training:
    """Trains adapters under prompts.

    Args:
        answering: renders rows with their right answers.
        sample: train rows that steps are priced by.
    """

    def __init__(
        self,
        answering: Answering,
        settings: TuneSettings,
        journal: Journal,
        spending: Spending,
        watcher: Watcher,
        folder: Path,
        seed: int,
        sample: Sequence[Example],
    ) -> None:
        self._answering, self._settings, self._folder, self._seed = answering, settings, folder, seed
        self._journal, self._spending, self._watcher, self._sample = journal, spending, watcher, sample
        self._trains = False
        self._runs: dict[str, TuningRun] = {}
        self._trained: dict[str, int] = {}

    @property
    def _model(self) -> LocalModel:
        return cast(LocalModel, self._answering.model)

    def step_tokens(self, prompt: Prompt, batch: int) -> float:
        """Mean tokens of an optimizer step of ``batch`` rows, by a few train rows."""
        own, prefix = self._answering.tokens_with_answer(prompt, self._sample[:_STEP_ROWS])
        return batch * own + prefix

    def run_of(self, prompt: Prompt, start: str, train: Sequence[Example]) -> TuningRun:
        """The tuning run of a prompt from an adapter on ``train``; the same arguments return the same object."""
        key = content_hash([prompt.id, start, [row.id for row in train]])
        if key not in self._runs:
            rows = self._answering.training_rows(prompt, train)
            self._spending.account.counts["tokens_embedded"] += sum(row.looked_up for row in rows)
            folder = self._folder / "checkpoints"
            self._runs[key] = TuningRun(self._model, rows, self._settings, seed=self._seed, folder=folder, start=start)
        return self._runs[key]

    def advance(
        self, prompt: Prompt, run: TuningRun, end: int, *, decay_from: int | None = None, stage: str = "tune", keep: float = 0
    ) -> tuple[str, int] | None:
        """Advance a run and keep its adapter; recorded as a ``train`` step.

        Under a time budget it ends early if less than ``keep`` would be left, see :func:`spent_to`.

        Returns:
            The adapter's id and the run's steps, or None if it diverged, which is recorded as a failure.
        """
        branch = f"decay-{decay_from}-{end}" if decay_from is not None else ""
        spent = spent_to(keep, self._spending.costs, run.tokens_per_step, self._journal.clock)
        first: list[tuple[float, int]] = []

        def told(step: int, loss: float, tokens: int) -> None:
            if not self._trains and step < end:
                # The first step of a process is slow because it allocates memory, so it is not timed.
                first.append((time.monotonic(), tokens))
            self._trains = True
            self._watcher.progress(stage, f"step {step}/{end}, loss {loss:.3f}: {prompt.text}", tokens)

        def effect() -> dict[str, Any]:
            # A run whose learning rate has decayed continues from its last step at the full rate.
            if not (branch and run.resume(branch)) and (run.step == 0 or run.branch):
                run.resume()
            # After a kill, the clock may allow fewer steps than the checkpoint has.
            if run.step > end:
                run.restart()
            started, before = time.monotonic(), run.tokens
            try:
                run.advance(end, decay_from=decay_from, branch=branch, report=told, until=spent)
                outcome = {"adapter_id": run.save(self._folder / "adapters")}
            except DivergedError as error:
                outcome = {"failed": str(error)}
            ended = time.monotonic()
            timed_from, untimed = first[0] if first else (started, 0)
            return {
                "stage": stage,
                "prompt_id": prompt.id,
                "start": run.start,
                "asked": end,
                "steps": run.step,
                "decayed": decay_from is not None,
                "losses": [round(loss, 4) for loss in run.losses],
                "loss": round(float(np.mean(run.losses[-5:])), 4) if run.losses else None,
                "tokens": run.tokens,
                "new_tokens": run.tokens - self._trained.get(run.key, 0),
                "timed_tokens": run.tokens - before - untimed,
                "timed_seconds": round(ended - timed_from, 3),
                "seconds": round(ended - started, 3),
                **outcome,
            }

        value = self._journal.step("train", [run.key, end, decay_from], effect)
        self._spending.account.counts["tokens_trained"] += int(value["new_tokens"])
        if decay_from is None:
            self._trained[run.key] = int(value["tokens"])
        if value.get("timed_tokens"):
            self._spending.costs.saw_training(int(value["timed_tokens"]), float(value["timed_seconds"]))
        if "failed" in value:
            return None
        register_kept(self._model.adapters, self._folder, value["adapter_id"])
        return str(value["adapter_id"]), int(value["steps"])

    def clean(self) -> None:
        """Remove the checkpoints, which are not needed after the run."""
        shutil.rmtree(self._folder / "checkpoints", ignore_errors=True)
