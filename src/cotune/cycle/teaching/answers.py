"""What a teacher's answers mean: the label, number, JSON or text that each is, and how often it agrees with known ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cotune.endpoint.request_format import Said
from cotune.evaluate.score_interval import score_interval
from cotune.evaluate.scoring import judged
from cotune.model.remote.label_answers import match_label, spoken
from cotune.prompt.prompt import Prompt
from cotune.task.answered import Answered
from cotune.task.example import Example, groups_of
from cotune.task.metrics.metric import METRICS
from cotune.task.reading.cells import has_half_character
from cotune.task.task import Task


def answer_of(answer: Said, prompt: Prompt, task: Task) -> str | None:
    """The answer that a teacher gave, in the one form in which answers are learnt; None where it fits the output in no way.

    A number is the last one of the answer. JSON may stand between other words, and has to fit the schema. What the limit cut is
    no answer, unless it names a label: a model that learnt from it would learn to stop in the middle.
    """
    if not task.output.kind.written:
        label = match_label(answer.text, prompt.words(task.labels), cut=answer.cut)
        return None if label is None else task.labels[label]
    if answer.cut:
        return None
    said = task.output.canonical(spoken(answer.text))
    return said if said and task.output.fits(said) and not ("\0" in said or has_half_character(said)) else None


def agreement_of(answers: Sequence[str | None], rows: Sequence[Example], task: Task, seed: int) -> dict[str, Any]:
    """How far answers agree with what is known of the rows, by the task's metric; of labels, the share of equal ones.

    Answers that fit nothing count as wrong. A metric that looks at more than answers is replaced by the default of the
    output's type.
    """
    if not answers:
        return {"n": 0, "agree": 0, "rate": None, "ci": None, "metric": None}
    metric, kind = task.measure, task.output.kind
    if not kind.written or metric.graded or not metric.needs_answers:
        metric = METRICS[kind.default_metric]
    known = [row.output for row in rows[: len(answers)]]
    groups = groups_of(rows[: len(answers)])
    # No label, and no value of any type, is an empty text.
    given = [answer or "" for answer in answers]
    found = judged(Answered(known, given, task.output, rows[: len(answers)]), np.zeros(len(known)), metric)
    interval = score_interval(found, known, metric, task.output, seed=seed, groups=groups)
    return {
        "n": len(known),
        "agree": int(found.correct.sum()),
        "rate": round(found.score, 6),
        "ci": [round(min(1.0, max(0.0, end)), 4) for end in (interval.low, interval.high)],
        "metric": metric.name,
    }
