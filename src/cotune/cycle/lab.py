"""Where a run's effects happen: scoring and training, journalled, counted and charged to the budget."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.costs import CostModel
from cotune.cycle.journal import Journal
from cotune.errors import DivergedError
from cotune.evaluate.decision import RAW, Decision, fit_bias, label_frequencies
from cotune.evaluate.scoring import Evaluation, evaluate
from cotune.files import content_hash
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow, common_start, shared_prefix
from cotune.task.example import Example
from cotune.task.task import Task
from cotune.tune.average import How, average
from cotune.tune.batches import training_rows
from cotune.tune.settings import TuneSettings
from cotune.tune.trainer import TuningRun

Floats = NDArray[np.float64]


class Watcher(Protocol):
    """Is told how a run goes on between its journal's lines."""

    def progress(self, stage: str, what: str, tokens: int) -> None:
        """So many more tokens were run in this stage."""
        ...

    def set_time_left(self, seconds: float | None) -> None:
        """How long the run will take from now; None where that is not known."""
        ...


class Lab:
    """Task, model, journal and budget in one place.

    Args:
        task: what is asked.
        model: who answers.
        journal: where every step is recorded.
        costs: what steps cost.
        folder: the run's folder.
        tune: how adapters are trained.
        seed: of the run.
        watcher: is told about progress.

    Attributes:
        spent_tokens: tokens of all steps so far.
        counts: tokens scored, trained, embedded, and saved by the shared prefix.
        row_vectors: of the rows that demonstrations are drawn from, once they are embedded.
        dev_vectors: of the dev rows, once this session has embedded them.
        dev_embedded: whether that stands in the journal and is paid for.
    """

    def __init__(
        self,
        task: Task,
        model: LocalModel,
        journal: Journal,
        costs: CostModel,
        folder: Path,
        tune: TuneSettings,
        seed: int,
        watcher: Watcher,
    ) -> None:
        self.task, self.model, self.journal, self.costs = task, model, journal, costs
        self.folder, self.tune, self.seed, self.watcher = folder, tune, seed, watcher
        # Rows of dev are met in one random order by all, as sequential tests need it.
        order = np.random.default_rng([seed, 1]).permutation(len(task.dev))
        self.dev = tuple(task.dev[i] for i in order)
        # Files are often sorted by label, so samples of train are taken from a shuffled one.
        shuffled = np.random.default_rng([seed, 2]).permutation(len(task.train))
        self.train_sample = tuple(task.train[i] for i in shuffled)
        self.counts = {"tokens_scored": 0, "tokens_trained": 0, "tokens_embedded": 0, "tokens_saved_by_prefix": 0}
        self.truncated = 0
        self.row_vectors: NDArray[np.float32] | None = None
        self.dev_vectors: NDArray[np.float32] | None = None
        self.dev_embedded = False
        self._label_index = {label: i for i, label in enumerate(task.labels)}
        self._runs: dict[str, TuningRun] = {}
        self._trained: dict[str, int] = {}
        self._known: dict[str, Floats] = {}

    # Budget -------------------------------------------------------------------------------------------------------

    @property
    def spent_tokens(self) -> int:
        return sum(self.counts[name] for name in ("tokens_scored", "tokens_trained", "tokens_embedded"))

    def left(self) -> float:
        """Budget that is left, in its unit. Under a time budget this is journalled, since decisions hang on it."""
        if self.costs.budget.kind == "tokens":
            left = self.costs.budget.amount - self.spent_tokens
            self.watcher.set_time_left(left / self.costs.score_rate)
            return left
        left = self.costs.budget.amount - float(self.journal.step("clock", "clock", lambda: round(self.journal.clock(), 2)))
        self.watcher.set_time_left(left)
        return left

    # Scoring ------------------------------------------------------------------------------------------------------

    def gold(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        """Index of each row's label."""
        return np.array([self._label_index[row.output] for row in rows], dtype=np.int64)

    def frequencies(self) -> Floats:
        """Label shares of the train split, smoothed."""
        return label_frequencies(list(self.gold(self.task.train)), len(self.task.labels))

    def scores(self, prompt: Prompt, adapter: str, rows: Sequence[Example], stage: str, **note: Any) -> Floats:
        """``[rows, labels]`` log-probabilities; recorded as a ``score`` step.

        Raises:
            DivergedError: they are not finite.
        """
        key = [prompt.id, adapter, [row.id for row in rows]]
        name = content_hash(key)
        if name in self._known:
            return self._known[name]
        started = time.monotonic()

        def told(tokens: int) -> None:
            self.watcher.progress(stage, prompt.text, tokens)

        result = self.model.score(prompt, [row.fields for row in rows], self.task.labels, adapter=adapter, progress=told)
        seconds = time.monotonic() - started

        def record() -> dict[str, Any]:
            judged = self.judge(result.log_probs, rows, RAW)
            return {
                "stage": stage,
                "prompt_id": prompt.id,
                "adapter_id": adapter,
                "rows": len(rows),
                "score": round(judged.score, 6),
                "log_loss": round(judged.log_loss, 6),
                "tokens": result.tokens,
                "saved": result.tokens_saved,
                "truncated": result.truncated,
                "seconds": round(seconds, 3) if not result.cached else None,
                **note,
            }

        value = self.journal.step("score", key, record)
        self.counts["tokens_scored"] += int(value["tokens"])
        self.counts["tokens_saved_by_prefix"] += int(value["saved"])
        self.truncated = max(self.truncated, int(value["truncated"]))
        if value["seconds"]:
            self.costs.saw_scoring(int(value["tokens"]), float(value["seconds"]))
        self._known[name] = result.log_probs
        return result.log_probs

    def judge(self, scores: Floats, rows: Sequence[Example], decision: Decision) -> Evaluation:
        """Scores against the rows' labels."""
        return evaluate(scores, self.gold(rows), decision, self.task.measure, self.task.labels)

    def bias(self, scores: Floats) -> Decision:
        """The calibrated rule from unlabelled scores of some rows."""
        return fit_bias(scores, self.frequencies())

    def tokens_a_row(self, prompt: Prompt, sample: int = 16) -> tuple[float, int]:
        """Mean own tokens of a scored row, and the prefix's tokens, from a few train rows."""
        from cotune.model.trie import build_trie

        rows, own, prefix = self._rendered_sample(prompt, sample)
        return own + len(build_trie(rows[0].completions).tree.tokens), prefix

    def step_tokens(self, prompt: Prompt, batch: int, sample: int = 16) -> float:
        """Mean tokens of an optimizer step of ``batch`` rows, from a few train rows: an answer's last token is not fed."""
        rows, own, prefix = self._rendered_sample(prompt, sample)
        gold = self.gold(self.train_sample[: len(rows)])
        answer = sum(len(row.completions[label]) - 1 for row, label in zip(rows, gold, strict=True)) / len(rows)
        return batch * (own + answer) + prefix

    def _rendered_sample(self, prompt: Prompt, sample: int) -> tuple[list[RenderedRow], float, int]:
        """A few train rows, the mean of their own tokens, and the tokens of the prefix that they share."""
        rows = self.model.renderer.render(prompt, [row.fields for row in self.train_sample[:sample]], self.task.labels)
        prefix = shared_prefix([row.prompt_ids for row in rows])
        return rows, sum(len(row.prompt_ids) for row in rows) / len(rows) - prefix, prefix

    # Training -----------------------------------------------------------------------------------------------------

    def run_of(self, prompts: Sequence[Prompt], start: str, train: Sequence[Example]) -> TuningRun:
        """The tuning run of a prompt, or of a mixture of several, from an adapter over given rows; one object for each, parked
        between calls."""
        key = content_hash([[prompt.id for prompt in prompts], start, [row.id for row in train]])
        if key not in self._runs:
            fields, answers = [row.fields for row in train], [int(i) for i in self.gold(train)]
            first, *also = (
                training_rows(self.model.renderer.render(prompt, fields, self.task.labels), answers) for prompt in prompts
            )
            own = [self.model.own_prefix(prompt, self.task.input_fields, self.task.labels) for prompt in prompts]
            self._runs[key] = TuningRun(
                self.model,
                first,
                self.tune,
                seed=self.seed,
                folder=self.folder / "checkpoints",
                start=start,
                also=also,
                opening=common_start(own),
            )
        return self._runs[key]

    def train(
        self, prompt: Prompt, run: TuningRun, to_step: int, *, decay_from: int | None = None, stage: str = "tune"
    ) -> str | None:
        """Advance a run and keep its adapter; recorded as a ``train`` step.

        Returns:
            The adapter's id, or None where the run diverged, which is recorded as a failure and told.
        """
        branch = f"decay-{decay_from}-{to_step}" if decay_from is not None else ""

        def told(step: int, loss: float, tokens: int) -> None:
            self.watcher.progress(stage, f"step {step}/{to_step}, loss {loss:.3f}: {prompt.text}", tokens)

        def effect() -> dict[str, Any]:
            # A run that was finished goes on from where its learning rate was still full.
            if not (branch and run.resume(branch)) and (run.step == 0 or run.branch):
                run.resume()
            # A clock that is asked again after a kill may call for fewer steps than the checkpoint has.
            if run.step > to_step:
                run.restart()
            started, before = time.monotonic(), run.tokens
            try:
                run.advance(to_step, decay_from=decay_from, branch=branch, report=told)
                outcome = {"adapter_id": run.save(self.folder / "adapters")}
            except DivergedError as error:
                outcome = {"failed": str(error)}
            return {
                "stage": stage,
                "prompt_id": prompt.id,
                "steps": run.step,
                "decayed": decay_from is not None,
                "losses": [round(loss, 4) for loss in run.losses],
                "loss": round(float(np.mean(run.losses[-5:])), 4) if run.losses else None,
                "tokens": run.tokens,
                "new_tokens": run.tokens - self._trained.get(run.key, 0),
                "timed_tokens": run.tokens - before,
                "seconds": round(time.monotonic() - started, 3),
                **outcome,
            }

        value = self.journal.step("train", [run.key, to_step, decay_from], effect)
        self.counts["tokens_trained"] += int(value["new_tokens"])
        if decay_from is None:
            self._trained[run.key] = int(value["tokens"])
        if value.get("seconds"):
            self.costs.saw_training(int(value["timed_tokens"]), float(value["seconds"]))
        if "failed" in value:
            return None
        self.model.adapters.register(self.folder / "adapters" / value["adapter_id"])
        return str(value["adapter_id"])

    def average(self, adapters: Sequence[str], *, how: How = "factors", shares: Sequence[float] | None = None) -> str:
        """The mean of adapters of one shape as an adapter of its own; recorded as an ``average`` step.

        Args:
            adapters: ids, at least one.
            how: see :mod:`cotune.tune.average`.
            shares: weight of each; equal ones where None.

        Returns:
            Its id.
        """
        slot = self.model.adapters

        def effect() -> dict[str, Any]:
            made = average([slot.read(adapter) for adapter in adapters], how=how, shares=shares)
            # What is saved is described as what the model holds.
            slot.use(adapters[0])
            return {"adapter_id": slot.save(made.weights, self.folder / "adapters"), "distance": round(made.distance, 6)}

        key = [list(adapters), how, None if shares is None else list(shares)]
        value = self.journal.step("average", key, effect)
        slot.register(self.folder / "adapters" / value["adapter_id"])
        return str(value["adapter_id"])

    def clean(self) -> None:
        """Remove checkpoints, which nothing needs once a run has ended."""
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
