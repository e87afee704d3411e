"""The arms at the end of a search: recorded with their dev scores, frozen, and scored once on the sealed test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from cotune.task.example import Example, groups_of
from cotune.task.sealed import SealedTest


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
                    "score": m.evaluation.told_score(),
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
