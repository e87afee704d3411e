"""The loop of the search by answers: generate prompts, race them, tune under the best, repeat until the budget ends.

If the model cannot be tuned, a cycle is a race, and its best prompt is measured on all of dev.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from cotune.config import RunConfig
from cotune.cycle.answer_search.confirm import confirm
from cotune.cycle.answer_search.ending import EndCosts
from cotune.cycle.answer_search.heuristics import HEURISTICS
from cotune.cycle.answer_search.plan import fit_plan, rounded
from cotune.cycle.answer_search.race import FINAL, RaceResult, race_prompts
from cotune.cycle.answer_search.state import Search
from cotune.cycle.answer_search.steps import NO_NEW_PROMPT, NONE_FOUND, SPENT, Choice, StepPolicy
from cotune.cycle.answer_search.trial import Trial, advance, catch_up, finish, open_trial, take_up, told, untuned_trial
from cotune.cycle.context import RunContext
from cotune.cycle.earlier_bundle import Previous
from cotune.cycle.folder import ASKED
from cotune.cycle.search.arms import Confirmed
from cotune.cycle.search.guide import Guide
from cotune.cycle.search.measured import with_answers
from cotune.cycle.search.pool import next_pool, opening_pool
from cotune.cycle.search.result import record_cycle
from cotune.errors import CotuneError
from cotune.evaluate.scoring import finite
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal


class AnswerPolicy:
    """Races prompts by a model's own answers, and tunes the best if the model can be tuned.

    See :class:`cotune.cycle.policies.SearchPolicy`.

    Args:
        own: the seed prompt first, then the user's further prompts.
    """

    def __init__(self, context: RunContext, config: RunConfig, own: Sequence[Prompt], previous: Previous | None) -> None:
        self.context, self.config, self.own, self.previous = context, config, own, previous
        self.end, self.guide = EndCosts(context, config, previous), Guide(context, config)
        plan = fit_plan(context, config, own, self.end, previous)
        self.fixed = plan.fixed
        self.policy = StepPolicy(context, config, plan, self.end, self.guide)

    def search(self) -> Search:
        """Run cycles until the budget, the steps or the gains end."""
        search = self._first_cycle()
        for _ in range(HEURISTICS.finishes):
            more = self._go_round(search)
            self._finish(search, more)
            if search.stopped != SPENT or not self.context.can.tune:
                break
            self._let_the_better_lead(search)
            # The cost of the end is estimated cautiously; if much is left, it is spent.
            choice = self.policy.decide(search, 0)
            if choice.next == "finish" or choice.steps < max(4, search.winner.steps // 4):
                break
            catch_up(self.context, search.winner, cycle=len(search.cycles))
        return search

    def confirm(self, found: Search) -> Confirmed:
        """Fit the arms."""
        return confirm(self.context, found, end=self.end, previous=self.previous)

    def _go_round(self, search: Search) -> int:
        """Run cycles until a decision to finish; returns the steps that there is still room for."""
        lost, empty = 0, ""
        while True:
            choice = self.policy.decide(search, lost)
            if empty:
                choice = replace(choice, next="finish", why=empty, steps=0, rows=0, room=0.0)
            if self.context.finish_asked():
                choice = Choice("finish", ASKED)
            key = [len(search.cycles), choice.next, choice.steps, choice.rows]
            choice = Choice(**self.context.journal.step("decide", key, partial(rounded, asdict(choice))))
            over = choice.next == "finish"
            self.context.spending.expect_end(self.policy.owed(search, choice.steps) if over else None)
            if over:
                search.stopped = choice.why
                return choice.steps
            before = search.winner.best.rank
            if choice.next == "prompts":
                empty = self._prompt_cycle(search, choice)
            else:
                self._tune_cycle(search, choice.steps)
            winner = search.winner
            # A first bad score does not count as a failed cycle; the next one decides.
            lost = 0 if winner.best.rank > before else lost + (not winner.in_doubt)

    # Cycles -------------------------------------------------------------------------------------------------------

    def _first_cycle(self) -> Search:
        context, plan, previous = self.context, self.policy.plan, self.previous
        proposals = opening_pool(
            context,
            self.own,
            plan.pool,
            demonstrations=self.config.search.demonstrations,
            previous=previous.proposal if previous else None,
            nearest=plan.nearest,
        )
        by_id = {p.prompt.id: p for p in proposals}
        racing = [p.prompt for p in proposals]
        if not context.can.tune:
            sure = [prompt.id for prompt in self.own]
            racing = self.policy.affordable(racing, plan.race_rows, seed=self.own[0], sure=sure)
        race = race_prompts(context, racing, BASE, rows=plan.race_rows, cycle=1)
        # A search without tuning measures only the best prompt of each race, because every answer costs money.
        self.end.look(self.own[0], [by_id[i].prompt for i in race.ranking[: 2 if context.can.tune else 1]])
        if context.can.tune:
            search, tuned = self._first_tuning(by_id, race)
        else:
            trials = [untuned_trial(context, by_id[i].prompt) for i in dict.fromkeys([self.own[0].id, race.ranking[0]])]
            search, tuned = Search(by_id, race, trials[0], _best_of(trials), trials), []
        self._record(search, race, pool=len(racing), tuned=tuned)
        return search

    def _first_tuning(self, by_id: dict[str, Proposal], race: RaceResult) -> tuple[Search, list[dict[str, Any]]]:
        """Tune the seed prompt and the race's best other prompt for equal steps; returns the search and their records.

        If the run starts from a bundle with another prompt, that one is tuned instead of the race's best, which is a parent of
        the next pool.
        """
        context, previous, seed = self.context, self.previous, self.own[0]
        # The seed prompt is tuned from the base model to show the gain; all others start at the earlier run's weights.
        ground = previous.ground if previous else BASE
        first = open_trial(context, seed, BASE)
        self.policy.time_steps(first)
        trials = [first]
        if previous is None or previous.prompt.id == seed.id:
            ranking = [by_id[i].prompt for i in race.ranking if i != seed.id]
            best = (self.policy.light(ranking, first) or ranking)[:1]
            trials += [open_trial(context, prompt, ground) for prompt in best]
        if previous is not None and (previous.prompt.id, ground) != (seed.id, BASE):
            trials.append(open_trial(context, previous.prompt, ground))
        self._record_entrants(1, trials)
        if ground != BASE:
            take_up(context, trials[-1], cycle=1)
        self.policy.pace(trials)
        for trial in trials:
            advance(context, trial, self.policy.plan.short_steps, cycle=1)
        alive = [t for t in trials if not t.failed]
        if not alive:
            raise CotuneError("every tuning run diverged. Lower tune.learning_rate and start a new --out folder.")
        losses = [t.latest.evaluation.log_loss for t in alive]
        self.policy.worth["prompts"] = max(1e-4, sum(losses) / len(losses) - min(losses))
        return Search(by_id, race, first, _best_of(alive), trials), [_tuned_record(t) for t in alive]

    def _prompt_cycle(self, search: Search, choice: Choice) -> str:
        """Mutate the survivors, race under the present adapter, and tune the leading prompt further.

        Returns:
            The reason why nothing was raced: a search without tuning has nothing to do in a cycle without a new prompt. Empty
            if the cycle was run.
        """
        context, number = self.context, len(search.cycles) + 1
        incumbent = search.winner
        ground = incumbent.ground.candidate
        adapter = ground.adapter
        parents = self._survivors(search)
        rewrites = self.guide.look(number, incumbent.ground, [p.prompt for p in search.proposals.values()], choice.room)
        children = next_pool(
            context,
            number,
            parents,
            HEURISTICS.later_pool_size(self.policy.plan.pool, tunes=context.can.tune),
            set(search.proposals),
            demonstrations=self.config.search.demonstrations,
            rewrites=rewrites,
            nearest=self.policy.plan.nearest,
        )
        field_ = list({p.id: p for p in (incumbent.prompt, *parents, *(c.prompt for c in children))}.values())
        if not context.can.tune:
            field_ = self.policy.affordable(
                field_,
                choice.rows,
                seed=search.seed.prompt,
                sure=[incumbent.prompt.id],
                known=search.known,
                new={c.prompt.id for c in children},
            )
        # Those that are left out are not proposed again.
        search.proposals.update({p.prompt.id: p for p in children})
        if not context.can.tune and not any(c.prompt in field_ for c in children):
            return NO_NEW_PROMPT if children else NONE_FOUND
        children = [c for c in children if c.prompt in field_]
        race = race_prompts(context, field_, adapter, rows=choice.rows, cycle=number)
        by_id = {p.id: p for p in field_}
        # Prompts that were already tuned from these weights are left out.
        tried = {incumbent.prompt.id, *(t.prompt.id for t in search.trials if t.start == adapter)}
        if context.can.tune:
            challengers = self.policy.fitting(search, [by_id[i] for i in race.ranking if i not in tried], choice.steps)[:1]
            tuned = self._tune_beside(
                search, [open_trial(context, p, adapter, ground.steps) for p in challengers], choice.steps
            )
        else:
            search.base_race, tuned = race, []
            search.trials.extend(untuned_trial(context, by_id[i]) for i in race.ranking[:1] if i not in tried)
            search.winner = _best_of(search.trials)
        mutated = sum(bool(set(c.parents) & {p.id for p in parents}) for c in children)
        self._record(search, race, pool=len(field_), tuned=tuned, children=mutated)
        return ""

    def _tune_beside(self, search: Search, rivals: Sequence[Trial], steps: int) -> list[dict[str, Any]]:
        """Tune the winner and its rivals by as many steps, and let the best lead; returns their records."""
        context, number, incumbent = self.context, len(search.cycles) + 1, search.winner
        ground = incumbent.ground.candidate
        before = incumbent.ground.evaluation.log_loss
        entrants = [incumbent, *rivals]
        self._record_entrants(number, entrants)
        # If more steps only made the incumbent worse, its best weights stand, and only the challenger is tuned.
        if not incumbent.peaked:
            advance(context, incumbent, incumbent.steps + steps, cycle=number)
        for trial in rivals:
            advance(context, trial, ground.steps + steps, cycle=number)
        alive = [t for t in entrants if not t.failed]
        search.trials.extend(rivals)
        # If all diverged, the incumbent's last good weights stand.
        search.winner = _best_of(alive) if alive else incumbent
        own = incumbent.ground.evaluation.log_loss if not incumbent.failed else before
        self.policy.worth["prompts"] = max(1e-4, own - search.winner.ground.evaluation.log_loss)
        self.policy.worth["tune"] = max(1e-4, before - own)
        return [_tuned_record(t) for t in alive]

    def _record_entrants(self, number: int, trials: Sequence[Trial]) -> None:
        """Record the prompts that are tuned in a cycle."""
        ids = list(dict.fromkeys(trial.prompt.id for trial in trials))
        self.context.journal.step("entrants", [number, ids], lambda: {"cycle": number, "prompt_ids": ids})

    def _tune_cycle(self, search: Search, steps: int) -> None:
        """Continue tuning the winner under its own prompt."""
        number = len(search.cycles) + 1
        winner = search.winner
        before = winner.ground.evaluation.log_loss
        keep = self.policy.kept(search, steps, check=True)
        advance(self.context, winner, winner.steps + steps, cycle=number, keep=keep)
        if not winner.failed:
            self.policy.worth["tune"] = max(1e-4, before - winner.ground.evaluation.log_loss)
        self._record(search, None, pool=0, tuned=[_tuned_record(winner)])

    def _finish(self, search: Search, more: int) -> None:
        """Take ``more`` steps, train the seed prompt to as many steps, and decay both learning rates."""
        number = len(search.cycles)
        winner, seed = search.winner, search.seed
        if winner.run is None:
            return
        if more:
            keep = self.policy.kept(search, more, check=False)
            advance(self.context, winner, winner.steps + more, cycle=number, check=False, keep=keep)
        if not seed.failed and seed is not winner:
            # The two are compared at equal steps, however slow the machine has become.
            advance(self.context, seed, winner.reached, cycle=number, stage="seed", check=False)
        finish(self.context, winner, cycle=number)
        if seed is not winner:
            finish(self.context, seed, cycle=number)

    def _let_the_better_lead(self, search: Search) -> None:
        """Make the seed prompt the winner if it is better; it then needs no further arms.

        The answers of both are needed for confirmation in any case.
        """
        winner, seed = search.winner, search.seed
        if seed is not winner and seed.measured and not seed.failed:
            ranks = [with_answers(self.context, trial.best, "confirm").rank for trial in (winner, seed)]
            search.winner = seed if ranks[1] > ranks[0] else winner

    def _survivors(self, search: Search) -> list[Prompt]:
        """Parents of the next pool: the winner, tried prompts by their latest score, and the best of the last race."""
        trials = sorted((t for t in search.trials if t.steady and not t.failed), key=lambda t: t.ground.rank, reverse=True)
        trials = trials if self.context.can.tune else trials[: HEURISTICS.untuned_parents]
        prompts = [search.winner.prompt, *(t.prompt for t in trials)]
        latest = search.cycles[-1].get("race") or {}
        prompts += [search.proposals[i].prompt for i in latest.get("ranking", [])[:2] if i in search.proposals]
        return list({p.id: p for p in prompts}.values())[:FINAL]

    def _record(self, search: Search, race: RaceResult | None, **facts: Any) -> None:
        """Record a cycle: new prompts with their ``race``, or only further steps."""
        kind, record = ("tune", None) if race is None else ("prompts", race.record())
        best = search.winner.ground
        record_cycle(
            self.context,
            search.cycles,
            {"kind": kind, "race": record, **facts, "winner": search.winner.prompt.id},
            score=finite(best.evaluation.score),
            log_loss=finite(best.evaluation.log_loss),
            steps=best.candidate.steps,
        )


def _best_of(trials: Sequence[Trial]) -> Trial:
    """The leading trial; ties keep the earliest."""
    return max(trials, key=lambda t: t.ground.rank)


def _tuned_record(trial: Trial) -> dict[str, Any]:
    facts = told(trial.latest)
    return {name: facts[name] for name in ("prompt_id", "steps", "score", "log_loss")}
