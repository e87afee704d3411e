"""What is measured on dev without any tuning: prompts under the base model, and an earlier bundle as it was."""

from __future__ import annotations

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import Lab
from cotune.cycle.search.trial import Measured
from cotune.evaluate.decision import RAW, Decision
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt

CALIBRATION_ROWS = 64


def measure_base(lab: Lab, prompt: Prompt) -> Measured:
    """A prompt under the base model on all of dev, a bias estimated on train inputs where there is one; its answers where they
    need not be written or nothing else is known."""
    scores = lab.scores(prompt, BASE, lab.dev, "confirm", answers=not lab.writes_late)
    rules: tuple[Decision, ...] = (RAW,)
    if lab.answering.rules and lab.calibrates:
        rules = lab.rules(lab.scores(prompt, BASE, lab.train_sample[:CALIBRATION_ROWS], "calibrate", answers=False))
    judged = [(lab.judge(scores, lab.dev, rule), rule) for rule in rules]
    evaluation, rule = max(judged, key=lambda pair: (pair[0].score, -pair[0].log_loss))
    return Measured(Candidate(prompt, BASE, rule), evaluation, scores)


def as_it_was(lab: Lab, candidate: Candidate) -> Measured:
    """An earlier bundle on all of dev, under its own rule, with its own answers."""
    scores = lab.scores(candidate.prompt, candidate.adapter, lab.dev, "confirm", own=candidate.own)
    return Measured(candidate, lab.judge(scores, lab.dev, candidate.decision), scores)
