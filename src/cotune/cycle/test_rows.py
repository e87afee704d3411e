"""What every arm answered to every test row, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cotune.cycle.arms import ArmResult
from cotune.cycle.lab import Lab
from cotune.evaluate.given import LabelsGiven


def test_rows(lab: Lab, results: Mapping[str, ArmResult]) -> dict[str, Any]:
    """Of labels their numbers and probabilities; of other outputs the texts and what each is worth."""
    rows = next(iter(results.values())).rows
    if lab.task.output.free:
        told = {name: result.evaluation for name, result in results.items()}
        return {
            "labels": [],
            "rows": [
                {
                    "id": row.id,
                    "input": dict(row.fields),
                    "gold": row.output,
                    "answers": {name: e.answers[i] if e.answers else None for name, e in told.items()},
                    "values": {name: round(float(e.values[i]), 4) for name, e in told.items()},
                    "right": {name: bool(e.correct[i]) for name, e in told.items()},
                }
                for i, row in enumerate(rows)
            ],
        }
    place = {label: i for i, label in enumerate(lab.task.labels)}
    shares = {
        name: np.exp(result.candidate.decision.log_probs(result.scores.log_probs))
        for name, result in results.items()
        if isinstance(result.scores, LabelsGiven)
    }
    return {
        "labels": list(lab.task.labels),
        "rows": [
            {
                "id": row.id,
                "input": dict(row.fields),
                "gold": place[row.output],
                "answers": {name: place[result.evaluation.answers[i]] for name, result in results.items()},
                "probabilities": {name: [round(float(p), 5) for p in table[i]] for name, table in shares.items()},
            }
            for i, row in enumerate(rows)
        ],
    }
