"""Runs whose metric is a judge's grade: opening the judge, its agreement with people, and grading of answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cotune.config import RunConfig
from cotune.cycle.answering.base import Reply
from cotune.cycle.endpoints import ANSWERS, client_of, prices_of
from cotune.cycle.journal import Journal
from cotune.cycle.kept import reading_steps
from cotune.endpoint import AnswerCache
from cotune.endpoint.refusals import first_answered
from cotune.endpoint.request_format import RequestFormat
from cotune.errors import InputError, counted
from cotune.evaluate.judge import Asked, Judge, agreement
from cotune.evaluate.responses import AnswerOutputs
from cotune.files import content_hash
from cotune.model.base import Progress
from cotune.task.example import Example
from cotune.task.reading.field_names import with_fields
from cotune.task.reading.read import read_table
from cotune.task.task import Task

GIVEN, GRADE = "given", "grade"
"""Columns of a file of answers that were graded by people."""
_LEAST = 10
_WHERE = "judge.agreement"


@dataclass(frozen=True)
class ByHand:
    """Answers that were graded by people, with their grades from 0 to 1."""

    asked: tuple[Asked, ...] = ()
    grades: tuple[float, ...] = ()

    @property
    def content_hash(self) -> str:
        """Content hash of the rows."""
        return content_hash([[dict(a.fields), a.reference, a.answer, g] for a, g in zip(self.asked, self.grades, strict=True)])


def read_by_hand(config: RunConfig, task: Task) -> ByHand:
    """Read the rows of ``judge.agreement``; no rows if the config names no file.

    Raises:
        InputError: the file cannot be read, lacks a column, has too few rows, or a grade is not from 0 to 1; names the row.
    """
    if config.judge.agreement is None:
        return ByHand()
    if clash := sorted({GIVEN, GRADE} & {*task.input_fields, task.output_field}):
        raise InputError(
            f"the task's column {clash[0]!r} has the name of a column of the answers that people graded",
            where=_WHERE,
            hint="Rename the task's column.",
        )
    table = with_fields(read_table(config.judge.agreement), {name: name for name in task.input_fields})
    for name in task.input_fields:
        table.need_input(name, _WHERE)
    for name in (task.output_field, GIVEN, GRADE):
        table.need(name, _WHERE, nested=name != GRADE)
    if len(table) < _LEAST:
        raise InputError(
            f"there are {len(table)} graded answers, and fewer than {_LEAST} are too few to tell",
            where=f"{_WHERE}, {table.source}",
            hint="Grade more answers, or leave judge.agreement out.",
        )
    asked, grades = [], []
    for index, row in enumerate(table.rows):
        try:
            grade = float(row.get(GRADE) or "")
        except ValueError:
            grade = math.nan
        if not 0 <= grade <= 1:
            raise InputError(
                f"{row.get(GRADE)!r} is no grade", where=table.where(index, GRADE), hint="Grade from 0 (wrong) to 1 (right)."
            )
        fields = {name: table.shown(index, name) or "" for name in task.input_fields}
        reference = task.output.canonical(row.get(task.output_field) or "")
        asked.append(Asked(fields, reference, row.get(GIVEN) or "", f"row {table.numbers[index]} of {table.source}"))
        grades.append(grade)
    return ByHand(tuple(asked), tuple(grades))


def open_judge(
    config: RunConfig, task: Task, by_hand: ByHand, out: Path, journal: Journal, resources: ExitStack
) -> tuple[Judge | None, Any]:
    """Open the judge in the request format of the run's first session; recorded as a ``judge`` step.

    Args:
        by_hand: graded answers by :func:`read_by_hand`, which the judge grades first.

    Returns:
        The judge and the recorded value; None and an empty value if the metric needs no judge.

    Raises:
        EndpointError: it cannot be asked, or gives no grades.
    """
    if not task.measure.graded:
        return None, {}
    judge = resources.enter_context(closing(_judge(config, out)))

    def effect() -> dict[str, Any]:
        first, _ = first_answered(judge.settle, (Asked(row.fields, row.output, row.output) for row in task.train))
        # The grade of the answer that the judge was tried with is paid for here.
        tried = judge.grade([first])
        found = judge.grade(by_hand.asked)
        both = [(mine, hand) for mine, hand, lost in zip(found.values, by_hand.grades, found.missing, strict=True) if not lost]
        compared = asdict(agreement([float(a) for a, _ in both], [b for _, b in both], seed=config.seed)) if both else None
        return {
            "model": config.judge.model,
            "rubric": judge.rubric,
            "way": judge.way.to_json(),
            "agreement": compared,
            "sentence": sentence(str(config.judge.model), compared),
            "rows": tried.rows + found.rows,
            "refused": tried.refused + found.refused,
            "tokens": tried.tokens + found.tokens,
            "dollars": round(tried.dollars + found.dollars, 9),
        }

    value = journal.step("judge", [config.judge.model, judge.rubric, by_hand.content_hash], effect)
    judge.way = RequestFormat.from_json(value["way"])
    return judge, value


def reopen_judge(config: RunConfig, folder: Path, recorded: Mapping[str, Any]) -> Judge:
    """Open the judge of the run in ``folder`` again; ``recorded`` is the value of its ``judge`` step.

    Raises:
        InputError: the step is invalid.
    """
    judge = _judge(config, folder)
    with reading_steps(str(folder)):
        judge.way = RequestFormat.from_json(recorded["way"])
    return judge


def graded(judge: Judge | None, reply: Reply, rows: Sequence[Example], progress: Progress) -> Reply:
    """Add a judge's grades and their cost to a reply; unchanged without a judge.

    Raises:
        EndpointError: an answer got no grade.
    """
    given = reply.given
    if judge is None:
        return reply
    assert isinstance(given, AnswerOutputs) and given.texts is not None
    asked = [Asked(row.fields, row.output, text, row.id) for row, text in zip(rows, given.texts, strict=True)]
    found = judge.grade(asked, progress=progress)
    return replace(
        reply,
        given=replace(given, grades=found.values),
        dollars=round((reply.dollars or 0.0) + found.dollars, 9),
        judged={"rows": found.rows, "refused": found.refused, "tokens": found.tokens, "dollars": round(found.dollars, 9)},
    )


def sentence(model: str, found: Mapping[str, Any] | None) -> str:
    """A sentence on the judge and its agreement with people; ``found`` is an ``Agreement`` as a dict."""
    said = f"Scores are grades by the judge {model}"
    if found is None:
        return f"{said}, which was not compared with grades by people, so it is unknown how far they can be trusted."
    low, high = found["difference_ci"]
    text = (
        f"{said}; on {counted(found['n'], 'answer')} graded by hand it is off by {found['difference']:.2f} on average "
        f"(95% interval {low:.2f} to {high:.2f})"
    )
    if found["correlation"] is None:
        return f"{text}, and one side gives all answers the same grade."
    low, high = found["correlation_ci"]
    return f"{text}, correlation {found['correlation']:.2f} (95% interval {low:.2f} to {high:.2f})."


def _judge(config: RunConfig, folder: Path) -> Judge:
    section = config.judge
    return Judge(
        client_of(section, section.model, "judge"),
        AnswerCache(folder / ANSWERS),
        rubric=section.rubric,
        prices=prices_of(section),
        patience=section.patience,
        way=RequestFormat(alternatives=0, tokens=section.answer_tokens),
    )
