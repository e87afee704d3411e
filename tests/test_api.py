from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cotune
from cotune.api import _with_settings, quiet_libraries
from cotune.config import config_from_data, load_config
from cotune.config.paths import IN_MEMORY
from cotune.config.task import Task
from tiny import save_tiny

WORDS = {
    "fruit": ("apple", "pear", "plum", "fig"),
    "animal": ("cat", "dog", "cow", "hen"),
    "tool": ("saw", "axe", "drill", "file"),
}
FAST: dict[str, Any] = {
    "tune": {"rank": 4, "max_epochs": 1},
    "engine": {"threads": 1, "device": "cpu", "dtype": "float32"},
    "search": {"pool": 6, "max_cycles": 1},
}
BUDGET = "40ktok"


def rows(count: int = 150) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    kinds = list(WORDS)
    made = []
    for i in range(count):
        kind = kinds[i % 3]
        around = " ".join(rng.choice(["the", "a", "red", "big", "my", "old"], 4))
        made.append((f"{around} {rng.choice(WORDS[kind])} {i}", kind))
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def task() -> cotune.Task:
    return cotune.Task.from_rows(rows(), input="text", output="label", name="words")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model: Path, task: cotune.Task) -> Any:
    torch.set_num_threads(1)
    return cotune.run(
        task,
        out=str(tmp_path_factory.mktemp("run") / "words"),
        budget=BUDGET,
        model=model,
        seed=1,
        prompts=["Which kind of word is in {text}?"],
        **FAST,
    )


def task_file(folder: Path) -> Path:
    data = folder / "train.csv"
    data.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows()), encoding="utf-8")
    path = folder / "task.yaml"
    path.write_text(
        "name: words\nbudget: 2m\ndata: {train: train.csv, input: text, output: label}\n"
        "output: {labels: [animal, fruit, tool]}\ntune: {rank: 4, alpha: 8}\n",
        encoding="utf-8",
    )
    return path


class Stopped(Exception):
    """Raised by the view of a run that a test does not let go on."""


class StopAtPlan:
    """A view that ends a run once its config is written down and its first steps are journalled."""

    def event(self, event: dict[str, Any]) -> None:
        if event["kind"] == "plan":
            raise Stopped

    def progress(self, stage: str, what: str, tokens: int) -> None:
        pass

    def set_time_left(self, seconds: float | None) -> None:
        pass


class StopInTheRace(StopAtPlan):
    """A view that ends a run at the first rows that it reads: what is stopped before leaves its folder to the next."""

    def event(self, event: dict[str, Any]) -> None:
        if event["kind"] == "embed":
            raise Stopped


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
    return found


def test_a_run_on_a_task_in_memory_leaves_what_the_command_line_leaves(done: Any) -> None:
    assert (done.folder / "journal.jsonl").is_file() and (done.folder / "summary.json").is_file()
    assert done.summary["task"] == "words" and done.summary["seed"] == 1
    assert set(done.summary["arms"]) == {"seed_prompt", "prompt_only", "best_prompt", "seed_tuned", "best_tuned"}
    stored = config_of(done.folder)
    assert stored["data"]["train"] == IN_MEMORY and stored["budget"] == BUDGET and stored["tune"]["rank"] == 4


def test_prompts_of_ones_own_are_candidates(done: Any) -> None:
    events = [json.loads(line) for line in (done.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    start = next(event["value"] for event in events if event["kind"] == "start")
    assert any("Which kind of word" in str(prompt) for prompt in start["prompts"])


def test_a_finished_run_is_given_back_and_another_one_refused(done: Any, model: Path, task: cotune.Task) -> None:
    again = {"out": done.folder, "budget": BUDGET, "model": model, "prompts": ["Which kind of word is in {text}?"], **FAST}
    before = (done.folder / "journal.jsonl").read_bytes()
    assert cotune.run(task, seed=1, **again).summary == json.loads(json.dumps(done.summary))
    assert (done.folder / "journal.jsonl").read_bytes() == before
    with pytest.raises(cotune.InputError, match="seed: 1 -> 2"):
        cotune.run(task, seed=2, **again)


def test_the_bundle_is_loaded_and_answers(done: Any) -> None:
    predictor = cotune.load(str(done.bundle), device="cpu", dtype="float32", threads=1)
    answers = predictor.predict([{"text": "the old apple 7"}, {"text": "my cow 8"}])
    assert len(answers) == 2 and set(answers) <= set(WORDS)


def test_a_task_file_is_read_and_settings_win_over_it_key_by_key(tmp_path: Path, model: Path) -> None:
    path = task_file(tmp_path)
    for number, source in enumerate((path, str(path), cotune.load_config(str(path)))):
        out = tmp_path / f"run{number}"
        with pytest.raises(Stopped):
            cotune.run(source, out=out, budget=BUDGET, model=model, view=StopAtPlan(), tune={"rank": 2}, engine=FAST["engine"])
        stored = config_of(out)
        assert stored["budget"] == BUDGET and stored["model"] == str(model)
        assert stored["tune"]["rank"] == 2 and stored["tune"]["alpha"] == 8, "the file's other keys stay"
        assert stored["output"]["labels"] == ["animal", "fruit", "tool"]
        assert stored["data"]["train"] == str(tmp_path / "train.csv")


def test_a_run_started_from_a_file_goes_on_under_its_config_object(tmp_path: Path, model: Path) -> None:
    path = task_file(tmp_path)
    settings = {"budget": BUDGET, "model": model, "engine": FAST["engine"]}
    with pytest.raises(Stopped):
        cotune.run(path, out=tmp_path / "run", view=StopAtPlan(), **settings)
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()

    class StopAtNext(StopAtPlan):
        def event(self, event: dict[str, Any]) -> None:
            if event["n"] >= before.count(b"\n"):
                raise Stopped

    with pytest.raises(Stopped):
        cotune.run(cotune.load_config(path), out=tmp_path / "run", view=StopAtNext(), **settings)
    after = (tmp_path / "run" / "journal.jsonl").read_bytes()
    assert after.startswith(before) and after.count(b"\n") == before.count(b"\n") + 1


def test_try_prompt_compares_with_the_winner(tmp_path: Path, model: Path) -> None:
    torch.set_num_threads(1)
    path = task_file(tmp_path)
    result = cotune.run(path, out=tmp_path / "run", budget=BUDGET, model=model, **FAST)
    found = cotune.try_prompt(str(result.folder), "What is {text}?")
    assert found.n == result.summary["n"]["dev"] and found.prompt.text == "What is {text}?"
    for one in found.comparisons:
        assert -1 <= one.low <= one.difference <= one.high <= 1
        assert one.difference == pytest.approx(one.mine - one.winner)


class Notes(StopAtPlan):
    """Keeps what a run says besides its journal."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def event(self, event: dict[str, Any]) -> None:
        if event["kind"] == "note":
            self.texts.append(event["value"]["text"])


def test_a_page_that_cannot_be_made_is_told_and_costs_no_run(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotune.report.html import page

    def broken(*_: Any) -> str:
        raise ZeroDivisionError("in a section")

    torch.set_num_threads(1)
    path, out, notes = task_file(tmp_path), tmp_path / "run", Notes()
    with monkeypatch.context() as patch:
        patch.setattr(page, "training_section", broken)
        result = cotune.run(path, out=out, budget=BUDGET, model=model, view=notes, **FAST)
    assert result.summary["arms"] and (out / "summary.json").is_file() and not (out / "report.html").exists()
    assert json.loads((out / "journal.jsonl").read_text().splitlines()[-1])["kind"] == "done"
    told = notes.texts[-1]
    assert "ZeroDivisionError: in a section" in told and f"cotune report {out}" in told and "report-error.txt" in told
    traceback = (out / "report-error.txt").read_text()
    assert "in broken" in traceback and "page.py" in traceback


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bugdet": "2m"}, "did you mean"),
        ({"tune": {"rank": 0}}, "rank"),
        ({"tune": 3}, "tune"),
        ({"budget": "soon"}, "not a budget"),
        ({"data": {"train": "other.csv"}}, "part of the task"),
        ({"output": {"labels": ["a", "b"]}}, "part of the task"),
        ({"metric": "macro_f1"}, "part of the task"),
        ({"model": "./nowhere"}, "no model"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str, task: cotune.Task, tmp_path: Path) -> None:
    with pytest.raises(cotune.InputError, match=message):
        cotune.run(task, out=tmp_path / "run", **settings)


def test_the_metric_of_a_file_may_be_set_but_must_exist(tmp_path: Path) -> None:
    with pytest.raises(cotune.InputError, match="unknown metric"):
        cotune.run(task_file(tmp_path), out=tmp_path / "run", metric="acc")


def test_what_is_no_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(cotune.InputError, match="list is not a task"):
        cotune.run(rows(), out=tmp_path / "run")  # type: ignore[arg-type]


def test_a_column_is_named_in_the_task(tmp_path: Path) -> None:
    task_file(tmp_path)
    with pytest.raises(cotune.InputError, match="'input' is part of the task"):
        cotune.run(tmp_path / "task.yaml", out=tmp_path / "run", input="text")


def test_a_config_object_keeps_what_the_settings_do_not_name(tmp_path: Path, model: Path) -> None:
    task_file(tmp_path)
    config = config_from_data(
        tmp_path / "train.csv",
        input="text",
        output="label",
        prompt="Say null = {text}?",
        limit={"train": 100},
        model=str(model),
    )
    with pytest.raises(Stopped):
        cotune.run(config, out=tmp_path / "run", budget=BUDGET, view=StopAtPlan(), limit={"test": 20}, engine=FAST["engine"])
    stored = config_of(tmp_path / "run")
    assert stored["limit"] == {"train": 100, "dev": None, "test": 20} and stored["prompt"] == "Say null = {text}?"


def test_without_a_folder_runs_lie_side_by_side(
    task: cotune.Task, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for budget in (BUDGET, BUDGET, "41ktok"):
        with pytest.raises(Stopped):
            cotune.run(task, budget=budget, model=model, view=StopInTheRace(), **FAST)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["words", "words-2"]
    assert config_of(tmp_path / "runs" / "words-2")["budget"] == "41ktok"


def test_a_run_shows_how_far_it_is_unless_it_is_told_not_to(done: Any, model: Path, task: cotune.Task, capsys: Any) -> None:
    again = {"out": done.folder, "budget": BUDGET, "model": model, "prompts": ["Which kind of word is in {text}?"], **FAST}
    cotune.run(task, seed=1, view=cotune.Quiet(), **again)
    assert capsys.readouterr().err == ""
    cotune.run(task, seed=1, **again)
    assert "· ended ·" in capsys.readouterr().err
    with pytest.raises(cotune.InputError, match="holds a run that differs"):
        cotune.run(task, seed=2, **again)
    told = capsys.readouterr().err
    assert "· stopped ·" in told and "ended" not in told


def test_notes_of_libraries_to_their_developers_are_kept_from_callers() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet_libraries():
            warnings.warn("IProgress not found. Please update jupyter and ipywidgets.", Warning, stacklevel=1)
            warnings.warn("`is_gradient_checkpointing` is deprecated", FutureWarning, stacklevel=1)
            warnings.warn("yours", UserWarning, stacklevel=1)
    assert [str(one.message) for one in seen] == ["yours"]


def test_importing_cotune_loads_nothing_heavy() -> None:
    code = (
        "import sys, cotune; assert cotune.CotuneError and cotune.InputError and cotune.__version__;"
        "names = set(dir(cotune)); assert set(cotune.__all__) <= names;"
        "bad = [m for m in ('torch', 'transformers', 'pydantic', 'numpy', 'pandas') if m in sys.modules]; assert not bad, bad;"
        "cotune.RunConfig, cotune.load_config, cotune.Task, cotune.run, cotune.load, cotune.try_prompt;"
        "bad = [m for m in ('torch', 'transformers', 'pandas', 'sklearn') if m in sys.modules]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="tune_all"):
        cotune.tune_all  # noqa: B018


def test_labels_of_any_characters_and_numbers_are_taken_as_they_are(tmp_path: Path) -> None:
    smileys = ["\U0001f600", "\U0001f621"]
    path = task_file(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("[animal, fruit, tool]", str(smileys)), encoding="utf-8")
    assert _with_settings(load_config(path), {"budget": "1m"}).output.labels == tuple(smileys)
    rows = [{"text": f"row {i}", "label": i % 2} for i in range(30)]
    assert Task.from_rows(rows, input="text", output="label", labels=[0, 1]).labels == ("0", "1")  # type: ignore[list-item]


def test_the_folder_of_a_run_is_found_without_torch() -> None:
    """A command is checked as far as possible before imports that take seconds."""
    code = "import sys, cotune.cli.run, cotune.cycle.runs.next_folder; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
