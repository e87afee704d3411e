"""What a run does: who is tuned and how far, what is mutated, when the test is read, what it may cost, and how it fails."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from cycle_runs import SETTINGS, journal_of, labelled_rows, of_kind, summary_of

from cotune.cache import CACHE_VARIABLE
from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.ledger import enter_opening
from cotune.cycle.progress import Quiet
from cotune.cycle.run import Result
from cotune.cycle.run import run as run_cycle
from cotune.cycle.search.pool import has_room, next_pool
from cotune.evaluate.stats.conformal import coverage, label_sets, least_rows, threshold
from cotune.evaluate.words import openings_sentence
from cotune.model.engine.runner import PackedRunner
from cotune.model.engine.settings import EngineSettings
from cotune.model.hardware.capability import check_capability
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.task.sealed import OpenedTest, SealedTest
from cotune.tune.settings import TuneSettings
from tiny import tiny_local

if TYPE_CHECKING:
    from conftest import Bench

ARMS = {"seed_prompt", "prompt_only", "best_prompt", "seed_tuned", "best_tuned"}


def ids(proposals: list[dict[str, Any]]) -> list[str]:
    return [Prompt.from_json(proposal["prompt"]).id for proposal in proposals]


# The search -------------------------------------------------------------------------------------------------------


def test_later_pools_hold_children_of_this_runs_survivors(whole: Path) -> None:
    events = journal_of(whole)
    pools = [(place, event["value"]) for place, event in enumerate(events) if event["kind"] == "pool"]
    assert len(pools) >= 2
    seen = set(ids(pools[0][1]["proposals"]))
    for place, pool in pools[1:]:
        tuned = {e["value"]["prompt_id"] for e in events[:place] if e["kind"] == "tuned"}
        best = {i for e in events[:place] if e["kind"] == "race" for i in e["value"]["ranking"][:2]}
        assert any(set(proposal["parents"]) & tuned for proposal in pool["proposals"])
        for proposal in pool["proposals"]:
            assert proposal["parents"]
            assert set(proposal["parents"]) <= tuned | best
        assert not seen & set(ids(pool["proposals"])), "a prompt is not tried twice"
        seen |= set(ids(pool["proposals"]))
        raced = next(e["value"] for e in events[place:] if e["kind"] == "race")
        assert set(ids(pool["proposals"])) <= set(raced["ranking"])
    summary = summary_of(whole)
    assert summary["prompts_scored"] == len(seen)
    assert all(cycle["children"] for cycle in summary["cycles"][1:] if cycle["kind"] == "prompts")


def test_the_seed_prompt_is_tuned_as_far_as_the_winner(whole: Path) -> None:
    seed = Prompt.from_json(of_kind(whole, "start")[0]["prompts"][0]).id
    assert of_kind(whole, "entrants")[0]["prompt_ids"][0] == seed
    winner = summary_of(whole)["arms"]["best_tuned"]["prompt_id"]
    assert winner != seed
    tuned = of_kind(whole, "tuned")
    most = {i: max(t["steps"] for t in tuned if t["prompt_id"] == i) for i in (seed, winner)}
    assert most[seed] == most[winner]
    finished = [t for t in tuned if t["stage"] == "finish"]
    assert {t["prompt_id"] for t in finished} == {seed, winner}
    # Same rows in the same order: the runs share their seed, and both end with the same decay.
    decays = [(t["steps"]) for t in of_kind(whole, "train") if t["decayed"]]
    assert len(decays) == 2


def test_cycles_record_races_and_tunings(whole: Path) -> None:
    cycles = summary_of(whole)["cycles"]
    assert cycles == of_kind(whole, "cycle")
    assert [cycle["cycle"] for cycle in cycles] == list(range(1, len(cycles) + 1))
    for cycle in cycles:
        assert {"dev_score", "dev_log_loss", "steps", "tokens", "winner"} <= cycle.keys()
        assert cycle["tuned"]
        assert all({"prompt_id", "steps", "score", "log_loss"} <= entry.keys() for entry in cycle["tuned"])
        if cycle["kind"] == "prompts":
            assert {"adapter_id", "ranking", "dev_score", "dev_log_loss"} <= cycle["race"].keys()
    assert [decision["next"] for decision in of_kind(whole, "decide")][-1] == "finish"
    assert all(decision["why"] for decision in of_kind(whole, "decide"))


def test_prompts_are_raced_again_under_the_adapter(whole: Path) -> None:
    races = of_kind(whole, "race")
    assert races[0]["adapter_id"] == "base"
    adapters = {t["adapter_id"] for t in of_kind(whole, "tuned")}
    assert races[1]["adapter_id"] in adapters


# The arms ---------------------------------------------------------------------------------------------------------


def test_the_summary_has_what_others_rely_on(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    keys = {"task", "n", "model", "arms", "gains", "selection", "cycles", "cost", "best", "seed", "versions"}
    assert keys <= summary.keys()
    assert summary["n"] == {"train": 56, "dev": 24, "test": 30}
    assert summary["arms"].keys() == ARMS
    for arm in summary["arms"].values():
        names = {"score", "ci", "n", "log_loss", "prompt_id", "adapter_id", "decision", "steps", "split"}
        assert names <= arm.keys()
        assert arm["split"] == "test"
        assert arm["n"] == 30
        assert 0 <= arm["ci"][0] <= arm["score"] <= arm["ci"][1] <= 1
    assert {"prompt", "tuning", "both", "prompt_given_tuning", "synergy"} <= summary["gains"].keys()
    for gain in summary["gains"].values():
        assert {"value", "ci", "p"} <= gain.keys()
    scores = {name: arm["score"] for name, arm in summary["arms"].items()}
    differences = {
        "prompt": scores["prompt_only"] - scores["seed_prompt"],
        "tuning": scores["seed_tuned"] - scores["seed_prompt"],
        "both": scores["best_tuned"] - scores["seed_prompt"],
        "prompt_given_tuning": scores["best_tuned"] - scores["seed_tuned"],
        "synergy": scores["best_tuned"] - scores["seed_tuned"] - scores["best_prompt"] + scores["seed_prompt"],
    }
    for name, value in differences.items():
        assert summary["gains"][name]["value"] == pytest.approx(value, abs=1e-5)
    assert {"dev", "test", "optimism"} <= summary["selection"].keys()
    tokens = {"tokens_scored", "tokens_trained", "tokens_embedded", "tokens_saved_by_prefix"}
    assert {"wall_s", "peak_rss_mb"} | tokens <= summary["cost"].keys()
    assert summary["best"]["bundle"] == "best"
    assert "{text}" in summary["best"]["prompt_text"]


def test_arms_are_who_they_say(whole: Path) -> None:
    arms = summary_of(whole)["arms"]
    assert all(arms[name]["adapter_id"] == "base" and arms[name]["steps"] == 0 for name in ("seed_prompt", "prompt_only"))
    assert arms["best_prompt"]["adapter_id"] == "base"
    assert arms["seed_tuned"]["adapter_id"] != "base"
    assert arms["best_prompt"]["prompt_id"] == arms["best_tuned"]["prompt_id"]
    assert arms["seed_tuned"]["prompt_id"] == arms["seed_prompt"]["prompt_id"]


def test_what_ships_is_the_best_on_dev(whole: Path) -> None:
    dev = of_kind(whole, "confirm")[0]["dev"]
    best = (dev["best_tuned"]["score"], -dev["best_tuned"]["log_loss"])
    assert best == max((arm["score"], -arm["log_loss"]) for arm in dev.values())
    assert best[0] >= max(t["score"] for t in of_kind(whole, "tuned"))
    manifest = json.loads((whole / "best" / "manifest.json").read_text())
    arm = summary_of(whole)["arms"]["best_tuned"]
    assert (manifest["adapter_id"], manifest["prompt_id"]) == (arm["adapter_id"], arm["prompt_id"])


def test_test_rows_are_read_after_the_arms_are_frozen_and_by_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    rows = labelled_rows(90)
    test = [{"text": f"sealed {row['text']}", "label": row["label"]} for row in labelled_rows(30, seed=1)]
    task = Task.from_rows(rows, input="text", output="label", test=test)
    settings: dict[str, Any] = {"model": str(bench.model), "budget": "30ktok", "seed": 4}
    settings |= {
        "tune": {"readout": "words", "batch_size": 8, "rank": 2},
        "search": {"pool": 4},
        "engine": {"dtype": "float32"},
    }
    config = config_in_memory(name="sealed", input=["text"], output="label", **settings)
    told: list[tuple[str, Any]] = []
    real_open, real_rows, real_score = SealedTest.open, OpenedTest.examples_for, LocalModel.score

    def opened(self: SealedTest, frozen: dict[str, str]) -> OpenedTest:
        last = json.loads((tmp_path / "run" / "journal.jsonl").read_text().splitlines()[-1])
        told.append(("open", (dict(frozen), last)))
        return real_open(self, frozen)

    def asked(self: OpenedTest, candidate: str) -> Any:
        told.append(("rows", candidate))
        return real_rows(self, candidate)

    def scored(self: LocalModel, prompt: Prompt, fields: Any, *rest: Any, **named: Any) -> Any:
        shown = [text for d in prompt.demonstrations for _, text in d.fields]
        told.append(("score", any(t.startswith("sealed") for t in (*(f["text"] for f in fields), *shown))))
        return real_score(self, prompt, fields, *rest, **named)

    monkeypatch.setattr(SealedTest, "open", opened)
    monkeypatch.setattr(OpenedTest, "examples_for", asked)
    monkeypatch.setattr(LocalModel, "score", scored)
    result = run_cycle(config, tmp_path / "run", task=task, view=Quiet())
    kinds = [kind for kind, _ in told]
    assert kinds.count("open") == 1
    place = kinds.index("open")
    frozen, journalled = told[place][1]
    assert journalled["kind"] == "open_test"
    assert journalled["value"]["arms"] == frozen
    arms = {name: identity for name, identity in frozen.items() if not name.startswith("reference_")}
    assert arms.keys() == ARMS
    assert frozen.keys() - arms.keys() == {f"reference_{name}" for name in result.summary["references"]}
    assert not any(sealed for kind, sealed in told[:place] if kind == "score")
    assert {candidate for kind, candidate in told if kind == "rows"} == set(arms.values())
    assert any(sealed for kind, sealed in told[place:] if kind == "score")
    assert result.summary["n"]["test"] == 30


def test_the_best_prompts_answers_to_dev_are_kept_for_the_page(whole: Path) -> None:
    found = json.loads((whole / "dev_rows.json").read_text())
    candidates, arms, confirmed = found["candidates"], summary_of(whole)["arms"], of_kind(whole, "confirm")[0]
    assert 2 <= len(candidates) <= 6 and len({one["prompt_id"] for one in candidates}) == len(candidates)
    assert candidates[0]["id"] == confirmed["chosen"]["id"]
    assert arms["seed_prompt"]["prompt_id"] in {one["prompt_id"] for one in candidates}
    assert len(found["rows"]) == 24
    for one in candidates:
        right = [row["answers"][one["id"]] == row["gold"] for row in found["rows"]]
        assert sum(right) / 24 == pytest.approx(one["score"], abs=1e-5) and one["n"] == 24
        for row in found["rows"]:
            shares = row["probabilities"][one["id"]]
            assert sum(shares) == pytest.approx(1, abs=1e-3) and max(shares) == shares[row["answers"][one["id"]]]
    assert [one["score"] for one in candidates[1:-1]] == sorted((one["score"] for one in candidates[1:-1]), reverse=True)


# The budget -------------------------------------------------------------------------------------------------------


# A search that takes many cycles, and its bounds, are in test_ending.
@pytest.mark.parametrize(("tokens", "seed"), [(25_000, 0), (60_000, 4)])
def test_a_token_budget_is_kept_and_used(bench: Bench, whole: Path, tmp_path: Path, tokens: int, seed: int) -> None:
    out = whole if tokens == 60_000 else tmp_path / "run"
    if out != whole:
        assert bench.run(out, "tune.max_epochs=60", budget=f"{tokens}tok", seed=seed).code == 0
    summary = summary_of(out)
    spent = sum(summary["cost"][f"tokens_{what}"] for what in ("scored", "trained", "embedded"))
    assert spent <= 1.05 * tokens
    if "budget" in summary["stopped"]:
        assert spent >= 0.8 * tokens
    else:
        assert any(word in summary["stopped"] for word in ("max_epochs", "improve", "worse"))


def test_embedding_is_counted_and_paid_for(whole: Path) -> None:
    events = [e for e in journal_of(whole) if e["kind"] in ("score", "train", "pool", "cycle")]
    embedded = [e["value"].get("tokens", 0) for e in events if e["kind"] == "pool"]
    assert all(e["value"]["tokens"] for e in events if e["kind"] == "pool")
    # Rows that demonstrations are drawn from are embedded too, once.
    assert sum(embedded) <= summary_of(whole)["cost"]["tokens_embedded"] <= sum(embedded) + 96 * 64
    first = [e["kind"] for e in events].index("cycle")
    values = [e["value"] for e in events[:first]]
    spent = sum(v.get("new_tokens", v.get("tokens", 0)) for v in values)
    assert spent <= summary_of(whole)["cycles"][0]["tokens"] <= spent + 96 * 64


def test_a_run_ends_with_its_page(whole: Path) -> None:
    """A fault in one of the page's sections fails no run, so it would go unseen without this."""
    wrong = whole / "report-error.txt"
    assert not wrong.exists(), wrong.read_text()
    assert (whole / "report.html").is_file()


def test_without_a_proposer_nothing_is_rewritten_and_slices_come_last(whole: Path) -> None:
    kinds = [event["kind"] for event in journal_of(whole)]
    assert "rewrite" not in kinds and kinds.count("slices") == 1
    assert kinds[kinds.index("slices") :] == ["slices", "cost", "done"]
    value = of_kind(whole, "slices")[0]
    assert value["tokens"] == 0 and "24 rows" in value["skipped"]


def test_the_plan_says_what_the_run_does(whole: Path) -> None:
    plan = of_kind(whole, "plan")[0]
    assert len(ids(of_kind(whole, "pool")[0]["proposals"])) <= plan["pool"]
    assert {t["steps"] for t in of_kind(whole, "tuned")[:2]} == {plan["short_steps"]}
    ends = [e for e in journal_of(whole) if e["kind"] == "score" and e["value"]["stage"] in ("confirm", "calibrate", "test")]
    assert sum(e["value"]["tokens"] for e in ends) <= 1.05 * plan["reserve"]


class WorkClock:
    """A clock that goes with the tokens a model runs, training three times as slow: a busy machine changes nothing in it."""

    def __init__(self, tokens_per_second: float) -> None:
        self.now, self.pace = 0.0, 1 / tokens_per_second

    def monotonic(self) -> float:
        return self.now

    def run(self, tokens: int, *, training: bool) -> None:
        self.now += (3 if training else 1) * self.pace * tokens


def test_a_time_budget_is_kept(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, run_pass = WorkClock(tokens_per_second=4_000), PackedRunner._run

    def counted(self: PackedRunner, ids: Any, *rest: Any, **named: Any) -> Any:
        clock.run(len(ids), training=torch.is_grad_enabled())
        return run_pass(self, ids, *rest, **named)

    monkeypatch.setattr(PackedRunner, "_run", counted)
    for module in ("budget.budget", "answering.answers", "answer_search.training", "run"):
        monkeypatch.setattr(sys.modules[f"cotune.cycle.{module}"], "time", clock)
    # A first guess that is twice too hopeful, on every machine.
    found = replace(check_capability("cpu", "float32", 1), gemm_gflops={"float32": 0.55, "bfloat16": 0.4})
    monkeypatch.setattr("cotune.cycle.backends.local.check_capability", lambda *_: found)
    task = Task.from_rows(labelled_rows(90), input="text", output="label")
    settings: dict[str, Any] = {"model": str(bench.model), "budget": "11s", "seed": 4, "engine": {"dtype": "float32"}}
    settings |= {
        "tune": {"readout": "words", "batch_size": 8, "rank": 2, "max_epochs": 500},
        "search": {"pool": 4},
    }
    config = config_in_memory(name="timed", input=["text"], output="label", **settings)
    result = run_cycle(config, tmp_path / "run", task=task, view=Quiet())
    assert result.summary["cost"]["wall_s"] == pytest.approx(clock.now, abs=0.1)
    assert "budget" in result.summary["stopped"]
    assert clock.now <= 11.5
    # Decisions hang on the clock, so its readings stand in the journal.
    assert of_kind(tmp_path / "run", "clock")


def test_a_budget_that_is_too_small_leaves_no_trace(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "mine"
    ended = bench.run(out, budget="10ktok")
    assert ended.code == 2
    assert "budget is too small" in ended.stderr
    assert "Give --budget " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []
    # The folder is free for the corrected command.
    assert bench.run(out, budget="60ktok", at=("line", "plan", 1)).code == -9


# Failures ---------------------------------------------------------------------------------------------------------


def test_training_that_diverges_is_recorded_and_told(bench: Bench, tmp_path: Path) -> None:
    ended = bench.run(tmp_path / "run", "tune.learning_rate=1e9")
    assert ended.code == 1
    assert "every tuning run diverged" in ended.stderr
    assert "learning_rate" in ended.stderr
    assert "Traceback" not in ended.stderr
    trained = of_kind(tmp_path / "run", "train")
    assert trained
    assert all("step" in value["failed"] and "adapter_id" not in value for value in trained)
    assert not of_kind(tmp_path / "run", "tuned"), "a failure is no score of 0"


def tuned_by_words(bench: Bench, out: Path, budget: str, view: Quiet | None = None) -> Result:
    """A small run in this process, whose training a test can break."""
    task = Task.from_rows(labelled_rows(90), input="text", output="label")
    settings: dict[str, Any] = {"model": str(bench.model), "budget": budget, "seed": 4}
    settings |= {
        "tune": {"readout": "words", "batch_size": 8, "rank": 2},
        "search": {"pool": 4},
        "engine": {"dtype": "float32"},
    }
    return run_cycle(config_in_memory(name="broken", input=["text"], output="label", **settings), out, task=task, view=view)


def test_a_run_survives_one_prompt_whose_training_diverges(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotune.errors import DivergedError
    from cotune.tune.trainer import TuningRun

    real = TuningRun._one_step
    broken: list[str] = []

    def one_step(self: TuningRun, batch: Any) -> Any:
        if self.key not in broken and not broken:
            broken.append(self.key)
        if self.key in broken:
            raise DivergedError("the loss became nan in step 1; the trial stops here.")
        return real(self, batch)

    monkeypatch.setattr(TuningRun, "_one_step", one_step)
    result = tuned_by_words(bench, tmp_path / "run", "30ktok")
    # The seed prompt is tuned first, so it is the seed prompt that broke.
    assert "failed" in of_kind(tmp_path / "run", "train")[0]
    seed = result.summary["arms"]["seed_prompt"]["prompt_id"]
    assert seed not in {value["prompt_id"] for value in of_kind(tmp_path / "run", "tuned")}
    assert result.summary["arms"]["seed_tuned"]["prompt_id"] == seed
    assert result.summary["arms"]["seed_tuned"]["adapter_id"] == "base"


def test_a_run_survives_that_all_training_diverges_in_a_later_cycle(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured in the first cycle stands, and is tested."""
    from cotune.errors import DivergedError
    from cotune.tune.trainer import TuningRun

    real, cycles = TuningRun._one_step, list[int]()

    class Counting(Quiet):
        def event(self, event: dict[str, Any]) -> None:
            if event["kind"] == "cycle":
                cycles.append(event["value"]["cycle"])

    def one_step(self: TuningRun, batch: Any) -> Any:
        if cycles:
            raise DivergedError("the loss became nan; the trial stops here.")
        return real(self, batch)

    monkeypatch.setattr(TuningRun, "_one_step", one_step)
    result = tuned_by_words(bench, tmp_path / "run", "90ktok", Counting())
    assert any("failed" in value for value in of_kind(tmp_path / "run", "train")) and len(cycles) > 1
    assert result.summary["arms"]["best_tuned"]["steps"] > 0


def test_a_ledger_that_cannot_be_written_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    arms = {"seed_prompt": "a"}
    assert [enter_opening("h", tmp_path / name, arms) for name in ("one", "two", "two")] == [0, 1, 1]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert enter_opening("h", tmp_path / "three", arms) is None


@pytest.mark.parametrize("damage", ["[{}, ", "{}", "[1]", "\0\0"])
def test_a_damaged_ledger_is_set_aside_and_what_it_knew_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert [enter_opening("h", tmp_path / name, {}) for name in ("one", "two")] == [0, 1]
    path = tmp_path / "ledger" / "h.json"
    path.write_text(damage)
    # Also for the next one: what was lost stays lost until somebody looks at it.
    assert [enter_opening("h", tmp_path / name, {}) for name in ("three", "four")] == [None, None]
    aside = path.with_name("h.damaged-1")
    assert aside.read_text() == damage and len(json.loads(path.read_text())) == 2
    aside.unlink()
    assert enter_opening("h", tmp_path / "five", {}) == 2
    assert enter_opening("another", tmp_path / "five", {}) == 0
    assert "is unknown" in openings_sentence(None)


def test_a_ledger_whose_lock_cannot_be_taken_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    (tmp_path / "ledger" / "h.lock").mkdir(parents=True)
    assert enter_opening("h", tmp_path / "one", {}) is None


def test_a_test_that_was_opened_before_is_told_in_the_verdict_and_on_the_page(tmp_path: Path, bench: Bench) -> None:
    test = [{"text": f"known {row['text']}", "label": row["label"]} for row in labelled_rows(30, seed=2)]
    task, sampled = (
        Task.from_rows(labelled_rows(60), input="text", output="label", test=test, limit=limit) for limit in ({}, {"test": 24})
    )
    assert [enter_opening(task.test.content_hash, tmp_path / name, {}) for name in ("one", "two")] == [0, 1]
    settings: dict[str, Any] = {"model": str(bench.model), "budget": "25ktok", "seed": 4}
    settings |= {
        "tune": {"readout": "words", "batch_size": 8, "rank": 2},
        "search": {"pool": 4},
        "engine": {"dtype": "float32"},
    }
    settings |= {"evaluate": {"robustness": False, "slices": False, "neighbours": False}}
    config = config_in_memory(name="known", input=["text"], output="label", **settings)
    # A sample of the rows counts as the test.
    result = run_cycle(config, tmp_path / "run", task=sampled, view=Quiet())
    assert of_kind(tmp_path / "run", "open_test")[0]["opened_before"] == result.summary["test_opened_before"] == 2
    sentence = "This test was opened 2 times before: interpret its p-values with care."
    assert sentence in result.summary["verdict"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert sentence in page.split('<section id="verdict"')[1].split("</section>")[0]
    # This run's own opening counts for the next one, whatever its file is called.
    assert enter_opening(task.test.content_hash, tmp_path / "three", {}) == 3


# Pools ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    task = Task.from_rows(labelled_rows(60), input="text", output="label")
    model = tiny_local(settings=EngineSettings(max_tokens=200))
    costs = CostModel(parse_budget("1Mtok"), 1.0, 1.0)
    return RunContext(task, model, Journal(tmp_path), costs, tmp_path, TuneSettings(), 0, Quiet())


def test_a_prompt_that_fills_the_model_leaves_no_room(context: RunContext) -> None:
    short = Prompt(instruction="What is it? {labels}", input_template="{text}")
    shown = tuple(Demonstration((("text", f"apple {i} and more"),), "fruit") for i in range(30))
    assert has_room(context, short)
    assert not has_room(context, short.edit(demonstrations=shown))
    assert not has_room(context, short.edit(instruction="word " * 180))


def test_pools_hold_no_prompt_that_fills_the_model(context: RunContext) -> None:
    shown = tuple(Demonstration((("text", f"apple {i} and more"),), "fruit") for i in range(12))
    parent = Prompt(instruction="What is it? {labels}", input_template="{text}", demonstrations=shown)
    pool = next_pool(context, 2, [parent], 8, {parent.id}, demonstrations=True)
    assert all(has_room(context, proposal.prompt) for proposal in pool)


def test_settings_of_the_tiny_runs_are_real_keys() -> None:
    assert len({text.partition("=")[0] for text in SETTINGS}) == len(SETTINGS)


def test_the_bundle_keeps_the_winners_scores_of_dev_rows_and_how_its_sets_did_on_the_test(whole: Path) -> None:
    kept = json.loads((whole / "best" / "metrics.json").read_text())["conformal"]
    dev, test = (json.loads((whole / name).read_text()) for name in ("dev_rows.json", "test_rows.json"))
    chosen = dev["candidates"][0]["id"]
    right = [row["probabilities"][chosen][row["gold"]] for row in dev["rows"]]
    assert kept["n"] == len(kept["scores"]) == summary_of(whole)["n"]["dev"]
    # The files round, to five digits and to four.
    assert np.exp(-np.array(kept["scores"])) == pytest.approx(np.sort(right)[::-1], abs=2e-4)
    assert kept["scores"] == sorted(kept["scores"]) and min(kept["scores"]) >= 0
    shares = np.array([row["probabilities"]["best_tuned"] for row in test["rows"]])
    gold = np.array([row["gold"] for row in test["rows"]])
    assert [told["share"] for told in kept["test"]] == [s for s in (0.05, 0.1, 0.2) if kept["n"] >= least_rows(s)] != []
    for told in kept["test"]:
        highest = threshold(np.array(kept["scores"]), told["share"])
        found = coverage(label_sets(np.log(np.maximum(shares, 1e-9)), highest), gold)
        assert told["n"] == len(gold) and told["ci"][0] <= told["covered"] <= told["ci"][1]
        assert (told["covered"], told["answered"]) == pytest.approx((found.covered, found.answered), abs=1.5 / len(gold))
