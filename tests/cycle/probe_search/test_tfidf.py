"""TF-IDF beside the probe: used where words tell the labels apart, left out elsewhere, the same wherever a bundle answers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from scipy.special import log_softmax

from cotune.bundle import load
from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.answering.base import LabelAnswering
from cotune.cycle.compare import try_prompt
from cotune.cycle.probe_search.readouts.tfidf import SHARES, Mix, Tfidf, best_mix, losses_by_share
from cotune.cycle.run import run as run_cycle
from cotune.model.local import LocalModel
from cotune.probe.readout import Probe
from cotune.probe.term_fits import TermFits
from cotune.report.terminal.verdict import verdict_text
from cotune.task.split import fold_units

if TYPE_CHECKING:
    from conftest import Bench

WORDS = ("zebra", "quartz", "violin", "harbour", "meadow", "lantern")
FILLERS = ("about", "with", "many", "other", "things", "between", "around", "before", "because", "never")


def rows_of(*, by_words: bool) -> list[dict[str, str]]:
    """Rows of many common words and one that tells the label, or that tells nothing."""
    numbers = random.Random(1)
    rows = []
    for number in range(150):
        label = f"kind {number % 6}"
        word = WORDS[number % 6] if by_words else numbers.choice(WORDS)
        words = [*numbers.choices(FILLERS, k=9), word]
        numbers.shuffle(words)
        rows.append({"text": f"{' '.join(words)} {number}", "label": label})
    numbers.shuffle(rows)
    return rows


def task_of(*, by_words: bool) -> Task:
    rows = rows_of(by_words=by_words)
    return Task.from_rows(rows[:90], test=rows[90:], input="text", output="label", name="words")


def run(bench: Bench, out: Path, task: Task, **search: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"model": str(bench.model), "budget": "60ktok", "seed": 3, "tune": {"rank": 2, "max_epochs": 1}}
    settings |= {"engine": {"dtype": "float32", "threads": 1}, "search": {"pool": 4, "max_cycles": 1, **search}}
    return dict(run_cycle(config_in_memory(name="words", input=["text"], output="label", **settings), out, task=task).summary)


def probe_in(folder: Path) -> Probe | None:
    predictor = load(folder / "best")
    return cast("LocalModel", predictor.model).adapters.probe(predictor.adapter_id)


@pytest.fixture(scope="module")
def finished(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run on rows whose words tell the label."""
    folder = tmp_path_factory.mktemp("tfidf") / "run"
    return folder, run(bench, folder, task_of(by_words=True))


def test_it_is_added_where_words_tell_the_labels(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = finished
    told = summary["tfidf"]
    assert told["used"] and told["share"] > 0 and told["log_loss"] < told["without"] - 0.3, told
    assert "cross-fitted log-loss" in told["text"], told["text"]
    probe = probe_in(folder)
    assert probe is not None and probe.terms is not None and probe.terms.fields == ("text",)
    assert "TF-IDF" in (folder / "best" / "README.md").read_text(encoding="utf-8")
    assert all(arm["score"] > 0.8 and arm["tfidf"] for arm in summary["arms"].values()), "all arms are read in the same way"
    assert ", TF-IDF" in verdict_text(summary)


def test_the_bundle_answers_the_test_as_the_run_did(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = finished
    rows = rows_of(by_words=True)[90:]
    answers = load(folder / "best", dtype="float32").predict([row["text"] for row in rows], probabilities=True)
    losses = [-np.log(answer.probabilities[row["label"]]) for answer, row in zip(answers, rows, strict=True)]
    right = np.mean([answer.answer == row["label"] for answer, row in zip(answers, rows, strict=True)])
    arm = summary["arms"]["best_tuned"]
    assert arm["n"] == len(losses) and right == pytest.approx(arm["score"])
    assert np.mean(losses) == pytest.approx(arm["log_loss"], abs=1e-4)


def test_it_can_be_turned_off(bench: Bench, tmp_path: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    summary = run(bench, tmp_path / "off", task_of(by_words=True), tfidf=False)
    assert summary["tfidf"] is None
    probe = probe_in(tmp_path / "off")
    assert probe is not None and probe.terms is None
    assert summary["arms"]["seed_prompt"]["log_loss"] > finished[1]["arms"]["seed_prompt"]["log_loss"] + 0.3


def test_words_that_tell_nothing_are_not_used(bench: Bench, tmp_path: Path) -> None:
    summary = run(bench, tmp_path / "run", task_of(by_words=False))
    assert not summary["tfidf"]["used"], summary["tfidf"]
    probe = probe_in(tmp_path / "run")
    assert probe is not None and probe.terms is None


def test_a_run_that_goes_on_after_a_kill_ends_the_same(
    bench: Bench, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    folder, summary = finished
    for kind in ("tfidf", "verdict", "train"):
        again = tmp_path / kind
        again.mkdir()
        (again / "config.json").write_bytes((folder / "config.json").read_bytes())
        lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        last = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == kind)
        (again / "journal.jsonl").write_text("".join(lines[: last + 1]), encoding="utf-8")
        if kind == "train":
            # The step's adapter lies in the folder.
            shutil.copytree(folder / "adapters", again / "adapters")
        found = run(bench, again, task_of(by_words=True))
        for name, arm in summary["arms"].items():
            assert found["arms"][name]["log_loss"] == pytest.approx(arm["log_loss"]), (kind, name)
        assert found["tfidf"] == summary["tfidf"]


def test_a_tried_prompt_gets_tf_idf_as_the_winner_does(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    found = try_prompt(folder, "Say which kind it is: {text}", task=task_of(by_words=True))
    assert all(comparison.mine > 0.7 for comparison in found.comparisons), found


def table(truth: np.ndarray, labels: int, strength: float, numbers: np.random.Generator) -> np.ndarray:
    """Log-probabilities that lean towards the truth by ``strength``."""
    logits = numbers.normal(size=(len(truth), labels))
    logits[np.arange(len(truth)), truth] += strength
    return np.asarray(log_softmax(logits, axis=1))


def test_the_share_grows_with_what_the_words_say() -> None:
    numbers = np.random.default_rng(0)
    truth = numbers.integers(5, size=400)
    probe = table(truth, 5, 1.0, numbers)
    shares = []
    for strength in (0.0, 1.0):
        terms = table(truth, 5, strength, numbers)
        losses = losses_by_share(probe, terms, truth)
        assert len(losses) == len(SHARES)
        mix = best_mix(probe, terms, truth, losses)
        shares.append(mix.share)
        rows = np.arange(len(truth)), truth
        assert -mix.of(probe, terms)[rows].mean() == pytest.approx(losses.min())
    assert shares[0] == 0 and shares[1] == 1.0
    np.testing.assert_allclose(np.exp(Mix(0.5, 2.0).of(probe, None)).sum(axis=1), 1)


@pytest.mark.parametrize("rows", [40, 200])
def test_words_that_tell_nothing_are_seldom_used(rows: int) -> None:
    """Simulation: TF-IDF that knows nothing of the labels lowers the loss by chance alone."""
    task: Any = task_of(by_words=True)
    numbers, used = np.random.default_rng(rows), 0
    examples = task.train[:rows] if rows <= len(task.train) else (*task.train,) * 3
    examples = examples[:rows]
    truth = np.array([task.labels.index(row.output) for row in examples])
    tfidf = Tfidf.__new__(Tfidf)
    tfidf._choosing = LabelAnswering(task, cast("LocalModel", None))
    for _ in range(200):
        probe, terms = table(truth, 6, 1.5, numbers), table(truth, 6, 0.0, numbers)
        used += tfidf.mixed(probe, 0.3 * terms, examples).pays
    assert used <= 0.1 * 200


def test_copies_of_a_row_are_not_held_out_from_each_other() -> None:
    """Labels that nothing tells: a fit that has learnt from a copy of a row knows its label."""
    numbers = np.random.default_rng(3)
    labels = [f"kind {kind}" for kind in numbers.permutation(np.arange(60) % 2)]
    rows = [{"text": f"word{number}", "label": label} for number, label in enumerate(labels)]
    test = [{"text": f"other{i}", "label": f"kind {i % 2}"} for i in range(20)]
    task = Task.from_rows(rows * 3, test=test, input="text", output="label")
    choosing, examples = LabelAnswering(task, cast("LocalModel", None)), (*task.train, *task.dev)
    truth = choosing.targets(examples)
    terms = TermFits([row.text for row in examples], truth, 2, ())
    right = {}
    for name, groups in (("apart", None), ("together", fold_units(examples))):
        found = terms.cross_fitted(groups=groups, seed=0)
        assert found is not None
        right[name] = float((found.argmax(axis=1) == truth).mean())
    assert right["apart"] > 0.9 and right["together"] < 0.65
    tfidf = Tfidf(choosing, examples, 0)
    assert tfidf._groups is not None and len({*tfidf._groups.tolist()}) == 60
