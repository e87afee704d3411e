"""Choice of the next step of a search: mutate prompts, continue tuning if the model can be tuned, or finish."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cotune.config import RunConfig
from cotune.cycle.answer_search.ending import EndCosts
from cotune.cycle.answer_search.heuristics import HEURISTICS
from cotune.cycle.answer_search.plan import CHECKS, Plan
from cotune.cycle.answer_search.race import FINAL, race_rows_scored, race_tokens
from cotune.cycle.answer_search.state import Search
from cotune.cycle.answer_search.trial import Trial, advance, decay_steps
from cotune.cycle.context import RunContext
from cotune.cycle.search.guide import Guide
from cotune.errors import counted
from cotune.prompt.prompt import Prompt

SPENT = "the rest of the budget is reserved for the test"
NO_NEW_PROMPT = f"{SPENT}: it has no room to race and test even the shortest new prompt"
NONE_FOUND = "no new prompt was found"


@dataclass(frozen=True)
class Choice:
    """The next step.

    Attributes:
        next: a search for prompts, steps of the winner, or the end.
        why: the reason, in words.
        steps: optimizer steps that it may take; at the end, those that there is room for without a measurement on dev.
        rows: number of dev rows of the longest race.
        left: remaining budget, in its unit.
        end: expected cost of the end, in the budget's unit.
        room: budget that an untuned search leaves to the guide's answer, besides the race and the end.
    """

    next: Literal["prompts", "tune", "finish"]
    why: str
    steps: int = 0
    rows: int = 0
    left: float = 0.0
    end: float = 0.0
    room: float = 0.0


class StepPolicy:
    """Chooses the next step of a search."""

    def __init__(self, context: RunContext, config: RunConfig, plan: Plan, end: EndCosts, guide: Guide) -> None:
        self.context, self.config, self.plan, self.end, self.guide = context, config, plan, end, guide
        # Gain in dev log-loss by the last step of each kind.
        self.worth: dict[str, float] = {}

    def decide(self, search: Search, lost: int) -> Choice:
        """Choose the next step after ``lost`` cycles in a row without a better dev score."""
        self.end.learn(search.winner)
        left, end = self.context.spending.left(), self._end(search)
        return replace(self._choose(search, lost, left), left=left, end=end)

    def _end(self, search: Search) -> float:
        seed, winner = search.seed, search.winner
        if winner.run is None:
            return self.end.untuned(seed.prompt, [winner.prompt, *search.finalists], search.known)
        return self.end.cost(seed.prompt, winner.prompt, alone=winner is seed)

    def _choose(self, search: Search, lost: int, left: float) -> Choice:
        context, plan, winner = self.context, self.plan, search.winner
        if lost >= (HEURISTICS.untuned_patience if winner.run is None else HEURISTICS.patience):
            return Choice("finish", f"dev did not improve in {counted(lost, 'cycle')}")
        if winner.run is None:
            return self._choose_untuned(search, left)
        if winner.failed:
            return Choice("finish", "the winner's training diverged; its last good adapter stands")
        decay = context.tune.decay
        room = max(8, self.config.tune.max_epochs * winner.run.steps_per_epoch) - winner.reached
        room -= decay_steps(winner.reached, decay)
        if room < 3:
            return Choice("finish", f"the steps reached tune.max_epochs={self.config.tune.max_epochs}")
        spare = left - self.owed(search)
        step, check = self.step(winner), self.check(winner.prompt)
        # Every further step of the winner is also needed for the seed prompt, and both have a longer decay.
        longer = 1 + decay / (1 - decay)
        per_step = (1 if winner is search.seed else 2) * longer * step
        affordable = int((spare - check) / per_step)
        # A challenger adds arms, and the seed prompt must follow it; the winner continues too, unless more steps do not help.
        beside = left - self._owed_to_a_challenger(search) - (1 if winner.peaked else 2) * check
        per_both = (2 * longer + (0 if winner.peaked else 1)) * step
        block = max(4, plan.short_steps)
        least = max(3, block // 3)
        rows, race = plan.race_rows, self.race_cost(winner.prompt, plan.race_rows)
        while winner.peaked and rows > HEURISTICS.least_race_rows and beside - race < least * per_both:
            # Only other prompts can help now, so they race on fewer rows rather than not at all.
            rows = max(HEURISTICS.least_race_rows, rows // 2)
            race = self.race_cost(winner.prompt, rows)
        with_race = int((beside - race) / per_both)
        # The winner's steps in all, including decay, if prompts are mutated now and a challenger wins.
        taken = min(block, with_race)
        later = longer * (winner.reached + taken) + (beside - race - taken * per_both) / (2 * step)
        # Steps that no longer help are not lacking.
        lacking = lost == 0 and later < self._enough(search.seed)
        held = False
        if not winner.in_doubt and len(search.cycles) < self.config.search.max_cycles and with_race >= least:
            # If a race takes much of the rest, or would leave the winner too few epochs, steps come first, because tuning gains
            # most from more steps at first.
            now = all(cycle["kind"] == "tune" for cycle in search.cycles[1:]) and race <= HEURISTICS.later_race_share * beside
            prompts = self.worth.get("prompts", 0.0) / (race + 2 * block * step + 2 * check)
            tune = self.worth.get("tune", 0.0) / (block * step + check)
            wanted = now or ("tune" in self.worth and prompts >= tune)
            held = wanted and lacking
            if winner.peaked or (wanted and not lacking):
                why = (
                    "more steps only made dev worse, so the search continues from its best point"
                    if winner.peaked
                    else "no new prompts were generated yet"
                    if now
                    else f"the last search moved dev log-loss by {self.worth['prompts']:.4f}, tuning alone by "
                    f"{self.worth.get('tune', 0.0):.4f}; by cost the search did more"
                )
                return Choice("prompts", why, min(room, max(3, min(block, with_race))), rows)
        if winner.peaked:
            return Choice("finish", "more steps only made dev worse")
        if affordable >= 3:
            why = f"room for {counted(affordable, 'more step')}"
            if held:
                why += f", too few to generate prompts as well: a winner should get {self._enough(search.seed)}"
            if winner.in_doubt:
                why += "; the last ones made dev worse, which a second look may undo"
            elif "tune" in self.worth:
                why += f"; the last ones moved dev log-loss by {self.worth['tune']:.4f}"
            # Tuning ends with a measurement on dev, which costs as much as several steps and shows whether more steps help.
            return Choice("tune", why, min(room, affordable, max(block, winner.reached // 2)))
        more = min(room, int(spare / per_step))
        while more > 0 and self.owed(search, more) > left:
            more -= 1
        return Choice("finish", SPENT, max(0, more))

    def _choose_untuned(self, search: Search, left: float) -> Choice:
        most = self.config.search.max_cycles
        if len(search.cycles) >= most:
            return Choice("finish", f"search.max_cycles={most} is reached")
        room = left - self._end(search) - self._untuned_race_cost(search)
        if room < 0:
            return Choice("finish", SPENT)
        first = len(search.cycles) == 1
        why = "no new prompts were generated yet" if first else "the budget has room for another race"
        return Choice("prompts", why, rows=self.plan.race_rows, room=room)

    def owed(self, search: Search, more: int = 0) -> float:
        """Cost of all that follows if the search ends now: ``more`` steps, the decay of the learning rates, and the end."""
        winner, seed = search.winner, search.seed
        cost = self._end(search)
        if winner.failed or winner.run is None:
            return cost
        return cost + more * self.step(winner) + self._decays(winner, seed, winner.reached + more)

    def kept(self, search: Search, more: int, *, check: bool) -> float:
        """Budget that must be left after the winner has taken ``more`` steps, including a measurement on dev if ``check``."""
        winner = search.winner
        look = self.check(winner.prompt) if check else 0.0
        return self.owed(search, more) - more * self.step(winner) + look

    def _owed_to_a_challenger(self, search: Search) -> float:
        winner, seed = search.winner, search.seed
        return self.end.cost(seed.prompt, winner.prompt, new=True) + self._decays(winner, seed, winner.reached, challenged=True)

    def fitting(self, search: Search, challengers: Sequence[Prompt], steps: int) -> list[Prompt]:
        """Prompts that could be tuned for ``steps`` steps, win, and be tested within the remaining budget."""
        context, seed, winner = self.context, search.seed, search.winner
        left = context.spending.left()
        reached = winner.reached + steps
        decay = decay_steps(reached, context.tune.decay)
        own = 0.0 if winner.peaked else steps * self.step(winner) + self.check(winner.prompt)

        def cost(prompt: Prompt) -> float:
            step = self._step_under(prompt)
            tuning = (steps + decay) * step + 2 * self.check(prompt)
            following = 0.0 if seed.failed else (reached - seed.reached + decay) * self.step(seed)
            return own + tuning + following + self.end.cost(seed.prompt, prompt, new=True, aside="least")

        light = self.light(challengers, seed, reached=winner.reached, cycles=len(search.cycles))
        return [prompt for prompt in light if cost(prompt) <= left]

    def time_steps(self, seed: Trial) -> None:
        """Train the seed prompt's first steps to measure the speed, which the plan had to guess."""
        steps, costs = 4, self.context.spending.costs
        if costs.budget.kind == "tokens":
            return
        while steps < self.plan.short_steps and not costs.training_measured and not seed.failed:
            advance(self.context, seed, steps, cycle=1, check=False)
            steps *= 2

    def light(self, prompts: Sequence[Prompt], seed: Trial, *, reached: int = 0, cycles: int = 0) -> list[Prompt]:
        """Prompts whose length leaves the winner enough steps.

        A prompt with demonstrations leads at first, but its steps cost two or three times as much. It is tuned if it would
        still have enough epochs as the winner.

        Args:
            prompts: prompts, best first.
            seed: the seed prompt's trial, which follows the winner to as many steps.
            reached: steps that the weights have had.
            cycles: number of finished cycles; after the first the seed prompt takes no short run beside.
        """
        own, first = self._step_under(seed.prompt), cycles == 0
        spare = self.context.spending.left() - self.end.cost(seed.prompt, seed.prompt, new=True)
        spare -= (CHECKS if first else CHECKS - 1) * self.check(seed.prompt) + max(0, reached - seed.reached) * own
        share = 1 - HEURISTICS.mutated_share if cycles + 1 < self.config.search.max_cycles else 1.0
        enough = self._enough(seed)
        others = own if first else (1 - HEURISTICS.short) * own

        def fits(prompt: Prompt) -> bool:
            step = self._step_under(prompt)
            return step <= HEURISTICS.light * own or reached + share * spare / (others + step) >= enough

        return [prompt for prompt in prompts if fits(prompt)]

    def _enough(self, seed: Trial) -> int:
        """Number of steps that is enough for a winner: those of the wanted or allowed epochs, within the measured range."""
        assert seed.run is not None
        return min(min(HEURISTICS.epochs, self.config.tune.max_epochs) * seed.run.steps_per_epoch, HEURISTICS.enough)

    def step(self, trial: Trial) -> float:
        """Cost of an optimizer step of a trial."""
        assert trial.run is not None
        return self.context.spending.costs.training(trial.run.tokens_per_step)

    def _step_under(self, prompt: Prompt) -> float:
        """Cost of an optimizer step under a prompt without a trial."""
        batch = min(self.context.tune.batch_size, len(self.context.task.train))
        return self.context.spending.costs.training(self.context.training.step_tokens(prompt, batch))

    def check(self, prompt: Prompt) -> float:
        """Cost of measuring a prompt on all of dev."""
        return self.context.spending.rows.scored(prompt) * len(self.context.dev)

    def _decays(self, winner: Trial, seed: Trial, steps: int, *, challenged: bool = False) -> float:
        """Cost of decaying the winner after ``steps`` steps, and of training the seed prompt as long and decaying it.

        ``challenged`` means that another prompt of the winner's length may win, so that the winner is not the seed prompt.
        """
        share = self.context.tune.decay
        cost = decay_steps(steps, share) * self.step(winner) + self.check(winner.prompt)
        if (challenged or seed is not winner) and not seed.failed:
            behind = max(0, steps - seed.reached)
            owed = behind + decay_steps(seed.reached + behind, share)
            cost += owed * self.step(seed) + self.check(seed.prompt)
        return HEURISTICS.finish_care * cost

    def pace(self, trials: Sequence[Trial]) -> None:
        """Shorten the plan's short runs to what the measured speed allows; the seed prompt's trial comes first."""
        context, plan, seed = self.context, self.plan, trials[0]
        if context.spending.budget.kind == "tokens":
            return
        checks = (len(trials) + 3) * self.check(seed.prompt)
        spare = context.spending.left() - max(self.end.cost(seed.prompt, trial.prompt, new=True) for trial in trials) - checks
        # The winner and the seed prompt continue from a short run to a whole one.
        steps = list(map(self.step, trials))
        whole = sum(steps) + 2 * (1 / HEURISTICS.short - 1) * max(steps)
        short = max(3, seed.steps, min(plan.short_steps, int(spare / whole)))
        self.plan = replace(plan, short_steps=short, target_steps=min(plan.target_steps, round(short / HEURISTICS.short)))

    def race_cost(self, prompt: Prompt, rows: int) -> float:
        """Cost of a race of mutated prompts of about this prompt's length, and of the guide."""
        entrants = HEURISTICS.later_pool_size(self.plan.pool, tunes=True) + FINAL
        race = HEURISTICS.race_care * race_rows_scored(entrants, rows) * self.context.spending.rows.scored(prompt)
        return race + self.guide.cost(prompt)

    def affordable(
        self,
        prompts: Sequence[Prompt],
        rows: int,
        *,
        seed: Prompt,
        sure: Collection[str],
        known: Collection[str] = (),
        new: Collection[str] = (),
    ) -> list[Prompt]:
        """Entrants of an untuned race without the longest ones that the budget could not race and, if they win, test.

        If no new prompt is left, all others but the sure ones make room for the shortest new one, if the budget can race it.

        Args:
            rows: number of dev rows of the longest race.
            sure: ids of prompts that race in any case.
            known: ids of prompts that were measured on all of dev, so that the race asks them nothing.
            new: ids of prompts that were not raced before.
        """
        spending, kept = self.context.spending, list(prompts)
        left, length = spending.left(), {prompt.id: spending.rows.counted(prompt)[0] for prompt in prompts}

        def cost(entrants: Sequence[Prompt]) -> float:
            race = race_tokens([0.0 if prompt.id in known else length[prompt.id] for prompt in entrants], rows)
            return spending.costs.scoring(race) + self.end.untuned(seed, entrants, known)

        while cost(kept) > left and (others := [prompt for prompt in kept if prompt.id not in sure]):
            kept.remove(max(others, key=lambda prompt: length[prompt.id]))
        fresh = [prompt for prompt in prompts if prompt.id in new]
        if fresh and not any(prompt in kept for prompt in fresh):
            shortest = min(fresh, key=lambda prompt: length[prompt.id])
            least = [prompt for prompt in prompts if prompt.id in sure or prompt is shortest]
            kept = least if cost(least) <= left else kept
        if (gone := len(prompts) - len(kept)) and not self.context.journal.replaying:
            self.context.journal.tell(
                f"{counted(gone, 'long prompt')} left out: the budget could not race and test {'it' if gone == 1 else 'them'}"
            )
        return kept

    def _untuned_race_cost(self, search: Search) -> float:
        """The same for an untuned search, with its best prompt on all of dev; prompts count as at least as long as the seed."""
        spending, prompt = self.context.spending, search.winner.prompt
        mutated = HEURISTICS.later_pool_size(self.plan.pool, tunes=False)
        rows = race_rows_scored(mutated + FINAL, self.plan.race_rows) + len(self.context.dev)
        own = max(spending.rows.counted(asked)[0] for asked in (prompt, search.seed.prompt))
        return HEURISTICS.race_care * spending.costs.scoring(rows * own) + self.guide.cost(prompt)
