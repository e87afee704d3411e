"""Runs with a surrogate: what it is told, what it may decide, what it costs, and what a resumed run makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import journal_of, labelled_rows, summary_of, without_times

import cotune.refine.surrogate
from cotune.config import config_in_memory
from cotune.cycle.budget import parse_budget
from cotune.cycle.costs import CostModel
from cotune.cycle.journal import Journal
from cotune.cycle.lab import Lab
from cotune.cycle.pool import next_pool
from cotune.cycle.prompt_race import race_prompts
from cotune.cycle.run import Quiet
from cotune.cycle.run import run as run_cycle
from cotune.cycle.stopwatch import untimed
from cotune.cycle.surrogate import Forecaster
from cotune.model.adapters import BASE
from cotune.model.cache import cache_folder
from cotune.model.engine_settings import EngineSettings
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task
from cotune.tune.settings import TuneSettings
from tiny import tiny_local

if TYPE_CHECKING:
    from conftest import Bench

BUDGET = "90ktok"
SEARCH = {"pool": 8, "entrants": 2, "surrogate": True, "max_cycles": 3}


class Stops(Quiet):
    """A view that ends the run right after the journal's so-many-th line of a kind."""

    def __init__(self, kind: str, count: int = 1) -> None:
        self.kind, self.left = kind, count

    def event(self, event: dict[str, Any]) -> None:
        self.left -= event["kind"] == self.kind
        if not self.left:
            raise KeyboardInterrupt


def of_kind(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event["value"] for event in journal_of(folder) if event["kind"] == kind]


def go(bench: Bench, out: Path, view: Quiet | None = None) -> None:
    if not out.exists():
        # Else each run would be told that the ones before had opened its test.
        shutil.rmtree(cache_folder("ledger"))
    task = Task.from_rows(labelled_rows(120), input="text", output="label", limit={"test": 30})
    settings: dict[str, Any] = {"model": str(bench.model), "budget": BUDGET, "seed": 4, "search": SEARCH}
    settings |= {"tune": {"batch_size": 8, "rank": 2, "max_epochs": 4}, "engine": {"dtype": "float32", "threads": 1}}
    config = config_in_memory(name="foreseen", input=["text"], output="label", **settings)
    run_cycle(config, out, task=task, view=view)


@pytest.fixture(scope="module")
def trusted(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run whose surrogate is believed whatever it knows, so that all it does is seen."""
    out = tmp_path_factory.mktemp("surrogate") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cotune.refine.surrogate, "ALPHA", 1.0)
        go(bench, out)
    return out


def test_it_thins_the_pool_and_is_paid_for(trusted: Path) -> None:
    told = of_kind(trusted, "surrogate")
    pools = {pool["cycle"]: pool for pool in of_kind(trusted, "pool")}
    assert told and all(value["on"] for value in told)
    for value in told:
        pool = [Prompt.from_json(p["prompt"]).id for p in pools[value["cycle"]]["proposals"]]
        assert set(pool) <= set(value["ranked"])
        assert len(value["ranked"]) > len(pool)
        assert set(value["ranked"]) == set(value["mean"])
        assert value["tokens"] > 0 and value["n"] >= 5
    # After a change of adapter the history is placed anew, each time under the weights that race.
    races = {race["cycle"]: race for race in of_kind(trusted, "race")}
    assert all(value["adapter_id"] == races[value["cycle"]]["adapter_id"] != BASE for value in told)
    embedded = sum(
        v["tokens"] for kind in ("pool", "surrogate", "entrants", "slices") for v in of_kind(trusted, kind) if "tokens" in v
    )
    assert summary_of(trusted)["cost"]["tokens_embedded"] >= embedded
    assert sum(summary_of(trusted)["cost"][f"tokens_{what}"] for what in ("scored", "trained", "embedded")) <= 1.05 * 90_000


@pytest.mark.parametrize(("kind", "count"), [("surrogate", 1), ("race", 2)], ids=["forecast", "race"])
def test_a_resumed_run_ends_alike(
    bench: Bench, trusted: Path, tmp_path: Path, kind: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cotune.refine.surrogate, "ALPHA", 1.0)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        go(bench, out, Stops(kind, count))
    go(bench, out)
    assert summary_of(out) == summary_of(trusted)
    assert without_times(journal_of(out)) == without_times(journal_of(trusted))


def test_where_it_is_not_believed_the_pools_are_those_without_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cotune.refine.surrogate, "ALPHA", -1.0)
    for name, wanted in (("doubted", True), ("without", False)):
        monkeypatch.setitem(SEARCH, "surrogate", wanted)
        with pytest.raises(KeyboardInterrupt):
            go(bench, tmp_path / name, Stops("pool", 2))
    told = of_kind(tmp_path / "doubted", "surrogate")
    assert told and not any(value["on"] or "ranked" in value for value in told)
    assert not of_kind(tmp_path / "without", "surrogate")
    first = [of_kind(tmp_path / name, "pool")[1]["proposals"] for name in ("doubted", "without")]
    assert first[0] == first[1]


def make_lab(folder: Path) -> Lab:
    task = Task.from_rows(labelled_rows(200), input="text", output="label", limit={"dev": 96})
    model = tiny_local(settings=EngineSettings(max_tokens=200))
    return Lab(task, model, Journal(folder), CostModel(parse_budget("10Mtok"), 1.0, 1.0), folder, TuneSettings(), 0, Quiet())


def prompts_of(count: int) -> list[Prompt]:
    return [Prompt(f"Number {i}: what is it?", "{text}", "Kind:") for i in range(count)]


def test_it_learns_from_races_and_tuning_and_forecasts_the_same_again(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    prompts = prompts_of(10)
    race = race_prompts(lab, prompts, BASE, rows=48, cycle=1, final=3)
    told = []
    for _ in range(2):
        forecaster = Forecaster(lab, wanted=True)
        assert forecaster.thin(2, prompts[:1], adapter=BASE, steps=0) is None, "nothing was seen"
        forecaster.observe_race(race, prompts, steps=0)
        fresh = [Prompt(f"Say what it is, {i}.", "{text}") for i in range(6)]
        forecaster.thin(2, fresh, adapter=BASE, steps=8)
        told.append(json.dumps(untimed(lab.journal.events[-1]["value"]), sort_keys=True))
        lab.journal = Journal(tmp_path)
        while lab.journal.replaying:
            event = lab.journal.events[lab.journal._next]
            if event["kind"] == "surrogate":
                break
            lab.journal._next += 1
    assert told[0] == told[1]
    value = json.loads(told[0])
    assert value["known"] == 10 and value["n"] == 10
    assert set(value["shares"]) == {"text", "format", "own"}
    off = Forecaster(lab, wanted=False)
    off.observe_race(race, prompts, steps=0)
    assert off.thin(2, prompts, adapter=BASE, steps=0) is None and off.cost(10) == 0.0
    assert off.thinning(2, adapter=BASE, steps=0) is None


def test_what_is_bred_for_it_is_three_times_as_much(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    seen: list[int] = []

    def thin(candidates: list[Prompt]) -> None:
        seen.append(len(candidates))

    parents = prompts_of(2)
    pool = next_pool(lab, 2, parents, 4, {p.id for p in parents}, demonstrations=False, seed=0, thin=thin)
    assert len(pool) == 4 and seen == [12]
