"""What the steps that a search may take next would cost, in the budget's own unit."""

from __future__ import annotations

from cotune.cycle.lab import Lab
from cotune.cycle.track import Track, decay_steps
from cotune.evaluate.racing import schedule_cost, successive_halving_schedule
from cotune.prompt.prompt import Prompt


class StepCosts:
    """Prices steps at the rates that were measured so far.

    Args:
        lab: whose rates, rows and prompts these are.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._row_tokens: dict[str, float] = {}
        self._check_tokens: dict[str, float] = {}

    def step(self, track: Track) -> float:
        """Cost of an optimizer step of a track."""
        return self.lab.costs.training(track.run.tokens_per_step)

    def check(self, prompt: Prompt) -> float:
        """Cost of measuring a prompt on all of dev, with its answers where they need not be written."""
        if prompt.id not in self._check_tokens:
            self._check_tokens[prompt.id] = self.lab.tokens_a_row(prompt, answers=not self.lab.writes_late)[0]
        return self.lab.costs.scoring(self._check_tokens[prompt.id]) * len(self.lab.dev)

    def finish(self, winner: Track, seed: Track, steps: int) -> float:
        """Cost of decaying the winner after so many steps, and of bringing the seed prompt as far and decaying it."""
        decay = decay_steps(steps, self.lab.tune.decay)
        cost = decay * self.step(winner) + self.check(winner.prompt)
        if seed is not winner and not seed.failed:
            cost += (steps - seed.steps + decay) * self.step(seed) + self.check(seed.prompt)
        return 1.06 * cost

    def race(self, prompt: Prompt, entrants: int, rows: int) -> float:
        """Cost of a race of so many prompts, about as long as this one, over so many rows."""
        rounds = successive_halving_schedule(entrants, rows, final=3)
        return 1.2 * schedule_cost(entrants, rounds) * self._row(prompt)

    def _row(self, prompt: Prompt) -> float:
        if prompt.id not in self._row_tokens:
            self._row_tokens[prompt.id] = self.lab.tokens_a_row(prompt)[0]
        return self.lab.costs.scoring(self._row_tokens[prompt.id])
