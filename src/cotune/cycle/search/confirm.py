"""The arms at the end: confirmed on all of dev, frozen, and scored once on the sealed test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.leakage import overlapping
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.ledger import enter_opening
from cotune.cycle.search.ending import EndCosts
from cotune.cycle.search.state import Search
from cotune.cycle.search.trial import Measured, refit, with_answers
from cotune.cycle.search.untuned import measure_base, measure_previous
from cotune.evaluate.arms import ArmScores
from cotune.evaluate.frozen_arms import PREVIOUS
from cotune.evaluate.packing import pack_rows
from cotune.evaluate.responses import ModelOutputs
from cotune.evaluate.scoring import Evaluation, finite
from cotune.model.adapters.slots import BASE
from cotune.task.example import Example, groups_of

ARMS = ("seed_prompt", "prompt_only", "best_prompt", "seed_tuned", "best_tuned")


@dataclass(frozen=True)
class Confirmed:
    """The arms before the test: five; two where nothing is tuned; one more, the earlier bundle, where the run goes on from it.

    Attributes:
        arms: arm name to its candidate as measured on all of dev.
        considered: every candidate whose answers to all of dev are known.
        chosen: the one of them that won, before a refit of its weights or of its classification head.
        ships: the arm that goes into the bundle.
    """

    arms: Mapping[str, Measured]
    considered: list[Measured]
    chosen: Measured
    ships: str = "best_tuned"

    @property
    def winner(self) -> Measured:
        """What ships."""
        return self.arms[self.ships]


@dataclass(frozen=True)
class ArmResult:
    """An arm on the test: who answered, how it was judged, what it gave, and the rows."""

    candidate: Candidate
    evaluation: Evaluation
    scores: ModelOutputs
    rows: tuple[Example, ...]

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """Group of each row; None where the task has none."""
        return groups_of(self.rows)

    def for_attribution(self) -> ArmScores:
        """In the form that attribution takes."""
        losses = self.evaluation.log_losses
        return ArmScores(
            score=self.evaluation.values,
            log_loss=losses if np.isfinite(losses).all() else None,
            counts=self.evaluation.counts,
            candidate=self.candidate.id,
        )


def confirm(
    context: RunContext,
    search: Search,
    *,
    end: EndCosts,
    refit_winners: bool = False,
    previous: Previous | None = None,
) -> Confirmed:
    """Re-score on every dev row what may end up in an arm, and settle the arms there.

    The winner of all arms on dev is what ships: where the search found nothing better, that is the tuned seed prompt, or the
    earlier bundle, unchanged. Where answers are written late, those do so that the log-loss leaves in question, and one of them
    wins by the metric; the best prompt of the base model is then the one with the least log-loss.

    Args:
        context: where scoring happens.
        search: what was found.
        end: what the end costs. Who is neither the winner nor the seed prompt may win where there is room to test it.
        refit_winners: train the two tuned arms on train and dev together, once both are chosen.
        previous: what was taken over from an earlier bundle.
    """
    before = [measure_previous(context, previous.candidate)] if previous else []
    finalists = [search.proposals[i].prompt for i in search.base_race.ranking[:2]]
    seed_prompt = measure_base(context, search.seed.prompt)
    base = {m.candidate.prompt.id: m for m in (seed_prompt, *(measure_base(context, p) for p in finalists))}
    prompt_only = max(base.values(), key=lambda m: m.rank)
    stands = end.election(search)
    sure = (search.winner, search.seed)
    tuned = [t.best for t in search.trials if t.measured and (any(t is one for one in sure) or stands(t.best))]
    seed_tuned = search.seed.best if search.seed.measured else seed_prompt
    if context.answers.written_late:
        written = _finalists(context, [*tuned, *filter(stands, base.values())], [seed_tuned, *search.winner.measured[-1:]])
        tuned, base = list(written.values()), {i: written.get(m.candidate.id, m) for i, m in base.items()}
        seed_prompt, prompt_only = (base[m.candidate.prompt.id] for m in (seed_prompt, prompt_only))
        seed_tuned = written[seed_tuned.candidate.id]
    leader = max((m for m in tuned if m.candidate.adapter != BASE), key=lambda m: m.rank, default=seed_tuned)
    alone = leader is seed_tuned
    room = context.spending.left() - end.cost(search.seed.prompt, leader.candidate.prompt, alone=alone, aside="least")
    headed, tried = end.heads.fit([seed_tuned, leader], room)
    seed_tuned, leader = (headed[m.candidate.id] for m in (seed_tuned, leader))
    best = max([*before, seed_tuned, leader, *base.values()], key=lambda m: m.rank)
    # A bundle with answers of its own was not made to ask for the task's.
    asking = previous.prompt if previous and best.candidate.own else best.candidate.prompt
    best_prompt = base.get(asking.id) or measure_base(context, asking)
    arms = {
        "seed_prompt": seed_prompt,
        "prompt_only": prompt_only,
        "best_prompt": best_prompt,
        "seed_tuned": end.heads.final(seed_tuned),
        "best_tuned": end.heads.final(best),
    }
    arms |= {PREVIOUS: before[0]} if before else {}
    if refit_winners:
        pair = {m.candidate.id: m for m in (seed_tuned, best)}
        kept = {m.candidate.id for m in before}
        refitted = {candidate_id: m if candidate_id in kept else refit(context, m) for candidate_id, m in pair.items()}
        arms |= {name: refitted[arms[name].candidate.id] for name in ("seed_tuned", "best_tuned")}
    asked = (*before, *base.values(), best_prompt, *tuned, best, *tried)
    measured = {m.candidate.id: m for m in asked}.values()
    return settle(context, arms, [m for m in measured if m.evaluation.answers], best)


def _finalists(context: RunContext, measured: Sequence[Measured], always: Sequence[Measured]) -> dict[str, Measured]:
    """By id, with their answers to all of dev: the two of the least log-loss, and who is asked for in any case."""
    leading = sorted(measured, key=lambda m: m.rank, reverse=True)[:2]
    return {i: with_answers(context, m, "confirm") for i, m in {m.candidate.id: m for m in (*leading, *always)}.items()}


def settle(
    context: RunContext,
    arms: Mapping[str, Measured],
    considered: list[Measured],
    chosen: Measured,
    *,
    ships: str = "best_tuned",
) -> Confirmed:
    """Record the arms as they stand before the test, in a ``confirm`` step.

    Args:
        context: where it is recorded.
        arms: by name.
        considered: every candidate whose answers to all of dev are known.
        chosen: the one of them that won, before a refit of its weights or of its head: what they give has seen dev.
        ships: the arm that goes into the bundle.
    """
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
                    "correct": pack_rows(m.evaluation.correct) if m.evaluation.answers else None,
                }
                for name, m in arms.items()
            },
        },
    )
    return Confirmed(arms, considered, chosen, ships)


def open_test(context: RunContext, confirmed: Confirmed, references: Mapping[str, str] | None = None) -> dict[str, ArmResult]:
    """Freeze the arms in the journal, break the seal, score each arm; a killed opening goes on with the same arms.

    ``references`` are frozen with them, by name and content hash, and may see the rows too.
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
            "opened_before": enter_opening(sealed.content_hash, context.folder, frozen),
            "in_prompts": overlapping(context.task, [m.candidate.prompt for m in confirmed.arms.values()]),
        },
    )
    opened = sealed.open(recorded["arms"])
    results: dict[str, ArmResult] = {}
    for name, measured in confirmed.arms.items():
        candidate = measured.candidate
        rows = opened.examples_for(candidate.id)
        scores = context.answers.scores(candidate.prompt, candidate.adapter, rows, "test", own=candidate.own, arm=name)
        evaluation = context.answers.judge(scores, rows, candidate.decision)
        results[name] = ArmResult(candidate, evaluation, scores, rows)
        context.journal.step("arm", [name, candidate.id], lambda n=name, r=results[name]: _told(n, r))  # type: ignore[misc]
    return results


def _told(name: str, result: ArmResult) -> dict[str, Any]:
    return {
        "name": name,
        "candidate_id": result.candidate.id,
        "score": round(result.evaluation.score, 6),
        "log_loss": finite(result.evaluation.log_loss),
        "n": result.evaluation.n,
    }
