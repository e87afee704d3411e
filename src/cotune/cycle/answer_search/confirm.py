"""Confirmation of the arms of a search by answers on all of dev."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.cycle.answer_search.ending import EndCosts
from cotune.cycle.answer_search.race import FINAL
from cotune.cycle.answer_search.state import Search
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.search.arms import Confirmed, settle
from cotune.cycle.search.measured import Measured, measure_base, measure_unchanged, with_answers
from cotune.evaluate.frozen_arms import PREVIOUS
from cotune.model.adapters.slots import BASE


def confirm(context: RunContext, search: Search, *, end: EndCosts, previous: Previous | None = None) -> Confirmed:
    """Score all candidates for the arms on every dev row, and record the arms.

    The best arm on dev ships: if the search found nothing better, it is the tuned seed prompt or the unchanged earlier bundle.
    If answers are written late, the finalists by log-loss write them now, and one of these wins by the metric; the best prompt
    of the base model is then the one with the lowest log-loss.

    If the model cannot be tuned, there are two arms: the seed prompt and the best prompt.

    Args:
        end: cost of the end; a candidate other than the winner and the seed prompt may win if there is room to test it.
    """
    if not context.can.tune:
        return _confirm_untuned(context, search)
    before = [measure_unchanged(context, previous.candidate)] if previous else []
    base = _measured_on_dev(context, search, 2)
    seed_prompt = base[search.seed.prompt.id]
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
    best = max([*before, seed_tuned, leader, *base.values()], key=lambda m: m.rank)
    # A bundle with other labels does not ask for the labels of the task.
    asking = previous.prompt if previous and best.candidate.own else best.candidate.prompt
    best_prompt = base.get(asking.id) or measure_base(context, asking)
    arms = {
        "seed_prompt": seed_prompt,
        "prompt_only": prompt_only,
        "best_prompt": best_prompt,
        "seed_tuned": seed_tuned,
        "best_tuned": best,
    }
    arms |= {PREVIOUS: before[0]} if before else {}
    asked = (*before, *base.values(), best_prompt, *tuned, best)
    measured = {m.candidate.id: m for m in asked}.values()
    return settle(context, arms, [m for m in measured if m.evaluation.is_scored], best)


def _confirm_untuned(context: RunContext, search: Search) -> Confirmed:
    """The two arms of a search without tuning; every prompt that was measured on all of dev may win."""
    base = {trial.prompt.id: trial.best for trial in search.trials} | _measured_on_dev(context, search, FINAL)
    prompt_only = max(base.values(), key=lambda m: m.rank)
    arms = {"seed_prompt": base[search.seed.prompt.id], "prompt_only": prompt_only}
    return settle(context, arms, list(base.values()), prompt_only, ships="prompt_only")


def _measured_on_dev(context: RunContext, search: Search, finalists: int) -> dict[str, Measured]:
    """The seed prompt and the finalists of the last race of the base model, measured on all of dev, by prompt id."""
    prompts = [search.seed.prompt, *(search.proposals[i].prompt for i in search.base_race.ranking[:finalists])]
    return {prompt.id: measure_base(context, prompt) for prompt in prompts}


def _finalists(context: RunContext, measured: Sequence[Measured], always: Sequence[Measured]) -> dict[str, Measured]:
    """The two candidates with the lowest log-loss and those of ``always``, by id, with their answers on all of dev."""
    leading = sorted(measured, key=lambda m: m.rank, reverse=True)[:2]
    return {i: with_answers(context, m, "confirm") for i, m in {m.candidate.id: m for m in (*leading, *always)}.items()}
