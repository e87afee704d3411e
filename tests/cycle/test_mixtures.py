"""Tracks of several prompts, and adapters that are averaged, in a run's lab."""

from __future__ import annotations

from pathlib import Path

import pytest
from cycle_runs import journal_of, labelled_rows, without_times

from cotune.cycle.budget import parse_budget
from cotune.cycle.costs import CostModel
from cotune.cycle.journal import Journal
from cotune.cycle.lab import Lab
from cotune.cycle.run import Quiet
from cotune.cycle.track import Track, advance, average_steady, finish, open_track
from cotune.model.adapter_folder import LoraSettings
from cotune.model.engine_settings import EngineSettings
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.task.task import Task
from cotune.tune.settings import TuneSettings
from tiny import tiny_local

PLAIN, ASKING = Prompt(input_template="{text}", cue="Kind:"), Prompt("What is it?", "{text}")


@pytest.fixture(scope="module")
def model() -> LocalModel:
    found: LocalModel = tiny_local(settings=EngineSettings(max_tokens=200))
    return found


def lab_in(folder: Path, model: LocalModel) -> Lab:
    folder.mkdir(exist_ok=True)
    task = Task.from_rows(labelled_rows(100), input="text", output="label", limit={"dev": 20})
    settings = TuneSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=0.01, batch_size=4)
    return Lab(task, model, Journal(folder), CostModel(parse_budget("1Mtok"), 1.0, 1.0), folder, settings, 0, Quiet())


def mixed(lab: Lab) -> Track:
    track = open_track(lab, PLAIN, also=[ASKING])
    for steps in (3, 6):
        assert advance(lab, track, steps, cycle=1)
    assert average_steady(lab, track, cycle=1)
    assert finish(lab, track, cycle=1)
    return track


def test_a_mixture_is_measured_under_each_prompt_and_its_best_counts(model: LocalModel, tmp_path: Path) -> None:
    lab = lab_in(tmp_path, model)
    track = mixed(lab)
    assert [(m.candidate.prompt, m.candidate.steps) for m in track.measured] == [
        (prompt, steps) for steps in (3, 6, 6, 9) for prompt in (PLAIN, ASKING)
    ]
    assert [m.candidate.steps for m in track.steady] == [3, 6]
    for steady, pair in zip(track.steady, (track.measured[:2], track.measured[2:4]), strict=True):
        assert steady.rank == max(m.rank for m in pair)
    assert track.best.rank == max(m.rank for m in track.measured)
    averaged = track.measured[4].candidate.adapter
    assert averaged not in {m.candidate.adapter for m in track.steady} and (tmp_path / "adapters" / averaged).is_dir()
    assert len({event["value"]["adapter_id"] for event in journal_of(tmp_path) if event["kind"] == "tuned"}) == 4


def test_a_mixture_that_is_resumed_gives_the_same_journal(model: LocalModel, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    best = mixed(lab_in(whole, model)).best.candidate
    lines = (whole / "journal.jsonl").read_text().splitlines(keepends=True)
    for kept in (4, len(lines) - 4, len(lines)):
        (torn / "journal.jsonl").unlink(missing_ok=True)
        torn.mkdir(exist_ok=True)
        (torn / "journal.jsonl").write_text("".join(lines[:kept]))
        (torn / "adapters").is_symlink() or (torn / "adapters").symlink_to(whole / "adapters")
        assert mixed(lab_in(torn, model)).best.candidate == best
        assert without_times(journal_of(torn)) == without_times(journal_of(whole))


def test_rows_that_one_prompt_shows_are_learnt_under_none(model: LocalModel, tmp_path: Path) -> None:
    lab = lab_in(tmp_path, model)
    row = lab.task.train[0]
    showing = ASKING.edit(demonstrations=(Demonstration(tuple(row.fields.items()), row.output),))
    track = open_track(lab, PLAIN, also=[showing])
    assert [len(variant) for variant in track.run.variants] == [len(lab.task.train) - 1] * 2


def test_fewer_steps_than_the_checkpoint_has_are_trained_anew(model: LocalModel, tmp_path: Path) -> None:
    short = lab_in(tmp_path / "a", model)
    expected = short.train(PLAIN, open_track(short, PLAIN).run, 3)
    long = lab_in(tmp_path / "b", model)
    long.train(PLAIN, open_track(long, PLAIN).run, 6)
    (tmp_path / "b" / "journal.jsonl").unlink()
    again = lab_in(tmp_path / "b", model)
    assert again.train(PLAIN, open_track(again, PLAIN).run, 3) == expected


def test_one_adapter_has_no_mean(model: LocalModel, tmp_path: Path) -> None:
    lab = lab_in(tmp_path, model)
    track = open_track(lab, PLAIN)
    advance(lab, track, 2, cycle=1)
    assert not average_steady(lab, track, cycle=1) and len(track.measured) == 1
