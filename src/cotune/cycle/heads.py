"""A classification head on a tuned winner's weights: fitted on train, and taken where dev prefers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cotune.cycle.answering import LabelAnswering
from cotune.cycle.lab import Lab
from cotune.cycle.track import Measured, measure
from cotune.evaluate.decision import BY_HEAD
from cotune.evaluate.given import gold_indices
from cotune.model.adapters import BASE
from cotune.prompt.prompt import Prompt
from cotune.refine import not_shown
from cotune.task.example import Example

_SHARE = 0.02
"""Of the whole budget: what the states of train rows may cost, for each candidate."""
_LEAST = 3
"""Rows a label from which a head is tried."""


def with_heads(lab: Lab, measured: Sequence[Measured], room: float) -> dict[str, Measured]:
    """By candidate id: each as it was measured, or the same with a classification head where that ranks higher on dev.

    A run's tuned weights have met each row a few times only. Logistic regression on the states that they give the rows goes on
    from there without a further step, and tells the labels apart better than their words do. All get a try or none does, so
    that what is told of two prompts is told of the prompts.

    Args:
        lab: where effects happen.
        measured: tuned candidates; the base model, what is not the task's own and what has a head stay as they are.
        room: budget that this may take.

    Raises:
        DivergedError: scores are not finite.
    """
    found = {m.candidate.id: m for m in measured}
    able = [m for m in found.values() if m.candidate.adapter != BASE and m.candidate.own is None]
    able = [m for m in able if m.candidate.decision != BY_HEAD]
    if not _fits(lab) or sum(head_cost(lab, m.candidate.prompt) for m in able) > room:
        return found
    return found | {m.candidate.id: _with_head(lab, m) for m in able}


def _with_head(lab: Lab, measured: Measured) -> Measured:
    candidate = measured.candidate
    adapters = lab.model.adapters

    def effect() -> dict[str, Any]:
        from cotune.tune.head import fit_head

        told: list[int] = []

        def progress(tokens: int) -> None:
            told.append(tokens)
            lab.watcher.progress("head", candidate.prompt.text, tokens)

        rows = _rows(lab, candidate.prompt)
        if not rows:
            return {"prompt_id": candidate.prompt.id, "rows": 0, "tokens": 0}
        with lab.stopwatch:
            rendered = lab.answering.render(candidate.prompt, rows)
            states = lab.model.last_states([r.prompt_ids for r in rendered], adapter=candidate.adapter, progress=progress)
            words = {"decision": candidate.decision.to_json(), "score": measured.evaluation.told_score()}
            head = fit_head(states, [int(i) for i in gold_indices(rows, lab.task)], lab.task.labels, words)
        made = adapters.add_head(candidate.adapter, head, lab.folder / "adapters")
        tokens = sum(told) + sum(row.looked_up for row in rendered)
        record = {"prompt_id": candidate.prompt.id, "adapter_id": made, "rows": len(rows), "tokens": tokens}
        return {**record, **lab.stopwatch.taken()}

    value = lab.journal.step("head", [candidate.id], effect)
    lab.account.counts["tokens_scored"] += int(value["tokens"])
    if not value["rows"]:
        return measured
    adapters.register(lab.folder / "adapters" / value["adapter_id"])
    headed = measure(lab, candidate.prompt, value["adapter_id"], candidate.steps, "head", BY_HEAD)
    return max(measured, headed, key=lambda m: m.rank)


def head_cost(lab: Lab, prompt: Prompt) -> float:
    """Of trying a head on a tuned prompt, in the budget's unit: states of train rows and of dev."""
    rows = _rows(lab, prompt) if _fits(lab) else ()
    return (len(rows) + len(lab.dev)) * _row_cost(lab, prompt) if rows else 0.0


def _fits(lab: Lab) -> bool:
    """Whether there are labels, and states to read them off."""
    return lab.tune.head and lab.remote is None and isinstance(lab.answering, LabelAnswering)


def _rows(lab: Lab, prompt: Prompt) -> tuple[Example, ...]:
    """Train rows that a head is fitted on: as many as a share of the budget pays for, some of each label; none where that is
    too few, or a label has none, which a head would silence."""
    cost, labels = _row_cost(lab, prompt), lab.task.labels
    rows = not_shown(prompt, lab.train_sample)
    most = len(rows) if cost <= 0 else int(_SHARE * lab.costs.budget.amount / cost)
    seen: Counter[str] = Counter()
    places: dict[str, int] = {}
    for row in rows:
        places[row.id] = seen[row.output]
        seen[row.output] += 1
    if min(most, len(rows)) < _LEAST * len(labels) or len(seen) < len(labels):
        return ()
    # The first of every label come before the second of any.
    return tuple(sorted(rows, key=lambda row: min(places[row.id], _LEAST))[:most])


def _row_cost(lab: Lab, prompt: Prompt) -> float:
    """Of the state of a row: its text runs, and none of the labels' words."""
    assert isinstance(lab.answering, LabelAnswering)
    return lab.costs.scoring(lab.answering.own_tokens(prompt, lab.train_sample[:16]))
