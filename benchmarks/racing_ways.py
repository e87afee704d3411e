"""Ways to spend the same tokens on prompts and weights; ``racing.py`` says what each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cotune.cycle.answer_search.entrants import choose_entrants
from cotune.cycle.answer_search.race import RaceResult, race_prompts
from cotune.cycle.answer_search.trial import Trial, advance, decay_steps, finish, measure, open_trial
from cotune.cycle.budget.budget import Budget
from cotune.cycle.context import RunContext
from cotune.cycle.search.measured import Measured
from cotune.cycle.search.pool import demonstration_pool, nearest_variant, next_pool, opening_pool
from cotune.model.adapters.slots import BASE
from cotune.prompt.bank import bare_prompt, seed_prompt
from cotune.prompt.prompt import Prompt
from cotune.refine import with_demonstrations
from cotune.task.task import Task

POOL, CHILDREN = 6, 4
EPOCHS = 8


@dataclass
class Bench:
    """One cell's task, run context and seed prompt."""

    context: RunContext
    task: Task
    seed: int
    steps: int

    @property
    def asked(self) -> Prompt:
        return seed_prompt(self.task)

    def short(self, share: int = 8, parts: int = 2) -> int:
        """Steps of an entrant's short run: a share of the budget's, and at most one of so many parts of what a run may have."""
        return max(3, min(self.steps // share, EPOCHS * -(-len(self.task.train) // self.context.tune.batch_size) // parts))

    def check_cost(self, prompt: Prompt) -> float:
        """Tokens of measuring a prompt on all of dev."""
        own, prefix = self.context.spending.rows.counted(prompt)
        return own * len(self.context.dev) + prefix

    def spend(self, trial: Trial) -> None:
        """Tune a trial with all tokens that are left, the decay of its learning rate included."""
        step = trial.run.tokens_per_step
        room = self.context.spending.left() - 2 * self.check_cost(trial.prompt)
        start, done = trial.start_steps, trial.steady_steps
        # As a run does: rows met more often than this teach nothing new.
        most = EPOCHS * trial.run.steps_per_epoch - start

        def end(steady: int) -> int:
            return steady + decay_steps(start + steady, self.context.tune.decay)

        steady = done
        while end(steady + 1) <= most and (end(steady + 1) - done) * step <= room:
            steady += 1
        if steady == done and (end(done) - done) * step > room:
            return
        advance(self.context, trial, start + steady, cycle=1)
        finish(self.context, trial, cycle=1)


def race(bench: Bench) -> tuple[dict[str, Prompt], RaceResult]:
    """The first cycle's pool, raced on the base model."""
    proposals = opening_pool(bench.context, [bench.asked], POOL, demonstrations=False, seed=bench.seed)
    prompts = {p.prompt.id: p.prompt for p in proposals}
    rows = min(len(bench.context.dev), 128)
    return prompts, race_prompts(bench.context, list(prompts.values()), BASE, rows=rows, cycle=1)


def entrants(bench: Bench) -> list[Prompt]:
    """Seed, bare input, and the best of the race besides."""
    prompts, result = race(bench)
    always = [bench.asked, bare_prompt(bench.task)]
    return choose_entrants(bench.context, [prompts[i] for i in result.ranking], always, 3, cycle=1)


def best(bench: Bench, trials: Sequence[Trial]) -> Measured:
    """Of all that was measured of trials, the best on dev; the first one's prompt untuned where there was no step."""
    found = [m for trial in trials for m in trial.measured]
    return max(found, key=lambda m: m.rank) if found else measure(bench.context, trials[0].prompt, BASE, 0, "base")


def tune_seed(bench: Bench) -> Measured:
    trial = open_trial(bench.context, bench.asked)
    bench.spend(trial)
    return best(bench, [trial])


def tune_winner(bench: Bench) -> Measured:
    prompts, result = race(bench)
    trial = open_trial(bench.context, prompts[result.ranking[0]])
    bench.spend(trial)
    return best(bench, [trial])


def first_cycle(bench: Bench, short: int) -> list[Trial]:
    """Short runs of the entrants, the best on dev first."""
    trials = [open_trial(bench.context, prompt) for prompt in entrants(bench)]
    for trial in trials:
        advance(bench.context, trial, short, cycle=1)
    return sorted((t for t in trials if not t.failed), key=lambda t: t.latest.rank, reverse=True)


def race_through_tuning(bench: Bench) -> Measured:
    trials = first_cycle(bench, bench.short())
    bench.spend(trials[0])
    return best(bench, trials)


def two_cycles(bench: Bench) -> Measured:
    context, short = bench.context, bench.short(14, 3)
    trials = first_cycle(bench, short)
    incumbent = trials[0]
    ground = incumbent.latest.candidate
    seen = {trial.prompt.id for trial in trials}
    parents = [trial.prompt for trial in trials[:2]]
    children = next_pool(context, 2, parents, CHILDREN, seen, demonstrations=False, seed=bench.seed)
    field = {p.id: p for p in (*parents, *(c.prompt for c in children))}
    result = race_prompts(context, list(field.values()), ground.adapter, rows=min(len(context.dev), 128), cycle=2)
    rival = next(field[i] for i in result.ranking if i != incumbent.prompt.id)
    challenger = open_trial(context, rival, ground.adapter, ground.steps)
    for trial in (incumbent, challenger):
        advance(context, trial, ground.steps + short, cycle=2)
    standing = [t for t in (incumbent, challenger) if not t.failed]
    winner = max(standing, key=lambda t: t.latest.rank)
    bench.spend(winner)
    return best(bench, [*trials, challenger])


def with_shown(bench: Bench) -> Prompt:
    """The seed prompt with train rows that lie far apart, balanced over the labels."""
    rng = np.random.default_rng([bench.seed, 20])
    return with_demonstrations(bench.asked, demonstration_pool(bench.context)(rng))


def tune_shown(bench: Bench) -> Measured:
    trial = open_trial(bench.context, with_shown(bench))
    bench.spend(trial)
    return best(bench, [trial])


def at_equal_steps(bench: Bench, prompt: Prompt) -> Measured:
    """Tune a prompt for as many steps as the budget is of the seed prompt's, whatever that costs."""
    context = bench.context
    plain, trial = open_trial(context, bench.asked), open_trial(context, prompt)
    more = bench.steps * (trial.run.tokens_per_step - plain.run.tokens_per_step)
    more += 2 * (bench.check_cost(prompt) - bench.check_cost(bench.asked)) + context.spending.account.counts["tokens_embedded"]
    context.spending.costs.budget = Budget("tokens", context.spending.budget.amount + more)
    bench.spend(trial)
    return best(bench, [trial])


def with_nearest(bench: Bench) -> Prompt:
    """The seed prompt with the train rows nearest to each row."""
    variant = nearest_variant(bench.context, bench.asked)
    assert variant is not None
    return variant.prompt


def untuned(bench: Bench) -> Measured:
    return measure(bench.context, bench.asked, BASE, 0, "base")


WAYS: dict[str, Callable[[Bench], Measured]] = {
    "seed": tune_seed,
    "winner": tune_winner,
    "race": race_through_tuning,
    "shown": tune_shown,
    "untuned": untuned,
    "cycles": two_cycles,
    "shown_steps": lambda bench: at_equal_steps(bench, with_shown(bench)),
    "shown_untuned": lambda bench: measure(bench.context, with_shown(bench), BASE, 0, "base"),
    "nearest_untuned": lambda bench: measure(bench.context, with_nearest(bench), BASE, 0, "base"),
    "nearest_steps": lambda bench: at_equal_steps(bench, with_nearest(bench)),
}
