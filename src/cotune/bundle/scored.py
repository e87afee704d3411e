"""Scoring a bundle on labelled rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cotune.bundle.manifest import Manifest
from cotune.bundle.predictor import Prediction, Predictor, ending_error
from cotune.bundle.unfinished import stored_answers
from cotune.errors import InputError, counted, shown_names
from cotune.evaluate.scoring import judged, score_interval
from cotune.evaluate.shares import PartScores, confusions, field_scores, label_scores
from cotune.evaluate.stats.intervals import Interval
from cotune.task.answered import Answered
from cotune.task.assemble import Source, examples_from, with_style
from cotune.task.example import Example, groups_of
from cotune.task.metrics.metric import Metric, metric_for
from cotune.task.output_columns import EMPTY, joins, listed_columns, types_in, types_of, with_joined
from cotune.task.reading.field_names import with_fields, with_headers
from cotune.task.reading.table import Table
from cotune.task.values.output import Output


@dataclass(frozen=True)
class Scored:
    """Scores of a bundle on labelled rows.

    Attributes:
        interval: 95% interval of the score.
        skipped: number of further rows without input or right answer.
        right: number of rows that count as right.
        majority: the commonest label and its score; None for generated answers.
        unknown: for each right label that the bundle does not know, its number of rows, which count as wrong.
        labels: scores of each label; empty for generated answers.
        confusion: ``[labels, labels]`` number of rows by right label and answer, in the order of ``labels``; None for generated
            answers.
        truncated: number of rows whose text was too long and was cut.
        refused: number of rows that the endpoint refused, which count as wrong.
        errors: measures of errors in the answers' own unit, by name; empty for kinds without a unit.
    """

    metric: str
    score: float
    interval: Interval
    n: int
    skipped: int
    right: int
    majority: tuple[str, float] | None
    unknown: dict[str, int]
    labels: tuple[PartScores, ...]
    confusion: npt.NDArray[np.int64] | None
    fields: tuple[PartScores, ...]
    truncated: int
    refused: int
    errors: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        confusion = None
        if self.confusion is not None:
            confusion = {"labels": [one.name for one in self.labels], "rows": self.confusion.tolist()}
        return {
            "metric": self.metric,
            "score": round(self.score, 6),
            "ci": self.interval.rounded(),
            "n": self.n,
            **self.errors,
            "right": self.right,
            "skipped": self.skipped,
            "truncated": self.truncated,
            "refused": self.refused,
            "majority": None if self.majority is None else {"label": self.majority[0], "score": round(self.majority[1], 6)},
            "unknown_labels": self.unknown,
            "labels": [one.as_dict("label") for one in self.labels],
            "confusion": confusion,
            "fields": [one.as_dict("field") for one in self.fields],
        }


@dataclass(frozen=True)
class LabelledRows:
    """Validated labelled rows; needs no model.

    Attributes:
        skipped: number of rows without input or right answer, which are left out.
        remarks: notes for the user on how the rows were read.
    """

    rows: tuple[Example, ...]
    skipped: int
    metric: Metric
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, table: Table, manifest: Manifest, *, column: str | None = None, metric: str | None = None, group: str | None = None
    ) -> LabelledRows:
        """Read labelled rows by the rules of the bundle's training rows.

        Args:
            column: column of the right answers; None takes the name that it had in the training data.
            metric: name of the metric; None takes the bundle's.
            group: column whose equal values mark rows that depend on each other.

        Raises:
            InputError: a column is missing, a cell has the wrong type, no row is left, or the metric does not fit.
        """
        judge = _metric(manifest, metric)
        name, remarks = column or manifest.output_field, []
        if joins(table, name):
            asked_by = "" if column else "the bundle"
            given, known = listed_columns(name), manifest.output_columns
            if known and len(given) != len(known):
                raise InputError(
                    f"the bundle answers with the columns {shown_names(known)}, and {shown_names(given)} are named",
                    where="--output",
                    hint="Name the column of each, in this order.",
                )
            # Columns of other names stand for the bundle's in order.
            keys = given if not known or set(given) == set(known) else known
            found = types_in(table, name)
            types = {key: found[column] for key, column in zip(keys, given, strict=True)} | types_of(manifest.output.schema)
            table = with_joined(table, name, types, properties=keys, empty=True, asked_by=asked_by)
            if nothing := sum(row.get(name) == EMPTY for row in table.rows):
                remarks = [
                    f"In {counted(nothing, 'row')} all output columns are blank: the right answer is that there is no value."
                ]
        table = with_headers(table, (name, group))
        table = with_fields(table, {name: name for name in manifest.input_fields})
        # The group's column may be an input too, which is now called as its field is.
        group = next((name for name in manifest.input_fields if table.header(name) == group), group)
        output = manifest.output
        source = Source(
            train=table,
            dev=None,
            test=None,
            input_fields=manifest.input_fields,
            output_field=name,
            group=group,
            type=output.type,
            on_blank="skip",
            asked_by={name: "the bundle" for name in (*manifest.input_fields, manifest.output_field) if name != column},
            options={manifest.output_field: "--output"},
        )
        source, styled = with_style(source, output.type, output.style)
        known = output.labels if output.label_type != "text" else ()
        rows = examples_from(table, "row", source, output.type, known)
        if not rows:
            raise InputError(
                "no row has both an input and a right answer",
                where=table.source,
                hint=f"Fill the columns {', '.join(map(table.header, (*manifest.input_fields, source.output_field)))}.",
            )
        canonical = tuple(Example(row.id, row.fields, output.canonical(row.output), row.group) for row in rows)
        return cls(canonical, len(table) - len(rows), judge, (*remarks, *(finding.message for finding in styled)))


def score_rows(
    predictor: Predictor, labelled: LabelledRows, *, batch: int = 64, progress: Callable[[int], None] = lambda done: None
) -> Scored:
    """Answer labelled rows and score the answers.

    A row that an endpoint refuses counts as wrong. If the endpoint fails, its answers so far are stored
    (:func:`cotune.bundle.unfinished.stored_answers`), and the next call with the same rows asks for the others.

    ``progress`` is called with the number of rows done, after each batch.

    Raises:
        EndpointError: the endpoint failed, or refused all of the first batch.
        DivergedError: a score is not a number.
    """
    rows, metric = labelled.rows, labelled.metric
    answers: list[str] = []
    truncated = refused = 0
    with stored_answers(predictor, [row.fields for row in rows]):
        for start in range(0, len(rows), batch):
            asked = rows[start : start + batch]
            part = predictor.each([row.fields for row in asked])
            if (why := ending_error(part, first=not start)) is not None:
                raise why
            answers += [
                one.answer if isinstance(one, Prediction) else _wrong(row.output, predictor.output)
                for one, row in zip(part, asked, strict=True)
            ]
            refused += sum(not isinstance(one, Prediction) for one in part)
            truncated += sum(one.truncated for one in part if isinstance(one, Prediction))
            progress(len(answers))
    references = [row.output for row in rows]
    output = predictor.output
    unknown: Counter[str] = Counter()
    if not output.kind.written:
        unknown = Counter(label for label in references if label not in set(output.labels))
        output = Output("label", tuple(sorted({*output.labels, *unknown})), label_type=output.label_type)
    answered = Answered(references, output.as_scored(answers), output, rows)
    found = judged(answered, np.zeros(len(rows)), metric)
    groups = groups_of(rows)
    majority = None
    if not output.kind.written:
        commonest = min(Counter(references).items(), key=lambda item: (-item[1], item[0]))[0]
        majority = (commonest, metric.score(Answered(references, [commonest] * len(references), output, rows)))
    return Scored(
        metric=metric.name,
        score=found.score,
        interval=score_interval(found, references, metric, output, seed=0, groups=groups),
        n=len(rows),
        skipped=labelled.skipped,
        right=int(found.correct.sum()),
        majority=majority,
        unknown=dict(sorted(unknown.items())),
        labels=() if output.kind.written else tuple(label_scores(answered, seed=0, groups=groups)),
        confusion=None if output.kind.written else confusions(answered),
        fields=tuple(field_scores(answered, seed=0, groups=groups)) if output.kind.by_field else (),
        truncated=truncated,
        refused=refused,
        errors=output.kind.errors(references, answers),
    )


def _wrong(right: str, output: Output) -> str:
    """An answer that is wrong: nothing, or a label that is not the right one."""
    return "" if output.kind.written else next(label for label in output.labels if label != right)


def _metric(manifest: Manifest, name: str | None) -> Metric:
    if name is None and manifest.named_metric is None:
        raise InputError(
            f"the bundle's metric is your function {manifest.metric}, which it does not contain",
            where="--metric",
            hint="Give its file with --metric FILE.py:FUNCTION, or another metric.",
        )
    metric = metric_for(name or manifest.named_metric, manifest.output, "--metric")
    if metric.graded or not metric.needs_answers:
        raise InputError(
            f"the metric {metric.name!r} needs more than answers",
            where="--metric",
            hint="Give a metric of answers, such as --metric accuracy.",
        )
    return metric
