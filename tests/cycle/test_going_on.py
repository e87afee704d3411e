"""Runs that go on from an earlier bundle: new labels, replay, forgetting, resume, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from cycle_runs import SETTINGS, Ended, journal_of, labelled_rows, of_kind, summary_of, without_times, write_csv

import cotune
from cotune.bundle.load import OpenedBundle
from cotune.cache import cache_folder
from cotune.config import config_from_data, config_in_memory
from cotune.config.task import Task
from cotune.cycle.warm_start import open_start, start_task
from cotune.errors import InputError
from cotune.files import file_sha256
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.refine import not_shown
from cotune.task.example import Example
from cotune.task.known import Known
from cotune.task.sealed import SealedTest

if TYPE_CHECKING:
    from conftest import Bench

_WORDS = {
    "animal": ("cat", "dog", "cow", "hen"),
    "fruit": ("apple", "pear", "plum", "fig"),
    "hard_metal": ("iron", "zinc", "lead", "gold"),
    "tool": ("saw", "axe", "drill", "file"),
}
KILLED = -9
OWN = tuple(text for text in SETTINGS if not text.startswith("tune.rank"))
"""The adapter's shape comes from the bundle."""


def rows(kinds: tuple[str, ...], count: int, seed: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        word = rng.choice(_WORDS[kind])
        made.append({"text": f"{word} {1000 * seed + i} {word}", "label": kind})
    return made


def changed(bundle: Path, folder: Path, **manifest: Any) -> Path:
    """A copy of a bundle whose manifest says something else."""
    shutil.copytree(bundle, folder)
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest))
    return folder


def showing(bundle: Path, folder: Path, shown: list[dict[str, str]], fields: tuple[str, ...] = ("text",)) -> Path:
    """A copy of a bundle whose prompt shows these rows with their answers."""
    saved = json.loads((bundle / "prompt.json").read_text())
    examples = tuple(Demonstration(tuple((name, row[name]) for name in fields), row["label"]) for row in shown)
    prompt = Prompt.from_json(saved["prompt"]).edit(demonstrations=examples, nearest=0)
    changed(bundle, folder, prompt_id=prompt.id)
    (folder / "prompt.json").write_text(json.dumps(saved | {"prompt": prompt.to_json()}))
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["prompt.json"] = file_sha256(folder / "prompt.json")
    path.write_text(json.dumps(manifest))
    return folder


class Later:
    """An earlier bundle, and files for what comes after it."""

    def __init__(self, bench: Bench, whole: Path, folder: Path) -> None:
        self.bench, self.bundle, self.old = bench, whole / "best", bench.rows
        self.new = write_csv(folder / "new.csv", rows(("hard_metal", "tool"), 60, 5))
        self.test = write_csv(folder / "test.csv", rows(tuple(_WORDS), 48, 6))

    def run(self, out: Path, *more: str, data: Path | None = None, budget: str = "50ktok", at: Any = None) -> Ended:
        if not out.exists():
            shutil.rmtree(cache_folder("ledger"))
        given = ("--from", str(self.bundle), "--budget", budget, "--seed", "4", "--out", str(out), *OWN)
        return self.bench.commands.run("run", str(data or self.new), *given, *more, at=at)

    def with_replay(self, out: Path, **named: Any) -> Ended:
        return self.run(out, "--replay", str(self.old), f"data.test={self.test}", **named)


@pytest.fixture(scope="module")
def later(bench: Bench, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Later:
    return Later(bench, whole, tmp_path_factory.mktemp("later"))


@pytest.fixture(scope="module")
def grown(later: Later, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one new label and replayed rows."""
    out = tmp_path_factory.mktemp("grown") / "run"
    ended = later.with_replay(out)
    assert ended.code == 0, ended.stderr
    assert "Keep the " in ended.stdout and "Old and new bundle" in ended.stdout
    return out


def test_nothing_of_the_old_task_need_be_told_again(grown: Path, later: Later, whole: Path) -> None:
    config = json.loads((grown / "config.json").read_text())["config"]
    assert (config["data"]["input"], config["data"]["output"]) == (["text"], "label")
    assert config["model"] == str(later.bench.model)
    assert config["tune"]["rank"] == 4
    summary = summary_of(grown)
    assert summary["labels"] == ["animal", "fruit", "hard_metal", "tool"]
    assert summary["previous"]["new_labels"] == ["hard_metal"] and summary["previous"]["gone_labels"] == []


def test_the_old_bundle_is_an_arm_as_it_was(grown: Path, whole: Path) -> None:
    summary, manifest = summary_of(grown), json.loads((whole / "best" / "manifest.json").read_text())
    arm = summary["arms"]["previous"]
    assert (arm["prompt_id"], arm["adapter_id"]) == (manifest["prompt_id"], manifest["adapter_id"])
    assert arm["decision"] == manifest["decision"] and arm["log_loss"] is None and arm["n"] == 48
    tests = json.loads((grown / "test_rows.json").read_text())
    metal = tests["labels"].index("hard_metal")
    assert all(row["answers"]["previous"] != metal and row["probabilities"]["previous"][metal] == 0 for row in tests["rows"])
    shares = [sum(row["probabilities"]["previous"]) for row in tests["rows"]]
    assert shares == pytest.approx([1.0] * 48, abs=1e-3)
    assert "previous" in of_kind(grown, "open_test")[0]["arms"]
    # The same rows, asked of the bundle itself.
    predictor = cotune.load(whole / "best", device="cpu", dtype="float32", threads=1)
    answers = predictor.predict([row["input"] for row in tests["rows"]])
    assert answers == [tests["labels"][row["answers"]["previous"]] for row in tests["rows"]]


def test_worked_examples_are_found_among_rows_with_their_columns_in_another_order(bench: Bench, tmp_path: Path) -> None:
    """Else a prompt would learn from the rows that it shows, with their answers."""
    made = [{"text": row["text"], "hint": f"h{i % 7}", "label": row["label"]} for i, row in enumerate(labelled_rows(60))]
    table = tmp_path / "rows.csv"
    table.write_text("text,hint,label\n" + "".join(f"{','.join(row.values())}\n" for row in made))
    usual = ("--budget", "30ktok", "--seed", "4", *OWN, "tune.rank=4")
    asked = ("--input", "text", "--input", "hint", "--output", "label", "--model", str(bench.model))
    ended = bench.commands.run("run", str(table), *asked, *usual, "--out", str(tmp_path / "first"))
    assert ended.code == 0, ended.stderr
    bundle = showing(tmp_path / "first" / "best", tmp_path / "shown", made[:6], ("text", "hint"))
    again = ("--from", str(bundle), "--input", "hint", "--input", "text", "--budget", "30ktok", "--seed", "4", *OWN)
    ended = bench.commands.run("run", str(table), *again, "--out", str(tmp_path / "more"), at=("line", "previous", 1))
    assert ended.code == KILLED, ended.stderr
    (previous,) = of_kind(tmp_path / "more", "previous")
    prompt = Prompt.from_json(previous["prompt"])
    train = [Example(str(i), {"hint": row["hint"], "text": row["text"]}, row["label"]) for i, row in enumerate(made)]
    assert prompt.demonstrations and len(not_shown(prompt, train)) == 60 - len(prompt.demonstrations)
    assert Prompt.from_json(previous["was"]["prompt"]).demonstrations[0].fields == tuple(train[0].fields.items())


def test_the_comparison_adds_up(grown: Path) -> None:
    summary = summary_of(grown)
    parts, arms = summary["previous"]["parts"], summary["arms"]
    assert parts["all"]["n"] == 48 and parts["old_labels"]["n"] == 36 and parts["new_labels"]["n"] == 12
    assert parts["new_labels"]["old"] == 0
    over = summary["gains"]["over_previous"]
    assert over["value"] == pytest.approx(arms["best_tuned"]["score"] - arms["previous"]["score"], abs=1e-5)
    assert parts["all"]["value"] == pytest.approx(over["value"], abs=1e-5)
    assert over["p_single"] <= over["p"]
    assert summary["verdict"].startswith(summary["previous"]["sentence"])
    assert summary["previous"]["sentence"].startswith(f"Keep the {summary['previous']['keep']} bundle")


def test_its_prompt_and_adapter_are_the_first_candidate(grown: Path, whole: Path) -> None:
    entered = of_kind(grown, "previous")[0]
    pool = of_kind(grown, "pool")[0]["proposals"]
    taken = next(proposal for proposal in pool if proposal["source"] == "previous")
    assert taken["prompt"] == entered["prompt"]
    assert taken["parents"] == [entered["was"]["prompt_id"]]
    first = of_kind(grown, "tuned")[0]
    assert (first["stage"], first["steps"], first["adapter_id"]) == ("previous", 0, entered["ground"])
    assert (grown / "adapters" / entered["ground"] / "adapter_model.safetensors").read_bytes() == (
        whole / "best" / "adapter" / "adapter_model.safetensors"
    ).read_bytes()
    # The seed prompt is tuned afresh.
    seed = of_kind(grown, "start")[0]["prompts"][0]
    assert seed["instruction"] and of_kind(grown, "entrants")[0]["prompt_ids"]


def test_training_goes_on_from_the_old_adapter_but_for_the_seed_prompt(grown: Path) -> None:
    entered = of_kind(grown, "previous")[0]
    old = Prompt.from_json(entered["prompt"]).id
    seed = Prompt.from_json(of_kind(grown, "start")[0]["prompts"][0]).id
    first: dict[str, dict[str, Any]] = {}
    for trained in of_kind(grown, "train"):
        first.setdefault(trained["prompt_id"], trained)
    others = [prompt for prompt in (old, *of_kind(grown, "entrants")[0]["prompt_ids"]) if prompt != seed]
    assert entered["ground"] != "base" and {first[prompt]["start"] for prompt in others} == {entered["ground"]}
    assert first[seed]["start"] == "base"
    # It is trained, and what came of that is what is measured next.
    assert first[old]["steps"] > 0 and first[old]["adapter_id"] != entered["ground"]
    after = next(one for one in of_kind(grown, "tuned") if one["adapter_id"] == first[old]["adapter_id"])
    assert (after["prompt_id"], after["steps"]) == (old, first[old]["steps"])


def test_replayed_rows_join_train_and_dev_in_balance_and_never_the_test(grown: Path) -> None:
    replay = of_kind(grown, "previous")[0]["replay"]
    counts = summary_of(grown)["data"]["counts"]
    # 60 new rows of two labels: 30 a label, so that each of three old labels gives 30.
    assert replay["replay_read"] == 120 and replay["replay_train"] + replay["replay_dev"] == 90
    assert replay["replay_dev"] == 27
    assert (counts["train"], counts["dev"], counts["test"]) == (42 + 63, 18 + 27, 48)
    tests = json.loads((grown / "test_rows.json").read_text())
    assert not any(row["id"].startswith("replay") for row in tests["rows"])


def test_the_report_shows_old_and_new(grown: Path) -> None:
    page = (grown / "report.html").read_text()
    assert not (grown / "report-error.txt").exists()
    assert "Old and new bundle" in page and "old bundle" in page and "Over the old bundle" in page
    assert "the old bundle’s" in page


def test_what_ships_predicts_new_labels_and_can_be_gone_on_from_again(grown: Path) -> None:
    predictor = cotune.load(grown / "best", device="cpu", dtype="float32", threads=1)
    assert "hard_metal" in predictor.labels or summary_of(grown)["previous"]["ships_old"]


MOMENTS = (
    (("rename", "adapter_model.safetensors", 1), "while the bundle's adapter is copied"),
    (("line", "previous", 1), "after the bundle was taken over"),
    (("optimizer step", "", 9), "inside an optimizer step"),
    (("line", "arm", 5), "before the old bundle is tested"),
)
"""One run is killed at each in turn; counts are those of a session."""


def test_killed_and_run_again(later: Later, grown: Path, tmp_path: Path) -> None:
    for at, where in MOMENTS:
        killed = later.with_replay(tmp_path / "run", at=at)
        assert killed.code == -9, f"the moment never came: {where}: {killed.stderr}"
    again = later.with_replay(tmp_path / "run")
    assert again.code == 0, again.stderr
    assert summary_of(tmp_path / "run") == summary_of(grown)
    assert without_times(journal_of(tmp_path / "run")) == without_times(journal_of(grown))


def test_without_replay_the_run_says_what_it_cannot_guard(later: Later, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert later.run(out, f"data.test={later.test}").code == 0
    summary = summary_of(out)
    assert summary["previous"]["unseen_labels"] == ["animal", "fruit"]
    assert "Some old labels had no dev rows" in summary["verdict"] or summary["previous"]["ships_old"]
    # A bias fitted to train's labels would silence those that have no row there.
    own = [arm["decision"]["kind"] for name, arm in summary["arms"].items() if name != "previous"]
    assert set(own) == {"raw"}
    assert summary["labels"] == ["animal", "fruit", "hard_metal", "tool"]


def test_forgetting_is_measured_on_a_test_of_old_labels_alone(later: Later, tmp_path: Path) -> None:
    test = write_csv(tmp_path / "old.csv", rows(("animal", "fruit", "tool"), 30, 6))
    ended = later.run(tmp_path / "run", f"data.test={test}", budget="30ktok")
    assert ended.code == 0, ended.stderr
    told = summary_of(tmp_path / "run")["previous"]
    assert told["new_labels"] == ["hard_metal"] and list(told["parts"]) == ["all"] and not told["ships_old"]
    assert "On the 30 rows of the old labels" in told["sentence"] and "no rows of new labels" in told["sentence"]


def test_labels_that_the_user_names_are_all_there_are(later: Later, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert later.run(out, "--replay", str(later.old), "output.labels=[hard_metal, tool, fruit]").code == 0
    summary = summary_of(out)
    assert summary["labels"] == ["fruit", "hard_metal", "tool"]
    assert summary["previous"]["gone_labels"] == ["animal"]
    assert summary["data"]["counts"]["replay_rows_without_label"] == 40
    tests = json.loads((out / "test_rows.json").read_text())
    assert tests["labels"] == ["fruit", "hard_metal", "tool", "animal"]
    assert (out / "report.html").is_file() and not (out / "report-error.txt").exists()


def test_the_old_one_ships_where_nothing_is_better(later: Later, tmp_path: Path) -> None:
    """New rows whose labels are noise teach nothing."""
    rng = np.random.default_rng(0)
    shuffled = [{**row, "label": str(rng.choice(["fruit", "animal", "tool"]))} for row in labelled_rows(90, seed=7)]
    data = write_csv(tmp_path / "noise.csv", shuffled)
    dev, test = (write_csv(tmp_path / f"{i}.csv", labelled_rows(count, seed=i)) for i, count in ((8, 90), (9, 45)))
    out = tmp_path / "run"
    ended = later.run(out, f"data.dev={dev}", f"data.test={test}", data=data, budget="60ktok")
    assert ended.code == 0, ended.stderr
    summary = summary_of(out)
    assert summary["previous"]["ships_old"] and summary["previous"]["keep"] == "old"
    assert summary["verdict"].startswith("Keep the old bundle: nothing was better on dev")
    assert summary["gains"]["over_previous"]["identical"]
    assert list(summary["previous"]["parts"]) == ["all"]
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (out / "best", later.bundle)]
    for key in ("adapter_id", "prompt_id", "decision", "labels"):
        assert manifests[0][key] == manifests[1][key]


def test_new_rows_of_a_single_label_are_enough_beside_the_old_ones(later: Later, tmp_path: Path) -> None:
    new = rows(("hard_metal",), 40, 5)
    ended = later.run(tmp_path / "run", "--replay", str(later.old), data=write_csv(tmp_path / "one.csv", new))
    assert ended.code == 0, ended.stderr
    summary = summary_of(tmp_path / "run")
    assert summary["labels"] == ["animal", "fruit", "hard_metal", "tool"]
    assert summary["previous"]["replay"]["replay_train"] > 0 and list(summary["previous"]["parts"]) == ["all"]
    # Probes tell labels apart, so that the old rows are needed there.
    refused = later.run(tmp_path / "probes", "tune.readout=auto", data=tmp_path / "one.csv")
    assert (
        refused.code == 2 and "all labelled rows have the label 'hard_metal'" in refused.stderr and "--replay" in refused.stderr
    )
    alone = cotune.Task.from_rows(new, start=later.bundle)
    assert alone.labels == ("animal", "fruit", "hard_metal", "tool") and {row.output for row in alone.train} == {"hard_metal"}
    with pytest.raises(cotune.InputError, match="every row has the same label"):
        cotune.Task.from_rows(new, input="text", output="label")


def test_a_worked_example_of_the_old_prompt_is_never_in_dev(later: Later, grown: Path, tmp_path: Path) -> None:
    new, old = rows(("hard_metal", "tool"), 60, 5), labelled_rows()
    made: dict[str, Any] = {"test": rows(tuple(_WORDS), 48, 6), "replay": old, "seed": 4}
    plain = cotune.Task.from_rows(new, start=later.bundle, **made)
    # Of the rows that would be in dev, some old ones and some new ones.
    replayed = [row.text for row in plain.dev if row.id.startswith("replay:")][:2]
    cut = [row.text for row in plain.dev if row.id.startswith("train:") and row.output == "tool"][:2]
    texts = {*replayed, *cut}
    shown = [row for row in (*old, *new) if row["text"] in texts]
    assert len(shown) == 4
    bundle = showing(later.bundle, tmp_path / "bundle", shown)
    task = cotune.Task.from_rows(new, start=bundle, **made)
    assert not texts & {row.text for row in task.dev} and texts <= {row.text for row in task.train}
    assert (len(task.train), len(task.dev)) == (len(plain.train), len(plain.dev))
    assert "dev_rows_in_prompt" not in task.checks

    given = cotune.Task.from_rows(new, start=bundle, dev=[*rows(("fruit", "tool"), 20, 8), *shown], **made)
    assert not texts & {row.text for row in given.dev} and given.checks["dev_rows_in_prompt"].count == 4
    with pytest.raises(cotune.InputError, match="every dev row is also in the test or in the prompt of the bundle"):
        cotune.Task.from_rows(new, start=bundle, dev=shown, **made)

    # The command line cuts the same rows, and finds them again.
    out = tmp_path / "run"
    asked = ("--from", str(bundle), "--replay", str(later.old), f"data.test={later.test}", "search.max_cycles=1")
    ended = later.run(out, *asked, budget="80ktok")
    assert ended.code == 0, ended.stderr
    data = [json.loads((folder / "config.json").read_text())["identity"]["data"] for folder in (out, grown)]
    assert data[0] == task.fingerprint != data[1] == plain.fingerprint
    assert cotune.try_prompt(out, "What is {text}?").n == len(task.dev)


@pytest.mark.parametrize(
    ("metric", "taken"),
    [("within 1%", "within 1%"), ("macro_f1", "macro_f1"), ("score.py:score", None)],
    ids=["with a number", "by name", "a function"],
)
def test_the_metric_is_the_bundles_unless_a_function_of_the_users_judged(
    later: Later, tmp_path: Path, metric: str, taken: str | None
) -> None:
    bundle = changed(later.bundle, tmp_path / "bundle", metric=metric)
    assert config_from_data(later.new, overrides=[f"start={bundle}"]).metric == taken
    assert config_from_data(later.new, overrides=[f"start={bundle}", "metric=weighted_f1"]).metric == "weighted_f1"


# Refusals ---------------------------------------------------------------------------------------------------------


def refused(ended: Ended, *told: str) -> None:
    assert ended.code == 2, ended.stdout
    assert "Traceback" not in ended.stderr
    for text in told:
        assert text in ended.stderr, ended.stderr


def test_other_columns_are_told_with_both_names(later: Later, tmp_path: Path) -> None:
    data = tmp_path / "new.csv"
    data.write_text(later.new.read_text().replace("text,label", "message,label"))
    refused(later.run(tmp_path / "run", data=data), "'text'", "'message', 'label'", "Rename")
    refused(later.run(tmp_path / "run", "--input", "message", data=data), "reads 'text'", "'message'", "Rename the columns")
    data.write_text(later.new.read_text().replace("text,label", "text,kind"))
    refused(later.run(tmp_path / "run", data=data), "'label'", "'text', 'kind'", "--output COLUMN")
    assert list(tmp_path.iterdir()) == [data]
    # Another name of the label column is no harm.
    assert later.run(tmp_path / "run", "--output", "kind", data=data, at=("line", "previous", 1)).code == -9


def test_prompts_must_name_the_fields_as_the_bundle_does() -> None:
    """Rows that were read already, whose columns had their names changed by others beside them."""
    rows = [{"subject": f"about {i}", "body": f"text {i}", "label": ("a", "b")[i % 2]} for i in range(40)]
    task = Task.from_rows(rows, input=["subject", "body"], output="label", seed=0)
    config = config_in_memory(name="t", input=["subject", "body"], output="label")

    def start(*fields: str) -> OpenedBundle:
        manifest = SimpleNamespace(input_fields=fields, output_columns=())
        return cast(OpenedBundle, SimpleNamespace(known=Known(task.output), manifest=manifest))

    assert start_task(config, start("body", "subject"), task) is task
    with pytest.raises(InputError, match="prompts would name the input of the new rows 'subject', 'body'") as caught:
        start_task(config, start("subject", "body_2"), task)
    assert caught.value.where == "data.input" and "'subject', 'body_2'" in str(caught.value)


def test_a_bundle_that_was_tampered_with_is_refused(later: Later, tmp_path: Path) -> None:
    whole = later.bundle
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    data = json.loads((copy / "prompt.json").read_text())
    data["prompt"]["instruction"] = "Say something else."
    (copy / "prompt.json").write_text(json.dumps(data))
    refused(later.run(tmp_path / "run", "--from", str(copy)), "prompt.json", "has changed since the bundle was made")
    refused(later.run(tmp_path / "run", "--from", str(tmp_path)), "this folder is not a bundle", "Give the folder of a run")
    assert not (tmp_path / "run").exists()


def test_settings_that_belong_to_the_bundle_cannot_be_others(later: Later, tmp_path: Path, bench: Bench) -> None:
    refused(later.run(tmp_path / "run", "tune.rank=8"), "tune.rank=4", "Leave it out")
    refused(later.run(tmp_path / "run", "engine.max_tokens=128"), "engine.max_tokens=1024", "Leave it out")
    refused(later.run(tmp_path / "run", "engine.truncate=end"), "engine.truncate=middle", "Leave it out")
    from tiny import save_tiny

    other = save_tiny(tmp_path / "other", seed=3)
    refused(later.run(tmp_path / "run", "--model", str(other)), "is not the one that the bundle was made with")
    assert not (tmp_path / "run").exists()


def test_old_rows_need_a_bundle(bench: Bench, tmp_path: Path) -> None:
    refused(bench.run(tmp_path / "run", "--replay", str(bench.rows)), "there is no bundle to start from")
    task = cotune.Task.from_rows(rows(("fruit", "tool"), 60, 1), input="text", output="label", replay=rows(("tool",), 20, 2))
    with pytest.raises(cotune.InputError, match="there is no bundle to start from"):
        cotune.run(task, out=tmp_path / "run", model=bench.model)


def test_the_folder_belongs_to_the_bundle(later: Later, grown: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(later.bundle, moved)
    same = later.bench.commands.run(
        "run", str(later.new), "--from", str(moved), "--replay", str(later.old), f"data.test={later.test}",
        "--budget", "50ktok", "--seed", "4", "--out", str(grown), *OWN,
    )  # fmt: skip
    assert same.code == 0, same.stderr
    other = later.bench.commands.run(
        "run", str(later.new), "--from", str(grown / "best"), "--replay", str(later.old), f"data.test={later.test}",
        "--budget", "50ktok", "--seed", "4", "--out", str(grown), *OWN,
    )  # fmt: skip
    refused(other, "start: ")


def test_a_test_row_among_the_old_ones_is_told_and_not_learnt(later: Later, bench: Bench, tmp_path: Path) -> None:
    old = rows(("fruit", "animal", "tool"), 60, 0)
    test = [*rows(tuple(_WORDS), 30, 6), *old[:5]]
    task = cotune.Task.from_rows(rows(("hard_metal", "tool"), 60, 5), input="text", output="label", test=test, replay=old)
    assert "test_rows_in_replay" in task.checks and task.checks["test_rows_in_replay"].count == 5
    learnt = {row.text for row in (*task.train, *task.dev)}
    assert not learnt & {row["text"] for row in test}
    assert isinstance(task.test, SealedTest) and task.test.n == 35


def test_a_ratio_says_how_much_is_replayed(later: Later) -> None:
    old = rows(("fruit", "animal", "tool"), 90, 0)
    for ratio, each in ((0.5, 15), (1.0, 30), (2.0, 30)):
        task = cotune.Task.from_rows(
            rows(("hard_metal", "tool"), 60, 5),
            input="text",
            output="label",
            replay=old,
            replay_ratio=ratio,
            test=rows(("tool",), 9, 6),
        )
        again = [row.output for row in (*task.train, *task.dev) if row.id.startswith("replay:")]
        assert {label: again.count(label) for label in set(again)} == dict.fromkeys(("fruit", "animal", "tool"), each)
        assert task.labels == ("animal", "fruit", "hard_metal", "tool")


def test_a_task_made_in_python_is_that_of_the_command_line(later: Later, grown: Path) -> None:
    task = cotune.Task.from_rows(
        rows(("hard_metal", "tool"), 60, 5),
        test=rows(tuple(_WORDS), 48, 6),
        replay=labelled_rows(),
        start=later.bundle,
        seed=4,
    )
    assert (task.input_fields, task.output_field, task.start) == (("text",), "label", str(later.bundle))
    assert task.fingerprint == json.loads((grown / "config.json").read_text())["identity"]["data"]
    pairs = [(row["text"], row["label"]) for row in rows(("hard_metal", "tool"), 60, 5)]
    assert cotune.Task.from_rows(pairs, start=later.bundle).labels == task.labels
    with pytest.raises(cotune.InputError, match="no column 'text', which the bundle names"):
        cotune.Task.from_rows([{"message": "a", "label": "tool"}] * 30, start=later.bundle)
    with pytest.raises(cotune.InputError, match="no such bundle"):
        cotune.Task.from_rows(pairs, start=later.bundle / "gone")


def test_python_goes_on_from_a_bundle_too(later: Later, tmp_path: Path) -> None:
    """Its metric judges, and the test may hold labels that no row here is learnt from."""
    bundle = changed(later.bundle, tmp_path / "bundle", metric="macro_f1")
    new, test = rows(("hard_metal", "tool"), 60, 5), rows(tuple(_WORDS), 24, 6)
    task = cotune.Task.from_rows(new, test=test, name="later", start=bundle)
    settings: dict[str, Any] = {
        "search": {"pool": 4, "max_cycles": 1},
        "engine": {"dtype": "float32", "threads": 1},
    }
    settings |= {"tune": {"batch_size": 8}, "evaluate": {"robustness": False, "slices": False}}
    # Said twice, it is the same bundle.
    result = cotune.run(task, start=task.start, out=tmp_path / "run", budget="30ktok", **settings)
    assert result.summary["metric"] == "macro_f1" and result.summary["model"] == str(later.bench.model)
    assert result.summary["previous"]["new_labels"] == ["hard_metal"]
    assert result.summary["labels"] == ["animal", "fruit", "hard_metal", "tool"]
    assert "previous" in result.summary["arms"]
    found = cotune.try_prompt(tmp_path / "run", "What is {text}?", task=task)
    assert found.n == result.summary["n"]["dev"]
    # Rows that were read without the bundle are another task.
    unaware = cotune.Task.from_rows(new, input="text", output="label")
    with pytest.raises(cotune.InputError, match=r"'start' is part of the task.*Task\.from_frame"):
        cotune.run(unaware, out=tmp_path / "other", start=bundle)


def test_a_task_file_need_say_no_more_than_on_the_command_line(later: Later, grown: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text(
        f"data: {{train: {later.new}, test: {later.test}, replay: {later.old}}}\nbudget: 50ktok\nseed: 4\n"
        "tune: {readout: words, batch_size: 8, learning_rate: 0.01, max_epochs: 2}\nsearch: {pool: 6}\n"
        "engine: {threads: 1, dtype: float32}\n"
    )
    result = cotune.run(path, out=tmp_path / "run", start=later.bundle)
    told = [json.loads((folder / "config.json").read_text()) | {"command": None} for folder in (result.folder, grown)]
    assert told[0] == told[1]


def test_a_config_object_goes_on_with_the_bundles_model(later: Later, tmp_path: Path) -> None:
    config = config_from_data(later.new, input="text", output="label")
    # The model is looked at before the rank.
    with pytest.raises(cotune.InputError, match=r"the bundle has tune\.rank=4"):
        cotune.run(config, out=tmp_path / "run", start=later.bundle, tune={"rank": 8})
    named = config_from_data(later.new, input="text", output="label", model=str(tmp_path / "none"))
    with pytest.raises(cotune.InputError, match="base model cannot be found"):
        cotune.run(named, out=tmp_path / "run", start=later.bundle)


def test_a_config_that_starts_afresh_opens_no_bundle(bench: Bench) -> None:
    assert open_start(config_from_data(bench.rows, input="text", output="label")) is None


def test_more_budget_makes_a_new_run(later: Later, tmp_path: Path) -> None:
    assert later.with_replay(tmp_path / "run", at=("line", "plan", 1)).code == -9
    ended = later.with_replay(tmp_path / "run", budget="60ktok", at=("line", "plan", 1))
    assert ended.code == -9 and "run-2" in ended.stderr, ended.stderr
