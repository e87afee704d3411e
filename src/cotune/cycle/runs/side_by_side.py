"""Comparison of two finished runs on the same test rows, row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cotune.cycle.runs.listing import FinishedRun, read_finished
from cotune.errors import InputError
from cotune.evaluate.attribution import Gain
from cotune.evaluate.scoring import Evaluation, judged, score_interval
from cotune.evaluate.side_by_side import gain_over, same_order
from cotune.evaluate.stats.intervals import Interval
from cotune.files import canonical_json
from cotune.plain import fields
from cotune.run_files import data_section
from cotune.task.answered import Answered
from cotune.task.metrics.metric import METRICS, Metric, metric_named
from cotune.task.metrics.user import names_user_metric
from cotune.task.split import linked
from cotune.task.values.output import Output


@dataclass(frozen=True)
class RunComparison:
    """Gain of the second of two runs over the first on the same test rows.

    Attributes:
        first: folder of the first run.
        n: number of test rows.
        gain: second minus first.
        only_first: number of rows that only the first has right.
        only_second: number of rows that only the second has right.
        remark: remark on the comparison; may be empty.
        intervals: 95% intervals of the two scores.
        flipped: rows that only one run has right: the texts of their ``input`` fields, ``gold``, the two ``answers``, and
            ``right``, 0 or 1 for the run that is right.
    """

    first: Path
    second: Path
    metric: str
    n: int
    scores: tuple[float, float]
    gain: Gain
    only_first: int
    only_second: int
    remark: str
    intervals: tuple[Interval, Interval]
    summaries: tuple[Mapping[str, Any], Mapping[str, Any]]
    flipped: tuple[Mapping[str, Any], ...]

    def for_page(self) -> dict[str, Any]:
        """The data that :func:`cotune.report.html.comparison.render_comparison` shows."""
        more = {"summaries": list(self.summaries), "flipped": list(self.flipped)}
        return {**self.to_json(), "intervals": [interval.as_list() for interval in self.intervals], **more}

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object."""
        return {
            "first": str(self.first),
            "second": str(self.second),
            "metric": self.metric,
            "n": self.n,
            "scores": [round(score, 6) for score in self.scores],
            "difference": self.gain.value,
            "ci": self.gain.ci.as_list(),
            "p": self.gain.p,
            "test": self.gain.test,
            "interval": self.gain.method,
            "significant": self.gain.significant(),
            "only_first_right": self.only_first,
            "only_second_right": self.only_second,
            "remark": self.remark,
        }


def compare_runs(first: Path, second: Path) -> RunComparison:
    """Compare the bundles of two runs on the same test rows.

    Raises:
        InputError: one is not a finished run, their test rows differ, or their answers cannot be compared, since the types of
            output or the metrics differ.
    """
    one, two = read_finished(first), read_finished(second)
    rows = [list(zip(run.inputs, run.references, strict=True)) for run in (one, two)]
    order = same_order(rows[0], rows[1])
    if order is None:
        shared = sum((Counter(rows[0]) & Counter(rows[1])).values())
        raise InputError(
            f"the two runs were tested on different rows: {len(rows[0])} and {len(rows[1])}, of which {shared} are the same",
            where=f"{first}, {second}",
            hint="Name the same data.test in both, or the same data with one seed and one limit.test.",
        )
    two = replace(
        two,
        answers=tuple(two.answers[place] for place in order),
        values=None if two.values is None else tuple(two.values[place] for place in order),
        groups=None if two.groups is None else tuple(two.groups[place] for place in order),
    )
    metric, remark = _metric(one, two)
    # Labels that only one of them knows are answers too.
    labels = tuple(sorted({*one.references, *one.answers, *two.answers})) if one.values is None else ()
    output = replace(Output.from_json(one.summary.get("output")), labels=labels)
    before, after = (_judged(run, one.references, output, metric) for run in (one, two))
    groups = joined(one.groups, two.groups)
    if groups is None and any(data_section(run.folder).get("group") for run in (one, two)):
        remark = f"{remark} Rows have groups that the folders do not name; the interval treats rows as independent.".strip()
    right = [np.asarray(run.correct) > 0 for run in (before, after)]
    flipped: list[dict[str, Any]] = [
        {
            "input": one.inputs[row],
            "gold": one.references[row],
            "answers": (one.answers[row], two.answers[row]),
            "right": int(right[1][row]),
        }
        for row in np.flatnonzero(right[0] != right[1])
    ]
    gained = sum(row["right"] for row in flipped)
    interval = partial(score_interval, references=one.references, metric=metric, output=output, seed=0, groups=groups)
    return RunComparison(
        first=first,
        second=second,
        metric=metric.name,
        n=len(order),
        scores=(before.score, after.score),
        gain=gain_over(before, after, metric, groups=groups),
        only_first=len(flipped) - gained,
        only_second=gained,
        remark=remark,
        intervals=(interval(before), interval(after)),
        summaries=(one.summary, two.summary),
        flipped=tuple(flipped),
    )


def joined(first: Sequence[str] | None, second: Sequence[str] | None) -> Sequence[str] | Sequence[int] | None:
    """The finest grouping that keeps together all rows that either of two groupings does; None without any grouping."""
    if first is None or second is None or first == second:
        return second if first is None else first
    return linked((("first", one), ("second", two)) for one, two in zip(first, second, strict=True))


def _judged(run: FinishedRun, references: tuple[str, ...], output: Output, metric: Metric) -> Evaluation:
    if metric.aggregate is None and run.values is not None:
        # The run's folder holds the scores of any metric, including a judge's or a user's function.
        values = np.array(run.values)
        return Evaluation(run.answers, values, metric.right(values), np.zeros(len(values)), float(values.mean()))
    return judged(Answered(references, output.as_scored(run.answers), output), np.zeros(len(references)), metric)


def _metric(one: FinishedRun, two: FinishedRun) -> tuple[Metric, str]:
    """Metric of the comparison, and a remark if it is not the metric of both runs."""
    names = [str(run.summary.get("metric")) for run in (one, two)]
    kinds = {str((run.summary.get("output") or {}).get("type")) for run in (one, two)}
    if len(kinds) > 1:
        raise InputError(
            f"one run answers with {' and the other with '.join(sorted(kinds))}",
            where=f"{one.folder}, {two.folder}",
            hint="Compare runs of one type of output.",
        )
    own = [name for name in names if names_user_metric(name)]
    first, second = (_definition(run.summary) for run in (one, two))
    known = first is not None and second is not None
    # A hash of a function holds for any name of its file; packages may have several metrics of one definition.
    same = (names[0] == names[1] or (known and len(own) == 2)) and (first == second or not known)
    where = f"{one.folder}, {two.folder}"
    if same and not (own and one.values is None):
        metric = replace(METRICS["accuracy"], name=names[0], right_from=0.5) if own else metric_named(names[0])
        doubt = "" if known or not own else f"The folders do not say whether {names[0]} was the same function in both runs."
        return metric, doubt
    unlike = names[0] == names[1] and not same
    if one.values is None:
        by = f"two definitions of {names[0]}" if unlike else " and ".join(dict.fromkeys(names))
        return METRICS["accuracy"], f"Compared by accuracy; the runs were chosen by {by}."
    if unlike:
        raise InputError(
            f"both runs measured {names[0]}, but by different definitions: {_difference(one.summary, two.summary)}",
            where=where,
            hint="Compare runs of one definition, or score both bundles by one metric with cotune evaluate.",
        )
    raise InputError(
        f"one run measured {names[0]} and the other {names[1]}",
        where=where,
        hint="Compare runs of one metric.",
    )


def _definition(summary: Mapping[str, Any]) -> str | None:
    """What identifies a run's metric besides its name: a hash of the function, or the judge and its rubric; None if unknown."""
    judge = fields(summary.get("judge"))
    if judge:
        return canonical_json([judge.get("model"), judge.get("rubric")])
    found = summary.get("metric_definition")
    return found if isinstance(found, str) else None


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """How the definitions of two metrics of one name differ, in words."""
    judges = [fields(summary.get("judge")) for summary in (first, second)]
    models = [str(judge.get("model")) for judge in judges]
    if not all(judges):
        return "the content of the function's file, or the version of its package"
    return f"the judges {models[0]} and {models[1]}" if models[0] != models[1] else "the rubrics of the judge"
