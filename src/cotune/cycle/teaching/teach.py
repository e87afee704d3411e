"""The teacher labels: a model behind an endpoint answers unlabelled rows, which join the train rows, never dev or test."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cotune.config import RunConfig
from cotune.cycle.budget.budget import Budget
from cotune.cycle.endpoints import prices_of, usual_limit
from cotune.cycle.journal import Journal
from cotune.cycle.teaching.asking import WHY_STOPPED, Asked, affordable, ask, bounds_of, open_teacher
from cotune.endpoint import Usage
from cotune.endpoint.refusals import first_answered
from cotune.endpoint.request_format import Said
from cotune.errors import counted
from cotune.evaluate.scoring import judged, score_interval
from cotune.files import content_hash
from cotune.model.remote.label_answers import match_label, spoken
from cotune.model.structured.limits import json_schema
from cotune.model.structured.writable import Writable
from cotune.prompt.prompt import Prompt
from cotune.task.answered import Answered
from cotune.task.checks import DataChecks, Finding
from cotune.task.example import UNLABELLED, Example, group_of, groups_of
from cotune.task.metrics.metric import METRICS
from cotune.task.reading.cells import has_half_character
from cotune.task.reading.field_names import with_fields
from cotune.task.reading.read import read_table
from cotune.task.split import duplicate_key
from cotune.task.task import Task

_SURE = 0.6
"""A teacher whose interval of agreement is below this gets a warning."""


def read_unlabelled(config: RunConfig, task: Task) -> tuple[Example, ...]:
    """Read the unlabelled rows that a teacher may answer, without empty ones; no rows if the config names no file.

    Raises:
        InputError: the file cannot be read or lacks an input column.
    """
    if config.data.unlabelled is None:
        return ()
    table = with_fields(read_table(config.data.unlabelled), {name: name for name in task.input_fields})
    for name in task.input_fields:
        table.need_input(name)
    rows = []
    for index, number in enumerate(table.numbers):
        fields = {name: table.shown(index, name) or "" for name in task.input_fields}
        broken = any("\0" in text or has_half_character(text) for text in fields.values())
        if any(text.strip() for text in fields.values()) and not broken:
            group = group_of(table.rows[index].get(config.data.group or ""))
            rows.append(Example(f"{UNLABELLED}{number}", fields, "", group))
    return tuple(rows)


def unlabelled_hash(rows: Sequence[Example]) -> str | None:
    """Content hash of unlabelled rows with their numbers, by which the journal knows them; None if there are none."""
    return content_hash([[row.id, list(row.fields.items()), row.group] for row in rows]) if rows else None


def teach(
    config: RunConfig,
    budget: Budget,
    task: Task,
    rows: Sequence[Example],
    prompt: Prompt,
    out: Path,
    journal: Journal,
    writable: Writable | None,
) -> tuple[Task, Any]:
    """Let the teacher answer unlabelled rows and add them to train; recorded as a ``teach`` step.

    Rows that repeat a row of train, dev or test, share 13 words with a test row, or are of a group that is in dev or test, are
    left out. The teacher also answers some
    labelled train rows without seeing their labels, to measure its agreement. Under a money budget it leaves enough for the
    smallest search, and at least half; the labelled rows take at most a third of its cost.

    Args:
        rows: unlabelled rows, by :func:`read_unlabelled`.
        writable: refuses answers that the model could never write, so that it does not learn from them; None allows all.

    Returns:
        The task with the new train rows, whose ids begin with ``unlabelled:``, and the recorded value.

    Raises:
        EndpointError: the teacher cannot be asked.
    """
    section = config.teacher
    rng = np.random.default_rng([config.seed, 20])
    fresh, left_out = _fresh(rows, task)
    order = [fresh[i] for i in rng.permutation(len(fresh))]
    sample = [task.train[i] for i in rng.permutation(len(task.train))[: section.sample]]

    def effect() -> dict[str, Any]:
        bounds = bounds_of(config, budget, task, prompt)
        tokens, schema = usual_limit(config, prompt, task), json_schema(task.output)
        with closing(open_teacher(config, out, tokens=tokens, schema=schema)) as teacher:

            def questions(rows: Sequence[Example]) -> list[list[dict[str, str]]]:
                return teacher.messages(prompt, [row.fields for row in rows], task.labels)

            room = affordable(teacher, questions(sample), bounds)
            shown = sample[: max(1, int(min(room / 3, len(sample))))]
            asked = Asked((), Usage(), "money")
            if room >= 1:
                first_answered(lambda row: teacher.settle(prompt, row.fields, task.labels), (*shown, *order))
                asked = ask(teacher, questions([*shown, *order]), bounds)
        answers = [answer_of(answer, prompt, task) for answer in asked.said]
        found = [
            (row, None if answer is None or (writable and writable.problem(answer)) else answer)
            for row, answer in zip(order, answers[len(shown) :], strict=False)
        ]
        return {
            "model": section.model,
            "rows": [[row.id, answer] for row, answer in found if answer is not None],
            "refused": sum(answer is None for _, answer in found),
            "asked": len(asked.said),
            "left_out": left_out,
            "unasked": len(order) - len(found),
            "stopped": WHY_STOPPED.get(asked.stopped, ""),
            "agreement": _agreement_of(answers[: len(shown)], shown, task, config.seed),
            "tokens": asked.spent.total,
            "dollars": round(prices.cost(asked.spent), 9) if (prices := prices_of(section)) else 0.0,
        }

    value = journal.step("teach", [prompt.id, [row.id for row in order], [row.id for row in sample], section.model], effect)
    labels = dict(value["rows"])
    taught = tuple(replace(row, output=labels[row.id]) for row in fresh if row.id in labels)
    return replace(task, train=(*task.train, *taught), checks=_told(task.checks, value)), value


def sentence(value: Any) -> str:
    """A sentence on the teacher's work."""
    agreement = value["agreement"]
    verb = "was" if len(value["rows"]) == 1 else "were"
    text = f"{counted(len(value['rows']), 'train row')} {verb} labelled by the teacher {value['model']}, none of dev or test"
    if agreement["n"]:
        low, high = agreement["ci"]
        rate = f"{100 * agreement['rate']:.0f}%, 95% interval {100 * low:.0f} to {100 * high:.0f}"
        by = "" if agreement["metric"] == "accuracy" else f" by {agreement['metric']}"
        text += f"; it agrees with {agreement['agree']} of {agreement['n']} labelled train rows ({rate}{by})"
    if value.get("stopped"):
        text += f"; it was not asked about {counted(value['unasked'], 'row')}, as {value['stopped']}"
    return text


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


def _agreement_of(answers: Sequence[str | None], rows: Sequence[Example], task: Task, seed: int) -> dict[str, Any]:
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


def _fresh(rows: Sequence[Example], task: Task) -> tuple[list[Example], dict[str, int]]:
    """New rows, and numbers of the others by reason."""
    known = {duplicate_key(row) for row in (*task.train, *task.dev)}
    in_test = set(task.test.leaking_train_ids(rows))
    overlapping = set(task.test.overlapping_train_ids(rows)) - in_test
    judging = {row.group for row in task.dev} - {None}
    in_group = {*task.test.ids_in_its_groups(rows), *(row.id for row in rows if row.group in judging)} - in_test - overlapping
    kept, counts = [], {"in_test": len(in_test), "overlap_test": len(overlapping), "known": 0, "repeated": 0}
    if in_group:
        counts["in_group"] = len(in_group)
    seen: set[str] = set()
    for row in rows:
        key = duplicate_key(row)
        if row.id in in_test or row.id in overlapping or row.id in in_group:
            continue
        if key in known or key in seen:
            counts["known" if key in known else "repeated"] += 1
            continue
        seen.add(key)
        kept.append(row)
    return kept, counts


def _told(checks: DataChecks, value: Any) -> DataChecks:
    """The data checks with a finding on the teacher, which is a warning if its agreement is low."""
    findings = []
    between = value["agreement"]["ci"]
    unsure = between is not None and between[1] < _SURE
    ids = tuple(row_id for row_id, _ in value["rows"][:5])
    findings.append(Finding("taught_rows", "warning" if unsure else "info", sentence(value), len(value["rows"]), ids))
    gone = value["left_out"]
    if leaking := gone["in_test"] + gone["overlap_test"]:
        message = f"{leaking:,} unlabelled rows repeat a test row or share 13 words with one, and were not used"
        findings.append(Finding("unlabelled_rows_in_test", "warning", message, leaking))
    if grouped := gone.get("in_group", 0):
        message = f"{grouped:,} unlabelled rows are of a group that is in dev or test, and were not used"
        findings.append(Finding("unlabelled_rows_in_groups", "info", message, grouped))
    return checks.plus(findings, taught=len(value["rows"]))
