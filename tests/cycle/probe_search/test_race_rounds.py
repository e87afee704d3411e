"""The rounds of a probe race on rows in an unlucky order, and in what order the rows come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cycle_runs import labelled_rows as made_rows

from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.limit import RaceLimit
from cotune.cycle.probe_search.race import ProbeRace, ProbeRaceResult
from cotune.cycle.probe_search.splits import labelled_rows
from cotune.cycle.progress import Quiet
from cotune.model.engine.settings import EngineSettings
from cotune.model.local import LocalModel
from cotune.prompt.bank import seed_prompt
from cotune.refine import with_demonstrations
from cotune.task.example import Example
from cotune.tune.settings import TuneSettings

if TYPE_CHECKING:
    from conftest import Bench

ROWS = 420


@pytest.fixture(scope="module")
def model(bench: Bench) -> LocalModel:
    return LocalModel.load(bench.model, settings=EngineSettings("cpu", "float32", threads=1))


def context_of(model: LocalModel, folder: Path, task: Task) -> RunContext:
    costs = CostModel(parse_budget("10Mtok"), 1.0, 1.0)
    return RunContext(task, model, Journal(folder), costs, folder, TuneSettings(), 0, Quiet())


def race(context: RunContext, rows: Sequence[Example]) -> ProbeRaceResult:
    seed = seed_prompt(context.task)
    prompts = [seed, *(seed.edit(system=f"Variant {i}.") for i in range(5))]
    embedding = Embedding(context)
    limit = RaceLimit(context, embedding, lambda: 0.0)
    first = HEURISTICS.first_rows
    return ProbeRace(context, embedding, prompts, rows, cycle=1, always=[seed], first_rows=first, limit=limit).run()


def test_a_label_that_is_rare_among_the_first_rows_ends_no_race(model: LocalModel, tmp_path: Path) -> None:
    """The second row of the second label comes behind the rows of two rounds."""
    labels = np.zeros(ROWS, dtype=int)
    labels[[40, 230, 260, 300, 400]] = 1
    made = [{"text": f"word {i} {'red' if label else 'blue'}", "label": "ab"[label]} for i, label in enumerate(labels)]
    context = context_of(model, tmp_path, Task.from_rows(made, input="text", output="label"))
    known = {row["text"]: row["label"] for row in made}
    rows = tuple(Example(f"train:{i}", {"text": text}, label) for i, (text, label) in enumerate(known.items()))
    result = race(context, rows)
    assert result.read == ROWS and result.fits_on(ROWS)
    assert min(result.rows.values()) == 231


def test_a_prompt_that_shows_the_only_row_of_a_label_drops_out(model: LocalModel, tmp_path: Path) -> None:
    """Its probe would have rows of one label alone."""
    made = [{"text": f"word {i} {'blue' if i > 1 else 'red'}", "label": "ab"[i < 2]} for i in range(40)]
    context = context_of(model, tmp_path, Task.from_rows(made, input="text", output="label"))
    # The test has the other one, as it is cut by label.
    seed, rows = seed_prompt(context.task), labelled_rows(context)
    (lonely,) = [row for row in rows if row.output == "b"]
    showing = with_demonstrations(seed, [lonely, next(row for row in rows if row.output == "a")])
    embedding, first = Embedding(context), HEURISTICS.first_rows
    prompts = [seed, showing, seed.edit(cue="Is:")]
    result = ProbeRace(context, embedding, prompts, rows, cycle=1, always=[seed], first_rows=first).run()
    assert set(result.ranking) == {seed.id, prompts[2].id}


def test_a_group_that_is_larger_than_a_round_ends_no_race(model: LocalModel, tmp_path: Path) -> None:
    context = context_of(model, tmp_path, Task.from_rows(made_rows(60), input="text", output="label"))
    made = made_rows(ROWS, seed=1)
    rows = tuple(Example(f"train:{i}", {"text": row["text"]}, row["label"], group=str(i // 130)) for i, row in enumerate(made))
    result = race(context, rows)
    assert result.fits_on(ROWS) and min(result.rows.values()) > 130


@pytest.mark.parametrize("grouped", [False, True])
def test_a_small_dev_is_among_the_first_rows(model: LocalModel, tmp_path: Path, grouped: bool) -> None:
    """A cut race keeps the first rows alone, of which some must be held out."""
    made: list[dict[str, Any]] = [dict(row, source=f"s{i // 2}") for i, row in enumerate(made_rows(603))]
    group = {"group": "source"} if grouped else {}
    orders = []
    for seed in range(6):
        task = Task.from_rows(made[:600], dev=made[600:], input="text", output="label", **group)
        context = context_of(model, tmp_path / str(seed), task)
        context.seed = seed
        orders.append(labelled_rows(context))
    dev = {row.id for row in task.dev}
    assert all(dev & {row.id for row in order[: HEURISTICS.least_rows]} for order in orders)
    assert len({order[0].id for order in orders}) > 1
    for order in orders if grouped else ():
        groups = [row.group for row in order]
        assert sum(a != b for a, b in pairwise(groups)) + 1 == len(set(groups))


def test_numbers_that_never_recur_are_raced_in_rounds(model: LocalModel, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "weight": f"{i + 0.25 + i % 7}"} for i, row in enumerate(made_rows(ROWS))]
    task = Task.from_rows(rows, input="text", output="weight", type="number", metric="r2")
    context = context_of(model, tmp_path, task)
    result = race(context, labelled_rows(context))
    read = sorted(result.rows.values())
    assert read[0] < read[-1] == result.read, "some prompts leave after the first round"
