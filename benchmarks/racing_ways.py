"""Ways to spend the same tokens on prompts and weights; ``racing.py`` says what each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cotune.cycle.budget.budget import Budget
from cotune.cycle.context import Lab
from cotune.cycle.search.pool import choose_entrants, demonstration_pool, nearest_variant, next_pool, opening_pool
from cotune.cycle.search.prompt_race import RaceResult, race_prompts
from cotune.cycle.search.trial import (
    Measured,
    Track,
    advance,
    decay_steps,
    finish,
    measure,
    open_track,
)
from cotune.model.adapters.slots import BASE
from cotune.prompt.bank import bare_prompt, seed_prompt
from cotune.prompt.prompt import Prompt
from cotune.refine import with_demonstrations
from cotune.task.task import Task

POOL, FINAL, CHILDREN = 6, 3, 4
EPOCHS = 8


@dataclass
class Bench:
    """One cell's task, lab and seed prompt."""

    lab: Lab
    task: Task
    seed: int
    steps: int

    @property
    def asked(self) -> Prompt:
        return seed_prompt(self.task)

    def short(self, share: int = 8, parts: int = 2) -> int:
        """Steps of an entrant's short run: a share of the budget's, and at most one of so many parts of what a run may have."""
        return max(3, min(self.steps // share, EPOCHS * -(-len(self.task.train) // self.lab.tune.batch_size) // parts))

    def check_cost(self, prompt: Prompt) -> float:
        """Tokens of measuring a prompt on all of dev."""
        own, prefix = self.lab.tokens_a_row(prompt)
        return own * len(self.lab.dev) + prefix

    def spend(self, track: Track) -> None:
        """Tune a track with all tokens that are left, the decay of its learning rate included."""
        step = track.run.tokens_per_step
        room = self.lab.left() - 2 * self.check_cost(track.prompt)
        start, done = track.start_steps, track.steady_steps
        # As a run does: rows met more often than this teach nothing new.
        most = EPOCHS * track.run.steps_per_epoch - start

        def end(steady: int) -> int:
            return steady + decay_steps(start + steady, self.lab.tune.decay)

        steady = done
        while end(steady + 1) <= most and (end(steady + 1) - done) * step <= room:
            steady += 1
        if steady == done and (end(done) - done) * step > room:
            return
        advance(self.lab, track, start + steady, cycle=1)
        finish(self.lab, track, cycle=1)


def race(bench: Bench) -> tuple[dict[str, Prompt], RaceResult]:
    """The first cycle's pool, raced on the base model."""
    proposals = opening_pool(bench.lab, [bench.asked], POOL, demonstrations=False, seed=bench.seed)
    prompts = {p.prompt.id: p.prompt for p in proposals}
    rows = min(len(bench.lab.dev), 128)
    return prompts, race_prompts(bench.lab, list(prompts.values()), BASE, rows=rows, cycle=1, final=FINAL)


def entrants(bench: Bench) -> list[Prompt]:
    """Seed, bare input, and the best of the race besides."""
    prompts, result = race(bench)
    always = [bench.asked, bare_prompt(bench.task)]
    return choose_entrants(bench.lab, [prompts[i] for i in result.ranking], always, 3, cycle=1)


def best(bench: Bench, tracks: Sequence[Track]) -> Measured:
    """Of all that was measured of tracks, the best on dev; the first one's prompt untuned where there was no step."""
    found = [m for track in tracks for m in track.measured]
    return max(found, key=lambda m: m.rank) if found else measure(bench.lab, tracks[0].prompt, BASE, 0, "base")


def tune_seed(bench: Bench) -> Measured:
    track = open_track(bench.lab, bench.asked)
    bench.spend(track)
    return best(bench, [track])


def tune_winner(bench: Bench) -> Measured:
    prompts, result = race(bench)
    track = open_track(bench.lab, prompts[result.ranking[0]])
    bench.spend(track)
    return best(bench, [track])


def first_cycle(bench: Bench, short: int) -> list[Track]:
    """Short runs of the entrants, the best on dev first."""
    tracks = [open_track(bench.lab, prompt) for prompt in entrants(bench)]
    for track in tracks:
        advance(bench.lab, track, short, cycle=1)
    return sorted((t for t in tracks if not t.failed), key=lambda t: t.latest.rank, reverse=True)


def race_through_tuning(bench: Bench) -> Measured:
    tracks = first_cycle(bench, bench.short())
    bench.spend(tracks[0])
    return best(bench, tracks)


def two_cycles(bench: Bench) -> Measured:
    lab, short = bench.lab, bench.short(14, 3)
    tracks = first_cycle(bench, short)
    incumbent = tracks[0]
    ground = incumbent.latest.candidate
    seen = {track.prompt.id for track in tracks}
    parents = [track.prompt for track in tracks[:2]]
    children = next_pool(lab, 2, parents, CHILDREN, seen, demonstrations=False, seed=bench.seed)
    field = {p.id: p for p in (*parents, *(c.prompt for c in children))}
    result = race_prompts(lab, list(field.values()), ground.adapter, rows=min(len(lab.dev), 128), cycle=2, final=FINAL)
    rival = next(field[i] for i in result.ranking if i != incumbent.prompt.id)
    challenger = open_track(lab, rival, ground.adapter, ground.steps)
    for track in (incumbent, challenger):
        advance(lab, track, ground.steps + short, cycle=2)
    standing = [t for t in (incumbent, challenger) if not t.failed]
    winner = max(standing, key=lambda t: t.latest.rank)
    bench.spend(winner)
    return best(bench, [*tracks, challenger])


def with_shown(bench: Bench) -> Prompt:
    """The seed prompt with train rows that lie far apart, balanced over the labels."""
    rng = np.random.default_rng([bench.seed, 20])
    return with_demonstrations(bench.asked, demonstration_pool(bench.lab)(rng))


def tune_shown(bench: Bench) -> Measured:
    track = open_track(bench.lab, with_shown(bench))
    bench.spend(track)
    return best(bench, [track])


def at_equal_steps(bench: Bench, prompt: Prompt) -> Measured:
    """Tune a prompt for as many steps as the budget is of the seed prompt's, whatever that costs."""
    lab = bench.lab
    plain, track = open_track(lab, bench.asked), open_track(lab, prompt)
    more = bench.steps * (track.run.tokens_per_step - plain.run.tokens_per_step)
    more += 2 * (bench.check_cost(prompt) - bench.check_cost(bench.asked)) + lab.account.counts["tokens_embedded"]
    lab.costs.budget = Budget("tokens", lab.costs.budget.amount + more)
    bench.spend(track)
    return best(bench, [track])


def with_nearest(bench: Bench) -> Prompt:
    """The seed prompt with the train rows nearest to each row."""
    variant = nearest_variant(bench.lab, bench.asked)
    assert variant is not None
    return variant.prompt


def untuned(bench: Bench) -> Measured:
    return measure(bench.lab, bench.asked, BASE, 0, "base")


WAYS: dict[str, Callable[[Bench], Measured]] = {
    "seed": tune_seed,
    "winner": tune_winner,
    "race": race_through_tuning,
    "shown": tune_shown,
    "untuned": untuned,
    "cycles": two_cycles,
    "shown_steps": lambda bench: at_equal_steps(bench, with_shown(bench)),
    "shown_untuned": lambda bench: measure(bench.lab, with_shown(bench), BASE, 0, "base"),
    "nearest_untuned": lambda bench: measure(bench.lab, with_nearest(bench), BASE, 0, "base"),
    "nearest_steps": lambda bench: at_equal_steps(bench, with_nearest(bench)),
}
