"""Ways to find the best of many prompts with few evaluations, each on the same table and the same order of rows.

An evaluation is one prompt on one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.answer_search.race import FINAL
from cotune.evaluate.stats.racing import Round, loss_bound, schedule_cost, successive_halving_schedule
from search_races import held

Floats = NDArray[np.float64]


@dataclass
class Field:
    """Prompts, rows, and a budget.

    Args:
        losses: ``[prompts, rows]``, rows in the order in which every prompt meets them.
        budget: evaluations.
        labels: ``[rows]`` what is right for each row; nothing has to be asked to know that.
    """

    losses: Floats
    budget: float
    labels: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        self.prompts, self.rows = self.losses.shape
        self.met = np.zeros(self.prompts, dtype=np.int64)
        self.left = self.budget

    def in_order(self, order: NDArray[np.int64]) -> None:
        """Let the prompts meet the rows in another order; before the first is asked."""
        assert not self.met.any()
        self.losses = self.losses[:, order]

    def ask(self, prompt: int, count: int) -> bool:
        """Let a prompt meet so many more rows, or as many as there are and the budget holds; False where none were."""
        count = min(count, self.rows - int(self.met[prompt]), int(self.left + 1e-9))
        if count <= 0:
            return False
        self.met[prompt] += count
        self.left -= count
        return True

    def mean(self, prompt: int) -> float:
        """Mean loss so far; infinite before the first row."""
        count = int(self.met[prompt])
        return float(self.losses[prompt, :count].mean()) if count else math.inf

    def best(self, among: Sequence[int]) -> int:
        """The one with the least mean loss."""
        return min(among, key=self.mean)


Strategy = Callable[[Field, np.random.Generator], int]


def random_search(arena: Field, rng: np.random.Generator) -> int:
    """Prompts in random order, each on all rows, until the budget ends."""
    tried = []
    for prompt in map(int, rng.permutation(arena.prompts)):
        if arena.left < min(arena.rows, arena.budget):
            break
        arena.ask(prompt, arena.rows)
        tried.append(prompt)
    return arena.best(tried)


def uniform(arena: Field, rng: np.random.Generator) -> int:
    """The same number of rows for all; the one with the least mean loss."""
    each, order = int(arena.budget) // arena.prompts, rng.permutation(arena.prompts)
    for place, prompt in enumerate(map(int, order)):
        arena.ask(prompt, each + (place < int(arena.budget) % arena.prompts))
    return arena.best(range(arena.prompts))


def successive_halving(arena: Field, rng: np.random.Generator) -> int:
    """Rounds of equal cost; the better half goes on (Karnin and others, ICML 2013), earlier rows are remembered.

    Prompts that a small budget has no row for are drawn out at random.
    """
    alive = [int(i) for i in rng.permutation(arena.prompts)]
    rounds = max(1, math.ceil(math.log2(len(alive))))
    for number in range(rounds):
        # What a round could not spend, since its prompts ran out of rows, goes on to the later ones.
        share = arena.left / (rounds - number)
        each = int(share) // len(alive)
        for prompt in alive:
            arena.ask(prompt, max(each, 1))
        alive = sorted(alive, key=arena.mean)[: max(1, math.ceil(len(alive) / 2))]
    return arena.best(alive)


@dataclass(frozen=True)
class PlannedHalving:
    """Halving whose rounds are planned such that the last prompts have met all rows when the budget ends.

    Plain halving knows no end of the rows: its last rounds find none left, and what they cannot spend was missing before.

    Attributes:
        keep: share of the prompts that goes on after a round.
        growth: cost of a round over that of the one before.
        evenly: whether rows come with the labels evenly; else at random.
    """

    keep: float = 0.5
    growth: float = 1.0
    evenly: bool = True

    def __call__(self, arena: Field, rng: np.random.Generator) -> int:
        if self.evenly and arena.labels is not None:
            arena.in_order(spread(arena.labels, rng))
        alive = [int(i) for i in rng.permutation(arena.prompts)][: max(1, int(arena.budget))]
        sizes = [len(alive)]
        while sizes[-1] > 2:
            sizes.append(min(sizes[-1] - 1, math.ceil(sizes[-1] * self.keep)))
        met = 0
        for number, size in enumerate(sizes):
            last = number + 1 == len(sizes)
            rows = arena.rows if last else self._rows(sizes[number:], met, arena.rows, arena.left)
            # What is planned in whole rows leaves a few evaluations over, which the next rounds take up.
            met = min(max(rows, 1, met), met + int(arena.left + 1e-9) // size)
            for prompt in alive:
                arena.ask(prompt, met - int(arena.met[prompt]))
            alive = sorted(alive, key=arena.mean)[: 1 if last else sizes[number + 1]]
        return arena.best(alive)

    def _rows(self, sizes: Sequence[int], met: int, rows: int, budget: float) -> int:
        """Up to which row the next round goes, where the rounds of so many prompts each are to spend the budget."""

        def planned(first: float) -> tuple[float, int]:
            cost, at = 0.0, float(met)
            for number, size in enumerate(sizes):
                more = min(first * self.growth**number / size, rows - at)
                cost, at = cost + more * size, at + more
            return cost, min(rows, met + int(first / sizes[0] + 1e-6))

        low, high = 0.0, (budget + sizes[0] * rows) / min(1.0, self.growth) ** len(sizes)
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if planned(middle)[0] <= budget else (low, middle)
        return planned(low)[1]


@dataclass(frozen=True)
class RunRace:
    """The race that a run holds: its rounds, on as many rows as the budget has room for, and its test that drops losers early.

    What early drops save is not spent: in a run it goes into tuning.

    Attributes:
        final: prompts that meet all of the race's rows.
        first_rows: rows of the first round, where half the budget has so many; a run with less would enter fewer prompts.
    """

    final: int = FINAL
    first_rows: int = 16

    def __call__(self, arena: Field, rng: np.random.Generator) -> int:
        order = [int(i) for i in rng.permutation(arena.prompts)][: max(1, int(arena.budget))]
        rounds = self._rounds(len(order), arena)
        kinds = arena.prompts if arena.labels is None else len(np.unique(arena.labels))
        winner, met = held(arena.losses[order], rounds, loss_bound(kinds))
        assert met.sum() <= arena.budget
        for prompt, rows in zip(order, met, strict=True):
            arena.ask(prompt, int(rows))
        return order[winner]

    def _rounds(self, prompts: int, arena: Field) -> list[Round]:
        first = min(self.first_rows, max(1, int(arena.budget) // (2 * prompts)))
        for rows in range(arena.rows, 1, -1):
            rounds = successive_halving_schedule(prompts, rows, final=self.final, first_rows=first)
            if schedule_cost(prompts, rounds) <= arena.budget:
                return rounds
        return successive_halving_schedule(prompts, 1, final=self.final)


def spread(kinds: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order in which every kind comes evenly (systematic sampling: Cochran, Sampling Techniques, chapter 8).

    Of ``m`` of ``n`` rows that are of a kind, the first ``k`` rows hold about ``k m / n``. Where no two rows are of one kind,
    it is any order at random.

    Args:
        kinds: ``[rows]`` such as labels.
        rng: draws the order within a kind, and how soon the first row of a kind comes.

    Returns:
        ``[rows]`` numbers of the rows, as they come.
    """
    shuffled = rng.permutation(len(kinds))
    _, kind, count = np.unique(kinds[shuffled], return_inverse=True, return_counts=True)
    side_by_side = np.argsort(kind, kind="stable")
    rank = np.empty(len(kinds))
    rank[side_by_side] = np.arange(len(kinds)) - (np.cumsum(count) - count)[kind[side_by_side]]
    place = (rank + rng.random(len(count))[kind]) / count[kind]
    result: NDArray[np.int64] = shuffled[np.argsort(place, kind="stable")]
    return result
