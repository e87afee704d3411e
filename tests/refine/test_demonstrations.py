"""Demonstrations: from train alone, balanced, short and far apart."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.config.task import Task
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Prompt
from cotune.refine.demonstrations import default_count, diverse, fits, fixed, not_shown, with_demonstrations
from cotune.task.example import Example

LABELS = ("a", "b", "c")


def make_task(labels: tuple[str, ...] = LABELS, words: int = 5) -> Task:
    rows = [(" ".join([f"row{i}"] * (words if i % 2 else 70)), labels[(i // 2) % len(labels)]) for i in range(40 * len(labels))]
    return Task.from_rows(rows)


TASK = make_task()


def row(text: str, label: str = "a") -> Example:
    return Example(f"train:{text[:8]}", {"input": text}, label)


@pytest.mark.parametrize(("labels", "k"), [(2, 2), (6, 6), (8, 8), (12, 8), (13, 5), (150, 5)])
def test_default_count(labels: int, k: int) -> None:
    assert default_count(labels) == k


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 20))
def test_fixed_draws_short_train_rows_in_balance(seed: int, k: int) -> None:
    chosen = fixed(TASK, np.random.default_rng(seed), k=k)
    assert chosen == fixed(TASK, np.random.default_rng(seed), k=k)
    assert len(chosen) == len({row.id for row in chosen}) == k
    assert {row.id for row in chosen} <= {row.id for row in TASK.train}
    assert all(fits(row) for row in chosen)
    counts = Counter(row.output for row in chosen)
    assert max(counts.values(), default=0) - min((counts[label] for label in LABELS), default=0) <= 1


def test_fixed_by_default_and_where_it_runs_out() -> None:
    rng = np.random.default_rng(0)
    assert len(fixed(TASK, rng)) == 3
    assert 8 <= len(fixed(TASK, rng, k=1000)) < len(TASK.train)


def test_fixed_draws_all_rows_and_labels_in_turn() -> None:
    draws = [fixed(TASK, np.random.default_rng(seed), k=1)[0] for seed in range(200)]
    counts = Counter(row.output for row in draws)
    assert min(counts[label] for label in LABELS) > 35
    assert len({row.id for row in draws}) > 25
    last = Counter(fixed(TASK, np.random.default_rng(seed))[-1].output for seed in range(200))
    assert min(last[label] for label in LABELS) > 35


def test_diverse_takes_the_far_corner_of_each_class() -> None:
    points = np.array([[0, 0], [0.1, 0], [9, 0], [0, 0.1], [0, 8], [0.2, 0.2]])
    labels = ["a", "a", "a", "b", "b", "b"]
    # After the first row, the farthest of the class not yet shown, and so on.
    for seed in range(10):
        chosen = diverse(points, labels, 4, np.random.default_rng(seed))
        assert set(chosen) >= {2, 4} and Counter(labels[place] for place in chosen) == {"a": 2, "b": 2}
        assert chosen == diverse(points, labels, 4, np.random.default_rng(seed))
        assert sorted(diverse(points, labels, 99, np.random.default_rng(seed))) == list(range(6))
    assert diverse(np.zeros((0, 2)), [], 3, np.random.default_rng(0)) == []


def test_diverse_spreads_wider_than_chance() -> None:
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(300, 6)), list(rng.choice(list("abc"), 300))

    def spread(chosen: list[int]) -> float:
        gaps = np.linalg.norm(points[chosen][:, None] - points[chosen][None], axis=2)
        return float(gaps[np.triu_indices(len(chosen), 1)].min())

    by_chance = [spread([int(i) for i in rng.permutation(300)[:8]]) for _ in range(100)]
    assert spread(diverse(points, labels, 8, rng)) > max(by_chance)
    starts = {diverse(points, labels, 8, np.random.default_rng(seed))[0] for seed in range(20)}
    assert len(starts) > 10


def test_with_demonstrations_replaces_skips_long_rows_and_caps() -> None:
    prompt = seed_prompt(TASK)
    shown = with_demonstrations(
        prompt, [row("one"), row("w " * 61), row("two", "b"), row("one"), row("x" * 90)], most_characters=50
    )
    assert [(dict(d.fields)["input"], d.output) for d in shown.demonstrations] == [("one", "a"), ("two", "b")]
    assert with_demonstrations(shown, [row("three")]).demonstrations[0].fields == (("input", "three"),)
    assert with_demonstrations(shown, []) == prompt
    assert shown.text == prompt.text


def test_rows_that_are_shown_are_told_from_the_rest() -> None:
    chosen = fixed(TASK, np.random.default_rng(1))
    rest = not_shown(with_demonstrations(seed_prompt(TASK), chosen), TASK.train)
    assert len(rest) == len(TASK.train) - len(chosen)
    assert not {row.id for row in chosen} & {row.id for row in rest}


def test_copies_of_a_row_that_is_shown_count_as_shown() -> None:
    rows = tuple(
        Example(f"{i}", {"text": text}, "a") for i, text in enumerate(("Where is it?", "where  is IT?", "Where was it?"))
    )
    assert [row.id for row in not_shown(with_demonstrations(Prompt(instruction="Say."), rows[:1]), rows)] == ["2"]


def test_the_only_row_of_a_label_is_not_shown() -> None:
    """It would not be learnt from, so that the label could never be answered."""
    rows = [{"text": f"row {place}", "label": "ab"[place % 2]} for place in range(20)]
    rows += [{"text": f"only {name}", "label": name} for name in "cde"]
    rows += [{"text": text, "label": "f"} for text in ("one F", "one f")]
    other = [[{"text": f"{name} {place}", "label": "ab"[place % 2]} for place in range(6)] for name in ("dev", "test")]
    task = Task.from_rows(rows, input="text", output="label", dev=other[0], test=other[1])
    assert len(task.train) == 25
    shown = {row.output for seed in range(5) for row in fixed(task, np.random.default_rng(seed))}
    assert shown == {"a", "b"}
