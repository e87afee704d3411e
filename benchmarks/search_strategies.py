"""Ways to find the best of many prompts with few evaluations, each on the same table and the same order of rows.

An evaluation is one prompt on one row. Whoever uses an embedding pays for it: its tokens, in evaluations of mean size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.plan import FINAL
from cotune.embed import farthest_first
from cotune.evaluate.effects import prompt_effects
from cotune.evaluate.racing import Round, loss_bound, schedule_cost, successive_halving_schedule
from cotune.refine.surrogate import Seen, Surrogate
from search_races import held

Floats = NDArray[np.float64]


@dataclass
class Field:
    """Prompts, rows, and a budget.

    Args:
        losses: ``[prompts, rows]``, rows in the order in which every prompt meets them.
        budget: evaluations.
        views: similarities of the prompts, by name.
        costs: evaluations that a prompt's place in a view costs.
        text: ``[prompts, d]`` text embedding, for clustering.
        labels: ``[rows]`` what is right for each row; nothing has to be asked to know that.
    """

    losses: Floats
    budget: float
    views: Mapping[str, Floats] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    text: Floats | None = None
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

    def seen(self) -> list[Floats]:
        """Losses of each prompt so far."""
        return [self.losses[prompt, : self.met[prompt]] for prompt in range(self.prompts)]

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


def successive_halving(arena: Field, rng: np.random.Generator, among: Sequence[int] | None = None) -> int:
    """Rounds of equal cost; the better half goes on (Karnin and others, ICML 2013), earlier rows are remembered.

    Prompts that a small budget has no row for are drawn out at random.
    """
    alive = [int(i) for i in rng.permutation(arena.prompts if among is None else among)]
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


def clustered_halving(arena: Field, rng: np.random.Generator) -> int:
    """Clusters of the text embedding are halved first, then the prompts of the best one (TRIPLE-CLST, arXiv 2402.09723)."""
    from sklearn.cluster import KMeans

    assert arena.text is not None
    arena.left -= arena.costs["text"] * arena.prompts
    count = max(2, round(math.sqrt(arena.prompts)))
    groups = KMeans(count, n_init=4, random_state=int(rng.integers(2**31))).fit_predict(arena.text)
    alive = [list(map(int, rng.permutation(np.flatnonzero(groups == group)))) for group in np.unique(groups)]
    rounds = max(1, math.ceil(math.log2(len(alive))))
    half = arena.left / 2

    def worth(members: list[int]) -> float:
        tried = [arena.mean(m) * arena.met[m] for m in members if arena.met[m]]
        return sum(tried) / max(1, int(sum(arena.met[m] for m in members))) if tried else math.inf

    for _ in range(rounds):
        each = int(half / rounds) // len(alive)
        for members in alive:
            for pull in range(each):
                arena.ask(members[pull % len(members)], 1)
        alive = sorted(alive, key=worth)[: max(1, math.ceil(len(alive) / 2))]
    return successive_halving(arena, rng, alive[0])


@dataclass(frozen=True)
class BySurrogate:
    """Rows go where the surrogate, by draws from its posterior, sees the best prompt; the best posterior mean wins.

    Attributes:
        views: which similarities it looks at; none leaves each prompt on its own.
        first: share of the budget that opens the search: evenly on some prompts, farthest from each other.
        opening: rows of each of these, as far as the share goes; the more rows, the fewer prompts, at least eight.
        fits: how often the surrogate is fitted; the budget is spent evenly between.
        width: prompts that share what is spent between two fits, at most.
        bound: standard deviations below the mean by which prompts are ordered (lower confidence bound); None draws from the
            posterior instead (Thompson sampling).
    """

    views: tuple[str, ...] = ("text", "shown", "format")
    first: float = 0.3
    opening: int = 4
    fits: int = 16
    width: int = 8
    bound: float | None = None

    def __call__(self, arena: Field, rng: np.random.Generator) -> int:
        views = {name: arena.views[name] for name in self.views} or {"own": np.eye(arena.prompts)}
        arena.left -= sum(arena.costs.get(name, 0.0) for name in self.views) * arena.prompts
        if arena.left < 1:
            # The views took all there was, and nothing is known of any prompt.
            return int(rng.integers(arena.prompts))
        share = self.first * arena.left
        count = int(min(arena.prompts, max(8, share / self.opening)))
        for prompt in self._order(arena, rng)[:count]:
            arena.ask(prompt, max(1, int(share / count)))
        for number in range(self.fits):
            if arena.left < 1 or not (arena.met < arena.rows).any():
                break
            wanted = self._wanted(arena, fitted(arena, views), rng)
            each = max(1, int(arena.left / (self.fits - number) / len(wanted)))
            for prompt in wanted:
                arena.ask(prompt, each)
        mean, _ = fitted(arena, views).predict()
        return int(np.argmin(np.where(arena.met > 0, mean, np.inf)))

    def _order(self, arena: Field, rng: np.random.Generator) -> list[int]:
        if arena.text is None or "text" not in self.views:
            return [int(i) for i in rng.permutation(arena.prompts)]
        return farthest_first(arena.text.astype(np.float32), start=[int(rng.integers(arena.prompts))])

    def _wanted(self, arena: Field, surrogate: Surrogate, rng: np.random.Generator) -> list[int]:
        open_ = arena.met < arena.rows
        if self.bound is not None:
            mean, deviation = surrogate.predict()
            order = np.argsort(np.where(open_, mean - self.bound * deviation, np.inf))
            return [int(i) for i in order[: min(self.width, int(open_.sum()))]]
        draws = np.where(open_, surrogate.sample(rng, 2 * self.width), np.inf)
        return list(dict.fromkeys(int(i) for i in draws.argmin(axis=1)))[: self.width]


def fitted(arena: Field, views: Mapping[str, Floats]) -> Surrogate:
    """The surrogate on what was seen so far."""
    effects = prompt_effects(arena.seen())
    met = np.flatnonzero(arena.met > 0)
    return Surrogate(views, Seen(met, effects.value[met], effects.noise[met], np.zeros(len(met))))
