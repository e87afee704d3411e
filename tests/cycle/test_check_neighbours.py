"""Rows that say the same in other words: found before anything is scored, told by train-row ids and counts, paid for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cycle_runs import journal_of

from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics import near_duplicates as neighbours
from cotune.cycle.diagnostics.leakage import overlap_finding, overlapping
from cotune.cycle.diagnostics.near_duplicates import check_neighbours
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Quiet
from cotune.embed import TextEmbedder
from cotune.model.engine.settings import EngineSettings
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.task.example import Example
from cotune.task.near import near_duplicates
from cotune.task.sealed import SealedTest
from cotune.tune.settings import TuneSettings
from tiny import tiny_local

WORDS = ("river", "tower", "book", "city", "country", "card", "account", "money", "delivery", "arrival", "person", "place")


def rows_of(count: int, seed: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    return [{"text": " ".join(rng.choice(WORDS, 7)), "label": "ab"[i % 2]} for i in range(count)]


def other_words(row: dict[str, str], label: str | None = None) -> dict[str, str]:
    """The same words, the first two the other way round, which no letters' n-gram calls a duplicate."""
    return {"text": swapped(row["text"]), "label": label or row["label"]}


def swapped(text: str) -> str:
    first, second, *rest = text.split()
    return " ".join([second, first, *rest])


def make_lab(folder: Path, budget: str = "3Mtok") -> RunContext:
    folder.mkdir(exist_ok=True)
    train, dev, test = (rows_of(n, seed) for seed, n in enumerate((60, 30, 25)))
    train += [
        other_words(dev[0]),
        other_words(test[0]),
        other_words(test[1]),
        other_words(train[0], "a"),
        other_words(train[2]),
    ]
    train[-2]["label"] = "ba"["ab".index(train[0]["label"])]
    test.append(other_words(test[2]))
    task = Task.from_rows(train, dev=dev, test=test, input="text", output="label")
    costs = CostModel(parse_budget(budget), 1.0, 1.0)
    model = tiny_local(settings=EngineSettings(max_tokens=200))
    return RunContext(task, model, Journal(folder), costs, folder, TuneSettings(), 0, Quiet())


def test_planted_pairs_are_found_and_the_test_stays_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a random model's states say of closeness is not what is tested here.
    monkeypatch.setattr(neighbours, "LIKE", -1.0)
    context = make_lab(tmp_path)
    found = check_neighbours(context)
    pairs = {tuple(pair["rows"]) for pair in found["alike"]}
    by_text = {row.text: row.id for row in (*context.task.train, *context.task.dev)}
    planted = [row for row in context.task.train if row.id in {f"train:{n}" for n in range(61, 66)}]
    assert len(planted) == 5

    def mirrored(row: Example) -> str:
        return by_text[swapped(row.text)]

    to_dev, *to_test, clash, within = planted
    assert (to_dev.id, mirrored(to_dev)) in pairs
    assert {row.id for row in to_test} <= set(found["near_test"])
    assert found["test_rows"] >= 2 and found["within_test"] >= 1
    assert (mirrored(clash), clash.id) in pairs and (mirrored(within), within.id) in pairs
    kinds = {finding["kind"]: finding for finding in found["findings"]}
    assert clash.id in kinds["same_meaning_other_label"]["examples"]
    assert kinds["same_meaning_other_label"]["severity"] == "warning"
    assert {"same_meaning_with_test", "same_meaning_in_train_dev", "same_meaning_in_train"} <= set(kinds)
    near = kinds["same_meaning_with_test"]
    told = f"at least {found['test_rows']} test rows are paraphrases of train or dev rows, so scores may be optimistic"
    assert (near["message"], near["count"]) == (told, len(found["near_test"]))
    assert re.fullmatch(r"\d+ pairs? of paraphrases within train", kinds["same_meaning_in_train"]["message"])
    told = (tmp_path / "journal.jsonl").read_text(encoding="utf-8")
    rows = context.task.test.open({"arm": "x"}).examples_for("x")
    assert not any(row.text in told or row.id in told for row in rows)
    assert context.spending.account.counts["tokens_embedded"] == found["tokens"] > 0
    assert found["tokens"] <= 0.004 * 3_000_000


def test_only_what_is_close_enough_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = check_neighbours(make_lab(tmp_path / "one"))
    assert all(pair["closeness"] >= neighbours.LIKE for pair in found["alike"])
    assert 0 < len(found["alike"]) < found["pairs"] == 48
    monkeypatch.setattr(neighbours, "LIKE", 1.1)
    nothing = check_neighbours(make_lab(tmp_path / "two"))
    assert (nothing["alike"], nothing["near_test"], nothing["findings"]) == ([], [], [])


def test_a_run_that_goes_on_pays_the_same_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_lab(tmp_path)
    found = check_neighbours(first)
    monkeypatch.setattr(TextEmbedder, "embed", None)
    again = make_lab(tmp_path)
    assert check_neighbours(again) == found
    assert again.spending.account.counts == first.spending.account.counts


def test_a_small_budget_sees_the_closest_of_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "LIKE", -1.0)
    found = check_neighbours(make_lab(tmp_path, "400ktok"))
    assert 4 <= found["pairs"] < 48
    assert found["tokens"] <= 0.004 * 400_000
    assert found["near_test"] and found["alike"]


@pytest.mark.parametrize(
    ("budget", "wanted", "most", "why"),
    [
        ("100ktok", True, 20_000, "its share of the budget"),
        ("3Mtok", False, 20_000, "is false"),
        ("3Mtok", True, 50, "up to 50 rows"),
    ],
)
def test_what_is_left_out_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, wanted: bool, most: int, why: str
) -> None:
    monkeypatch.setattr(neighbours, "_MOST_ROWS", most)
    context = make_lab(tmp_path, budget)
    assert why in check_neighbours(context, wanted=wanted)["skipped"]
    assert context.spending.account.counts["tokens_embedded"] == 0


def test_a_failure_is_recorded_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(TextEmbedder, "embed", failing)
    assert check_neighbours(make_lab(tmp_path))["skipped"] == "it failed (RuntimeError: not enough memory)"
    assert [event["kind"] for event in journal_of(tmp_path)] == ["neighbours"]


def test_what_is_a_duplicate_by_its_letters_is_not_told_again() -> None:
    row, same = Example("train:1", {"text": "where is my card"}, "a"), Example("dev:1", {"text": "Where is  my card"}, "a")
    assert near_duplicates(row, same)
    assert near_duplicates(row, Example("dev:2", {"text": "where is my card?"}, "a"))
    assert not near_duplicates(row, Example("dev:3", {"text": "my card is where"}, "a"))


def test_the_seal_gives_counts_and_ids_alone() -> None:
    test = SealedTest([Example(f"test:{i}", {"text": f"secret {i}"}, "a") for i in range(3)])
    rows = [Example(f"train:{i}", {"text": f"known {i}"}, "a") for i in range(2)]
    found = test.alike(rows, lambda all_rows: [(0, 1, 0.9), (1, 2, 0.95), (1, 4, 0.9), (3, 4, 0.99)])
    assert found.pairs == ((0, 1, 0.9),)
    assert found.near_test == ("train:1",) and found.test_rows == 2 and found.within_test == 1
    assert "secret" not in json.dumps([found.pairs, found.near_test])


def test_test_rows_in_a_prompt_are_counted_and_told(tmp_path: Path) -> None:
    context = make_lab(tmp_path)
    row = context.task.test.open({"arm": "x"}).examples_for("x")[0]
    shown = Demonstration(tuple(row.fields.items()), row.output)
    plain = Prompt("Answer with one of {labels}.", "{text}")
    assert overlapping(context.task, [plain]) == 0 and overlap_finding(0, "prompts") == []
    assert overlapping(context.task, [plain, plain.edit(demonstrations=(shown,))]) == 1
    assert overlapping(context.task, [plain.edit(instruction=f"For example {row.text.upper()}! {{labels}}")]) == 1
    (finding,) = overlap_finding(2, "the prompts that you gave")
    assert finding.severity == "warning" and "the prompts that you gave contain 2 test rows," in finding.message
