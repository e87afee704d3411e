"""Metrics for all types of output, with one interface."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from cotune.errors import InputError
from cotune.plugins import METRICS_GROUP, Plugin, plugins
from cotune.task.answered import Answered, Floats
from cotune.task.metrics import json_fields, label, number, text
from cotune.task.metrics.user import UserMetric, names_user_metric
from cotune.task.values.number import equal_numbers
from cotune.task.values.output import OUTPUT_TYPES, WRITTEN_TYPES, Output, OutputType, label_output

__all__ = ["METRICS", "Aggregate", "Metric", "metric_for", "metric_named"]

_WITHIN = re.compile(r"within\s+(\d+(?:\.\d+)?|\.\d+)\s*(%?)")


@dataclass(frozen=True)
class Aggregate:
    """A score that is computed from sums over rows instead of a mean.

    Resampling and permutation only need the score for any weighting or exchange of rows.

    Attributes:
        counts: function to ``[rows, columns]`` counts; the columns depend only on the right answers and the output.
        score: function from ``[..., columns]`` sums to ``[...]`` scores.
        signed: the score before it is cut at 0, from which an interval is resampled; None if no score is cut, because sums are
            counts.
    """

    counts: Callable[[Answered], Floats]
    score: Callable[[Floats], Floats]
    signed: Callable[[Floats], Floats] | None = None


@dataclass(frozen=True)
class Metric:
    """A named metric, higher is better, between 0 and 1.

    Attributes:
        name: name in a task.
        about: description in one line.
        types: supported types of output.
        rows: function to ``[rows]`` values from 0 to 1; their mean is the score without an ``aggregate``.
        aggregate: how to compute a score that is not a mean.
        right_from: value from which a row counts as right.
        needs_answers: whether it uses answers, or only the likelihood of the right answers.
        graded: whether a judge has to grade the answers first.
        exact: whether only an answer that is equal to the right one counts, so that a near number is wrong.
        fingerprint: hash of its definition, if the name does not identify it.
    """

    name: str
    about: str
    types: tuple[OutputType, ...]
    rows: Callable[[Answered], Floats]
    aggregate: Aggregate | None = None
    right_from: float = 1.0
    needs_answers: bool = True
    graded: bool = False
    exact: bool = False
    fingerprint: str = ""

    @property
    def per_row(self) -> bool:
        """Whether the score is a mean of row values."""
        return self.aggregate is None

    def score(self, answered: Answered) -> float:
        """The score of some rows."""
        if self.aggregate is None:
            return float(self.rows(answered).mean())
        return float(self.aggregate.score(self.aggregate.counts(answered).sum(axis=0)))

    def right(self, values: Floats) -> Floats:
        """1 for rows that count as right, ``[rows]``, from the rows' values."""
        return np.asarray(values >= self.right_from - 1e-9, dtype=np.float64)

    def __call__(self, references: Sequence[str], predicted: Sequence[str], output: Output | Sequence[str]) -> float:
        """The score of ``predicted`` against ``references``; ``output`` may be a list of labels.

        Raises:
            ValueError: lengths differ, there are no rows, or a label is not among the labels.
        """
        return self.score(Answered(references, predicted, output if isinstance(output, Output) else label_output(output)))


def _texts(score: Callable[[str, str], float]) -> Callable[[Answered], Floats]:
    return lambda answered: answered.each(score)


def _same(answered: Answered) -> Floats:
    """Rows of accuracy: equal labels or texts, equal numbers, equal JSON."""
    return answered.each(answered.output.kind.same)


def _within(absolute: float, relative: float) -> Callable[[Answered], Floats]:
    def rows(answered: Answered) -> Floats:
        near = (
            right is not None and value is not None and equal_numbers(value, right, absolute=absolute, relative=relative)
            for right, value in answered.pairs
        )
        return np.fromiter(near, dtype=np.float64, count=len(answered.references))

    return rows


def _likelihood(answered: Answered) -> Floats:
    if answered.losses is None:
        raise ValueError("the likelihood of the right answers is not known")
    return np.exp(-np.asarray(answered.losses, dtype=np.float64))


def _grades(answered: Answered) -> Floats:
    if answered.grades is None:
        raise ValueError("the answers were not graded")
    return answered.grades


_LABEL_COUNTS, _JSON_COUNTS = label.label_counts, json_fields.field_counts

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", "share of rows that are right", OUTPUT_TYPES, _same, exact=True),
            Metric(
                "macro_f1", "mean of the labels' F1, every label counting the same", ("label",), _same,
                Aggregate(_LABEL_COUNTS, label.macro_f1),
            ),
            Metric(
                "weighted_f1", "mean of the labels' F1, weighted by their rows", ("label",), _same,
                Aggregate(_LABEL_COUNTS, label.weighted_f1),
            ),
            Metric("normalised_match", "share of rows whose text is right but for case, punctuation and articles", ("text",),
                   _texts(text.normalised_match)),
            Metric("token_f1", "mean F1 of a row's words", ("text",), _texts(text.token_f1), right_from=0.5),
            Metric("rouge_l", "mean ROUGE-L of a row", ("text",), _texts(text.rouge_l), right_from=0.5),
            Metric("r2", "share of the numbers' variance that the answers explain", ("number",), number.closeness,
                   Aggregate(number.squares, number.r2, number.signed_r2), right_from=0.5),
            Metric("d2_absolute_error", "one minus the absolute error as a share of the median's", ("number",),
                   number.closeness, Aggregate(number.absolutes, number.d2_absolute_error, number.signed_d2), right_from=0.5),
            Metric("pearson", "Pearson's correlation with the right numbers", ("number",), number.closeness,
                   Aggregate(number.products, number.correlation, number.signed_correlation), right_from=0.5),
            Metric("spearman", "Spearman's rank correlation with the right numbers", ("number",), number.closeness,
                   Aggregate(number.rank_products, number.correlation, number.signed_correlation), right_from=0.5),
            Metric("json_f1", "F1 over all fields of all rows", ("json",), json_fields.row_f1,
                   Aggregate(_JSON_COUNTS, json_fields.micro_f1)),
            Metric("json_precision", "share of the given fields that are right", ("json",), json_fields.row_f1,
                   Aggregate(_JSON_COUNTS, json_fields.micro_precision)),
            Metric("json_recall", "share of the right fields that are given", ("json",), json_fields.row_f1,
                   Aggregate(_JSON_COUNTS, json_fields.micro_recall)),
            Metric("json_macro_f1", "mean of the fields' F1, every field counting the same", ("json",), json_fields.row_f1,
                   Aggregate(json_fields.counts_by_field, json_fields.field_f1)),
            Metric("json_parts", "mean over a row's top-level keys of the share that is right in each", ("json",),
                   json_fields.part_accuracy),
            Metric("json_valid", "share of answers that fit the schema", ("json",), json_fields.valid),
            Metric("likelihood", "mean probability of a token of the right answer (exp of minus the log-loss)",
                   WRITTEN_TYPES, _likelihood, right_from=0.5, needs_answers=False),
            Metric("judge", "mean grade that a language model gives the answers", WRITTEN_TYPES, _grades,
                   right_from=0.5, graded=True),
        )
    }
)  # fmt: skip


def metric_named(name: str, where: str = "metric", type: OutputType | None = None) -> Metric:
    """The metric called ``name``: one of ``METRICS``, ``within 0.5`` or ``within 1%`` for numbers, or an installed package's.

    A function of the user's (``metrics.py:score``) is only loaded by :func:`metric_for`, because that executes its file.

    Args:
        where: place of the name, for errors.
        type: type of the output, to list fitting metrics in errors; None if unknown.

    Raises:
        InputError: the name is unknown (the message suggests the closest one), packages clash, or one cannot be loaded.
    """
    added = plugins(METRICS_GROUP, METRICS)
    if name in METRICS:
        return METRICS[name]
    if name in added:
        return _from_package(added[name])
    if match := _WITHIN.fullmatch(name.strip()):
        size = float(match[1])
        absolute, relative = (0.0, size / 100) if match[2] else (size, 0.0)
        about = f"share of rows within {match[1]}{match[2]} of the right number"
        return Metric(name.strip(), about, ("number",), _within(absolute, relative))
    # The types of a package's metric are only known after loading it.
    names = [*(one.name for one in METRICS.values() if type is None or type in one.types), *added]
    numbers = "; 'within 0.5' and 'within 1%' for numbers" if type in (None, "number") else ""
    nearest = difflib.get_close_matches(name.lower().replace("-", "_").replace(" ", "_"), names, n=1, cutoff=0.4)
    raise InputError(
        f"unknown metric {name!r}" + (f", did you mean {nearest[0]!r}?" if nearest else ""),
        where=where,
        hint=f"Known metrics{'' if type is None else f' for it (type {type})'}: {', '.join(names)}{numbers}; "
        "FILE.py:FUNCTION for your own.",
    )


def _from_package(plugin: Plugin) -> Metric:
    expected = "and no cotune.task.metrics.metric.Metric"
    found: Metric = plugin.load_as(lambda found: isinstance(found, Metric), expected)
    # Another version of the package may score differently.
    return replace(found, name=plugin.name, fingerprint=found.fingerprint or plugin.package)


def metric_for(name: str | None, output: Output, where: str = "metric", *, run: bool = True) -> Metric:
    """The named metric, or the default of the output's type.

    A user's file is executed here; with ``run=False`` it is only read, and :meth:`UserMetric.run` executes it later.

    Raises:
        InputError: the name is unknown, the metric does not fit the type, or the user's file is missing or broken.
    """
    if name is None:
        return METRICS[output.kind.default_metric]
    if names_user_metric(name):
        own = UserMetric(name, where, run=run)
        return Metric(own.name, "your own function", OUTPUT_TYPES, own, right_from=0.5, fingerprint=own.fingerprint)
    metric = metric_named(name, where, output.type)
    if output.type not in metric.types:
        fitting = [m.name for m in METRICS.values() if output.type in m.types]
        raise InputError(
            f"the metric {name!r} does not fit answers of the type {output.type}",
            where=where,
            hint=f"Metrics for it: {', '.join(fitting)}. {name} is for the type {' or '.join(metric.types)}, see output.type.",
        )
    return metric
