"""The support example must stay what its README says: varied, uneven, and free of near-duplicates."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "support"
GRAM_LENGTH = 5
SPLITS = ("train", "test")


def read_split(name: str) -> list[dict[str, str]]:
    text = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def grams(message: str) -> set[str]:
    """The character 5-grams of a message in lower case, with everything but letters and digits made one space."""
    text = f" {re.sub(r'[^a-z0-9]+', ' ', message.lower()).strip()} "
    return {text[start : start + GRAM_LENGTH] for start in range(max(1, len(text) - GRAM_LENGTH + 1))}


def jaccard_matrix(messages: list[str]) -> np.ndarray:
    """Jaccard similarity of every pair, shape ``[n, n]``, from one product of 0/1 rows; the diagonal is set to 0."""
    sets = [grams(message) for message in messages]
    column = {gram: index for index, gram in enumerate(sorted(set().union(*sets)))}
    present = np.zeros((len(sets), len(column)), dtype=np.float32)
    for row, members in enumerate(sets):
        present[row, [column[gram] for gram in members]] = 1.0
    shared = present @ present.T
    sizes = np.diag(shared)
    similarity = shared / (sizes[:, None] + sizes[None, :] - shared)
    np.fill_diagonal(similarity, 0.0)
    return similarity


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, str]]]:
    return {name: read_split(name) for name in SPLITS}


@pytest.fixture(scope="module")
def every_row(rows: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    return [row for name in SPLITS for row in rows[name]]


def test_enough_rows_and_classes(rows: dict[str, list[dict[str, str]]], every_row: list[dict[str, str]]) -> None:
    assert len(rows["train"]) >= 460
    assert len(rows["test"]) == 200
    assert len(every_row) >= 660
    labels = {name: {row["label"] for row in rows[name]} for name in SPLITS}
    assert labels["train"] == labels["test"]
    assert len(labels["train"]) >= 8


def test_every_row_is_a_clean_message_and_label(every_row: list[dict[str, str]]) -> None:
    for row in every_row:
        assert set(row) == {"message", "label"}
        assert row["message"] == row["message"].strip()
        assert not re.search(r"[\r\n\t]", row["message"])
        assert 3 <= len(row["message"].split()) <= 80, row["message"]


def test_lengths_vary(every_row: list[dict[str, str]]) -> None:
    lengths = np.array([len(row["message"].split()) for row in every_row])
    assert (lengths <= 8).mean() > 0.05
    assert (lengths >= 30).mean() > 0.05
    assert lengths.max() >= 70


def test_balance_is_uneven_and_the_same_in_both_splits(
    rows: dict[str, list[dict[str, str]]], every_row: list[dict[str, str]]
) -> None:
    whole = Counter(row["label"] for row in every_row)
    share = {label: count / len(every_row) for label, count in whole.items()}
    assert 0.17 <= max(share.values()) <= 0.23
    assert 0.04 <= min(share.values()) <= 0.07
    test = Counter(row["label"] for row in rows["test"])
    for label, expected in share.items():
        assert test[label] / len(rows["test"]) == pytest.approx(expected, abs=0.01)


def test_rows_are_not_ordered_by_class(rows: dict[str, list[dict[str, str]]]) -> None:
    for name in SPLITS:
        labels = [row["label"] for row in rows[name]]
        changes = sum(first != second for first, second in pairwise(labels))
        assert changes > len(labels) / 2


def test_no_near_duplicates_within_or_between_splits(every_row: list[dict[str, str]]) -> None:
    messages = [row["message"] for row in every_row]
    similarity = jaccard_matrix(messages)
    first, second = np.unravel_index(int(similarity.argmax()), similarity.shape)
    assert similarity[first, second] < 0.35, (messages[first], messages[second])


def test_openings_are_not_a_template(every_row: list[dict[str, str]]) -> None:
    openings = Counter(" ".join(row["message"].lower().split()[:3]) for row in every_row)
    opening, count = openings.most_common(1)[0]
    assert count <= 0.02 * len(every_row), opening


def test_the_duplicate_check_sees_a_changed_number() -> None:
    similarity = jaccard_matrix(["Where is my order 40718, please?", "where is my order 40719 please", "It leaks."])
    assert similarity[0, 1] > 0.5
    assert similarity[0, 2] == 0.0


def test_readme_states_origin_licence_classes_and_counts(rows: dict[str, list[dict[str, str]]]) -> None:
    readme = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    assert "written for this project, not collected" in readme
    assert "Apache-2.0" in readme
    counts = {name: Counter(row["label"] for row in rows[name]) for name in SPLITS}
    for label in counts["train"]:
        line = rf"\| `{label}` \| [^|]+ \| {counts['train'][label]} \| {counts['test'][label]} \|"
        assert re.search(line, readme), label
    assert f"| {len(rows['train'])} | {len(rows['test'])} |" in readme


def test_task_file_points_at_the_data(rows: dict[str, list[dict[str, str]]]) -> None:
    task = yaml.safe_load((FOLDER / "task.yaml").read_text(encoding="utf-8"))
    for name in SPLITS:
        assert (FOLDER / task["data"][name]).is_file()
    assert {task["data"]["input"], task["data"]["output"]} == set(rows["train"][0])


def test_hard_pairs_in_the_readme_are_train_rows_with_that_label(rows: dict[str, list[dict[str, str]]]) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| [^|`]+ \| `(\w+)` \| ([^|]+) \|$", readme, flags=re.MULTILINE)
    label_of = {row["message"]: row["label"] for row in rows["train"]}
    assert len(quoted) >= 8
    for label, message in quoted:
        assert label_of.get(message) == label, message
