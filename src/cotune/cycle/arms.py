"""The arms at the end: confirmed on all of dev, frozen, and scored once on the sealed test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.candidate import Candidate
from cotune.cycle.lab import Lab
from cotune.cycle.ledger import enter_opening
from cotune.cycle.loop import Search
from cotune.cycle.track import Measured, refit
from cotune.evaluate.arms import ArmScores
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.given import Given
from cotune.evaluate.packing import pack_rows
from cotune.evaluate.scoring import Evaluation
from cotune.model.adapters import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example, groups_of

ARMS = ("seed_prompt", "prompt_only", "best_prompt", "seed_tuned", "best_tuned")
CALIBRATION_ROWS = 64


@dataclass(frozen=True)
class Confirmed:
    """The five arms before the test.

    Attributes:
        arms: arm name to its candidate as measured on all of dev.
        considered: every candidate that was measured on all of dev.
        chosen: the one of them that won, before a refit.
    """

    arms: Mapping[str, Measured]
    considered: list[Measured]
    chosen: Measured


@dataclass(frozen=True)
class ArmResult:
    """An arm on the test: who answered, how it was judged, what it gave, and the rows."""

    candidate: Candidate
    evaluation: Evaluation
    scores: Given
    rows: tuple[Example, ...]

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """Group of each row; None where the task has none."""
        return groups_of(self.rows)

    def for_attribution(self) -> ArmScores:
        """In the form that attribution takes."""
        return ArmScores(
            score=self.evaluation.values,
            log_loss=self.evaluation.log_losses,
            counts=self.evaluation.counts,
            candidate=self.candidate.id,
        )


def confirm(lab: Lab, search: Search, *, refit_winners: bool = False) -> Confirmed:
    """Re-score on every dev row what may end up in an arm, and settle the arms there.

    The winner of all arms on dev is what ships: where the search found nothing better, that is the tuned seed prompt.

    Args:
        lab: where scoring happens.
        search: what was found.
        refit_winners: train the two tuned arms on train and dev together, once both are chosen.
    """
    finalists = [search.proposals[i].prompt for i in search.base_race.ranking[:2]]
    seed_prompt = _base(lab, search.seed.prompt)
    base = {m.candidate.prompt.id: m for m in (seed_prompt, *(_base(lab, p) for p in finalists))}
    tuned = [m for track in search.tracks if track.measured for m in (track.best,)]
    seed_tuned = search.seed.best if search.seed.measured else seed_prompt
    best = max([seed_tuned, *tuned, *base.values()], key=lambda m: m.rank)
    best_prompt = base.get(best.candidate.prompt.id) or _base(lab, best.candidate.prompt)
    arms = {
        "seed_prompt": seed_prompt,
        "prompt_only": max(base.values(), key=lambda m: m.rank),
        "best_prompt": best_prompt,
        "seed_tuned": seed_tuned,
        "best_tuned": best,
    }
    if refit_winners:
        pair = {m.candidate.id: m for m in (seed_tuned, best)}
        refitted = {candidate_id: refit(lab, m) for candidate_id, m in pair.items()}
        arms |= {name: refitted[arms[name].candidate.id] for name in ("seed_tuned", "best_tuned")}
    considered = list({m.candidate.id: m for m in (*base.values(), best_prompt, *tuned, best)}.values())
    lab.journal.step(
        "confirm",
        [m.candidate.id for m in arms.values()],
        lambda: {
            "arms": {name: m.candidate.to_json() for name, m in arms.items()},
            # As it was measured: a refit gives it weights that have seen dev.
            "chosen": best.candidate.to_json(),
            "dev": {
                name: {
                    "score": round(m.evaluation.score, 6),
                    "log_loss": round(m.evaluation.log_loss, 6),
                    "correct": pack_rows(m.evaluation.correct),
                }
                for name, m in arms.items()
            },
        },
    )
    return Confirmed(arms, considered, best)


def open_test(lab: Lab, confirmed: Confirmed) -> dict[str, ArmResult]:
    """Freeze the arms in the journal, break the seal, score each arm; a killed opening goes on with the same arms."""
    frozen = {name: m.candidate.id for name, m in confirmed.arms.items()}
    sealed = lab.task.test
    recorded = lab.journal.step(
        "open_test",
        [frozen, sealed.content_hash],
        lambda: {
            "arms": frozen,
            "test": sealed.content_hash,
            "n": sealed.n,
            "opened_before": enter_opening(sealed.content_hash, lab.folder, frozen),
        },
    )
    opened = sealed.open(recorded["arms"])
    results: dict[str, ArmResult] = {}
    for name, measured in confirmed.arms.items():
        candidate = measured.candidate
        rows = opened.examples_for(candidate.id)
        scores = lab.scores(candidate.prompt, candidate.adapter, rows, "test", arm=name)
        evaluation = lab.judge(scores, rows, candidate.decision)
        results[name] = ArmResult(candidate, evaluation, scores, rows)
        lab.journal.step("arm", [name, candidate.id], lambda n=name, r=results[name]: _told(n, r))  # type: ignore[misc]
    return results


def _told(name: str, result: ArmResult) -> dict[str, Any]:
    return {
        "name": name,
        "candidate_id": result.candidate.id,
        "score": round(result.evaluation.score, 6),
        "log_loss": round(result.evaluation.log_loss, 6),
        "n": result.evaluation.n,
    }


def _base(lab: Lab, prompt: Prompt) -> Measured:
    """A prompt under the base model on all of dev, a bias estimated on train inputs where there is one."""
    scores = lab.scores(prompt, BASE, lab.dev, "confirm")
    rules: tuple[Decision, ...] = (RAW,)
    if lab.answering.rules:
        rules = lab.rules(lab.scores(prompt, BASE, lab.train_sample[:CALIBRATION_ROWS], "calibrate", answers=False))
    judged = [(lab.judge(scores, lab.dev, rule), rule) for rule in rules]
    evaluation, rule = max(judged, key=lambda pair: (pair[0].score, -pair[0].log_loss))
    return Measured(Candidate(prompt, BASE, rule), evaluation, scores)
