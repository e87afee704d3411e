"""Compares searches on the table alone: how far from the best prompt they end, by the share of the cost of knowing all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from measure import say
from search_data import TASKS, WEIGHTS, TaskTable, regret
from search_races import compare_races
from search_strategies import Field, PlannedHalving, RunRace, Strategy, random_search, successive_halving, uniform

Floats = NDArray[np.float64]

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)
TOLD = 0.25
_DRAWS = 2000
_CHOOSING_SEEDS = 20

HALVING, PLANNED, RUN = "successive halving", "planned halving", "a run's race"
FIXED: dict[str, Strategy] = {
    "random search": random_search,
    "uniform allocation": uniform,
    HALVING: successive_halving,
    PLANNED: PlannedHalving(evenly=False),
    RUN: RunRace(),
}
GRID: dict[str, PlannedHalving] = {
    f"planned halving, {share} go on, {spending}, {order}": PlannedHalving(keep, growth, evenly)
    for share, keep in (("a third", 1 / 3), ("half", 0.5), ("seven tenths", 0.7))
    for spending, growth in (("rounds cost alike", 1.0), ("first rounds cost more", 0.7))
    for order, evenly in (("rows at random", False), ("labels evenly", True))
}
DEFAULT = "planned halving, half go on, rounds cost alike, rows at random"
"""What differs from halving in the plan alone: nothing in it was chosen on a table."""


@dataclass(frozen=True)
class Ground:
    """Prompts of one task under some weights, ready to be searched.

    Attributes:
        task: name of the task.
        weights: ``base`` or ``tuned``.
        losses: ``[prompts, rows]``.
        labels: ``[rows]`` number of each row's label.
    """

    task: str
    weights: str
    losses: Floats
    labels: NDArray[np.int64]

    @property
    def name(self) -> str:
        return f"{self.task}, {self.weights}"


def grounds(tables: Mapping[str, TaskTable]) -> tuple[list[Ground], list[str]]:
    """What can be searched, and the names of what is missing from the table."""
    found, missing = [], []
    for task in TASKS:
        for weights in WEIGHTS:
            table = tables.get(task)
            if table is None or not table.has(weights):
                missing.append(f"{task}, {weights}")
                continue
            losses = table.losses(weights)
            labels = table.arrays["labels"][: losses.shape[1]].astype(np.int64)
            found.append(Ground(task, weights, losses, labels))
    return found, missing


def searched(ground: Ground, strategy: Strategy, fraction: float, seeds: Sequence[int]) -> Floats:
    """Normalised regret of each seed: 0 is the best prompt's log-loss over all rows, 1 the mean prompt's."""
    found = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 0])
        order = rng.permutation(ground.losses.shape[1])
        losses, labels = ground.losses[:, order], ground.labels[order]
        arena = Field(losses, fraction * losses.size, labels)
        found.append(regret(ground.losses, strategy(arena, rng)))
    return np.array(found)


def compare(tables: Mapping[str, TaskTable], seeds: int = 50) -> dict[str, Any]:
    """Every search on every task; how ours is set up is chosen on the other tasks.

    Returns:
        A JSON object; ``regret_ratio_at_25pct`` is ours over successive halving's regret, each averaged over tasks and weights,
        ``regret_ratio_to_planned_at_25pct`` ours over planned halving's with rows at random, which spends all it has, and
        ``regret_ratio_to_race_at_25pct`` ours over that of the race as runs hold it.
    """
    found, missing = grounds(tables)
    if not found:
        return {"missing": missing, "regret_ratio_at_25pct": None}
    few = range(min(_CHOOSING_SEEDS, seeds))
    tried = {
        ground.name: {
            name: float(np.mean([searched(ground, ours, fraction, few).mean() for fraction in (0.1, TOLD)]))
            for name, ours in GRID.items()
        }
        for ground in found
    }
    regrets: dict[str, dict[str, dict[float, Floats]]] = {}
    chosen = {}
    for ground in found:
        chosen[ground.name] = _chosen(ground, found, tried)
        strategies = {**FIXED, "ours": GRID[chosen[ground.name]]}
        regrets[ground.name] = {
            name: {fraction: searched(ground, strategy, fraction, range(seeds)) for fraction in FRACTIONS}
            for name, strategy in strategies.items()
        }
        say(f"{ground.name}: ours is {chosen[ground.name]}")
    return {
        **_ratio(regrets, HALVING, "regret_ratio"),
        **_ratio(regrets, PLANNED, "regret_ratio_to_planned"),
        **_ratio(regrets, RUN, "regret_ratio_to_race"),
        "missing": missing,
        "sizes": {g.name: {"prompts": g.losses.shape[0], "rows": g.losses.shape[1]} for g in found},
        "ours": chosen,
        "tried": {
            name: {k: round(v, 4) for k, v in sorted(told.items(), key=lambda kv: kv[1])} for name, told in tried.items()
        },
        "regret": {
            name: {strategy: {f"{f:g}": _told(values) for f, values in by.items()} for strategy, by in told.items()}
            for name, told in regrets.items()
        },
        "regret_mean": {
            strategy: {f"{f:g}": _told(np.mean([told[strategy][f] for told in regrets.values()], axis=0)) for f in FRACTIONS}
            for strategy in (*FIXED, "ours")
        },
        "races_of_a_run": compare_races(tables, 4 * seeds),
        "seeds": seeds,
    }


def _chosen(ground: Ground, everything: Sequence[Ground], tried: Mapping[str, Mapping[str, float]]) -> str:
    """The set-up that is best on the other tasks; the default where there are none."""
    others = [tried[other.name] for other in everything if other.task != ground.task]
    return min(GRID, key=lambda name: sum(told[name] for told in others)) if others else DEFAULT


def _ratio(regrets: Mapping[str, Mapping[str, Mapping[float, Floats]]], other: str, key: str) -> dict[str, Any]:
    """Ours over another's regret at a quarter of the budget, with a bootstrap interval over seeds; and task by task."""
    ours = np.stack([told["ours"][TOLD] for told in regrets.values()])
    others = np.stack([told[other][TOLD] for told in regrets.values()])
    each = {
        name: round(float(a.mean() / b.mean()), 4) if b.mean() > 0 else None
        for name, a, b in zip(regrets, ours, others, strict=True)
    }
    names = (f"{key}_at_25pct", f"{key}_ci", f"{key}_by_task")
    if others.mean() <= 0:
        return dict(zip(names, (None, None, each), strict=True))
    draws = np.random.default_rng(0).integers(0, ours.shape[1], (_DRAWS, ours.shape[1]))
    above, below = (table.mean(axis=0)[draws].mean(axis=1) for table in (ours, others))
    low, high = np.quantile(above / np.maximum(below, 1e-12), [0.025, 0.975])
    ratio = round(float(ours.mean() / others.mean()), 4)
    return dict(zip(names, (ratio, [round(float(low), 4), round(float(high), 4)], each), strict=True))


def _told(values: Floats) -> list[float]:
    """Mean with a bootstrap interval over seeds."""
    draws = np.random.default_rng(0).integers(0, len(values), (_DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return [round(float(v), 4) for v in (values.mean(), low, high)]
