"""Cuts are disjoint, whole by group, stratified, and the same each time."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cotune.task.example import Example
from cotune.task.split import cut, dev_size, duplicate_key, fold_units, normalised, quotas, subsample, units
from cotune.task.split import test_size as size_of_test


def examples(labels: list[str], texts: list[str] | None = None, groups: list[str | None] | None = None) -> list[Example]:
    return [
        Example(
            f"train:{index}", {"text": texts[index] if texts else f"text {index}"}, label, groups[index] if groups else None
        )
        for index, label in enumerate(labels)
    ]


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


LABELS = st.lists(st.sampled_from("abcd"), min_size=4, max_size=120)


@st.composite
def grouped_rows(draw: st.DrawFn) -> list[Example]:
    labels = draw(LABELS)
    size = len(labels)
    texts = draw(
        st.lists(st.sampled_from([f"Text {i}" for i in range(30)] + ["text  1", "TEXT 2"]), min_size=size, max_size=size)
    )
    groups = draw(st.lists(st.none() | st.sampled_from("uvwxyz"), min_size=size, max_size=size))
    return examples(labels, texts, groups)


@settings(max_examples=150, deadline=None)
@given(rows=grouped_rows(), share=st.floats(0.05, 0.6), seed=st.integers(0, 5))
def test_cuts_are_disjoint_whole_and_leave_every_label(rows: list[Example], share: float, seed: int) -> None:
    stays, taken = cut(rows, round(share * len(rows)), generator(seed))
    assert sorted(row.id for row in (*stays, *taken)) == sorted(row.id for row in rows)
    assert not {duplicate_key(row) for row in stays} & {duplicate_key(row) for row in taken}
    assert not ({row.group for row in stays} & {row.group for row in taken}) - {None}
    assert {row.output for row in stays} == {row.output for row in rows}
    order = [row.id for row in rows]
    assert [row.id for row in stays] == sorted((row.id for row in stays), key=order.index)


@settings(max_examples=150, deadline=None)
@given(labels=LABELS, share=st.floats(0.05, 0.6), seed=st.integers(0, 5))
def test_cuts_of_single_rows_are_exact_and_stratified_within_rounding(labels: list[str], share: float, seed: int) -> None:
    rows = examples(labels)
    size = round(share * len(rows))
    counts = Counter(labels)
    _, taken = cut(rows, size, generator(seed))
    spare = sum(count - 1 for count in counts.values())
    assert len(taken) == min(size, spare)
    if all(count * (1 - size / len(rows)) >= 2 for count in counts.values()):
        got = Counter(row.output for row in taken)
        for label, count in counts.items():
            assert abs(got[label] - size * count / len(rows)) <= 1


@settings(max_examples=150, deadline=None)
@given(
    rows=grouped_rows(), places=st.sets(st.integers(0, 119), max_size=12), share=st.floats(0.05, 0.6), seed=st.integers(0, 5)
)
def test_rows_to_keep_are_not_cut_nor_torn_from_their_group(
    rows: list[Example], places: set[int], share: float, seed: int
) -> None:
    keep = frozenset(duplicate_key(rows[place]) for place in places if place < len(rows))
    stays, taken = cut(rows, round(share * len(rows)), generator(seed), keep=keep)
    assert sorted(row.id for row in (*stays, *taken)) == sorted(row.id for row in rows)
    assert not keep & {duplicate_key(row) for row in taken}
    assert not ({row.group for row in stays} & {row.group for row in taken}) - {None}


@settings(max_examples=150, deadline=None)
@given(labels=LABELS, places=st.sets(st.integers(0, 119), max_size=60), share=st.floats(0.05, 0.6), seed=st.integers(0, 5))
def test_others_are_cut_in_place_of_rows_to_keep(labels: list[str], places: set[int], share: float, seed: int) -> None:
    rows = examples(labels)
    kept = [row for place, row in enumerate(rows) if place in places]
    size, each = round(share * len(rows)), Counter(row.output for row in kept)
    _, taken = cut(rows, size, generator(seed), keep=frozenset(map(duplicate_key, kept)))
    assert len(taken) == min(size, sum(count - max(1, each[label]) for label, count in Counter(labels).items()))
    assert not {row.id for row in kept} & {row.id for row in taken}


@settings(max_examples=100, deadline=None)
@given(labels=LABELS, size=st.integers(1, 130), seed=st.integers(0, 5))
def test_subsamples_are_exact_stratified_and_in_order(labels: list[str], size: int, seed: int) -> None:
    rows = examples(labels)
    sample = subsample(rows, size, generator(seed))
    kept = {row.id for row in sample}
    assert len(sample) == min(size, len(rows))
    assert [row.id for row in sample] == [row.id for row in rows if row.id in kept]
    if size >= len(set(labels)):
        assert {row.output for row in sample} == set(labels)


def test_the_same_seed_takes_the_same_rows_and_another_seed_others() -> None:
    rows = examples([label for label in "abc" for _ in range(100)])
    for take in (lambda seed: cut(rows, 90, generator(seed))[1], lambda seed: subsample(rows, 90, generator(seed))):
        assert [row.id for row in take(3)] == [row.id for row in take(3)]
        assert [row.id for row in take(3)] != [row.id for row in take(4)]


def test_every_row_is_taken_about_equally_often() -> None:
    rows = examples(["a"] * 60 + ["b"] * 40)
    taken = Counter(row.id for seed in range(400) for row in cut(rows, 30, generator(seed))[1])
    # binomial(400, 0.3) has a standard deviation of 9.2
    assert min(taken[row.id] for row in rows) > 120 - 5 * 9.2
    assert max(taken.values()) < 120 + 5 * 9.2


@pytest.mark.parametrize(("groups", "rows_each"), [(50, 10), (20, 10), (10, 30), (3, 100)])
def test_large_groups_still_come_near_the_size(groups: int, rows_each: int) -> None:
    labels = [label for _ in range(groups) for label in generator(groups).choice(list("abc"), rows_each).tolist()]
    names: list[str | None] = [f"g{index}" for index in range(groups) for _ in range(rows_each)]
    rows = examples(labels, groups=names)
    size = round(0.3 * len(rows))
    for seed in range(5):
        _, taken = cut(rows, size, generator(seed))
        assert abs(len(taken) - size) <= rows_each


def test_units_follow_chains_of_equal_inputs_and_groups() -> None:
    rows = examples(list("aaaaa"), ["x", "y", "Y ", "z", "w"], ["1", "1", "2", "2", None])
    assert units(rows) == [[0, 1, 2, 3], [4]]


def test_a_fold_keeps_equal_inputs_and_groups_together() -> None:
    assert fold_units(examples(list("aba"))) is None
    repeated = fold_units(examples(list("abab"), ["x", "y", "X ", "z"]))
    assert repeated is not None and repeated.tolist() == ["train:0", "train:1", "train:0", "train:3"]
    grouped = fold_units(examples(list("abab"), None, ["1", None, "1", "2"]))
    assert grouped is not None and len({*grouped[[0, 2]]}) == 1 and len({*grouped.tolist()}) == 3


@settings(max_examples=200, deadline=None)
@given(
    counts=st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(1, 200), min_size=1, max_size=8),
    share=st.floats(0, 1),
)
def test_quotas_are_proportional_within_rounding(counts: dict[str, int], share: float) -> None:
    total = sum(counts.values())
    size = round(share * total)
    given_ = quotas(counts, size)
    assert sum(given_.values()) == size
    assert all(abs(given_[label] - size * count / total) < 1 + 1e-9 for label, count in counts.items())


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Hello  World", "hello world\n", True),
        ("ﬁne", "FINE", True),
        ("Ｗｉｄｅ", "wide", True),
        ("STRASSE", "straße", True),
        ("a b", "a\u00a0b", True),
        ("ab", "a b", False),
        ("a!", "a", False),
    ],
)
def test_duplicates_are_told_by_normalised_text(one: str, other: str, same: bool) -> None:
    keys = {duplicate_key(Example("train:1", {"text": text}, "x")) for text in (one, other)}
    assert (len(keys) == 1) == same


def test_fields_do_not_run_into_each_other() -> None:
    one, other = (Example("train:1", fields, "x") for fields in ({"a": "x y", "b": "z"}, {"a": "x", "b": "y z"}))
    assert duplicate_key(one) != duplicate_key(other)


@pytest.mark.parametrize(("rows", "dev", "test"), [(20, 6, 6), (60, 18, 20), (64, 19, 20), (500, 150, 100), (5000, 300, 500)])
def test_sizes_of_cuts(rows: int, dev: int, test: int) -> None:
    assert dev_size(rows) == dev
    assert size_of_test(rows) == test
    assert dev_size(rows, 7) == size_of_test(rows, 7) == 7


def test_a_group_too_large_to_fit_is_still_taken_where_it_brings_the_cut_nearer() -> None:
    rows = examples(list("ab") * 30, groups=["x"] * 30 + ["y"] * 30)
    stays, taken = cut(rows, 18, generator(0))
    assert len(stays) == len(taken) == 30
    assert cut(rows, 10, generator(0))[1] == ()
