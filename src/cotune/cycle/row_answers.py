"""Answers of all arms to all test rows, and of the best prompts to all dev rows, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.context import RunContext
from cotune.cycle.search.arms import ArmResult, Confirmed
from cotune.evaluate.decision import Decision
from cotune.evaluate.responses import LabelOutputs
from cotune.evaluate.scoring import finite
from cotune.task.example import Example

_MOST_PROMPTS = 6


def dev_rows(context: RunContext, confirmed: Confirmed) -> dict[str, Any]:
    """Answers of the best prompts, including the seed prompt, to every dev row, each with its best weights.

    Returns:
        As :func:`row_answers`, by candidate id instead of arm, and ``candidates``: their ``id``, ``prompt_id``, ``adapter_id``,
        ``steps``, ``score`` and ``n``, the chosen one first, then the best.
    """
    # The chosen candidate may not have the highest rank.
    by_prompt = {confirmed.chosen.candidate.prompt.id: confirmed.chosen}
    for measured in sorted(confirmed.considered, key=lambda m: m.rank, reverse=True):
        by_prompt.setdefault(measured.candidate.prompt.id, measured)
    kept = list(by_prompt.values())[:_MOST_PROMPTS]
    seed = by_prompt.get(confirmed.arms["seed_prompt"].candidate.prompt.id)
    if seed is not None and seed.candidate.id not in {m.candidate.id for m in kept}:
        kept[-1] = seed
    told = row_answers(context, {m.candidate.id: ArmResult(m.candidate, m.evaluation, m.scores, context.dev) for m in kept})
    candidates = [
        {
            "id": m.candidate.id,
            "prompt_id": m.candidate.prompt.id,
            "adapter_id": m.candidate.adapter,
            "steps": m.candidate.steps,
            "score": finite(m.evaluation.score),
            "n": m.evaluation.n,
        }
        for m in kept
    ]
    return {**told, "candidates": candidates}


def row_answers(context: RunContext, results: Mapping[str, ArmResult]) -> dict[str, Any]:
    """Answers by arm: numbers and probabilities of labels, or texts with their scores for other outputs."""
    return (_written_answers if context.task.output.kind.written else _label_answers)(context, results)


def _written_answers(context: RunContext, results: Mapping[str, ArmResult]) -> dict[str, Any]:
    told = {name: result.evaluation for name, result in results.items()}
    return {
        "labels": [],
        "rows": [
            {
                "id": row.id,
                "input": dict(row.fields),
                "gold": row.output,
                **_group(row),
                "answers": {name: e.answers[i] if e.answers else None for name, e in told.items()},
                "values": {name: round(float(e.values[i]), 4) for name, e in told.items()},
                "right": {name: bool(e.correct[i]) for name, e in told.items()},
            }
            for i, row in enumerate(next(iter(results.values())).rows)
        ],
    }


def _label_answers(context: RunContext, results: Mapping[str, ArmResult]) -> dict[str, Any]:
    own = dict.fromkeys(label for result in results.values() for label in result.candidate.labels)
    labels = (*context.task.labels, *(label for label in own if label not in context.task.labels))
    place = {label: i for i, label in enumerate(labels)}
    shares = {
        name: _among(labels, result.candidate.labels or context.task.labels, result.candidate.decision, result.scores.log_probs)
        for name, result in results.items()
        # An answer that only names a label has no probability.
        if isinstance(result.scores, LabelOutputs) and context.answering.rules
    }
    return {
        "labels": list(labels),
        "rows": [
            {
                "id": row.id,
                "input": dict(row.fields),
                "gold": place[row.output],
                **_group(row),
                "answers": {name: place[result.evaluation.answers[i]] for name, result in results.items()},
                "probabilities": {name: [round(float(p), 5) for p in table[i]] for name, table in shares.items()},
            }
            for i, row in enumerate(next(iter(results.values())).rows)
        ],
    }


def _among(labels: Sequence[str], known: Sequence[str], decision: Decision, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[rows, labels]`` probabilities; 0 for labels that an arm does not know."""
    shares = np.zeros((len(scores), len(labels)))
    shares[:, [labels.index(label) for label in known]] = np.exp(decision.log_probs(scores))
    return shares


def _group(row: Example) -> dict[str, str]:
    """The row's group as a dict; empty without one."""
    return {} if row.group is None else {"group": row.group}
