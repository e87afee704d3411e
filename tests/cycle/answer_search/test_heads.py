"""A run whose words learn nothing while its states tell the labels apart: a classification head answers in what follows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cycle_runs import journal_of, labelled_rows, summary_of
from test_ending import lab_in

import cotune
from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.answer_search.heads import Heads
from cotune.cycle.answer_search.trial import advance, measure, open_trial
from cotune.cycle.candidate import Candidate
from cotune.cycle.compare import Tryouts
from cotune.cycle.run import run as run_cycle
from cotune.cycle.search.measured import Measured
from cotune.evaluate.decision import RAW
from cotune.evaluate.responses import LabelOutputs
from cotune.evaluate.scoring import Evaluation
from cotune.model.adapters.files import adapter_content_id
from cotune.model.adapters.slots import BASE
from cotune.probe.readout import PROBE
from cotune.prompt.bank import seed_prompt
from cotune.report.terminal.steps import ALONE

if TYPE_CHECKING:
    from conftest import Bench

ROWS = labelled_rows(180)
# A rate at which nothing is learnt.
SLOW: dict[str, Any] = {
    "search": {"pool": 6, "entrants": 2, "max_cycles": 1},
    "tune": {"readout": "words", "batch_size": 8, "rank": 4, "learning_rate": 1e-7, "max_epochs": 2},
    "engine": {"dtype": "float32", "threads": 1},
}


def config_of(bench: Bench, **more: Any) -> Any:
    settings = {**SLOW, **more}
    return config_in_memory(
        name="kinds", input=["text"], output="label", model=str(bench.model), budget="60ktok", seed=4, **settings
    )


@pytest.fixture(scope="module")
def headed(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("headed") / "run"
    run_cycle(config_of(bench), out, task=task())
    return out


def task() -> Task:
    return Task.from_rows(ROWS, input="text", output="label", limit={"test": 40})


def test_dev_takes_the_head_and_both_tuned_arms_have_one(headed: Path) -> None:
    summary = summary_of(headed)
    arms = summary["arms"]
    assert {name: arm["decision"]["kind"] for name, arm in arms.items() if name.endswith("_tuned")} == {
        "seed_tuned": "probe",
        "best_tuned": "probe",
    }
    # The states of a tiny model that nobody trained tell some, its words nothing.
    assert arms["best_tuned"]["score"] > arms["prompt_only"]["score"] + 0.1
    heads = [event["value"] for event in journal_of(headed) if event["kind"] == "head"]
    assert heads and all(head["rows"] >= 9 and head["tokens"] > 0 for head in heads)
    assert (headed / "best" / "adapter" / PROBE).is_file()
    # Dev chose the head of the train rows; what was tested and ships has learnt from dev too.
    confirmed = next(event["value"] for event in journal_of(headed) if event["kind"] == "confirm")
    final = {head["adapter_id"]: head["final_id"] for head in heads}
    assert final[confirmed["chosen"]["adapter_id"]] == arms["best_tuned"]["adapter_id"]
    assert all(first != last for first, last in final.items())
    spent = sum(summary["cost"][f"tokens_{what}"] for what in ("scored", "written", "trained", "embedded"))
    assert spent <= 60_000


@pytest.mark.parametrize("last", ["heads", "head", "confirm"])
def test_a_run_that_was_killed_there_ends_alike(headed: Path, bench: Bench, tmp_path: Path, last: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(headed, out)
    (out / "summary.json").unlink()
    shutil.rmtree(out / "best")
    lines = (out / "journal.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = next(place for place, line in enumerate(lines) if json.loads(line)["kind"] == last) + 1
    (out / "journal.jsonl").write_text("".join(lines[:kept]), encoding="utf-8")
    run_cycle(config_of(bench), out, task=task())
    again, first = summary_of(out), summary_of(headed)
    assert again["arms"] == first["arms"] and again["selection"] == first["selection"]
    assert (out / "best" / "adapter" / PROBE).read_bytes() == (headed / "best" / "adapter" / PROBE).read_bytes()


def test_the_bundle_answers_as_the_test_was_answered(headed: Path) -> None:
    told = json.loads((headed / "test_rows.json").read_text())
    predictor = cotune.load(headed / "best", device="cpu", dtype="float32", threads=1)
    inputs = [row["input"] for row in told["rows"]]
    wanted = [told["labels"][row["answers"]["best_tuned"]] for row in told["rows"]]
    assert predictor.predict(inputs) == wanted
    found = predictor.predict(inputs, probabilities=True)
    for row, one in zip(told["rows"], found, strict=True):
        assert [one.probabilities[label] for label in told["labels"]] == pytest.approx(
            row["probabilities"]["best_tuned"], abs=2e-3
        )


def test_a_prompt_of_ones_own_and_the_winners_are_read_by_probes_of_one_rule(headed: Path) -> None:
    tryouts = Tryouts(headed, task())
    again = tryouts.compare("Which kind? {text}\nKind:")
    assert [c.weights for c in again.comparisons] == ["tuned", "base"]
    assert again.by_probe and "read by a probe" in str(again)
    # The weights learnt nothing, so a probe reads about the same off either, and more than words say.
    tuned, base = again.comparisons
    words = next(event["value"]["dev"]["prompt_only"] for event in journal_of(headed) if event["kind"] == "confirm")
    assert tuned.winner == pytest.approx(base.winner, abs=0.15) and tuned.winner > words["score"] + 0.1


def test_a_later_run_starts_from_the_weights_and_judges_the_head_as_it_was(headed: Path, bench: Bench, tmp_path: Path) -> None:
    fresh = [row | {"text": row["text"].replace(" ", " then ")} for row in labelled_rows(160, seed=9)]
    later = Task.from_rows(fresh, limit={"test": 40}, start=headed / "best")
    settings = {name: value for name, value in SLOW.items() if name != "tune"}
    result = cotune.run(later, out=tmp_path / "later", budget="60ktok", seed=4, **settings)
    arm = result.summary["arms"]["previous"]
    assert arm["decision"]["kind"] == "probe" and arm["score"] > 0.4
    told = next(event["value"] for event in journal_of(tmp_path / "later") if event["kind"] == "previous")
    assert told["ground"] != told["was"]["adapter_id"] == arm["adapter_id"]
    # The weights alone may win, so they lie there as an adapter of their own.
    ground = tmp_path / "later" / "adapters" / told["ground"]
    assert adapter_content_id(ground) == told["ground"] and not (ground / PROBE).exists()


def test_without_the_head_nothing_of_it_happens(bench: Bench, tmp_path: Path) -> None:
    run_cycle(config_of(bench, tune={**SLOW["tune"], "head": False}), tmp_path / "run", task=task())
    assert not [event for event in journal_of(tmp_path / "run") if event["kind"] == "head"]
    assert summary_of(tmp_path / "run")["arms"]["best_tuned"]["decision"]["kind"] != "probe"


def test_it_costs_no_more_than_was_put_aside_and_is_found_again(tmp_path: Path) -> None:
    found = []
    for _ in ("first", "resumed"):
        context = lab_in(tmp_path, "70ktok")
        seed = seed_prompt(context.task)
        trial = open_trial(context, seed)
        assert advance(context, trial, 2, cycle=1)
        heads, before = Heads(context), context.spending.account.tokens
        aside = heads.cost(seed)
        assert aside > 0
        found_by_id, tried = heads.fit([trial.best], aside)
        best = found_by_id[trial.best.candidate.id]
        assert context.spending.account.tokens - before <= aside
        assert best.rank >= trial.best.rank and [m.candidate.decision.kind for m in tried] == ["probe"]
        untuned = measure(context, seed, BASE, 0, "measure")
        assert heads.fit([untuned], 1e9) == ({untuned.candidate.id: untuned}, [])
        # Where one cannot have one, the other gets none: what is told of two prompts is told of the prompts.
        wide = open_trial(context, seed.edit(instruction="Which kind? {text} " + "Say it again: " * 40))
        assert advance(context, wide, 2, cycle=1) and heads.cost(wide.prompt) == 0
        assert heads.fit([trial.best, wide.best], 1e9)[1] == []
        found.append((best.candidate.id, context.spending.account.tokens))
    assert found[0] == found[1]
    events = journal_of(tmp_path)
    assert len([event for event in events if event["kind"] == "head"]) == 1
    told = [event["value"] for event in events if event["kind"] == "heads"]
    assert told[0] == {"candidates": 1} and "would cost more than" in told[1]["skipped"]


@pytest.mark.parametrize(
    ("words_right", "head_right", "head_loss", "words_win"),
    [
        (15, 14, 0.5, False),
        (15, 13, 0.5, False),
        (15, 8, 0.5, True),
        (15, 14, 0.9, True),
        (14, 14, 0.5, False),
        (14, 14, 0.9, True),
        (12, 15, 0.9, False),
    ],
)
def test_words_answer_where_dev_says_so_by_more_than_chance(
    tmp_path: Path, words_right: int, head_right: int, head_loss: float, words_win: bool
) -> None:
    context = lab_in(tmp_path, "70ktok")
    context.dev = context.dev[:19]

    def measured(right: int, loss: float) -> Measured:
        values = np.array([1.0] * right + [0.0] * (19 - right))
        evaluation = Evaluation(("a",) * 19, values, values, np.full(19, loss), float(values.mean()))
        return Measured(Candidate(seed_prompt(context.task), "x", RAW), evaluation, LabelOutputs(np.zeros((19, 3))))

    assert Heads(context)._prefers_words(measured(words_right, 0.7), measured(head_right, head_loss)) == words_win


def test_where_there_is_no_room_for_it_the_run_says_so_and_keeps_to_it(tmp_path: Path) -> None:
    for attempt in ("first", "resumed"):
        context = lab_in(tmp_path, "100ktok")
        trial = open_trial(context, seed_prompt(context.task))
        assert advance(context, trial, 2, cycle=1)
        heads = Heads(context)
        # What a resumed run reckons is left may be more.
        room = heads.cost(trial.prompt) - 1 if attempt == "first" else 1e9
        assert heads.fit([trial.best], room) == ({trial.best.candidate.id: trial.best}, [])
    told = [event for event in journal_of(tmp_path) if event["kind"] == "heads"]
    assert len(told) == 1 and told[0]["value"]["skipped"].endswith(" tokens left")
    (line,) = ALONE["heads"](told[0]["value"])
    assert line.text.startswith("no probe beside the label words: needs about")
