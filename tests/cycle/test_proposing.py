"""A model on this machine that proposes: another one than the run's, what it may cost, and when it is not asked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cycle_runs import labelled_rows

from cotune.config.endpoints import ProposerConfig
from cotune.cycle.budget import parse_budget
from cotune.cycle.costs import CostModel
from cotune.cycle.guide import proposer_of
from cotune.cycle.journal import Journal
from cotune.cycle.lab import Lab
from cotune.cycle.local_proposing import LocalProposer
from cotune.cycle.run import Quiet
from cotune.task.task import Task
from cotune.tune.settings import TuneSettings
from tiny import save_tiny, tiny_local

MESSAGES = [{"role": "system", "content": "You improve {things}."}, {"role": "user", "content": "Rows are wrong: {text}"}]


def lab_of(folder: Path, budget: str) -> Lab:
    task = Task.from_rows(labelled_rows(60), input="text", output="label", limit={"dev": 12})
    costs = CostModel(parse_budget(budget), 500.0, 100.0)
    return Lab(task, tiny_local(), Journal(folder), costs, folder, TuneSettings(), 0, Quiet())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("other") / "model", seed=3, max_position_embeddings=2048))


def test_another_model_writes_a_list_whatever_it_was_shown(tmp_path: Path, other: str) -> None:
    lab = lab_of(tmp_path, "20ktok")
    proposer = proposer_of(lab, ProposerConfig(model=other))
    assert isinstance(proposer, LocalProposer) and proposer.name == other
    first, again, later = (proposer.asked(MESSAGES, cycle, 0.0) for cycle in (2, 2, 3))
    assert first == again and first["text"] != later["text"], "a cycle writes the same again, and another one something else"
    assert 1 <= len(json.loads(first["text"])["prompts"]) <= 4
    # A twentieth of the budget holds the question too.
    assert first["tokens"] <= 1000
    proposer.saw({**first, "seconds": 1.0})
    assert lab.account.counts["tokens_written"] == first["tokens"]


def test_it_is_not_asked_where_what_it_may_write_is_too_little(tmp_path: Path, other: str) -> None:
    for budget, tokens in (("3ktok", 50_000), ("1Mtok", 150), ("1s", 50_000)):
        proposer = proposer_of(lab_of(tmp_path, budget), ProposerConfig(model=other, tokens=tokens))
        assert proposer is not None
        found = proposer.asked(MESSAGES, 2, 0.0)
        assert "leave no room" in found["skipped"] and "text" not in found
        proposer.saw({**found, "requests": 0})
        assert proposer.cost() == 0.0


def test_what_goes_wrong_costs_two_cycles_and_never_the_run(tmp_path: Path, other: str) -> None:
    broken = tmp_path / "model"
    shutil.copytree(other, broken)
    proposer = proposer_of(lab_of(tmp_path, "1Mtok"), ProposerConfig(model=str(broken)))
    assert proposer is not None
    (broken / "tokenizer.json").write_text("{}")
    for cycle in (2, 3):
        found = proposer.asked(MESSAGES, cycle, 0.0)
        assert found["failed"] and "text" not in found
        proposer.saw({"requests": 0, "tokens": 0, **found})
    assert "2 cycles in a row" in proposer.asked(MESSAGES, 4, 0.0)["skipped"] and proposer.cost() == 0.0


def test_another_model_leaves_the_process_its_threads(tmp_path: Path, other: str) -> None:
    lab = lab_of(tmp_path, "1Mtok")
    lab.model.settings = replace(lab.model.settings, threads=1)
    torch.set_num_threads(1)
    proposer = proposer_of(lab, ProposerConfig(model=other))
    assert proposer is not None and "text" in proposer.asked(MESSAGES, 2, 0.0)
    assert torch.get_num_threads() == 1


def test_the_runs_own_model_is_not_loaded_twice_and_its_positions_bound_the_answer(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, "1Mtok")
    proposer = proposer_of(lab, ProposerConfig(model=lab.model.name))
    assert proposer is not None
    found = proposer.asked([MESSAGES[0], {"role": "user", "content": "Rows are wrong. " * 60}], 2, 0.0)
    assert "leaves tiny llama no room" in found["skipped"]


def test_it_takes_a_twentieth_of_the_time_at_most_by_the_pace_that_was_seen(tmp_path: Path, other: str) -> None:
    proposer = proposer_of(lab_of(tmp_path, "10m"), ProposerConfig(model=other))
    assert proposer is not None and proposer.cost() == 30.0, "nobody knows yet"
    found = proposer.asked(MESSAGES, 2, 0.0)
    assert found["pace"] > 0 and found["written"] <= 1500 and found["tokens"] > found["written"] + 60
    proposer.saw({**found, "requests": 0})
    assert proposer.cost() == pytest.approx(min(30.0, found["reading"] + 1500 * found["pace"]), abs=found["pace"])
    proposer.saw({"tokens": 700, "reading": 5.0, "pace": 0.1, "requests": 0})
    assert proposer.cost() == pytest.approx(30.0)
    proposer.saw({"tokens": 700, "reading": 0.0, "pace": 1.0, "requests": 0})
    assert proposer.cost() == 0.0 and "leave no room" in proposer.asked(MESSAGES, 3, 0.0)["skipped"]


def test_nobody_is_asked_where_nobody_is_named(tmp_path: Path) -> None:
    assert proposer_of(lab_of(tmp_path, "1Mtok"), ProposerConfig()) is None
