"""How long a run says that it will take: as long as its budget, until it decides to need no more of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import journal_of, labelled_rows

from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Quiet
from cotune.cycle.run import run as run_cycle
from cotune.tune.settings import TuneSettings
from tiny import tiny_local

if TYPE_CHECKING:
    from conftest import Bench


class Listening(Quiet):
    """Keeps what it is told: events, and times left between them."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def event(self, event: dict[str, Any]) -> None:
        self.told.append((event["kind"], event["value"]))

    def set_time_left(self, seconds: float | None) -> None:
        self.told.append(("left", seconds))


def lab_in(folder: Path, budget: str, view: Listening) -> RunContext:
    task = Task.from_rows(labelled_rows(60), input="text", output="label", limit={"dev": 12})
    costs = CostModel(parse_budget(budget), score_rate=100.0, train_rate=50.0)
    return RunContext(task, tiny_local(), Journal(folder), costs, folder, TuneSettings(), 0, view)


def test_passes_that_took_no_time_to_speak_of_do_not_make_a_machine_slow() -> None:
    costs = CostModel.guess(parse_budget("2m"), gflops=400.0, parameters=1_000_000, threads=2, width=576)
    planned = costs.score_rate
    # The first pass of a process allocates memory.
    costs.saw_scoring(int(planned / 1000), 0.1)
    assert costs.slowness == costs.lag == 1.0
    costs.saw_scoring(int(planned / 100), 1.0)
    assert costs.slowness > 50 and costs.lag > 10


def test_a_slow_machine_is_told_once_and_not_written_down(tmp_path: Path) -> None:
    costs = CostModel.guess(parse_budget("2m"), gflops=400.0, parameters=100_000_000, threads=2, width=576)
    planned = costs.score_rate
    context = lab_in(tmp_path, "2m", Listening())
    context.spending.costs = costs
    heard: list[str] = []
    context.journal.listeners.append(lambda event: heard.append(event["value"]["text"]))
    step = {"tokens": int(planned / 10 * 20), "saved": 0, "truncated": 0, "seconds": 20.0}
    for _ in range(3):
        context.spending.charge(step, "tokens_scored", costs.saw_scoring)
    assert len(heard) == 1
    assert heard[0].startswith("this machine is about 10 times slower than planned; is something else running?")
    assert all(way in heard[0] for way in ("cotune run", "--finish", "larger --budget", "smaller limit.test"))
    assert not context.journal.events


@pytest.mark.parametrize(("budget", "rate"), [("1000s", 1.0), ("1ktok", 100.0)])
def test_time_left_is_the_budgets_until_less_is_needed(tmp_path: Path, budget: str, rate: float) -> None:
    view = Listening()
    context = lab_in(tmp_path, budget, view)

    def told() -> float:
        kind, seconds = view.told[-1]
        assert kind == "left"
        return float(seconds * rate)

    near = {"abs": 20.0} if budget == "1000s" else {"abs": 1e-6}
    assert context.spending.left() == pytest.approx(1000, **near) and told() == pytest.approx(1000, **near)
    context.spending.expect_end(200.0)
    assert told() == pytest.approx(200, abs=0.1)
    # What is decided by is still the budget; what was not needed is no longer told.
    assert context.spending.left() == pytest.approx(1000, **near) and told() == pytest.approx(200, **near)
    context.spending.account.counts["tokens_scored"] += 150
    context.spending.left()
    assert told() == pytest.approx(200 if budget == "1000s" else 50, **near)
    # An end that costs more than there is takes no longer than the budget.
    context.spending.expect_end(5000.0)
    assert told() == pytest.approx(1000 if budget == "1000s" else 850, **near)
    context.spending.expect_end(10.0)
    context.spending.expect_end(None)
    assert told() == pytest.approx(1000 if budget == "1000s" else 850, **near)


def test_money_has_no_time(tmp_path: Path) -> None:
    view = Listening()
    context = lab_in(tmp_path, "2usd", view)
    context.spending.left()
    context.spending.expect_end(0.5)
    assert view.told == []


def test_a_search_that_ends_early_tells_the_end_alone(bench: Bench, tmp_path: Path) -> None:
    task = Task.from_rows(labelled_rows(120), input="text", output="label", limit={"test": 30})
    tune = {"readout": "words", "batch_size": 8, "rank": 2, "max_epochs": 1}
    config = config_in_memory(
        name="early",
        input=["text"],
        output="label",
        model=str(bench.model),
        budget="1h",
        seed=4,
        search={"pool": 6, "max_cycles": 1},
        tune=tune,
        engine={"dtype": "float32", "threads": 1},
    )
    view = Listening()
    run_cycle(config, tmp_path / "run", task=task, view=view)
    decided = next(i for i, (kind, value) in enumerate(view.told) if kind == "decide" and value["next"] == "finish")
    before = [value for kind, value in view.told[:decided] if kind == "left"]
    after = [value for kind, value in view.told[decided:] if kind == "left"]
    # Six seconds and a hundredth of the budget are kept for what is neither scoring nor training.
    assert min(before) > 3000 and 36 < after[0] < 300
    assert after == sorted(after, reverse=True)
    assert journal_of(tmp_path / "run")[-1]["kind"] == "done"
