"""What the steps that a search may take next would cost, in the budget's own unit."""

from __future__ import annotations

from cotune.cycle.context import RunContext
from cotune.cycle.search.plan import race_rows_scored
from cotune.cycle.search.trial import Trial, decay_steps
from cotune.prompt.prompt import Prompt


class StepCosts:
    """Prices steps at the rates that were measured so far.

    Args:
        context: whose rates, rows and prompts these are.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context

    def step(self, trial: Trial) -> float:
        """Cost of an optimizer step of a trial."""
        return self.context.spending.costs.training(trial.run.tokens_per_step)

    def check(self, prompt: Prompt) -> float:
        """Cost of measuring a prompt on all of dev."""
        return self.context.spending.rows.scored(prompt) * len(self.context.dev)

    def finish(self, winner: Trial, seed: Trial, steps: int, *, challenged: bool = False) -> float:
        """Cost of decaying the winner after so many steps, and of bringing the seed prompt as far and decaying it.

        ``challenged`` by another prompt of its length, the winner is not the seed prompt, whoever leads now.
        """
        share = self.context.tune.decay
        cost = decay_steps(steps, share) * self.step(winner) + self.check(winner.prompt)
        if (challenged or seed is not winner) and not seed.failed:
            behind = max(0, steps - seed.reached)
            owed = behind + decay_steps(seed.reached + behind, share)
            cost += owed * self.step(seed) + self.check(seed.prompt)
        return 1.06 * cost

    def race(self, prompt: Prompt, entrants: int, rows: int) -> float:
        """Cost of a race of so many prompts, about as long as this one, over so many rows."""
        return 1.2 * race_rows_scored(entrants, rows) * self.context.spending.rows.scored(prompt)
