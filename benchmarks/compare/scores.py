"""What a cell's answers are worth: right rows, log-loss, calibration, F1, explained variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compare.cells import Cell, read_answers
from cotune.evaluate.arms import aggregate_statistic
from cotune.evaluate.stats.calibration import expected_calibration_error
from cotune.evaluate.stats.intervals import Interval, aggregate_interval
from cotune.task.answered import Answered
from cotune.task.metrics import number
from cotune.task.metrics.json_fields import field_counts, micro_f1, row_f1
from cotune.task.metrics.metric import METRICS, Aggregate
from cotune.task.values.output import Output

Floats = NDArray[np.float64]

SUMMED = {"json": Aggregate(field_counts, micro_f1), "number": Aggregate(number.squares, number.r2)}
"""Scores that come from sums over rows, by the kind of answers: F1 over all values, and the share of explained variance."""
LEAST_PROBABILITY = 1e-6
"""What a right label that was ruled out, or is unknown to a peer, is taken to have been given: 13.8 nats, not infinity."""


@dataclass(frozen=True)
class Scored:
    """A finished cell with its answers' worth.

    Attributes:
        cell: which.
        right: ``[rows]`` 1 where the whole answer is right, else 0.
        worth: ``[rows]`` what the answer counts: the same for labels, a row's F1 for JSON, its closeness for numbers.
        losses: ``[rows]`` log-loss in nats; None without probabilities.
        arms: of cotune on label tasks, the same of each arm of the run, by its name.
        counts: ``[rows, columns]`` counts that the score sums over rows (:data:`SUMMED`); None for labels.
        values: the scores by name: ``accuracy``; for labels ``macro_f1``, and ``log_loss`` and ``ece`` where there are
            probabilities; for JSON ``json_f1``; for numbers ``r2``, ``spearman`` and ``mean_absolute_error``.
        curve: of cotune, seconds and ``values`` of each bundle that lay on disk.
    """

    cell: Cell
    right: Floats
    worth: Floats
    losses: Floats | None
    values: dict[str, float]
    curve: tuple[tuple[float, dict[str, float]], ...] = ()
    arms: Mapping[str, Scored] = field(default_factory=dict)
    counts: Floats | None = None


def score_cell(folder: Path, cell: Cell) -> Scored:
    """Score a finished cell of a folder."""
    return score_answers(cell, read_answers(folder, cell.key))


def score_answers(cell: Cell, answers: Mapping[str, Any]) -> Scored:
    """Score what a cell answered.

    Args:
        cell: which.
        answers: ``outputs`` (the right ones), ``predictions``, ``probabilities`` and their ``labels``, and of cotune ``curve``,
            the same of each bundle with its ``seconds``, and ``arms``, the same of each arm.
    """
    scored = _score(cell, answers)
    shared = {"outputs": answers["outputs"], "labels": answers["labels"]}
    curve = ((float(one["seconds"]), _score(cell, {**shared, **one}).values) for one in answers.get("curve", ()))
    arms = {name: _score(cell, {**shared, **one}) for name, one in answers.get("arms", {}).items()}
    return replace(scored, curve=tuple(curve), arms=arms)


def _score(cell: Cell, answers: Mapping[str, Any]) -> Scored:
    outputs, predictions = answers["outputs"], answers["predictions"]
    if cell.kind == "json":
        return _score_json(cell, outputs, predictions)
    if cell.kind == "number":
        return _score_numbers(cell, outputs, predictions)
    right = np.array([float(a == b) for a, b in zip(outputs, predictions, strict=True)])
    values = {"accuracy": float(right.mean()), "macro_f1": macro_f1(outputs, predictions)}
    losses = None
    if answers["probabilities"] is not None:
        shares, places = aligned(answers["probabilities"], answers["labels"], outputs)
        losses = -np.log(shares[np.arange(len(shares)), places] / shares.sum(axis=1))
        column = {label: i for i, label in enumerate(answers["labels"])}
        given = np.array([float(row[column[said]]) for row, said in zip(answers["probabilities"], predictions, strict=True)])
        values |= {
            "log_loss": float(losses.mean()),
            "ece": expected_calibration_error(np.clip(given, 0.0, 1.0), right),
        }
    return Scored(cell, right, right, losses, values)


def aligned(
    probabilities: Sequence[Sequence[float]], labels: Sequence[str], outputs: Sequence[str]
) -> tuple[Floats, NDArray[np.int64]]:
    """Probabilities with a column for every label that is right somewhere, none below the least, and the right columns."""
    names = [*labels, *sorted(set(outputs) - set(labels))]
    found = np.zeros((len(outputs), len(names)))
    found[:, : len(labels)] = np.asarray(probabilities, dtype=np.float64)
    place = {name: i for i, name in enumerate(names)}
    return np.maximum(found, LEAST_PROBABILITY), np.array([place[output] for output in outputs], dtype=np.int64)


def macro_f1(outputs: Sequence[str], predictions: Sequence[str]) -> float:
    """F1 averaged over labels."""
    return METRICS["macro_f1"](outputs, predictions, sorted({*outputs, *predictions}))


def _score_json(cell: Cell, outputs: Sequence[str], predictions: Sequence[str]) -> Scored:
    answered = Answered(list(outputs), list(predictions), Output("json", (), "{}"))
    counts, worth = field_counts(answered), row_f1(answered)
    same = (counts[:, 0] == counts[:, 1]) & (counts[:, 0] == counts[:, 2])
    right = same.astype(np.float64)
    values = {"accuracy": float(right.mean()), "json_f1": float(micro_f1(counts.sum(axis=0)))}
    return Scored(cell, right, worth, None, values, counts=np.asarray(counts, dtype=np.float64))


def _score_numbers(cell: Cell, outputs: Sequence[str], predictions: Sequence[str]) -> Scored:
    output = Output("number")
    answered = Answered(list(outputs), list(predictions), output)
    counts, worth = number.squares(answered), number.closeness(answered)
    values = {name: METRICS[name].score(answered) for name in ("r2", "spearman")}
    values |= {"mean_absolute_error": float("nan"), **output.kind.errors(outputs, predictions)}
    # Right numbers of variance 1, so that sets with other units can be pooled.
    spread = float(np.sqrt(counts[:, 2].mean())) or 1.0
    return Scored(
        cell, METRICS["r2"].right(worth), worth, None, values, counts=counts / np.array([1, spread, spread**2, spread**2])
    )


def summed_interval(kind: str, counts: Floats, worth: Floats, groups: NDArray[np.int64] | None) -> Interval:
    """95% interval of a score that comes from sums over rows.

    Args:
        kind: of the answers.
        counts: ``[rows, columns]`` counts of each row.
        worth: ``[rows]`` what each row's answer counts.
        groups: group id of each row.
    """
    return aggregate_interval(aggregate_statistic(SUMMED[kind], [counts]), worth, seed=0, groups=groups)
