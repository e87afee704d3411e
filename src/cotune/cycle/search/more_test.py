"""Further test rows for the frozen arms of a run that cut its test and has time left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotune.cycle.context import RunContext
from cotune.cycle.ledger import enter_opening
from cotune.cycle.search.arms import ArmResult, Confirmed, score_arm

_SURE = 0.7
"""Share of the remaining time that further rows may take, because a machine that was slow may be slow again."""
_WORTH = 1.1
"""Minimum ratio of the new number of rows to the old one."""


def score_more(
    context: RunContext,
    confirmed: Confirmed,
    results: Mapping[str, ArmResult],
    references: Mapping[str, str],
    *,
    keep: float,
) -> Mapping[str, ArmResult]:
    """Score the arms on further rows of a test that was cut, while there is time; recorded as ``more_test`` steps.

    The run's seed fixes the order of the rows. Their number depends only on the clock: on the time left and the pace of the
    last rows. All arms are scored on the same rows.

    Args:
        context: its test is replaced by the scored rows.
        results: results of the arms on the rows so far.
        references: content hashes of the references that were frozen with the arms.
        keep: budget that is needed after the test.
    """
    whole = confirmed.whole_test
    if whole is None:
        return results
    frozen = {name: result.candidate.id for name, result in results.items()} | dict(references)
    labelled = {row.id for row in (*context.task.train, *context.task.dev)}
    known = set[str]()
    while (count := _affordable(context, whole.n, len(known), keep)) > context.task.test.n:
        test = whole.sample(count, context.seed)
        known = {row.id for result in results.values() for row in result.rows}
        opened = test.open(frozen)
        context.journal.step(
            "more_test",
            [frozen, test.content_hash],
            lambda test=test: {  # type: ignore[misc]
                "test": test.n,
                "of": whole.n,
                "opened_before": enter_opening(test.given_hash, context.folder, frozen),
                "text": f"there is time left: {test.n:,} of {whole.n:,} test rows are scored",
            },
        )
        for name, result in results.items():
            further = [row for row in opened.examples_for(result.candidate.id) if row.id not in known]
            results = {**results, name: score_arm(context, name, result.candidate, further, result)}
        context.keep_rows(labelled, test)
    return results


def _affordable(context: RunContext, most: int, before: int, keep: float) -> int:
    """Number of test rows that there is time for, at most twice the present number; a ``test_room`` step."""
    journal, test = context.journal, context.task.test

    def effect() -> dict[str, Any]:
        opened = [event for event in journal.events if event["kind"] in ("open_test", "more_test")]
        took = float(journal.events[-1]["active_s"]) - float(opened[-1]["active_s"])
        a_row = max(took, 1e-3) / (test.n - before)
        count = min(most, 2 * test.n, test.n + int(_SURE * (context.spending.left_within_step() - keep) / a_row))
        return {"test": count if count >= min(most, _WORTH * test.n) else test.n}

    return int(journal.step("test_room", [test.content_hash, most], effect)["test"]) if test.n < most else test.n
