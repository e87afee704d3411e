"""Races as large as a run holds, on the table: what the plan of their rounds and the cap on a row's loss cost and gain.

Of the 64 prompts 16 are drawn, and 128 of the 200 rows: a run's pool and its longest race. The winner is judged on all rows,
and on the 72 that did not choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.cycle.answer_search.race import FINAL
from cotune.evaluate.stats.racing import Race, Round, loss_bound, successive_halving_schedule
from search_data import WEIGHTS, TaskTable, regret

Floats = NDArray[np.float64]

PROMPTS, ROWS = 16, 128
PLANNED = successive_halving_schedule(PROMPTS, ROWS, final=FINAL)
GROWN = [Round(9, 41), Round(5, 73), Round(3, 128)]
"""Rounds without an end of the rows in view: as prompts go, rows grow by the same factor, and five prompts meet all of them."""
RACES: Mapping[str, tuple[Sequence[Round], bool]] = {
    "planned backwards, as runs do": (PLANNED, True),
    "planned backwards, led by the losses as they are": (PLANNED, False),
    "rows grow as prompts go": (GROWN, True),
    "all rows for all": ([Round(FINAL, ROWS)], True),
}
"""Name to rounds, and whether who leads is told by capped losses."""


def held(losses: Floats, rounds: Sequence[Round], bound: float, *, capped: bool = True) -> tuple[int, NDArray[np.int64]]:
    """Hold a race as a run does.

    Args:
        losses: ``[prompts, rows]`` in the order in which they meet them.
        rounds: of the race.
        bound: cap on a loss.
        capped: whether losses are capped for the ranking too; for the test they always are.

    Returns:
        The winner, and on how many rows each was scored: all of a round, also where the test drops it at an earlier row.
    """
    race, met = Race(len(losses), bound=bound), np.zeros(len(losses), dtype=np.int64)
    ranking: Sequence[int] = race.active
    seen = 0
    for step in rounds:
        alive = list(race.active)
        met[alive] = step.rows
        race = race.update(losses[alive, seen : step.rows].T)
        seen = step.rows
        means = losses[:, :seen].mean(axis=1)
        ranking = race.ranking() if capped else sorted(race.active, key=lambda prompt: means[prompt])
        leaving = ranking[step.keep :]
        if leaving and step.rows < rounds[-1].rows:
            race = race.retire(leaving)
    return ranking[0], met


def compare_races(tables: Mapping[str, TaskTable], seeds: int) -> dict[str, Any]:
    """Each race over all parts of the table, mean over parts and seeds.

    Returns:
        By name of the race: ``evaluations``; ``regret`` as in the whole comparison, among the prompts drawn; and on the rows
        that did not choose, ``points_short`` of the accuracy and ``log_loss_over`` that of the prompt that is best there.
    """
    parts = [(t, w) for t in tables.values() for w in WEIGHTS if t.has(w, "correct") and t.losses(w).shape[0] >= PROMPTS]
    parts = [(t, w) for t, w in parts if t.losses(w).shape[1] > ROWS]
    return {name: _told([_raced(*part, race, seed) for part in parts for seed in range(seeds)]) for name, race in RACES.items()}


def _raced(table: TaskTable, weights: str, race: tuple[Sequence[Round], bool], seed: int) -> tuple[float, float, float, float]:
    rng = np.random.default_rng([seed, 1])
    losses = table.losses(weights)
    drawn, order = rng.permutation(len(losses))[:PROMPTS], rng.permutation(losses.shape[1])
    losses = losses[drawn][:, order]
    right = table.arrays[f"{weights}/correct"][drawn][:, order[ROWS:]].mean(axis=1)
    rounds, capped = race
    bound = loss_bound(len(np.unique(table.arrays["labels"])))
    winner, met = held(losses, rounds, bound, capped=capped)
    unseen = losses[:, ROWS:].mean(axis=1)
    return int(met.sum()), regret(losses, winner), 100 * (right.max() - right[winner]), unseen[winner] - unseen.min()


def _told(found: Sequence[tuple[float, float, float, float]]) -> dict[str, float]:
    if not found:
        return {}
    names = ("evaluations", "regret", "points_short", "log_loss_over")
    return {name: round(float(mean), 4) for name, mean in zip(names, np.mean(found, axis=0), strict=True)}
