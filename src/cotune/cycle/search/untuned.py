"""What is measured on dev without any tuning: prompts under the base model, and an earlier bundle, unchanged."""

from __future__ import annotations

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.search.trial import Measured
from cotune.evaluate.decision import RAW, Decision
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt

CALIBRATION_ROWS = 64


def measure_base(context: RunContext, prompt: Prompt) -> Measured:
    """A prompt under the base model on all of dev, a bias estimated on train inputs where there is one; its answers where they
    need not be written or nothing else is known."""
    scores = context.answers.scores(prompt, BASE, context.dev, "confirm", answers=not context.answers.written_late)
    rules: tuple[Decision, ...] = (RAW,)
    if context.answering.rules and context.answers.calibrates:
        rules = context.answers.rules(
            context.answers.scores(prompt, BASE, context.train_sample[:CALIBRATION_ROWS], "calibrate", answers=False)
        )
    judged = [(context.answers.judge(scores, context.dev, rule), rule) for rule in rules]
    evaluation, rule = max(judged, key=lambda pair: (pair[0].score, -pair[0].log_loss))
    return Measured(Candidate(prompt, BASE, rule), evaluation, scores)


def measure_previous(context: RunContext, candidate: Candidate) -> Measured:
    """An earlier bundle on all of dev, under its own rule, with its own answers."""
    scores = context.answers.scores(candidate.prompt, candidate.adapter, context.dev, "confirm", own=candidate.own)
    return Measured(candidate, context.answers.judge(scores, context.dev, candidate.decision), scores)
