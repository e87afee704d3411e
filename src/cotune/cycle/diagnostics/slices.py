"""Slices of a candidate's failures on dev, and their common words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cotune.cycle.budget.reserve import allowed_at_end, shortage
from cotune.cycle.budget.spending import untimed
from cotune.cycle.context import RunContext
from cotune.cycle.journal import attempt
from cotune.cycle.search.measured import Measured
from cotune.embed import centred
from cotune.errors import counted
from cotune.evaluate.slices import LEAST_FAILURES, error_slices
from cotune.task.example import Example, groups_of

END_SHARE = 0.005
"""Maximum share of the budget for slices at the end of a run."""
_MOST_ROWS, _EXAMPLES, _SHARE = 300, 3, 0.05
_LEAST_ROWS = 40
_FRAME_TOKENS = 16
"""Approximate number of tokens that the embedding's frame adds to a row."""


def slicing_tokens(context: RunContext, most: int = _MOST_ROWS) -> int:
    """Number of tokens of the next :func:`measure_slices` on at most so many dev rows, each of which counts once per run."""
    return sum(_tokens_each(context, context.dev[context.vectors.dev_rows : most]))


def _tokens_each(context: RunContext, rows: Sequence[Example]) -> list[int]:
    if not context.can.hidden_states:
        return [0] * len(rows)
    return [len(context.model.tokenizer(row.text)["input_ids"]) + _FRAME_TOKENS for row in rows]


def _fitting(context: RunContext, limit: float) -> int:
    """Number of dev rows that can be embedded within ``limit``; rows that were embedded before are free."""
    if limit < 0:
        return 0
    known = context.vectors.dev_rows
    spent = np.cumsum(_tokens_each(context, context.dev[known:_MOST_ROWS]))
    return known + int(sum(context.spending.costs.alone.scoring(float(tokens)) <= limit for tokens in spent))


def measure_slices(
    context: RunContext,
    measured: Measured,
    *,
    cycle: int | None = None,
    least: int = _LEAST_ROWS,
    room: float | None = None,
    share: float = _SHARE,
    wanted: bool = True,
) -> dict[str, Any]:
    """Cluster a candidate's failures on dev by the run's embedder; recorded as a ``slices`` step.

    Args:
        measured: the candidate, measured on all of dev or on its first rows.
        cycle: number of the search's cycle; None at its end.
        least: minimum number of dev rows.
        room: remaining budget at the end of a run, in its unit; None during the search.
        share: maximum share of the whole budget; if it is too small for all dev rows, fewer are used.
        wanted: whether the config asks for it.

    Returns:
        Numbers of ``rows`` and ``failures``, and ``slices``: dicts of :meth:`cotune.evaluate.slices.Slice.to_json`, with ``n``
            for the number of rows, ``failures`` as indices in the order of dev, and ``examples``. Or ``skipped`` with the
            reason.
    """
    budget = context.spending.budget
    limit = share * budget.amount if room is None else allowed_at_end(budget, share, room)
    rows = context.dev[: _fitting(context, limit)][: len(measured.evaluation.values)]
    correct, answers = measured.evaluation.correct[: len(rows)], measured.evaluation.answers
    failures, embedded, candidate = int((correct == 0).sum()), context.vectors.dev_rows, measured.candidate
    head = {"cycle": cycle, "prompt_id": candidate.prompt.id, "candidate_id": candidate.id, "tokens": 0}

    def effect() -> dict[str, Any]:
        if not wanted:
            return {"skipped": "evaluate.slices is false"}
        if len(context.dev) < least:
            return {"skipped": f"dev has {counted(len(context.dev), 'row')}, and fewer than {least} are too few to tell"}
        if len(rows) < least:
            needed = context.spending.costs.alone.scoring(float(sum(_tokens_each(context, context.dev[:least]))))
            return {"skipped": shortage(budget, needed, limit, room)}
        if failures < LEAST_FAILURES:
            return {"skipped": f"{failures} of {len(rows)} dev rows are wrong, too few to find anything in common"}
        if embedded:
            # A resumed run embeds these again; their cost was counted the first time.
            context.vectors.of(rows[:embedded])
        own, ran = context.vectors.of(rows)
        texts, groups = [row.text for row in rows], groups_of(rows)
        found = error_slices(centred(own), texts, correct, groups=groups, seed=context.seed)
        told = [_told(slice_.to_json(), rows, answers) for slice_ in found]
        return {"tokens": ran, "rows": len(rows), "failures": failures, "slices": told}

    key = [candidate.id, cycle, [row.id for row in rows]]

    def record() -> dict[str, Any]:
        return {**head, **attempt(context.journal, effect), **context.spending.stopwatch.taken()}

    recorded: dict[str, Any] = untimed(context.journal.step("slices", key, record))
    context.spending.account.counts["tokens_embedded"] += int(recorded["tokens"])
    context.vectors.paid_for_dev(int(recorded.get("rows", 0)))
    return recorded


def _told(slice_: dict[str, Any], rows: Sequence[Example], answers: Sequence[str]) -> dict[str, Any]:
    """A slice with a few of its failures as texts, and the number of its rows instead of their indices."""
    examples = [
        {"input": dict(rows[i].fields), "right": rows[i].output, "answered": answers[i] if answers else None}
        for i in slice_["failures"][:_EXAMPLES]
    ]
    told = {name: value for name, value in slice_.items() if name != "rows"}
    return {**told, "n": len(slice_["rows"]), "examples": examples}
