"""The table of prompts is made in pieces by a tiny model; searches are compared on a made-up one whose best is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tiny import save_tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import search
import search_compare
from search_compare import FRACTIONS, GRID, compare, grounds, searched
from search_data import TaskTable, read_table, write_table
from search_races import RACES, compare_races
from search_strategies import Field, PlannedHalving, RunRace, random_search, successive_halving, uniform


def test_by_default_every_block_of_rows_is_made() -> None:
    assert search.all_parts(4) == [f"{w}:{block}" for w in ("base", "tuned") for block in range(4)]


SMALL = ["--prompts", "8", "--first", "5", "--train", "24", "--dev", "12", "--block", "6", "--steps", "3"]


def test_the_table_is_made_in_pieces_and_holds_no_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["card", "tower", "book", "number", "person", "place"]
    rows = [{"input": f"the {words[i % 6]} numbered {i} of all", "output": words[i % 6]} for i in range(90)]
    (tmp_path / "data" / "trec6").mkdir(parents=True)
    (tmp_path / "data" / "trec6" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = save_tiny(tmp_path / "model")
    places = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work"), "--file", str(tmp_path / "t.safetensors")]
    command = ["table", *places, "--model", str(model), "--tasks", "trec6", *SMALL, "--parts", "base:0", "base:1", "tuned:0"]
    assert search.main([*command, "--seconds", "0"]) == 75
    assert not (tmp_path / "t.safetensors").exists()
    assert search.main(command) == 0
    made = (tmp_path / "t.safetensors").read_bytes()
    assert search.main([*command, "--seconds", "0"]) == 0, "what is done stays done"
    assert (tmp_path / "t.safetensors").read_bytes() == made
    table = read_table(tmp_path / "t.safetensors")["trec6"]
    assert table.losses("base").shape == (8, 12) and table.losses("tuned").shape == (8, 6)
    assert table.arrays["labels"].shape == (12,) and set(table.arrays["labels"]) <= set(range(6))
    assert np.isfinite(table.losses("base")).all()
    assert b" of all" not in made, "no text of a row is kept"
    capsys.readouterr()
    assert search.main(["compare", "--file", str(tmp_path / "t.safetensors"), "--seeds", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["sizes"]) == {"trec6, base", "trec6, tuned"}
    assert "sms_spam, base" in told["missing"]


def made_up(name: str, seed: int, prompts: int = 24, rows: int = 60) -> TaskTable:
    """Prompts that differ in worth, on rows that differ in difficulty."""
    rng = np.random.default_rng(seed)
    worth = rng.standard_normal(prompts) * 0.1
    doubt = 1 + worth[:, None] + rng.standard_normal(rows) + 0.5 * rng.standard_normal((prompts, rows))
    losses = 0.5 * np.logaddexp(0, doubt)
    return TaskTable(name, {"labels": 2}, {"base/losses": losses.astype(np.float16), "labels": np.arange(rows) % 2})


def test_searches_are_compared_on_what_the_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: GRID[name] for name in list(GRID)[:2]}
    monkeypatch.setattr(search_compare, "GRID", few)
    write_table({name: made_up(name, seed) for seed, name in enumerate(("trec6", "snips"))}, tmp_path / "t.safetensors")
    told = compare(read_table(tmp_path / "t.safetensors"), seeds=3)
    assert set(told["regret"]) == {"trec6, base", "snips, base"}
    assert len(told["missing"]) == 6
    for by in told["regret_mean"].values():
        assert all(low <= mean <= high for mean, low, high in by.values())
    for name in ("uniform allocation", "successive halving"):
        assert told["regret_mean"][name]["1"][0] == 0.0, "who sees all rows of all knows the best"
    assert told["regret_mean"]["random search"]["0.05"][0] > told["regret_mean"]["random search"]["0.5"][0]
    assert isinstance(told["regret_ratio_at_25pct"], float)
    assert set(told["regret_ratio_to_planned_by_task"]) == {"trec6, base", "snips, base"}


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_no_search_spends_more_than_it_has(fraction: float) -> None:
    (ground,), _ = grounds({"trec6": made_up("trec6", 3)})
    for strategy in (
        random_search,
        uniform,
        successive_halving,
        PlannedHalving(),
        PlannedHalving(1 / 3, 0.7, evenly=False),
        PlannedHalving(0.7),
        RunRace(),
    ):
        budget = fraction * ground.losses.size
        arena = Field(ground.losses, budget, ground.labels)
        chosen = strategy(arena, np.random.default_rng(0))
        least = ground.losses.shape[1] if strategy is random_search else 0
        assert arena.met.sum() <= max(arena.budget, least) + 1e-6
        assert arena.met.sum() >= 0.35 * arena.budget or isinstance(strategy, RunRace)
        assert arena.met[chosen] > 0
        assert (arena.met <= arena.rows).all()


def test_planned_halving_spends_what_it_has_and_ends_on_all_rows() -> None:
    (ground,), _ = grounds({"trec6": made_up("trec6", 3, prompts=32, rows=200)})
    plain, planned = (Field(ground.losses, 0.25 * ground.losses.size, labels=ground.labels) for _ in range(2))
    successive_halving(plain, np.random.default_rng(0))
    chosen = PlannedHalving()(planned, np.random.default_rng(0))
    assert planned.met[chosen] == 200 and planned.left <= 2
    assert plain.left > 0.05 * plain.budget, "plain halving runs out of rows"
    assert sorted(planned.met)[:16] == [planned.met.min()] * 16, "half of them go after the first round"


def test_the_race_of_a_run_ends_on_few_prompts_and_drops_losers() -> None:
    """What it was planned to cost is the budget; what early drops save is left."""
    (ground,), _ = grounds({"trec6": made_up("trec6", 3, prompts=32, rows=200)})
    arena = Field(ground.losses, 0.25 * ground.losses.size, labels=ground.labels)
    chosen = RunRace()(arena, np.random.default_rng(0))
    finalists = np.flatnonzero(arena.met == arena.met.max())
    assert chosen in finalists and 1 <= len(finalists) <= 3 and arena.left >= 0
    clear = 0.05 * ground.losses + np.where(np.arange(32) == 5, 0.0, 3.0)[:, None]
    sure = Field(clear, 0.25 * clear.size, labels=ground.labels)
    assert RunRace()(sure, np.random.default_rng(0)) == 5 and sure.left > arena.left


def test_a_race_as_large_as_a_runs_costs_two_thirds_of_one_whose_rows_grow_as_prompts_go() -> None:
    table = made_up("trec6", 3, prompts=32, rows=200)
    rng = np.random.default_rng(0)
    for weights in ("base", "tuned"):
        table.arrays[f"{weights}/losses"] = rng.gamma(2.0, 0.5, (32, 200)) + np.linspace(0, 0.5, 32)[:, None]
        table.arrays[f"{weights}/correct"] = table.losses(weights) < 1.0
    found = compare_races({"trec6": table}, 6)
    planned, as_they_are, grown, whole = (found[name] for name in RACES)
    assert planned["evaluations"] < 0.7 * grown["evaluations"] and grown["evaluations"] < whole["evaluations"]
    assert max(planned["regret"], whole["regret"]) < 0.5
    assert as_they_are != planned, "a cap changes who leads"
    assert compare_races({"trec6": made_up("trec6", 3)}, 2)["all rows for all"] == {}, "too small a table has none"


def test_labels_that_come_evenly_find_the_best_where_prompts_differ_by_label() -> None:
    rng = np.random.default_rng(5)
    labels = (rng.random(100) < 0.2).astype(np.int64)
    # What a prompt gains on the one label it loses on the other, but for a little.
    swing = np.outer(rng.normal(0, 1, 32), [0.2, -0.8]) + rng.normal(0, 0.1, (32, 1))
    losses = 3 + swing[:, labels] + 0.1 * rng.standard_normal((32, 100))
    ground = search_compare.Ground("made up", "base", losses, labels)
    evenly, at_random = (searched(ground, PlannedHalving(evenly=way), 0.15, range(40)).mean() for way in (True, False))
    assert evenly < 0.5 * at_random


def test_a_search_that_is_told_the_truth_has_no_regret() -> None:
    (ground,), _ = grounds({"trec6": made_up("trec6", 4)})
    best = int(ground.losses.mean(axis=1).argmin())
    assert searched(ground, lambda arena, rng: best, 0.1, range(3)).tolist() == [0.0, 0.0, 0.0]
    assert searched(ground, uniform, 0.1, range(5)).mean() > searched(ground, uniform, 1.0, range(5)).mean() == 0.0
