"""The cycle: design prompts, race them, tune through them, race again, breed, go round until the budget ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cotune.config import RunConfig
from cotune.cycle.ahead import StepCosts
from cotune.cycle.guide import Guide
from cotune.cycle.lab import Lab
from cotune.cycle.plan import FINAL, Plan
from cotune.cycle.pool import choose_entrants, next_pool, opening_pool
from cotune.cycle.previous import Previous
from cotune.cycle.prompt_race import RaceResult, race_prompts
from cotune.cycle.surrogate import Forecaster
from cotune.cycle.track import Track, advance, decay_steps, doubled_arms, finish, open_track, take_up
from cotune.errors import CotuneError
from cotune.model.adapters import BASE
from cotune.prompt.bank import bare_prompt
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal

_PATIENCE = 3
"""Steps of the loop without a better dev score after which it stops."""
_FINISHES = 4
"""How often the learning rates may fall, where each time budget turns out to be left."""
_RACE_SHARE = 0.2
"""Of the budget that is left: what a race of bred prompts may cost before the search has shown what it is worth."""
_SPENT = "the budget is spent, but for the end"


@dataclass
class Search:
    """What a search found, and how it went.

    Attributes:
        proposals: every prompt that was scored, by id.
        base_race: the first race, under the base model.
        seed: the seed prompt's track.
        winner: the track that leads.
        tracks: all tracks, the seed's first.
        cycles: a record for each cycle.
        stopped: why the loop ended.
    """

    proposals: dict[str, Proposal]
    base_race: RaceResult
    seed: Track
    winner: Track
    tracks: list[Track]
    cycles: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""


class Loop:
    """Runs the cycle within a plan.

    Args:
        lab: where effects happen.
        config: the run's config.
        plan: the first cycle in numbers.
        own: the seed prompt first, then further prompts of the user's.
        previous: what an earlier bundle brings, where the run goes on from one.
    """

    def __init__(
        self, lab: Lab, config: RunConfig, plan: Plan, own: Sequence[Prompt], previous: Previous | None = None
    ) -> None:
        self.lab, self.config, self.plan, self.own, self.previous = lab, config, plan, list(own), previous
        self.guide = Guide(lab, config)
        self.forecaster = Forecaster(lab, wanted=config.search.surrogate)
        self.ahead = StepCosts(lab)
        # Budget a nat of dev log-loss has cost, by kind of step: what moved dev decides what comes next.
        self._worth: dict[str, float] = {}
        self._out_of_budget = False

    def run(self) -> Search:
        """Go round until the budget, the steps or the gains end."""
        search = self._first_cycle()
        for _ in range(_FINISHES):
            self._go_round(search)
            self._finish(search)
            # What the end costs is estimated with care; where much is left after all, it is spent.
            choice, _, steps = self._decide(search, 0)
            if not self._out_of_budget or choice == "finish" or steps < max(4, search.winner.steps // 4):
                break
        return search

    def _go_round(self, search: Search) -> None:
        """Cycle after cycle until something ends it."""
        lost = 0
        while True:
            choice, why, steps = self._decide(search, lost)
            recorded = self.lab.journal.step(
                "decide",
                [len(search.cycles), choice, steps],
                lambda c=choice, w=why, s=steps: {"next": c, "why": w, "steps": s},  # type: ignore[misc]
            )
            over = recorded["next"] == "finish"
            self.lab.expect_end(self._end_cost(search) if over else None)
            if over:
                search.stopped = recorded["why"]
                self._out_of_budget = recorded["why"] == _SPENT
                return
            before = search.winner.best.rank
            if recorded["next"] == "prompts":
                self._prompt_cycle(search, recorded["steps"])
            else:
                self._tune_cycle(search, recorded["steps"])
            lost = 0 if search.winner.best.rank > before else lost + 1

    # Cycles -------------------------------------------------------------------------------------------------------

    def _first_cycle(self) -> Search:
        lab, plan, previous = self.lab, self.plan, self.previous
        proposals = opening_pool(
            lab,
            self.own,
            plan.pool,
            demonstrations=self.config.search.demonstrations,
            seed=self.config.seed,
            previous=previous.proposal if previous else None,
            nearest=plan.nearest,
        )
        by_id = {p.prompt.id: p for p in proposals}
        race = race_prompts(lab, [p.prompt for p in proposals], BASE, rows=plan.race_rows, cycle=1, final=FINAL)
        self.forecaster.observe_race(race, [p.prompt for p in proposals], steps=0)
        seed = self.own[0]
        ranking = [by_id[i].prompt for i in race.ranking if i not in (seed.id, previous.prompt.id if previous else "")]
        bare = bare_prompt(lab.task)
        ranking = self._affordable(ranking)
        always = [seed, *([bare] if plan.entrants >= 3 and bare.id in by_id and not previous else []), *self.own[1:]]
        count = max(2, plan.entrants) - (previous is not None and previous.prompt.id != seed.id)
        entrants = choose_entrants(lab, ranking, always, count, cycle=1)
        # The seed prompt is tuned afresh, to show what that gives; all others go on from what an earlier run learnt.
        ground = previous.candidate.adapter if previous else BASE
        tracks = [open_track(lab, prompt, BASE if prompt.id == seed.id else ground) for prompt in entrants]
        if previous:
            mine = [t for t in tracks if (t.prompt.id, t.start) == (previous.prompt.id, ground)]
            tracks += [] if mine else [open_track(lab, previous.prompt, ground)]
            if ground != BASE:
                take_up(lab, (mine or tracks)[-1], cycle=1)
        plan = self.plan = self._at_measured_speed(tracks)
        for track in tracks:
            advance(lab, track, plan.short_steps, cycle=1)
        alive = [t for t in tracks if not t.failed]
        if not alive:
            raise CotuneError("every tuning run diverged. Lower tune.learning_rate and start a new --out folder.")
        # As they stand after equal steps: two of them go on below.
        tuned = [_tuned_record(t) for t in alive]
        losses = sorted(t.latest.evaluation.log_loss for t in alive)
        self.forecaster.observe_tuned(alive)
        survivors = sorted(alive, key=lambda t: t.ground.rank, reverse=True)[:2]
        # A second look at the two best pays where it costs little of the whole.
        if len(alive) > 2 and plan.target_steps >= 100:
            for track in survivors:
                advance(lab, track, 2 * plan.short_steps, cycle=1)
        winner = max(survivors, key=lambda t: t.ground.rank)
        search = Search(by_id, race, tracks[0], winner, tracks)
        self._record(
            search,
            {
                "kind": "prompts",
                "pool": len(proposals),
                "race": race.record(),
                "tuned": tuned,
                "winner": winner.prompt.id,
            },
        )
        self._worth["prompts"] = max(1e-4, (sum(losses) / len(losses) - losses[0]))
        return search

    def _prompt_cycle(self, search: Search, steps: int) -> None:
        """Breed from the survivors, race under the present adapter, and tune on through what leads there."""
        lab, number = self.lab, len(search.cycles) + 1
        incumbent = search.winner
        ground = incumbent.ground.candidate
        adapter = ground.adapter
        parents = self._survivors(search)
        guided = self.guide.look(number, incumbent.ground, set(search.proposals))
        children = next_pool(
            lab,
            number,
            parents,
            max(8, self.plan.pool * 2 // 3),
            set(search.proposals),
            demonstrations=self.config.search.demonstrations,
            seed=self.config.seed,
            guided=guided,
            thin=self.forecaster.thinning(number, adapter=adapter, steps=ground.steps),
            nearest=self.plan.nearest,
        )
        search.proposals.update({p.prompt.id: p for p in children})
        field_ = list({p.id: p for p in (incumbent.prompt, *parents, *(c.prompt for c in children))}.values())
        race = race_prompts(lab, field_, adapter, rows=self.plan.race_rows, cycle=number, final=3)
        self.forecaster.observe_race(race, field_, steps=ground.steps)
        by_id = {p.id: p for p in field_}
        # Who was tuned from these weights already would only be tuned so again.
        tried = {incumbent.prompt.id, *(t.prompt.id for t in search.tracks if t.start == adapter)}
        challengers = [by_id[i] for i in race.ranking if i not in tried][:1]
        before = incumbent.ground.evaluation.log_loss
        target = ground.steps + steps
        rivals = [open_track(lab, p, adapter, ground.steps) for p in challengers]
        entrants = [incumbent, *rivals]
        lab.journal.step(
            "entrants",
            [number, [t.prompt.id for t in entrants]],
            lambda: {"cycle": number, "prompt_ids": [t.prompt.id for t in entrants]},
        )
        # Where more steps only made the incumbent worse, it stands as it was at its best, and the challenger alone is tuned.
        for track in rivals if incumbent.peaked else entrants:
            advance(lab, track, target, cycle=number)
        alive = [t for t in entrants if not t.failed]
        if not alive:
            raise CotuneError("every tuning run diverged. Lower tune.learning_rate and start a new --out folder.")
        self.forecaster.observe_tuned(alive)
        search.tracks.extend(rivals)
        search.winner = max(alive, key=lambda t: t.ground.rank)
        own = incumbent.ground.evaluation.log_loss if not incumbent.failed else before
        self._worth["prompts"] = max(1e-4, own - search.winner.ground.evaluation.log_loss)
        self._worth["tune"] = max(1e-4, before - own)
        self._record(
            search,
            {
                "kind": "prompts",
                "pool": len(field_),
                "children": sum(bool(set(c.parents) & {p.id for p in parents}) for c in children),
                "race": race.record(),
                "tuned": [_tuned_record(t) for t in alive],
                "winner": search.winner.prompt.id,
            },
        )

    def _tune_cycle(self, search: Search, steps: int) -> None:
        """Tune the winner on under its own prompt."""
        number = len(search.cycles) + 1
        winner = search.winner
        before = winner.ground.evaluation.log_loss
        advance(self.lab, winner, winner.steps + steps, cycle=number)
        if not winner.failed:
            self._worth["tune"] = max(1e-4, before - winner.ground.evaluation.log_loss)
        self._record(
            search,
            {"kind": "tune", "pool": 0, "race": None, "tuned": [_tuned_record(winner)], "winner": winner.prompt.id},
        )

    def _finish(self, search: Search) -> None:
        """Bring the seed prompt to the winner's steps, and let both learning rates fall."""
        number = len(search.cycles)
        winner, seed = search.winner, search.seed
        if not seed.failed and seed is not winner:
            advance(self.lab, seed, winner.ground.candidate.steps, cycle=number, stage="seed", check=self.config.refit)
        if self.config.refit:
            # The decay belongs to the refit, which comes after dev has chosen.
            return
        finish(self.lab, winner, cycle=number)
        if seed is not winner:
            finish(self.lab, seed, cycle=number)

    # Deciding -----------------------------------------------------------------------------------------------------

    def _decide(self, search: Search, lost: int) -> tuple[str, str, int]:
        """What comes next, why, and how many steps it may take."""
        lab, plan, winner = self.lab, self.plan, search.winner
        left = lab.left() - lab.costs.scoring(plan.reserve_tokens) - plan.fixed
        # What no search can need again once it has ended: a new prompt may still bring these arms back.
        doubles = 0 if self.previous else doubled_arms(search.seed, winner, search.tracks)
        saved = lab.costs.scoring(doubles * plan.arm_tokens)
        limit = max(8, self.config.tune.max_epochs * winner.run.steps_per_epoch)
        decay = lab.tune.decay
        if lost >= _PATIENCE:
            return "finish", f"dev did not improve in {lost} cycles", 0
        if winner.failed:
            return "finish", "the winner's training diverged; its last good adapter stands", 0
        ground = winner.ground.candidate.steps
        room = limit - ground - decay_steps(ground, decay)
        if room < 3:
            return "finish", f"the steps reached tune.max_epochs={self.config.tune.max_epochs}", 0
        spare = left - self.ahead.finish(search.winner, search.seed, ground)
        # Every further step of the winner is owed by the seed prompt too, and both have a longer decay.
        step = self.ahead.step(winner)
        per_step = (2 if winner is not search.seed else 1) * (1 + decay / (1 - decay)) * step
        check = self.ahead.check(winner.prompt)
        race = self._race_cost(search.winner.prompt)
        affordable = int((spare + saved - 2 * check) / per_step) if per_step else room
        with_race = int((spare - 4 * check - race) / (per_step + step))
        block = max(4, plan.short_steps)
        if len(search.cycles) < self.config.search.max_cycles and with_race >= max(3, block // 3):
            # Where a race takes much of what is left, steps come first: they are what tuning gains from at first.
            untried = all(cycle["kind"] == "tune" for cycle in search.cycles[1:]) and race <= _RACE_SHARE * spare
            prompts = self._worth.get("prompts", 0.0) / (race + 2 * block * step + 2 * check)
            tune = self._worth.get("tune", 0.0) / (block * step + check)
            if untried or ("tune" in self._worth and prompts >= tune) or winner.peaked:
                steps = min(room, max(3, min(block, with_race)))
                why = (
                    "prompts were not bred yet"
                    if untried
                    else "more steps only made dev worse, so the search goes on from where it was best"
                    if winner.peaked
                    else f"the last search moved dev log-loss by {self._worth['prompts']:.4f}, tuning alone by "
                    f"{self._worth.get('tune', 0.0):.4f}; by cost the search did more"
                )
                return "prompts", why, steps
        if winner.peaked:
            return "finish", "more steps only made dev worse", 0
        if affordable >= 3:
            why = f"room for {affordable} more steps"
            if "tune" in self._worth:
                why += f"; the last ones moved dev log-loss by {self._worth['tune']:.4f}"
            # A stretch ends with a check on dev, which costs as much as several steps, and shows whether more steps still help.
            return "tune", why, min(room, affordable, max(block, ground // 2))
        return "finish", _SPENT, 0

    def _end_cost(self, search: Search) -> float:
        """Cost of all that comes once the search is over: what the plan put aside, and letting the learning rates fall."""
        costs, plan, winner = self.lab.costs, self.plan, search.winner
        doubles = 0 if self.previous else doubled_arms(search.seed, winner, search.tracks)
        finish = 0.0 if winner.failed else self.ahead.finish(winner, search.seed, winner.ground.candidate.steps)
        return costs.scoring(plan.reserve_tokens - doubles * plan.arm_tokens) + plan.fixed + finish

    def _at_measured_speed(self, tracks: Sequence[Track]) -> Plan:
        """The plan, its short runs no longer than what the first steps' speed allows: it was made on a guess of that speed."""
        lab, plan, seed = self.lab, self.plan, tracks[0]
        if lab.costs.budget.kind == "tokens":
            return plan
        steps = 4
        while steps < plan.short_steps and not lab.costs.training_measured and not seed.failed:
            advance(lab, seed, steps, cycle=1, check=False)
            steps *= 2
        checks = (len(tracks) + 3) * self.ahead.check(seed.prompt)
        spare = lab.left() - lab.costs.scoring(plan.reserve_tokens) - plan.fixed - checks
        # A short run is a fifth of a whole one; the winner and the seed prompt go on for the other four.
        whole = (sum(map(self.ahead.step, tracks)) + 8 * max(map(self.ahead.step, tracks))) or 1.0
        short = max(3, seed.steps, min(plan.short_steps, int(spare / whole)))
        return replace(plan, short_steps=short, target_steps=min(plan.target_steps, 5 * short))

    def _race_cost(self, prompt: Prompt) -> float:
        """Cost of a race of bred prompts, about as long as this one, and of what guides their breeding."""
        bred = max(8, self.plan.pool * 2 // 3)
        return self.ahead.race(prompt, bred + FINAL, self.plan.race_rows) + self.guide.cost(prompt) + self.forecaster.cost(bred)

    def _affordable(self, ranking: list[Prompt]) -> list[Prompt]:
        """Prompts that may be tuned: while the budget allows no two epochs, none that costs far more than the seed.

        Steps are what tuning gains from at first, and a long prompt pays for its length with steps.
        """
        epochs = self.plan.target_steps * self.lab.tune.batch_size / max(1, len(self.lab.task.train))
        if epochs >= 2:
            return ranking
        batch = self.lab.tune.batch_size

        limit = 1.5 * self.lab.step_tokens(self.own[0], batch)
        return [prompt for prompt in ranking if self.lab.step_tokens(prompt, batch) <= limit] or ranking[:1]

    def _survivors(self, search: Search) -> list[Prompt]:
        """Parents of the next pool: the winner, tuned prompts by their latest score, and the base race's best."""
        tracks = sorted((t for t in search.tracks if t.steady and not t.failed), key=lambda t: t.ground.rank, reverse=True)
        prompts = [search.winner.prompt, *(t.prompt for t in tracks)]
        latest = search.cycles[-1].get("race") or {}
        prompts += [search.proposals[i].prompt for i in latest.get("ranking", [])[:2] if i in search.proposals]
        return list({p.id: p for p in prompts}.values())[:FINAL]

    def _record(self, search: Search, facts: dict[str, Any]) -> None:
        number = len(search.cycles) + 1
        best = search.winner.ground
        record = {
            "cycle": number,
            **facts,
            "dev_score": best.evaluation.told_score(),
            "dev_log_loss": round(best.evaluation.log_loss, 6),
            "steps": best.candidate.steps,
            "tokens": self.lab.account.tokens,
        }
        search.cycles.append(self.lab.journal.step("cycle", [number, facts["winner"]], lambda: record))


def _tuned_record(track: Track) -> dict[str, Any]:
    return {
        "prompt_id": track.prompt.id,
        "steps": track.latest.candidate.steps,
        "score": track.latest.evaluation.told_score(),
        "log_loss": round(track.latest.evaluation.log_loss, 6),
    }
