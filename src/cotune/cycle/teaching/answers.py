"""A teacher's answers: their conversion to labels, numbers, JSON or texts, and their agreement with known ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cotune.endpoint.request_format import Said
from cotune.evaluate.scoring import judged, score_interval
from cotune.model.remote.label_answers import match_label, spoken
from cotune.prompt.prompt import Prompt
from cotune.task.answered import Answered
from cotune.task.example import Example, groups_of
from cotune.task.metrics.metric import METRICS
from cotune.task.reading.cells import has_half_character
from cotune.task.task import Task


def answer_of(answer: Said, prompt: Prompt, task: Task) -> str | None:
    """A teacher's answer in the canonical form; None if it does not fit the output.

    A number is the last one of the answer. JSON may be between other words, and must fit the schema. An answer that was cut by
    the limit is refused unless it names a label, because a model would learn from it to stop in the middle.
    """
    if not task.output.kind.written:
        label = match_label(answer.text, prompt.words(task.labels), cut=answer.cut)
        return None if label is None else task.labels[label]
    if answer.cut:
        return None
    said = task.output.canonical(spoken(answer.text))
    return said if said and task.output.fits(said) and not ("\0" in said or has_half_character(said)) else None


def agreement_of(answers: Sequence[str | None], rows: Sequence[Example], task: Task, seed: int) -> dict[str, Any]:
    """Agreement of answers with the known outputs of rows, by the task's metric; for labels, the share of equal ones.

    Answers that do not fit the output count as wrong. A metric that needs more than answers is replaced by the default of the
    output's type.
    """
    if not answers:
        return {"n": 0, "agree": 0, "rate": None, "ci": None, "metric": None}
    metric, kind = task.measure, task.output.kind
    if not kind.written or metric.graded or not metric.needs_answers:
        metric = METRICS[kind.default_metric]
    known = [row.output for row in rows[: len(answers)]]
    groups = groups_of(rows[: len(answers)])
    # An empty text is never a label or a valid value.
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
