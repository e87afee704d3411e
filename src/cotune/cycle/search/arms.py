"""The arms at the end of a search: recorded with their dev scores, frozen, and scored on the sealed test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.leakage import overlapping
from cotune.cycle.ledger import enter_opening
from cotune.cycle.search.measured import Measured
from cotune.evaluate.arms import ArmScores
from cotune.evaluate.packing import pack_rows
from cotune.evaluate.responses import ModelOutputs
from cotune.evaluate.scoring import Evaluation, finite
from cotune.model.adapters.slots import BASE
from cotune.task.example import Example, groups_of
from cotune.task.sealed import SealedTest

_FURTHER_SHARE = 0.7
"""Share of the remaining time that further rows may take, because a machine that was slow may be slow again."""
_FURTHER_RATIO = 1.1
"""Minimum ratio of the new number of rows to the old one."""


@dataclass(frozen=True)
class Confirmed:
    """The arms before the test: five, or two without tuning, and one more for the earlier bundle of a warm start.

    Attributes:
        arms: arm name to its candidate, measured on all of dev.
        considered: every candidate whose answers on all of dev are known.
        chosen: the winner among them, before its probe is refitted, which learns from dev.
        ships: the arm that goes into the bundle.
        whole_test: the test before rows were left out for lack of time; None if all are scored.
    """

    arms: Mapping[str, Measured]
    considered: list[Measured]
    chosen: Measured
    ships: str = "best_tuned"
    whole_test: SealedTest | None = None

    @property
    def winner(self) -> Measured:
        """The candidate that ships."""
        return self.arms[self.ships]


@dataclass(frozen=True)
class ArmResult:
    """Result of an arm on the test: the candidate, its evaluation, its outputs, and the rows."""

    candidate: Candidate
    evaluation: Evaluation
    scores: ModelOutputs
    rows: tuple[Example, ...]

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """Group of each row; None if the task has no groups."""
        return groups_of(self.rows)

    def for_attribution(self) -> ArmScores:
        """The result in the form that attribution takes."""
        losses = self.evaluation.log_losses
        return ArmScores(
            score=self.evaluation.values,
            log_loss=losses if np.isfinite(losses).all() else None,
            counts=self.evaluation.counts,
            candidate=self.candidate.id,
        )


def settle(
    context: RunContext,
    arms: Mapping[str, Measured],
    considered: list[Measured],
    chosen: Measured,
    *,
    ships: str = "best_tuned",
    whole_test: SealedTest | None = None,
) -> Confirmed:
    """Record the arms before the test, in a ``confirm`` step; the arguments are those of :class:`Confirmed`."""
    context.journal.step(
        "confirm",
        [m.candidate.id for m in arms.values()],
        lambda: {
            "arms": {name: m.candidate.to_json() for name, m in arms.items()},
            "chosen": chosen.candidate.to_json(),
            "dev": {
                name: {
                    "score": finite(m.evaluation.score),
                    "log_loss": finite(m.evaluation.log_loss),
                    "correct": pack_rows(m.evaluation.correct) if m.evaluation.is_scored else None,
                }
                for name, m in arms.items()
            },
        },
    )
    return Confirmed(arms, considered, chosen, ships, whole_test)


def open_test(context: RunContext, confirmed: Confirmed, references: Mapping[str, str] | None = None) -> dict[str, ArmResult]:
    """Freeze the arms in the journal, open the sealed test, and score each arm; a killed run resumes with the same arms.

    ``references`` (name to content hash) are frozen with the arms, and may also see the rows.
    """
    frozen = {name: m.candidate.id for name, m in confirmed.arms.items()} | dict(references or {})
    sealed = context.task.test
    recorded = context.journal.step(
        "open_test",
        [frozen, sealed.content_hash],
        lambda: {
            "arms": frozen,
            "test": sealed.content_hash,
            "n": sealed.n,
            "opened_before": enter_opening(sealed.given_hash, context.folder, frozen),
            "in_prompts": overlapping(context.task, [m.candidate.prompt for m in confirmed.arms.values()]),
        },
    )
    opened = sealed.open(recorded["arms"])
    for measured in confirmed.arms.values():
        candidate = measured.candidate
        context.answers.ahead(candidate.prompt, candidate.adapter, opened.examples_for(candidate.id), candidate.own)
    return {
        name: score_arm(context, name, measured.candidate, opened.examples_for(measured.candidate.id))
        for name, measured in confirmed.arms.items()
    }


def score_arm(
    context: RunContext, name: str, candidate: Candidate, rows: Sequence[Example], before: ArmResult | None = None
) -> ArmResult:
    """Score an arm on rows of the opened test and add the result ``before`` of earlier rows; recorded as an ``arm`` step."""
    scores = context.answers.scores(candidate.prompt, candidate.adapter, rows, "test", own=candidate.own, arm=name)
    if before is not None:
        scores, rows = before.scores.plus(scores), (*before.rows, *rows)
    found = context.answers.judge(scores, rows, candidate.decision)
    facts = {"score": round(found.score, 6), "log_loss": finite(found.log_loss), "n": found.n}
    context.journal.step("arm", [name, candidate.id], lambda: {"name": name, "candidate_id": candidate.id, **facts})
    return ArmResult(candidate, found, scores, tuple(rows))


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
    while (count := _affordable_rows(context, whole.n, len(known), keep)) > context.task.test.n:
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


def _affordable_rows(context: RunContext, most: int, before: int, keep: float) -> int:
    """Number of test rows that there is time for, at most twice the present number; a ``test_room`` step."""
    journal, test = context.journal, context.task.test

    def effect() -> dict[str, Any]:
        opened = [event for event in journal.events if event["kind"] in ("open_test", "more_test")]
        took = float(journal.events[-1]["active_s"]) - float(opened[-1]["active_s"])
        a_row = max(took, 1e-3) / (test.n - before)
        count = min(most, 2 * test.n, test.n + int(_FURTHER_SHARE * (context.spending.left_within_step() - keep) / a_row))
        return {"test": count if count >= min(most, _FURTHER_RATIO * test.n) else test.n}

    return int(journal.step("test_room", [test.content_hash, most], effect)["test"]) if test.n < most else test.n


def save_candidate(
    context: RunContext, candidate: Candidate, bundle: Path, metrics: Mapping[str, Any], model_name: str
) -> None:
    """Save a candidate as a bundle, with ``metrics`` of the run's results and the user's name of the model."""
    from cotune.bundle import save_bundle

    task, own = context.task, candidate.own
    save_bundle(
        bundle,
        task_name=task.name,
        input_fields=task.input_fields,
        output_field=task.output_field,
        output=task.output if own is None else own.output,
        answer_tokens=context.answering.limit if own is None else own.limit,
        metric=task.metric,
        prompt=candidate.prompt,
        decision=candidate.decision,
        adapter_folder=None if candidate.adapter == BASE else context.folder / "adapters" / candidate.adapter,
        model=context.scorer,
        metrics=metrics,
        model_name=model_name,
    )
