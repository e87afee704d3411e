"""References beside the arms: what answers without a language model, and the seed prompt's words without any tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.context import RunContext
from cotune.cycle.search.confirm import ArmResult
from cotune.errors import DivergedError
from cotune.evaluate.decision import RAW
from cotune.evaluate.previous import compare_parts
from cotune.evaluate.references import MajorityReference, TfidfReference, cross_fitted_tfidf
from cotune.evaluate.responses import LabelOutputs, label_indices
from cotune.evaluate.score_interval import score_interval
from cotune.evaluate.scoring import Evaluation, finite
from cotune.files import content_hash
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example, groups_of

MAJORITY, TFIDF, ZERO_SHOT = "majority", "tfidf", "zero_shot"
REFERENCES = (MAJORITY, TFIDF, ZERO_SHOT)

_MOST_ROWS = 4000
"""Rows that TF-IDF is cross-fitted on for the first verdict: its regression has as many directions as there are rows."""
ZERO_SHOT_ROWS = 300
"""Test rows at most that the label words of the untuned model are asked for. They run all layers and all labels, so that on a
long test they would take as much of a budget as an epoch of tuning; 300 rows tell a share to 6 points."""


def reference_ids(context: RunContext, seed: Prompt) -> dict[str, str]:
    """What the references are, by name, as the opening of the test freezes them."""
    if not context.can.likelihoods or context.task.output.kind.written:
        return {}
    return {f"reference_{name}": content_hash([name, context.task.fingerprint, seed.id, context.seed]) for name in REFERENCES}


def zero_shot_cost(context: RunContext, seed: Prompt) -> float:
    """Of asking the untuned model for label words on the test, in the budget's unit."""
    return min(context.task.test.n, ZERO_SHOT_ROWS) * context.spending.rows.scored(seed)


def measure_references(context: RunContext, seed: Prompt, shipped: ArmResult, room: float) -> dict[str, Any]:
    """Score the references on test rows; recorded as a ``reference`` step each.

    Args:
        context: the labelled rows and the model.
        seed: the seed prompt, whose label words answer zero-shot.
        shipped: the arm that the bundle holds, which the references are compared with on the same rows.
        room: budget that may be spent; label words are not asked for where it is too little.

    Returns:
        By name ``score``, ``ci``, ``n``, ``log_loss`` and ``difference``; None where a reference could not be made.
        ``difference`` is the share of rows that the arm answers right minus the reference's, with ``ci`` and ``p``, paired.
    """
    rows = shipped.rows
    learn = (*context.task.train, *context.task.dev)
    gold, classes = label_indices(learn, context.task), len(context.task.labels)
    texts, asked = [row.text for row in learn], [row.text for row in rows]

    def recorded(
        name: str, answer: Callable[[], NDArray[np.float64]], places: NDArray[np.int64] | None = None
    ) -> dict[str, Any] | None:
        def effect() -> dict[str, Any]:
            try:
                found = answer()
                commonest = {"label": context.task.labels[int(found[0].argmax())]} if name == MAJORITY else {}
                return {"name": name, **told(context, found, shipped, places), **commonest}
            except ValueError as error:
                return {"name": name, "skipped": str(error)}

        value = context.journal.step("reference", [name, context.task.test.content_hash], effect)
        return None if "skipped" in value else {key: item for key, item in value.items() if key != "name"}

    found = {
        MAJORITY: recorded(MAJORITY, lambda: MajorityReference(gold, classes).log_probs(asked)),
        TFIDF: recorded(TFIDF, lambda: TfidfReference(texts, gold, classes).log_probs(asked)),
    }
    if zero_shot_cost(context, seed) > room:
        return {**found, ZERO_SHOT: None}
    some = np.sort(np.random.default_rng([context.seed, 14]).permutation(len(rows))[:ZERO_SHOT_ROWS])
    try:
        words = context.answers.scores(seed, BASE, [rows[i] for i in some], "test", arm=f"reference_{ZERO_SHOT}")
    except DivergedError:
        return {**found, ZERO_SHOT: None}
    assert isinstance(words, LabelOutputs)
    log_probs = (context.answers.bias(words) if context.answers.calibrates else RAW).log_probs(words.log_probs)
    return {**found, ZERO_SHOT: recorded(ZERO_SHOT, lambda: log_probs, some)}


def told(
    context: RunContext, log_probs: NDArray[np.float64], shipped: ArmResult, places: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """A reference's scores, and its paired difference from an arm, on the arm's rows or those in some ``places`` of them."""
    chosen = np.arange(len(shipped.rows)) if places is None else places
    rows = tuple(shipped.rows[i] for i in chosen)
    evaluation: Evaluation = LabelOutputs(log_probs).judge(rows, RAW, context.task)
    groups = groups_of(rows)
    interval = score_interval(
        evaluation,
        [row.output for row in rows],
        context.task.measure,
        context.task.output,
        seed=context.seed,
        groups=groups,
    )
    mine = shipped.evaluation.correct[chosen]
    compared = compare_parts(mine, evaluation.correct, np.ones(len(mine)), groups=groups, seed=context.seed)["all"].as_dict()
    return {
        "score": round(evaluation.score, 6),
        "ci": [round(interval.low, 6), round(interval.high, 6)],
        "n": evaluation.n,
        "log_loss": finite(evaluation.log_loss),
        "difference": {name: compared[name] for name in ("value", "ci", "p")},
    }


def labelled_tfidf(context: RunContext, rows: Sequence[Example]) -> float | None:
    """Cross-fitted accuracy of TF-IDF with logistic regression on labelled rows; None where it cannot be made.

    Of very many rows, which stand in random order, the first ones are enough for the verdict.
    """
    rows = rows[:_MOST_ROWS]
    groups = groups_of(rows)
    gold = label_indices(rows, context.task)
    found = cross_fitted_tfidf(
        [row.text for row in rows],
        gold,
        len(context.task.labels),
        groups=None if groups is None else groups.tolist(),
        seed=context.seed,
    )
    return None if found is None else float((found.argmax(axis=1) == gold).mean())
