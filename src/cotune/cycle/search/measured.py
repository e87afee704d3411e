"""Measurements on dev: of candidates, of prompts under the base model, and of an unchanged earlier bundle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.responses import ModelOutputs
from cotune.evaluate.scoring import Evaluation
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt

CALIBRATION_ROWS = 64
"""Number of train rows whose inputs a bias is estimated on. A guess."""


@dataclass(frozen=True)
class Measured:
    """A candidate that was measured on dev: its evaluation under its decision rule, and its outputs."""

    candidate: Candidate
    evaluation: Evaluation
    scores: ModelOutputs

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key, higher is better: the metric, then the log-loss; candidates without written answers come last."""
        score = self.evaluation.score
        return -1.0 if np.isnan(score) else score, -self.evaluation.log_loss


def measure_base(context: RunContext, prompt: Prompt) -> Measured:
    """Measure a prompt under the base model on all of dev, with a bias estimated on train inputs if there is one.

    Answers that are written late are not written here.
    """
    scores = context.answers.scores(prompt, BASE, context.dev, "confirm", answers=not context.answers.written_late)
    rules: tuple[Decision, ...] = (RAW,)
    if context.answers.calibrates:
        rules = context.answers.rules(
            context.answers.scores(prompt, BASE, context.train_sample[:CALIBRATION_ROWS], "calibrate", answers=False)
        )
    evaluation, rule = context.answers.judge_best(scores, context.dev, rules)
    return Measured(Candidate(prompt, BASE, rule), evaluation, scores)


def measure_unchanged(context: RunContext, candidate: Candidate, stage: str = "confirm", rows: int | None = None) -> Measured:
    """Measure a candidate on the first ``rows`` rows of dev, or on all, under its own decision rule, with answers.

    Raises:
        DivergedError: scores are not finite.
    """
    dev = context.dev[:rows]
    scores = context.answers.scores(candidate.prompt, candidate.adapter, dev, stage, own=candidate.own)
    return Measured(candidate, context.answers.judge(scores, dev, candidate.decision), scores)


def with_answers(context: RunContext, measured: Measured, stage: str, rows: int | None = None) -> Measured:
    """Add answers to the first ``rows`` rows of dev, or to all; unchanged if there are answers or none are needed."""
    if not context.answers.written_late or measured.evaluation.answers:
        return measured
    return measure_unchanged(context, measured.candidate, stage, rows)
