"""Where a run's effects happen: scoring and training, journalled, counted and charged to the budget."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from cotune.cycle.answering.base import Answering, Reply, rules_of
from cotune.cycle.answering.factory import answering_for
from cotune.cycle.budget.account import Account
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.budget.reserve import spent_to
from cotune.cycle.budget.row_costs import RowCosts
from cotune.cycle.budget.stopwatch import Stopwatch
from cotune.cycle.candidate import Own
from cotune.cycle.folder import is_asked_to_finish
from cotune.cycle.journal import Journal
from cotune.cycle.kept import register_kept
from cotune.cycle.progress import TimeLeft, Watcher
from cotune.cycle.row_vectors import RowVectors
from cotune.embed import Embedder, HashedEmbedder, Neighbours, TextEmbedder
from cotune.errors import CotuneError, DivergedError
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.judge import Judge
from cotune.evaluate.responses import ModelOutputs
from cotune.evaluate.scoring import Evaluation, finite
from cotune.files import content_hash
from cotune.model.base import Capabilities, ModelBackend, Progress
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import shared_prefix
from cotune.task.example import Example, dev_in_order
from cotune.task.task import Task
from cotune.tune.settings import TuneSettings
from cotune.tune.trainer import TuningRun

_SLOW = 4.0
"""Times slower than planned from which a machine is called slow; the plan's own guess is off by two at most."""


class RunContext:
    """Task, model, journal and budget in one place.

    Args:
        task: what is asked.
        model: who answers, on this machine or behind an endpoint.
        journal: where every step is recorded.
        costs: what steps cost.
        folder: the run's folder.
        tune: how adapters are trained.
        seed: of the run.
        watcher: is told about progress.
        answer_tokens: tokens of a written answer at most; None takes it from the data.
        grader: the judge whose grades are the metric; None where it asks nobody.
        embeds: makes the embedder of a model that answers behind an endpoint; None places texts by their letters.
        stopwatch: that has run while the model was loaded; None begins with a fresh one.

    Attributes:
        answering: how the model answers this task's rows.
        scorer: who answers.
        rows: what rows cost, as far as any were run.
        account: what has been spent so far.
        stopwatch: seconds of model work in steps that do other things too.
        vectors: of rows, each embedded once.
        calibrates: whether rules with a bias are tried; they need rows of every label.
    """

    def __init__(
        self,
        task: Task,
        model: ModelBackend,
        journal: Journal,
        costs: CostModel,
        folder: Path,
        tune: TuneSettings,
        seed: int,
        watcher: Watcher,
        answer_tokens: int | None = None,
        grader: Judge | None = None,
        embeds: Callable[[Progress | None], Embedder] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        model.chooser = model.chooser or Neighbours(cast(LocalModel, model) if model.capabilities.hidden_states else None)
        self.task, self.journal, self.costs = task, journal, costs
        self.grader, self._model, self._answer_tokens = grader, model, answer_tokens
        self.answering = answering_for(task, model, limit=answer_tokens, judge=grader)
        self.scorer = self.answering.model
        self.folder, self.tune, self.seed, self.watcher = folder, tune, seed, watcher
        self.dev = dev_in_order(task.dev, seed)
        # Files are often sorted by label, so samples of train are taken from a shuffled one.
        shuffled = np.random.default_rng([seed, 2]).permutation(len(task.train))
        self.train_sample = tuple(task.train[i] for i in shuffled)
        self.rows = RowCosts(self.answering, costs, self.train_sample[:16], writes=task.measure.needs_answers)
        self.account, self.stopwatch = Account(), stopwatch or Stopwatch()
        self._told_slow = False
        self._embeds = embeds
        self.vectors = RowVectors(self.embedder, self.stopwatch)
        self.calibrates = True
        self._trains, self._time_left = False, TimeLeft(costs, watcher)
        self._runs: dict[str, TuningRun] = {}
        self._trained: dict[str, int] = {}
        self._known: dict[str, ModelOutputs] = {}

    def for_task(self, task: Task) -> RunContext:
        """The same run with other rows, before anything was asked."""
        if task is self.task:
            return self
        return RunContext(
            task,
            self._model,
            self.journal,
            self.costs,
            self.folder,
            self.tune,
            self.seed,
            self.watcher,
            self._answer_tokens,
            self.grader,
            self._embeds,
            self.stopwatch,
        )

    # Who answers --------------------------------------------------------------------------------------------------

    @property
    def can(self) -> Capabilities:
        """What the model can do."""
        return self.scorer.capabilities

    @property
    def model(self) -> LocalModel:
        """The model on this machine: for its tokens, its states and its adapters.

        Raises:
            CotuneError: it answers behind an endpoint.
        """
        if not self.can.hidden_states:
            raise CotuneError(f"{self.scorer.name} answers behind an endpoint and cannot be tuned or seen into")
        return cast(LocalModel, self.scorer)

    @property
    def remote(self) -> ModelBackend | None:
        """The model behind an endpoint; None where it is on this machine."""
        return None if self.can.tune else self.scorer

    def embedder(self, progress: Progress | None = None) -> Embedder:
        """Places texts: by the model's own states where they can be seen, else by an endpoint's vectors or by their letters."""
        if self.can.hidden_states:
            return TextEmbedder(self.model, progress=progress)
        return self._embeds(progress) if self._embeds else HashedEmbedder()

    def embedding_tokens(self, text: str, frame: int) -> int:
        """Tokens that embedding a text in a frame of so many tokens runs; none where no model runs here."""
        return len(self.model.tokenizer(text)["input_ids"]) + frame if self.can.hidden_states else 0

    @property
    def writes_late(self) -> bool:
        """Whether the search goes by the right answers' log-loss and only finalists write: a written answer costs many passes,
        its likelihood one. An endpoint does not tell it."""
        return self.can.likelihoods and self.task.output.kind.written and self.task.measure.needs_answers

    # Budget -------------------------------------------------------------------------------------------------------

    def left(self) -> float:
        """Budget that is left, in its unit. Under a time budget this is journalled, since decisions hang on it."""
        if self.costs.budget.kind == "tokens":
            left = self.costs.budget.amount - self.account.tokens
            self._time_left.tell(left)
            return left
        if self.costs.budget.kind == "money":
            return self.costs.budget.amount - self.account.dollars
        left = self.costs.budget.amount - float(self.journal.step("clock", "clock", lambda: round(self.journal.clock(), 2)))
        self._time_left.tell(left)
        return left

    def left_within_step(self) -> float:
        """The same inside of a step, whose recorded value stands for what the clock said."""
        budget = self.costs.budget
        return budget.amount - self.journal.clock() if budget.kind == "time" else self.left()

    def finish_asked(self) -> bool:
        """Whether the user asked to end the search; journalled, since what comes next hangs on it."""
        return bool(self.journal.step("finish", "finish", lambda: is_asked_to_finish(self.folder)))

    def expect_end(self, cost: float | None) -> None:
        """Tell that only so much of the budget is still needed, the search being over; None where it goes on."""
        budget = self.costs.budget
        # Money passes at no pace that is known.
        if budget.kind != "money":
            spent = self.journal.clock() if budget.kind == "time" else self.account.tokens
            self._time_left.expect(cost, budget.amount - spent)

    # Scoring ------------------------------------------------------------------------------------------------------

    def scores(
        self,
        prompt: Prompt,
        adapter: str,
        rows: Sequence[Example],
        stage: str,
        *,
        answers: bool = True,
        own: Own | None = None,
        **note: Any,
    ) -> ModelOutputs:
        """What a prompt and an adapter give on rows; recorded as a ``score`` step, and written answers as a ``write`` step.

        Args:
            prompt: how to ask.
            adapter: which weights.
            rows: of one split.
            stage: what for.
            answers: whether the metric is asked for; False where the log-loss alone decides, which is far cheaper where answers
                have to be written.
            own: what is answered with, where it is not the task's output.
            note: further facts for the journal.

        Raises:
            DivergedError: what was given is not finite.
        """
        key = [prompt.id, adapter, [row.id for row in rows], *([own.to_json()] if own is not None else [])]
        name = content_hash(key)
        answering = self.answering_by(own)
        wanted = answers and self.task.measure.needs_answers
        if f"{name}+" in self._known or (name in self._known and not wanted):
            return self._known.get(f"{name}+") or self._known[name]

        def told(tokens: int) -> None:
            self.watcher.progress(stage, prompt.text, tokens)

        facts = {"stage": stage, "prompt_id": prompt.id, "adapter_id": adapter, "rows": len(rows)}
        given = self._known.get(name)
        started = time.monotonic()
        both = answering.both(prompt, adapter, rows, told) if given is None and wanted else None
        if given is None:
            reply = both[0] if both else answering.score(prompt, adapter, rows, told)
            seconds = both[2] if both else time.monotonic() - started
            value = self.journal.step("score", key, lambda: {**facts, **self._told(reply, rows, seconds), **note})
            self.charge(value, "tokens_scored", self.costs.saw_scoring)
            if own is None:
                self.rows.saw_reading(prompt, len(rows), int(value["tokens"]), int(value["saved"]))
            given = self._known[name] = reply.given
        if wanted:
            started = started + both[2] if both else time.monotonic()
            written = both[1] if both else answering.write(prompt, adapter, rows, given, told)
            if written is not None:
                seconds = time.monotonic() - started
                value = self.journal.step("write", key, lambda: {**facts, **self._told(written, rows, seconds), **note})
                count = int(value.get("written", 0))
                self.charge(value, "tokens_written", lambda t, s: self.costs.saw_writing(t - count, count, len(rows), s))
                if own is None:
                    self.rows.saw_writing(prompt, adapter, len(rows), count)
                given = written.given
            self._known[f"{name}+"] = given
        return given

    def _told(self, reply: Reply, rows: Sequence[Example], seconds: float) -> dict[str, Any]:
        """A reply of the model for the journal."""
        judged = self.judge(reply.given, rows, RAW)
        return {
            "score": judged.told_score(),
            "log_loss": finite(judged.log_loss),
            "tokens": reply.tokens,
            "saved": reply.saved,
            "truncated": reply.truncated,
            "seconds": round(seconds, 3) if not reply.cached else None,
            **({} if reply.dollars is None else {"dollars": reply.dollars, "unmatched": reply.unmatched}),
            **({"written": reply.written} if reply.written else {}),
            **({"judged": dict(reply.judged)} if reply.judged else {}),
        }

    def charge(self, value: Mapping[str, Any], kind: str, saw: Callable[[int, float], None]) -> None:
        self.account.charge(value, kind)
        if value["seconds"]:
            saw(int(value["tokens"]), float(value["seconds"]))
        if not self._told_slow and self.costs.budget.kind == "time" and (slowdown := self.costs.slowdown) >= _SLOW:
            self._told_slow = True
            self.journal.tell(f"this machine is about {slowdown:.0f} times slower than planned; is something else running?")
        if "dollars" in value:
            self.costs.saw_paying(int(value["tokens"]), float(value["dollars"]))

    def judge(self, given: ModelOutputs, rows: Sequence[Example], decision: Decision) -> Evaluation:
        """What was given against the rows' right answers."""
        return given.judge(rows, decision, self.task)

    def bias(self, given: ModelOutputs) -> Decision:
        """The calibrated rule from what was given on some rows, whose right answers are not looked at; the raw one where there
        is nothing to fit."""
        return given.calibrated(self.task) if self.answering.rules else RAW

    def answering_by(self, own: Own | None = None) -> Answering:
        """How rows are answered: with the task's output, or with an earlier bundle's."""
        return self.answering if own is None else answering_for(self.task, self.model, own, judge=self.grader)

    def rules(self, given: ModelOutputs) -> tuple[Decision, ...]:
        """The decision rules to choose from."""
        if not self.calibrates:
            return (RAW,)
        return rules_of(self.answering, given, self.task)

    def leave_out_rules(self) -> None:
        """Try no decision rule with a bias from now on: there are labels without a row."""
        self.calibrates = False

    def tokens_a_row(self, prompt: Prompt) -> tuple[float, int]:
        """Mean own tokens of a scored row, and the prefix's tokens, from a few train rows."""
        return self.rows.counted(prompt)

    def step_tokens(self, prompt: Prompt, batch: int, sample: int = 16) -> float:
        """Mean tokens of an optimizer step of ``batch`` rows, from a few train rows: an answer's last token is not fed."""
        rows = self.answering.training_rows(prompt, self.train_sample[:sample])
        prefix = shared_prefix([row.prompt_ids for row in rows])
        own = sum(len(row.prompt_ids) + len(row.answer_ids) - 1 for row in rows) / len(rows)
        return batch * (own - prefix) + prefix

    # Training -----------------------------------------------------------------------------------------------------

    def run_of(self, prompt: Prompt, start: str, train: Sequence[Example]) -> TuningRun:
        """The tuning run of a prompt from an adapter over given rows; one object for each, parked between calls."""
        key = content_hash([prompt.id, start, [row.id for row in train]])
        if key not in self._runs:
            rows = self.answering.training_rows(prompt, train)
            self.account.counts["tokens_embedded"] += sum(row.looked_up for row in rows)
            self._runs[key] = TuningRun(
                self.model,
                rows,
                self.tune,
                seed=self.seed,
                folder=self.folder / "checkpoints",
                start=start,
                opening=self.answering.own_prefix(prompt),
            )
        return self._runs[key]

    def train(
        self,
        prompt: Prompt,
        run: TuningRun,
        end: int,
        *,
        decay_from: int | None = None,
        stage: str = "tune",
        keep: float = 0,
    ) -> tuple[str, int] | None:
        """Advance a run and keep its adapter; recorded as a ``train`` step.

        Under a time budget it ends early where ``keep`` of that would not be left, see :func:`spent_to`.

        Returns:
            The adapter's id and the run's steps, or None where it diverged, which is recorded as a failure and told.
        """
        branch = f"decay-{decay_from}-{end}" if decay_from is not None else ""
        spent = spent_to(keep, self.costs, run.tokens_per_step, self.journal.clock)
        first: list[tuple[float, int]] = []

        def told(step: int, loss: float, tokens: int) -> None:
            if not self._trains and step < end:
                # A process's first step touches memory for the first time: it says nothing about the others.
                first.append((time.monotonic(), tokens))
            self._trains = True
            self.watcher.progress(stage, f"step {step}/{end}, loss {loss:.3f}: {prompt.text}", tokens)

        def effect() -> dict[str, Any]:
            # A run that was finished goes on from where its learning rate was still full.
            if not (branch and run.resume(branch)) and (run.step == 0 or run.branch):
                run.resume()
            # A clock that is asked again after a kill may call for fewer steps than the checkpoint has.
            if run.step > end:
                run.restart()
            started, before = time.monotonic(), run.tokens
            try:
                run.advance(end, decay_from=decay_from, branch=branch, report=told, until=spent)
                outcome = {"adapter_id": run.save(self.folder / "adapters")}
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

        value = self.journal.step("train", [run.key, end, decay_from], effect)
        self.account.counts["tokens_trained"] += int(value["new_tokens"])
        if decay_from is None:
            self._trained[run.key] = int(value["tokens"])
        if value.get("timed_tokens"):
            self.costs.saw_training(int(value["timed_tokens"]), float(value["timed_seconds"]))
        if "failed" in value:
            return None
        register_kept(self.model.adapters, self.folder, value["adapter_id"])
        return str(value["adapter_id"]), int(value["steps"])

    def clean(self) -> None:
        """Remove checkpoints, which nothing needs once a run has ended."""
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
