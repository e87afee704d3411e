"""Packages outside add metrics and prompt edits by entry points."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cotune.config import load_config
from cotune.config.task import Task
from cotune.errors import InputError
from cotune.plugins import EDITS_GROUP, METRICS_GROUP, plugins
from cotune.prompt.bank import seed_prompt
from cotune.refine import mutate
from cotune.refine.edits import OPERATORS, operators
from cotune.task.metrics.metric import METRICS, metric_named
from cotune.testing import check_metric, check_prompt_edit

CODE = """
from pathlib import Path
import numpy as np
from cotune.task.metrics.metric import Metric

Path(__file__).with_suffix(".ran").touch()

def _rows(answered):
    return answered.each(lambda gold, answer: gold[:1] == answer[:1])

INITIAL = Metric("any name", "share of answers with the right first letter", ("label", "text"), _rows)

def shout(prompt, task, rng):
    return prompt.edit(instruction=prompt.instruction.upper()) if "{" not in prompt.instruction else None

def broken(prompt, task, rng):
    raise KeyError("oh")

NUMBER = 7
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a tiny distribution on the import path, as an installer would: a module, and metadata beside it."""

    def installed(package: str, **groups: dict[str, str]) -> Path:
        site = tmp_path / package
        info = site / f"{package}-1.5.dist-info"
        info.mkdir(parents=True)
        (site / f"{package}.py").write_text(CODE)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        lines = [
            f"[cotune.{group}]\n" + "".join(f"{name} = {package}:{value}\n" for name, value in points.items())
            for group, points in groups.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, package, raising=False)
        return site

    return installed


ROWS = [{"text": f"the text number {i}", "label": ("up", "down")[i % 2]} for i in range(60)]


def task_with(metric: str) -> Task:
    return Task.from_rows(ROWS, input="text", output="label", metric=metric)


def test_a_packages_metric_is_used_by_name(install: Install) -> None:
    site = install("lettered", metrics={"initial": "INITIAL"})
    assert list(plugins(METRICS_GROUP)) == ["initial"] and metric_named("accuracy") is METRICS["accuracy"]
    assert not (site / "lettered.ran").exists()
    task = task_with("initial")
    assert (site / "lettered.ran").exists()
    assert task.metric == "initial" and task.measure(["up", "down"], ["up", "up"], task.output) == 0.5
    assert task.measure.fingerprint == "lettered 1.5" and task.fingerprint != task_with("accuracy").fingerprint
    check_metric(task.measure)
    with pytest.raises(InputError, match=r"(?s)unknown metric 'intial', did you mean 'initial'"):
        metric_named("intial")
    with pytest.raises(InputError, match="does not fit answers of the type number"):
        Task.from_rows(
            [{"text": f"t{i}", "label": str(i * 2.5)} for i in range(60)], input="text", output="label", metric="initial"
        )


def test_a_packages_edit_is_among_those_that_make_children(install: Install) -> None:
    install("shouting", prompt_edits={"shout": "shout"})
    assert list(operators()) == [*OPERATORS, "shout"] and "shout" not in OPERATORS
    check_prompt_edit(operators()["shout"])
    task = task_with("accuracy")
    parent = seed_prompt(task).edit(instruction="Sort it.")
    children = mutate([parent], task, 60, np.random.default_rng(0))
    made = [child for child in children if "shout" in child.operator.split("+")]
    assert made and all(child.prompt.instruction.isupper() for child in made if child.operator == "shout")


@pytest.mark.parametrize(
    ("packages", "parts"),
    [
        ({"one": {"accuracy": "INITIAL"}}, ("'accuracy' is taken twice", "cotune itself", "one 1.5")),
        ({"one": {"same": "INITIAL"}, "two": {"same": "INITIAL"}}, ("'same' is taken twice", "one 1.5", "two 1.5")),
        ({"one": {"same": "NOTHING"}}, ("one:NOTHING cannot be loaded", "AttributeError", "one 1.5")),
        ({"one": {"same": "NUMBER"}}, ("one:NUMBER is a int, and no", "Metric")),
    ],
)
def test_what_is_wrong_with_a_metric_names_the_package(
    install: Install, packages: dict[str, dict[str, str]], parts: tuple[str, ...]
) -> None:
    for package, points in packages.items():
        install(package, metrics=points)
    with pytest.raises(InputError) as caught:
        metric_named("same")
    assert not [part for part in parts if part not in str(caught.value)], str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("cue", "shout", ("'cue' is taken twice", "cotune itself")),
        ("bad", "NUMBER", ("one:NUMBER is a int, and neither",)),
        ("bad", "broken", ("the prompt edit 'bad' failed (KeyError: 'oh')", "one 1.5")),
        ("bad", "str", ("cannot be loaded",)),
    ],
)
def test_what_is_wrong_with_an_edit_names_the_package(install: Install, name: str, value: str, parts: tuple[str, ...]) -> None:
    install("one", prompt_edits={name: value})
    task = task_with("accuracy")
    with pytest.raises(InputError) as caught:
        operators()[name](seed_prompt(task), task, np.random.default_rng(0))
    assert not [part for part in (*parts, EDITS_GROUP) if part not in str(caught.value)], str(caught.value)


def test_a_config_may_name_a_packages_metric(install: Install, tmp_path: Path) -> None:
    install("lettered", metrics={"initial": "INITIAL"})
    (tmp_path / "task.yaml").write_text("data: {train: t.csv, input: text, output: label}\nmodel: m\nmetric: initial\n")
    assert load_config(tmp_path / "task.yaml").metric == "initial"
    (tmp_path / "task.yaml").write_text("data: {train: t.csv, input: text, output: label}\nmodel: m\nmetric: initials\n")
    with pytest.raises(InputError, match="did you mean 'initial'"):
        load_config(tmp_path / "task.yaml")
