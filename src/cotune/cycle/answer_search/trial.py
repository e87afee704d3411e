"""Trials: prompts that are measured on dev, and tuned for equal numbers of steps if the model can be tuned."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.search.measured import Measured, measure_base
from cotune.errors import DivergedError
from cotune.evaluate.packing import pack_rows
from cotune.evaluate.scoring import Evaluation, finite
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.refine import not_shown
from cotune.tune.trainer import TuningRun


@dataclass
class Trial:
    """A prompt that is measured on dev, and tuned from an adapter.

    Attributes:
        run: its tuning run; None if the model cannot be tuned, so that the base model is the only thing that is measured.
        start: adapter that it started from.
        start_steps: optimizer steps of that adapter.
        measured: its adapters, measured on dev, in order.
        steady: those of ``measured`` that were trained at the full learning rate, in order of steps.
        finished: numbers of steps at which the learning rate was decayed.
        steady_steps: optimizer steps at the full learning rate of this trial.
        epoch: optimizer steps of about one epoch.
        newest: its adapter after all steps at the full learning rate, which may not have been measured.
    """

    prompt: Prompt
    run: TuningRun | None
    start: str = BASE
    start_steps: int = 0
    measured: list[Measured] = field(default_factory=list)
    steady: list[Measured] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    failed: bool = False
    steady_steps: int = 0
    epoch: int = 0
    newest: str = BASE

    @property
    def steps(self) -> int:
        """Optimizer steps of the newest adapter at the full learning rate."""
        return self.start_steps + self.steady_steps

    @property
    def latest(self) -> Measured:
        """The newest adapter that was measured at the full learning rate."""
        return self.steady[-1]

    @property
    def best_steady(self) -> Measured:
        """The best adapter that was measured at the full learning rate."""
        return max(self.steady, key=lambda m: m.rank)

    @property
    def behind(self) -> bool:
        """Whether its last steps at the full learning rate made it worse, by the metric and by the log-loss.

        Within the first epoch this is chance, because nothing can have been memorised yet.
        """
        return self._behind(len(self.steady) - 1)

    @property
    def peaked(self) -> bool:
        """Whether two measurements in a row were worse, so that more steps do not help.

        One does not show that: at the full learning rate the weights oscillate, and a decay or more steps often repair a bad
        score.
        """
        return self.behind and self._behind(len(self.steady) - 2)

    @property
    def in_doubt(self) -> bool:
        """Whether only the last measurement was worse, which the next may undo."""
        return self.behind and not self.peaked

    def _behind(self, place: int) -> bool:
        if place < 1:
            return False
        before, last = self.steady[:place], self.steady[place]
        return last.candidate.steps > self.epoch and any(_was_better(m.evaluation, last.evaluation) for m in before)

    @property
    def ground(self) -> Measured:
        """The adapter that others start from: the newest, or the best one if the last steps made it worse."""
        return self.best_steady if self.behind else self.latest

    @property
    def reached(self) -> int:
        """Optimizer steps at which its learning rate would be decayed."""
        return self.ground.candidate.steps if self.steady and self.peaked else self.steps

    @property
    def best(self) -> Measured:
        """The best measured adapter on dev."""
        return max(self.measured, key=lambda m: m.rank)


def _was_better(before: Evaluation, last: Evaluation) -> bool:
    """Whether ``before`` is better by metric and log-loss; without written answers, by a standard error of the log-loss."""
    if np.isnan(before.score) or np.isnan(last.score):
        risen = last.log_losses - before.log_losses
        return float(risen.mean()) > float(risen.std()) / math.sqrt(len(risen))
    return bool(before.score > last.score and before.log_loss < last.log_loss)


def open_trial(context: RunContext, prompt: Prompt, start: str = BASE, start_steps: int = 0) -> Trial:
    """A new trial, tuned from the adapter ``start``."""
    run = _run_of(context, prompt, start)
    return Trial(prompt, run, start, start_steps, epoch=run.steps_per_epoch)


def untuned_trial(context: RunContext, prompt: Prompt) -> Trial:
    """A trial of a model that cannot be tuned: the prompt under the base model, measured on all of dev.

    Raises:
        DivergedError: scores are not finite.
    """
    found = measure_base(context, prompt)
    return Trial(prompt, None, measured=[found], steady=[found])


def _run_of(context: RunContext, prompt: Prompt, start: str) -> TuningRun:
    """The run on the rows that the prompt does not show, because answers to those could be copied."""
    return context.training.run_of(prompt, start, not_shown(prompt, context.task.train))


def take_up(context: RunContext, trial: Trial, *, cycle: int) -> bool:
    """Measure the adapter that a trial starts from, so that tuning is compared with it."""
    return _measure_into(context, trial, trial.start, trial.start_steps, cycle, "previous")


def advance(
    context: RunContext, trial: Trial, steps: int, *, cycle: int, stage: str = "tune", check: bool = True, keep: float = 0.0
) -> bool:
    """Train a trial with a run up to ``steps`` steps in all at the full learning rate and measure it; False if it failed.

    ``check=False`` leaves out the measurement, for a trial that is finished next; ``keep`` is as in
    :meth:`cotune.cycle.answer_search.training.Training.advance`.
    """
    if trial.failed or trial.run is None:
        return False
    if steps > trial.steps or not trial.steady:
        trained = context.training.advance(trial.prompt, trial.run, steps - trial.start_steps, stage=stage, keep=keep)
        if trained is None:
            trial.failed = True
            return False
        trial.newest, trial.steady_steps = trained
        if not check:
            return True
        return _measure_into(context, trial, trial.newest, trial.steps, cycle, stage)
    return True


def catch_up(context: RunContext, trial: Trial, *, cycle: int) -> bool:
    """Measure a trial's newest adapter if it was not measured, before training continues; False if it failed."""
    if trial.failed or trial.newest == BASE or trial.latest.candidate.steps >= trial.steps:
        return not trial.failed
    return _measure_into(context, trial, trial.newest, trial.steps, cycle, "tune")


def finish(context: RunContext, trial: Trial, *, cycle: int) -> bool:
    """Decay the learning rate of a trial to zero; False if that failed.

    The decay starts at the newest weights, even after one bad score, because oscillations settle during decay; if more steps do
    not help, it starts at the best adapter on dev.
    """
    if trial.failed or trial.run is None or not trial.measured:
        return False
    if trial.peaked and trial.latest.candidate.steps == trial.steps:
        best = trial.best_steady.candidate
        if best.adapter == trial.start:
            # No trained adapter is better than the start.
            return True
        run = _run_of(context, trial.prompt, best.adapter)
        start, own = best.steps, 0
    else:
        run, start, own = trial.run, trial.start_steps, trial.steady_steps
    if start + own in trial.finished:
        return True
    trial.finished.append(start + own)
    end = own + decay_steps(start + own, context.tune.decay)
    trained = context.training.advance(trial.prompt, run, end, decay_from=own, stage="finish")
    if trained is None:
        return False
    return _measure_into(context, trial, trained[0], start + end, cycle, "finish")


def decay_steps(steps: int, decay: float) -> int:
    """Number of decay steps after ``steps`` steps, so that they are the share ``decay`` of the finished run."""
    return max(1, round(steps * decay / (1 - decay)))


def _measure_into(context: RunContext, trial: Trial, adapter: str, steps: int, cycle: int, stage: str) -> bool:
    """Score weights on all of dev and choose their decision rule there; False if scores are not finite.

    Answers that must be written are not written yet; the right answers' log-loss, from one pass, tells which steps were good.
    """
    answers = context.answers
    try:
        scores = answers.scores(trial.prompt, adapter, context.dev, stage, answers=not answers.written_late)
        evaluation, rule = answers.judge_best(scores, context.dev)
    except DivergedError:
        trial.failed = True
        return False
    found = Measured(Candidate(trial.prompt, adapter, rule, steps), evaluation, scores)
    trial.measured.append(found)
    if stage != "finish":
        trial.steady.append(found)
    context.journal.step("tuned", [cycle, trial.prompt.id, adapter], lambda: {"cycle": cycle, "stage": stage, **told(found)})
    return True


def told(measured: Measured) -> dict[str, Any]:
    """A measurement as a record for the journal."""
    return {
        "prompt_id": measured.candidate.prompt.id,
        "adapter_id": measured.candidate.adapter,
        "steps": measured.candidate.steps,
        "decision": measured.candidate.decision.kind,
        "score": finite(measured.evaluation.score),
        "log_loss": round(measured.evaluation.log_loss, 6),
        "rows": measured.evaluation.n,
        "correct": pack_rows(measured.evaluation.correct) if measured.evaluation.is_scored else None,
    }
