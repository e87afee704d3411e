"""Label tasks on a local model: raced by probes, tuned below them, read by them on the test; killed anywhere and run again."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cycle_runs import SETTINGS, Ended, journal_of, labelled_rows, of_kind, summary_of, without_times, write_csv

from cotune.cache import cache_folder
from cotune.config import config_in_memory
from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.policies import policy_for
from cotune.cycle.probe_search.embedding import Embedding
from cotune.cycle.probe_search.heuristics import HEURISTICS
from cotune.cycle.probe_search.plan import race_bound, split_epochs
from cotune.cycle.probe_search.policy import searches_by_probes
from cotune.cycle.probe_search.race import places_after, rounds_of, rows_embedded
from cotune.cycle.progress import Quiet
from cotune.errors import InputError
from cotune.evaluate.frozen_arms import ARMS
from cotune.model.adapters.files import bare_content_id
from cotune.model.adapters.slots import BASE
from cotune.probe.readout import PROBE
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Prompt
from cotune.report.html.sections.prompts import read_prompts
from cotune.report.html.sections.record import read_record
from cotune.tune.settings import TuneSettings
from tiny import save_tiny, tiny_local

if TYPE_CHECKING:
    from conftest import Bench

KILLED = -9


def run(bench: Bench, out: Path, *more: str, budget: str = "220ktok", **named: Any) -> Ended:
    # A first cycle and a later one. With fewer epochs no training would be long enough for a checkpoint.
    settings = ("tune.readout=auto", "search.max_cycles=2", "tune.max_epochs=5")
    # With this seed a tuned prompt beats the frozen one in the bundle, and both are judged on the same rows.
    return bench.run(out, *settings, *more, budget=budget, **{"seed": 5, **named})


@pytest.fixture(scope="module")
def finished(bench: Bench) -> Path:
    """A run that nothing interrupted, with at least one later cycle."""
    out = bench.folder / "probes"
    ended = run(bench, out)
    assert ended.code == 0, ended.stderr
    return out


def test_every_arm_is_read_by_a_probe_and_ships_one(finished: Path) -> None:
    summary = summary_of(finished)
    assert set(summary["arms"]) == set(ARMS)
    assert {arm["decision"]["kind"] for arm in summary["arms"].values()} == {"probe"}
    assert (finished / "best" / "adapter" / "probe.safetensors").is_file()
    assert summary["arms"]["best_tuned"]["n"] == 30
    confirmed = of_kind(finished, "confirm")[0]
    assert {name: arm["prompt_id"] for name, arm in confirmed["arms"].items()} == {
        name: arm["prompt_id"] for name, arm in summary["arms"].items()
    }
    for untuned in ("seed_prompt", "prompt_only", "best_prompt"):
        assert summary["arms"][untuned]["steps"] == 0


def test_references_and_the_first_verdict_are_told(finished: Path) -> None:
    summary = summary_of(finished)
    assert set(summary["references"]) == {"majority", "tfidf", "zero_shot"}
    for found in summary["references"].values():
        low, high = found["ci"]
        assert found["n"] == 30 and low <= found["score"] <= high
    # Every row holds the word that names its label.
    assert summary["references"]["tfidf"]["score"] > 0.9 > summary["references"]["majority"]["score"]
    first = summary["first_verdict"]
    assert first["n"] <= 80 and first["ci"][0] <= first["score"] <= first["ci"][1] and first["layer"] in (1, 2)
    frozen = of_kind(finished, "open_test")[0]["arms"]
    assert {name for name in frozen if name.startswith("reference_")} == {f"reference_{n}" for n in summary["references"]}


def test_no_row_is_held_out_from_itself(finished: Path) -> None:
    """Of few rows each is held out once, and no weights are judged on rows that they have learnt from."""
    kinds = [event["kind"] for event in journal_of(finished)]
    assert kinds.index("verdict") < kinds.index("plan") < kinds.index("train")
    trained = [value for value in of_kind(finished, "train") if value["stage"] == "tune"]
    judged = [value for value in of_kind(finished, "tuned") if value["stage"] == "tune"]
    assert judged and len(trained) >= 3 * len(judged)
    # Rows that a prompt shows with their answers do not count for it.
    prompts = read_prompts(read_record(finished)).by_id
    shown = {prompt_id: len(facts.prompt.demonstrations) for prompt_id, facts in prompts.items()}
    assert all(80 - shown[value["prompt_id"]] <= value["rows"] <= 80 for value in judged)
    assert {value["rows"] for value in of_kind(finished, "tuned") if not shown[value["prompt_id"]]} == {80}
    assert all(value["rows"] < 80 for value in trained)
    finals = [value for value in of_kind(finished, "train") if value["stage"] == "final"]
    assert finals and all(70 <= value["rows"] <= 80 for value in finals)


@pytest.fixture(scope="module")
def first(bench: Bench, finished: Path) -> Path:
    """A run that was killed behind the first verdict."""
    out = bench.folder / "first"
    assert run(bench, out, at=("line", "verdict", 1)).code == KILLED
    return out


def test_a_run_that_was_stopped_knows_the_rows_that_it_has_seen(first: Path, finished: Path) -> None:
    before, after = (json.loads((out / "row_hashes.json").read_text(encoding="utf-8")) for out in (first, finished))
    assert before == after and (len(before["learnt"]), len(before["tested"])) == (80, 30)
    assert not set(before["learnt"]) & set(before["tested"])


@pytest.fixture(scope="module")
def planned(bench: Bench, first: Path) -> Path:
    """A run that was killed before anything is tuned."""
    out = bench.folder / "planned"
    shutil.copytree(first, out)
    assert run(bench, out, at=("line", "plan", 1)).code == KILLED
    return out


def copied(folder: Path, out: Path) -> Path:
    # Else the run would be told that those before had opened its test.
    shutil.rmtree(cache_folder("ledger"))
    shutil.copytree(folder, out)
    return out


def test_the_first_bundle_is_there_before_anything_is_tuned(bench: Bench, first: Path) -> None:
    answered = bench.commands.run("predict", str(first / "best"), "--input", "apple 3 apple", "--json")
    assert answered.code == 0, answered.stderr
    assert json.loads(answered.stdout)["answer"] in ("fruit", "animal", "tool")


def test_a_better_bundle_takes_the_place_of_the_first(bench: Bench, planned: Path, tmp_path: Path) -> None:
    out = copied(planned, tmp_path / "run")
    assert run(bench, out, at=("line", "better", 1)).code == KILLED
    told = of_kind(out, "better")[0]
    assert (out / "best" / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((out / "best" / "metrics.json").read_text())["held_out"]["score"] == told["score"]
    frozen = min(value["log_loss"] for value in of_kind(out, "tuned") if value["stage"] == "frozen")
    assert told["log_loss"] < frozen == told["before"]["log_loss"]


NOTHING_TUNED = ("torn line", "verdict", 1)
MOMENTS = (
    (("states stored", "", 2), "behind states whose line was not written"),
    (("torn line", "embed", 2), "inside the line of an embedding"),
    (("bundle", "", 1), "while the first bundle is saved"),
    (NOTHING_TUNED, "inside the line of the first verdict"),
    (("line", "train", 2), "between two splits"),
    (("optimizer step", "", 5), "inside an optimizer step"),
    (("rename", "window.safetensors", 1), "before a checkpoint gets its name"),
    (("rename", "probe.safetensors", 3), "before a probe gets its name"),
    (("torn line", "probe", 2), "inside the line of a probe"),
    (("line", "arm", 3), "between the arms of the test"),
    (("line", "reference", 1), "between the references"),
    (("bundle", "", 1), "while the last bundle is saved"),
)
"""One run is killed at each in turn; counts are those of a session."""


def test_killed_and_run_again(bench: Bench, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for at, where in MOMENTS:
        killed = run(bench, out, at=at)
        assert killed.code == KILLED, f"the moment never came: {where}: {killed.stderr}"
        if at == NOTHING_TUNED:
            # States that are gone are computed again.
            for path in (out / "states").iterdir():
                path.unlink()
    again = run(bench, out)
    assert again.code == 0, again.stderr
    assert summary_of(out) == summary_of(finished)
    assert without_times(journal_of(out)) == without_times(journal_of(finished))
    for name in ("prompt.json", "decision.json", "adapter/probe.safetensors", "adapter/adapter_model.safetensors"):
        one, other = out / "best" / name, finished / "best" / name
        assert one.is_file() == other.is_file()
        assert not one.is_file() or one.read_bytes() == other.read_bytes()
    assert not (out / "checkpoints").exists()


def test_what_was_decided_by_the_clock_is_not_decided_again(bench: Bench, tmp_path: Path) -> None:
    """Of so many rows a race has rounds, and how many prompts go on from one depends on the time that is left."""
    rows, out = write_csv(tmp_path / "rows.csv", labelled_rows(200)), tmp_path / "run"
    settings = ("--model", str(bench.model), "--budget", "240s", "--out", str(out), *SETTINGS, "tune.readout=auto")
    brief = ("search.max_cycles=1", "tune.max_epochs=1", "limit.test=30")
    asked = ("run", str(rows), "--input", "text", "--output", "label", *settings, *brief)
    for at in (("line", "places", 1), ("line", "plan", 1), ("line", "arm", 2)):
        assert bench.commands.run(*asked, at=at).code == KILLED, at
    before = journal_of(out)
    ended = bench.commands.run(*asked)
    assert ended.code == 0, ended.stderr
    assert journal_of(out)[: len(before)] == before


def test_a_search_that_is_told_to_finish_goes_to_the_test(bench: Bench, planned: Path, tmp_path: Path) -> None:
    out = copied(planned, tmp_path / "run")
    ended = run(bench, out, "--finish")
    assert ended.code == 0, ended.stderr
    summary = summary_of(out)
    assert summary["stopped"] == "the user asked to finish"
    assert not of_kind(out, "train") and summary["arms"]["best_tuned"]["score"] is not None


def test_a_search_that_is_told_to_finish_before_its_plan_plans_no_tuning(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(bench, out, at=("line", "race", 1)).code == KILLED
    ended = run(bench, out, "--finish")
    assert ended.code == 0, ended.stderr
    assert "no tuning, since the search is asked to end" in ended.stdout + ended.stderr
    assert summary_of(out)["stopped"] == "the user asked to finish" and not of_kind(out, "train")


def test_a_small_budget_ships_a_frozen_probe(bench: Bench, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "run", budget="14ktok")
    assert ended.code == 0, ended.stderr
    summary = summary_of(tmp_path / "run")
    assert summary["arms"]["best_tuned"]["steps"] == 0
    names = {path.name for path in (tmp_path / "run" / "best" / "adapter").iterdir()}
    assert names == {"probe.safetensors"}
    # It has no weights whose shape a later run would have to take.
    later = run(bench, tmp_path / "later", "--from", str(tmp_path / "run" / "best"), at=("line", "previous", 1))
    assert later.code == KILLED, later.stderr


def test_a_budget_that_cannot_pay_for_the_test_says_so(bench: Bench, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "run", budget="9ktok")
    assert ended.code == 2 and "budget is too small" in ended.stderr
    # Before anything is computed, so that the folder is free for the corrected command.
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_that_is_refused_keeps_what_it_has(bench: Bench, tmp_path: Path) -> None:
    model = shutil.copytree(bench.model, tmp_path / "model")
    out, of_model = tmp_path / "run", ("--model", str(model))
    assert run(bench, out, *of_model, at=("line", "race", 1)).code == KILLED
    config, before = model / "config.json", journal_of(out)
    told = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**told, "rms_norm_eps": 3 * told["rms_norm_eps"]}), encoding="utf-8")
    refused = run(bench, out, *of_model)
    assert refused.code == 2 and "model" in refused.stderr
    assert journal_of(out)[: len(before)] == before


def spent(folder: Path) -> int:
    cost = summary_of(folder)["cost"]
    return sum(cost[name] for name in ("tokens_scored", "tokens_written", "tokens_trained", "tokens_embedded"))


def test_a_token_budget_is_kept(bench: Bench, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "run", budget="40ktok")
    assert ended.code == 0, ended.stderr
    assert spent(tmp_path / "run") <= 40_000


def test_a_window_of_ones_own_and_a_larger_budget_that_is_kept(bench: Bench, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "run", "tune.layers=[2,2]", budget="50ktok")
    assert ended.code == 0, ended.stderr
    assert spent(tmp_path / "run") <= 50_000
    assert {tuple(value["window"]) for value in of_kind(tmp_path / "run", "train")} <= {(1, 2)}
    refused = run(bench, tmp_path / "other", "tune.layers=[1,9]")
    assert refused.code == 2 and "tune.layers" in refused.stderr


def test_a_prompt_of_ones_own_is_read_by_the_same_rule(bench: Bench, finished: Path) -> None:
    ended = bench.commands.run("try", str(finished), "--text", "Thing: {text}\nKind:", "--json")
    assert ended.code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["by_probe"] and {c["weights"] for c in found["comparisons"]} >= {"base"}


def test_going_on_from_a_bundle_of_probes(bench: Bench, finished: Path, tmp_path: Path) -> None:
    ended = run(bench, tmp_path / "run", "--from", str(finished / "best"), "search.max_cycles=1")
    assert ended.code == 0, ended.stderr
    summary = summary_of(tmp_path / "run")
    assert "previous" in summary["arms"] and summary["previous"]["keep"] in ("new", "old")
    was = summary_of(finished)["arms"]["best_tuned"]
    assert summary["previous"]["adapter_id"] == was["adapter_id"]
    (told,) = of_kind(tmp_path / "run", "previous")
    assert told["was"]["adapter_id"] == was["adapter_id"] != told["ground"] == bare_content_id(finished / "best" / "adapter")
    # The weights alone may win, so they lie there as an adapter of their own.
    assert told["ground"] == BASE or not (tmp_path / "run" / "adapters" / told["ground"] / PROBE).exists()


@pytest.mark.parametrize(("prompts", "rows"), [(1, 40), (4, 64), (8, 500), (16, 500), (16, 3000), (3, 97)])
def test_rounds_halve_prompts_and_end_with_all_rows(prompts: int, rows: int) -> None:
    rounds = rounds_of(prompts, rows, 96)
    assert rounds[-1].rows == rows
    seen = [step.rows for step in rounds]
    assert seen == sorted(set(seen))
    kept = [prompts, *(step.keep for step in rounds)]
    assert all(after <= before for before, after in pairwise(kept))
    whole = prompts * rows
    assert prompts * min(rows, 96) <= rows_embedded(prompts, rows, 96) <= whole + np.ceil(rows)


def test_of_few_rows_only_the_leading_prompts_are_fitted_at_all_folds(bench: Bench, tmp_path: Path) -> None:
    # Nothing of it comes after the race.
    ended = run(bench, tmp_path / "run", "search.pool=10", "search.max_cycles=1", budget="600ktok", at=("line", "race", 1))
    assert ended.code == KILLED, ended.stderr
    race = of_kind(tmp_path / "run", "race")[0]
    seed = Prompt.from_json(of_kind(tmp_path / "run", "start")[0]["prompts"][0]).id
    assert len(race["rows"]) == 10 and len(race["full"]) in (5, 6) and seed in race["full"]
    assert race["ranking"][: len(race["full"])] == race["full"]
    # The others were fitted too, with less effort, and one of them may look better than it is.
    assert set(race["log_losses"]) == set(race["rows"])


def test_fewer_prompts_go_on_where_the_budget_does_not_pay_for_all() -> None:
    steps = rounds_of(12, 500, 96)
    assert [step.keep for step in steps][:2] == [6, 3]
    # Of the first round's six beside the seed prompt: 96 rows more for seven, then 308 more for four.
    whole = 7 * 96 + 4 * (500 - 192)

    def price(count: int, rows: int) -> float:
        return (count + 1) * rows

    assert places_after(steps, 0, 11, price, lambda cost: cost <= whole) == 6
    assert places_after(steps, 0, 11, price, lambda cost: cost < whole) == 5
    assert places_after(steps, 0, 11, price, lambda cost: False) == 1
    assert places_after(steps, 0, 2, price, lambda cost: True) == 2
    assert places_after(steps, 0, 0, price, lambda cost: True) == 0


def test_a_slow_first_race_is_bounded_by_the_first_verdict() -> None:
    """Whatever loading took, the race may take what was planned for it, and a quick start gives it more."""
    five_minutes, tokens = parse_budget("5m"), parse_budget("1Mtok")
    room = HEURISTICS.race_seconds
    after = {gone: race_bound(room, five_minutes, 300.0 - gone, 4.0) for gone in (0.0, 5.0, 30.0)}
    assert after[0.0] == pytest.approx(HEURISTICS.race_over * room)
    assert after[5.0] == pytest.approx(HEURISTICS.verdict_seconds - 9.0)
    assert after[30.0] == room
    assert race_bound(9.0, parse_budget("1m"), 55.0, 4.0) == pytest.approx(HEURISTICS.race_over * 9.0)
    assert race_bound(150_000.0, tokens, 1e6, 0.0) == pytest.approx(HEURISTICS.race_over * 150_000)


def test_epochs_are_split_between_trial_and_end() -> None:
    def three_splits(epochs: float, last: float) -> float:
        return 3 * epochs + (last + epochs + last if last else 0)

    found = [split_epochs(6.0, lambda epochs, last, room=room: three_splits(epochs, last) <= room) for room in range(2, 30)]
    assert found[0] == (0.0, 0.0) and found[1] == (1.0, 0.0) and found[-1] == (3.0, 3.0)
    totals = [sum(one) for one in found]
    assert totals == sorted(totals) and max(totals) == 6.0
    assert all(epochs >= 1 for epochs, _ in found[1:])
    assert split_epochs(4.0, lambda epochs, last: True, whole=True) == (4.0, 0.0)
    # The user's bound holds; of one epoch, none is left for a final tuning.
    assert split_epochs(1.0, lambda epochs, last: True) == (1.0, 0.0)
    for wanted, least in ((1.0, 0.25), (2.0, 1.0), (3.0, 1.0), (4.0, 0.25), (5.0, 1.0)):
        whole = split_epochs(wanted, lambda epochs, last: True, least)
        assert sum(whole) == wanted and min(whole) > 0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("output.type=text",), "the output is free text"),
        (("--model", "openai:m", "endpoint.base_url=http://127.0.0.1:1/v1"), "the model answers behind an endpoint"),
    ],
)
def test_probes_that_are_impossible_are_an_error_before_anything_runs(
    bench: Bench, tmp_path: Path, more: tuple[str, ...], why: str
) -> None:
    ended = run(bench, tmp_path / "run", "tune.readout=probe", *more)
    assert ended.code == 2 and why in ended.stderr and "Leave tune.readout out" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_model_that_the_engine_does_not_fit_is_read_by_probes_too(bench: Bench, tmp_path: Path) -> None:
    other, out = save_tiny(tmp_path / "gemma", "gemma2"), tmp_path / "run"
    # A pass without the engine takes several times as long: one cycle of fewer rows does all that is looked at.
    brief = ("search.max_cycles=1", "tune.max_epochs=1", "limit.train=48")
    ended = run(bench, out, "tune.readout=probe", "--model", str(other), *brief, budget="900ktok")
    assert ended.code == 0, ended.stderr
    summary = summary_of(out)
    assert {arm["decision"]["kind"] for arm in summary["arms"].values()} == {"probe"}
    # Plain batches run the prompt once for each row, and no states are kept below a window.
    embedded = of_kind(out, "embed")
    assert embedded and all(value["saved"] == 0 for value in embedded)
    (tuned,) = {tuple(value["window"]) for value in of_kind(out, "train")}
    trained = of_kind(out, "train")
    assert trained[0]["new_tokens"] == pytest.approx(trained[0]["tokens"] * tuned[1] / 4, abs=1)
    spent = sum(summary["cost"][f"tokens_{what}"] for what in ("scored", "trained", "embedded"))
    assert 0 < spent <= 900_000
    asked = bench.commands.run("predict", str(out / "best"), "--input", "cow 3 cow", "--json")
    assert asked.code == 0 and json.loads(asked.stdout)["answer"] in ("fruit", "animal", "tool"), asked.stderr


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_rows_cost_what_they_read_with_the_engine_or_without_it(tmp_path: Path, kind: Any) -> None:
    task = Task.from_rows(labelled_rows(80), input="text", output="label", limit={"test": 20})
    costs = CostModel(parse_budget("1Mtok"), 1.0, 1.0)
    context = RunContext(task, tiny_local(kind), Journal(tmp_path), costs, tmp_path, TuneSettings(), 0, Quiet())
    seed, rows, embedding = seed_prompt(task), context.dev[:16], Embedding(context)
    scored, embedded = 16 * context.spending.rows.scored(seed), embedding.row_cost(seed, 16)
    context.answers.scores(seed, BASE, rows, "measure")
    embedding.states(seed, BASE, rows, "race")
    (score,), (embed,) = of_kind(tmp_path, "score"), of_kind(tmp_path, "embed")
    assert (score["saved"] == 0) == (embed["saved"] == 0) == (kind == "gemma2")
    # One pass for the prefix is not part of a row's price in scoring.
    prefix = context.spending.rows.counted(seed)[1]
    assert scored + prefix == pytest.approx(score["tokens"], rel=0.1)
    assert embedded == pytest.approx(embed["tokens"], rel=0.1)


def test_probes_are_an_error_for_a_model_whose_layers_are_not_found(tmp_path: Path) -> None:
    task = Task.from_rows(labelled_rows(80), input="text", output="label", limit={"test": 20})
    config = config_in_memory(name="towers", input=["text"], output="label", tune={"readout": "probe"})
    costs = CostModel(parse_budget("1Mtok"), 1.0, 1.0)
    found = []
    for known in (True, False):
        local = tiny_local("gemma2")
        if not known:
            modules = local.model.get_decoder()._modules
            modules["tower"] = modules.pop("layers")
        folder = tmp_path / str(known)
        context = RunContext(task, local, Journal(folder), costs, folder, TuneSettings(), 0, Quiet())
        found.append(searches_by_probes(context, config))
    assert found == [True, False]
    with pytest.raises(InputError, match="gives no states") as caught:
        policy_for(context, config, (seed_prompt(task),), None, tmp_path / "best")
    assert "Leave tune.readout out" in str(caught.value)
