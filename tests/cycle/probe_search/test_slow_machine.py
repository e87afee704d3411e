"""A time budget on a machine that is far slower than planned: the race is cut, and a bundle and a tested result exist in time.

The clock goes with the tokens that the model runs, so that how slow the machine is hangs on nothing but the test.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from cycle_runs import journal_of, labelled_rows, of_kind

from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.ledger import enter_opening
from cotune.cycle.probe_search import fits
from cotune.cycle.progress import Quiet
from cotune.cycle.run import Result
from cotune.cycle.run import run as run_cycle
from cotune.model.engine.runner import PackedRunner
from cotune.model.engine.settings import EngineSettings
from cotune.model.local import LocalModel

if TYPE_CHECKING:
    from conftest import Bench

PLANNED = 400.0
"""Tokens a second that the machine is planned with."""
BUDGET = 60.0


@pytest.fixture(autouse=True, scope="module")
def known(bench: Bench) -> None:
    """Load the model once: a first load runs a few passes more, which would count in the first test alone."""
    LocalModel.load(bench.model, settings=EngineSettings(threads=1))


class Machine:
    """A clock that goes with the tokens that run: slower than planned by ``times``, between two of its seconds."""

    def __init__(self, times: float, since: float = 0.0, until: float = float("inf")) -> None:
        self.now, self.times, self.since, self.until = 0.0, times, since, until

    def monotonic(self) -> float:
        return self.now

    def run(self, tokens: int, *, training: bool) -> None:
        times = self.times if self.since <= self.now < self.until else 1.0
        self.now += (3 if training else 1) * times * tokens / PLANNED


class Heard(Quiet):
    """Keeps what is told; interrupts the run behind its first step of a kind."""

    def __init__(self, until: str = "") -> None:
        self.notes: list[str] = []
        self.until = until

    def event(self, event: dict[str, Any]) -> None:
        if event["kind"] == "note":
            self.notes.append(event["value"]["text"])
        if event["kind"] == self.until:
            raise KeyboardInterrupt


def on(machine: Machine, patch: pytest.MonkeyPatch, planned: float = PLANNED) -> None:
    """Let runs of this process happen on a machine, planned with this rate."""
    run_pass = PackedRunner._run

    def counted(self: PackedRunner, ids: Any, *rest: Any, **named: Any) -> Any:
        machine.run(len(ids), training=torch.is_grad_enabled())
        return run_pass(self, ids, *rest, **named)

    patch.setattr(PackedRunner, "_run", counted)
    for module in ("budget.budget", "answering.answers", "probe_search.embedding", "probe_search.race", "run"):
        patch.setattr(sys.modules[f"cotune.cycle.{module}"], "time", machine)

    def guess(budget: Any, **facts: Any) -> CostModel:
        return CostModel(budget, planned, planned / 3, _slowest=planned / 2, _guessed=planned)

    patch.setattr(CostModel, "guess", guess)


def slow_fits(machine: Machine, patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let each cross-fit of a race take so long."""
    fit = fits.fit_prompt

    def counted(*given: Any, **named: Any) -> Any:
        machine.now += seconds
        return fit(*given, **named)

    patch.setattr(fits, "fit_prompt", counted)


def task_of(test: int = 100, rows: int = 240) -> Task:
    return Task.from_rows(labelled_rows(rows), input="text", output="label", limit={"test": test})


def run(
    bench: Bench,
    out: Path,
    view: Quiet,
    test: int = 100,
    tfidf: bool = False,
    pool: int = 6,
    started: float | None = None,
    rows: int = 240,
) -> Result:
    """``tfidf`` tells these rows apart by itself, after which there is nothing to advise."""
    task = task_of(test, rows)
    settings: dict[str, Any] = {"model": str(bench.model), "budget": f"{BUDGET:g}s", "seed": 4}
    search = {"pool": pool, "max_cycles": 1, "tfidf": tfidf}
    settings |= {"tune": {"rank": 2}, "search": search, "engine": {"dtype": "float32", "threads": 1}}
    config = config_in_memory(name="slow", input=["text"], output="label", **settings)
    return run_cycle(config, out, task=task, view=view, started=started)


def test_seconds_before_the_run_count(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command imports for seconds before its run starts."""
    machine, out = Machine(1.0), tmp_path / "run"
    on(machine, monkeypatch)
    result = run(bench, out, Quiet(), started=-15.0)
    assert machine.now <= BUDGET - 15.0 and result.summary["cost"]["wall_s"] == pytest.approx(machine.now + 15.0, abs=0.1)


def test_a_race_that_is_cut_gets_tf_idf_too(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(5.0, 0.0)
    on(machine, monkeypatch)
    result = run(bench, tmp_path / "run", Quiet(), tfidf=True)
    assert machine.now <= 1.25 * BUDGET and of_kind(tmp_path / "run", "cut")
    assert result.summary["tfidf"]["used"] and result.summary["first_verdict"]["with_tfidf"]
    assert result.summary["arms"]["best_tuned"]["score"] > 0.9


@pytest.mark.parametrize(("times", "since"), [(5.0, 0.0), (7.0, 0.0), (7.0, 6.0)])
def test_a_race_is_cut_where_the_rest_is_needed_for_the_end(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float, since: float
) -> None:
    machine, view, out = Machine(times, since), Heard(), tmp_path / "run"
    on(machine, monkeypatch)
    result = run(bench, out, view)
    assert machine.now <= 1.25 * BUDGET
    assert (result.bundle / "manifest.json").is_file() and of_kind(out, "verdict")
    arm = result.summary["arms"]["best_tuned"]
    assert arm["score"] is not None and arm["n"] >= 30
    assert sum("the race is cut" in value.get("text", "") for value in of_kind(out, "cut")) == 1
    told = [note for note in view.notes if "slower than planned" in note]
    assert len(told) == 1
    assert all(way in told[0] for way in ("--finish", "--budget", "limit.test"))
    assert "reserved for the test" in result.summary["stopped"]
    # References cost so little that they learn from all rows, also where the arms have no time for them.
    summary, tfidf = result.summary, result.summary["references"]["tfidf"]
    used = summary["n"]["train"] + summary["n"]["dev"]
    assert summary["given"] == {"labelled": 140, "test": 100} and used <= summary["first_verdict"]["tfidf_rows"] <= 140
    assert tfidf.get("learnt_from", used) == 140
    assert used == 140 or "(fitted to 140 labelled rows)" in summary["verdict"]
    assert used == 140 or f"{used} of 140 labelled rows were used" in summary["next"][0]


def test_test_rows_make_room_for_tuning_and_are_scored_if_there_is_time(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, out = Machine(1 / 1.4), tmp_path / "run"
    on(machine, monkeypatch, planned=1.4 * PLANNED)
    result = run(bench, out, Quiet(), test=300, rows=360)
    assert machine.now <= BUDGET
    (plan,) = of_kind(out, "plan")
    assert plan["test"] == 200 < plan["of"] and plan["epochs"] and plan["last_epochs"]
    arm = result.summary["arms"]["best_tuned"]
    assert arm["steps"] and 200 <= arm["n"] <= 300


def test_a_machine_that_keeps_to_its_plan_cuts_nothing(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, view, out = Machine(1.0), Heard(), tmp_path / "run"
    on(machine, monkeypatch)
    result = run(bench, out, view)
    assert machine.now <= BUDGET
    assert "learnt_from" not in result.summary["references"]["tfidf"]
    assert not of_kind(out, "cut") and result.summary["n"] == {"train": 98, "dev": 42, "test": 100}
    assert not any("slower than planned" in note for note in view.notes)


def test_passes_that_take_far_longer_than_their_products_cut_nothing_while_they_are_cheap(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with a tiny model: sixty times slower than planned, and yet a hundredth of a second a pass.
    machine, out = Machine(0.01), tmp_path / "run"
    on(machine, monkeypatch, planned=60 * 100 * PLANNED)
    result = run(bench, out, Heard())
    assert not of_kind(out, "cut") and of_kind(out, "train")
    assert machine.now <= BUDGET and result.summary["n"] == {"train": 98, "dev": 42, "test": 100}


def test_a_cut_race_is_resumed_as_it_was_cut(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    machine = Machine(7.0)
    on(machine, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(bench, out, Heard(until="read_on"))
    before = journal_of(out)
    # The machine is as fast as planned again: what was cut stays cut.
    machine.times = 1.0
    view = Heard()
    result = run(bench, out, view)
    assert journal_of(out)[: len(before)] == before
    assert result.summary["n"]["train"] + result.summary["n"]["dev"] < 140
    assert not any("slower than planned" in note for note in view.notes)


class Recovering(Heard):
    """Makes the machine as fast as planned again behind the first step of a kind."""

    def __init__(self, machine: Machine, behind: str, until: str = "") -> None:
        super().__init__(until)
        self.machine, self.behind = machine, behind

    def event(self, event: dict[str, Any]) -> None:
        if event["kind"] == self.behind:
            self.machine.times = 1.0
        super().event(event)


def test_a_cut_race_reads_on_where_passes_are_fast_again(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, machine = tmp_path / "run", Machine(7.0)
    on(machine, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(bench, out, Recovering(machine, "verdict", until="read_on"))
    result = run(bench, out, Quiet())
    assert machine.now <= BUDGET
    assert any("the race is cut" in step.get("text", "") for step in of_kind(out, "cut"))
    assert of_kind(out, "read_on")[0]["rows"] == 140 and "fast as planned again" in of_kind(out, "read_on")[0]["text"]
    summary = result.summary
    assert summary["n"] == {"train": 98, "dev": 42, "test": 100} and of_kind(out, "plan")
    assert "slow" not in summary["stopped"] and len(of_kind(out, "verdict")) == 1
    # A probe of all rows takes the place of that of the first ones before anything is tuned.
    kinds = [event["kind"] for event in journal_of(out)]
    assert kinds.index("read_on") < kinds.index("better") < kinds.index("plan")
    assert of_kind(out, "verdict")[0]["n"] < 140 == of_kind(out, "better")[0]["n"]


def test_a_cut_test_gets_further_rows_where_there_is_time_left(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, machine = tmp_path / "run", Machine(7.0)
    enter_opening(task_of().test.content_hash, tmp_path / "before", {})
    on(machine, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(bench, out, Recovering(machine, "confirm", until="more_test"))
    result = run(bench, out, Quiet())
    assert machine.now <= BUDGET
    cut, more = of_kind(out, "open_test")[0]["n"], of_kind(out, "more_test")
    counts = [step["test"] for step in more]
    assert cut < counts[0] <= 2 * cut and counts == sorted(set(counts)) and counts[-1] <= 100
    summary = result.summary
    assert {arm["n"] for arm in summary["arms"].values()} == {summary["n"]["test"]} == {counts[-1]}
    # The run before opened the whole test, so it opened each sample of it as well.
    opened = {step["opened_before"] for step in (*of_kind(out, "open_test"), *more)}
    assert opened == {summary["test_opened_before"]} and min(opened) >= 1
    # Whatever was scored first is scored once: the rows stand in one order.
    scored = [step for step in of_kind(out, "embed") if step["stage"] == "test"]
    rows = json.loads((out / "test_rows.json").read_text())["rows"]
    assert len(rows) == len({row["id"] for row in rows}) == counts[-1] and len(scored) < 50
    assert any("there is time left" in step["text"] for step in more)


@pytest.mark.parametrize(("seconds", "test"), [(6.0, 100), (6.0, 28), (25.0, 28)])
def test_a_race_is_cut_where_fits_take_the_time(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, test: int
) -> None:
    # What a busy machine does: it is measured busy, so that its passes keep to the plan.
    machine, view, out = Machine(1.0), Heard(), tmp_path / "run"
    on(machine, monkeypatch)
    slow_fits(machine, monkeypatch, seconds)
    result = run(bench, out, view, test)
    # The first prompt is fitted in any case, and so few rows are tested in any case.
    assert machine.now <= 1.25 * BUDGET
    assert (result.bundle / "manifest.json").is_file() and of_kind(out, "verdict")
    assert result.summary["arms"]["best_tuned"]["n"] == test
    assert [value for value in of_kind(out, "cut") if "fit" in value or "rows" in value]


def test_a_race_that_was_cut_before_its_last_fits_is_resumed_as_it_was_cut(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All prompts are fitted once, and of the leading ones some are not fitted fully: to resume must not confuse the two."""
    machine, out = Machine(0.05), tmp_path / "run"
    on(machine, monkeypatch, planned=20 * PLANNED)
    slow_fits(machine, monkeypatch, 3.3)
    with pytest.raises(KeyboardInterrupt):
        run(bench, out, Heard(until="race"), pool=12)
    before = journal_of(out)
    assert len([value for value in of_kind(out, "cut") if "fit" in value]) > 1 and len(of_kind(out, "race")[0]["rows"]) > 6
    run(bench, out, Quiet(), pool=12)
    assert journal_of(out)[: len(before)] == before


class Tiring(Heard):
    """The machine is slower from the end of the first cycle on."""

    def __init__(self, machine: Machine, times: float) -> None:
        super().__init__()
        self.machine, self.times = machine, times

    def event(self, event: dict[str, Any]) -> None:
        super().event(event)
        if event["kind"] == "cycle":
            self.machine.times = self.times


def test_in_a_later_race_fewer_prompts_continue_on_a_machine_that_became_slow(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the race would take the time of the trial that it is for."""
    settings: dict[str, Any] = {"model": str(bench.model), "budget": "150s", "seed": 4, "tune": {"rank": 2}}
    settings |= {"search": {"pool": 12, "max_cycles": 2, "tfidf": False}, "engine": {"dtype": "float32", "threads": 1}}
    config = config_in_memory(name="slow", input=["text"], output="label", **settings)
    continued = list[int]()
    for times in (1.0, 4.0):
        task = Task.from_rows(labelled_rows(300), input="text", output="label", limit={"test": 60})
        machine, out = Machine(1.0), tmp_path / f"run-{times:g}"
        with monkeypatch.context() as patch:
            on(machine, patch)
            run_cycle(config, out, task=task, view=Tiring(machine, times))
        first, later = of_kind(out, "places")
        assert first == 1 and len(of_kind(out, "race")) == 2
        continued.append(later)
    assert continued == [3, 1]


class TiringInARace(Tiring):
    """The machine is slower from the second race on."""

    def event(self, event: dict[str, Any]) -> None:
        Heard.event(self, event)
        if event["kind"] == "pool" and event["value"]["cycle"] > 1:
            self.machine.times = self.times


def later_race(bench: Bench, out: Path, view: Quiet, rows: int, budget: str) -> Result:
    """A run with two races, of which the second one has up to twelve prompts."""
    settings: dict[str, Any] = {"model": str(bench.model), "budget": budget, "seed": 4, "tune": {"rank": 2}}
    settings |= {"search": {"pool": 12, "max_cycles": 2, "tfidf": False}, "engine": {"dtype": "float32", "threads": 1}}
    task = Task.from_rows(labelled_rows(rows), input="text", output="label", limit={"test": 60})
    return run_cycle(config_in_memory(name="slow", input=["text"], output="label", **settings), out, task=task, view=view)


def test_a_later_race_ends_within_its_first_round_if_the_time_is_needed_for_the_test(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, out = Machine(1.0), tmp_path / "run"
    on(machine, monkeypatch)
    view = TiringInARace(machine, 4.0)
    result = later_race(bench, out, view, 280, "150s")
    assert machine.now <= 155.0
    cut = of_kind(out, "cut")[0]
    assert cut["cycle"] == 2 and "the race is cut" in cut["text"] and "the bundle and the test" in cut["text"]
    first, later = of_kind(out, "race")
    read = len(later["rows"])
    assert 1 <= read < len(of_kind(out, "pool")[1]["proposals"]) + 1 and later["ranking"][0] in first["full"]
    # All test rows are scored, and the labelled rows remain those of the first race and those that were not raced.
    used, further = result.summary["n"], of_kind(out, "further")[0]["rows"]
    assert result.summary["arms"]["best_tuned"]["n"] == 60
    assert used["dev"] + used["train"] == max(first["rows"].values()) + further


def test_a_later_race_that_was_cut_is_resumed_as_it_was_cut(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, out = Machine(1.0), tmp_path / "run"
    on(machine, monkeypatch)

    class Stopped(TiringInARace):
        def event(self, event: dict[str, Any]) -> None:
            super().event(event)
            if event["kind"] == "race" and event["value"]["cycle"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        later_race(bench, out, Stopped(machine, 4.0), 280, "150s")
    before = journal_of(out)
    assert of_kind(out, "cut")
    machine.times = 1.0
    later_race(bench, out, Quiet(), 280, "150s")
    assert journal_of(out)[: len(before)] == before
