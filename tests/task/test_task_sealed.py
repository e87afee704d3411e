"""Nothing reads the test split before its arms are frozen, and only they read it then."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from cotune.errors import CotuneError
from cotune.task.example import Example
from cotune.task.sealed import SealedTest, rows_hash

ROWS = tuple(Example(f"test:{i}", {"text": f"secret text {i}"}, "spam" if i % 2 else "ham") for i in range(6))


@pytest.fixture
def sealed() -> SealedTest:
    return SealedTest(ROWS)


@pytest.mark.parametrize(
    "read",
    [
        list,
        lambda test: test[0],
        lambda test: test[:2],
        lambda test: ROWS[0] in test,
        lambda test: [*test],
        dict,
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
    ],
)
def test_reading_a_sealed_test_raises(sealed: SealedTest, read: Callable[[Any], object]) -> None:
    with pytest.raises(CotuneError, match="sealed"):
        read(sealed)


def test_a_sealed_test_shows_counts_only(sealed: SealedTest) -> None:
    public = {name: getattr(sealed, name) for name in dir(sealed) if not name.startswith("_")}
    told = repr(sealed) + str(sealed) + json.dumps({k: str(v) for k, v in public.items()})
    assert sealed.n == len(sealed) == 6
    assert "secret" not in told
    assert "spam" not in told
    with pytest.raises((AttributeError, TypeError)):
        vars(sealed)


def test_outputs_are_counted(sealed: SealedTest) -> None:
    assert sealed.count_outputs(lambda output: output == "spam") == 3 and sealed.count_outputs(lambda output: False) == 0


@pytest.mark.parametrize("frozen", [{}, [], "seed_prompt", None, {"seed_prompt": ""}, {"seed_prompt": None}, {"": "abc"}])
def test_only_frozen_arms_open_it(sealed: SealedTest, frozen: Any) -> None:
    with pytest.raises(CotuneError):
        sealed.open(frozen)


def test_an_opened_test_serves_frozen_candidates_alone(sealed: SealedTest) -> None:
    opened = sealed.open({"seed_prompt": "aaa", "best_tuned": "bbb"})
    assert opened.examples_for("bbb") == ROWS
    with pytest.raises(CotuneError, match="'ccc' is not among the frozen arms"):
        opened.examples_for("ccc")
    with pytest.raises(CotuneError):
        opened.examples_for("seed_prompt")
    with pytest.raises(TypeError):
        iter(opened)  # type: ignore[call-overload]
    assert "secret" not in repr(opened)
    with pytest.raises(TypeError):
        opened.frozen["new"] = "ccc"  # type: ignore[index]


def test_the_frozen_mapping_is_copied(sealed: SealedTest) -> None:
    frozen = {"seed_prompt": "aaa"}
    opened = sealed.open(frozen)
    frozen["late"] = "zzz"
    with pytest.raises(CotuneError):
        opened.examples_for("zzz")


def test_it_opens_again_for_the_same_arms_only(sealed: SealedTest) -> None:
    sealed.open({"seed_prompt": "aaa"})
    sealed.open({"seed_prompt": "aaa"})
    with pytest.raises(CotuneError, match="opened for other arms"):
        sealed.open({"seed_prompt": "aaa", "late": "zzz"})
    with pytest.raises(CotuneError, match="sealed"):
        list(sealed)  # type: ignore[call-overload]


def test_leaks_name_train_rows(sealed: SealedTest) -> None:
    train = [
        Example("train:1", {"text": "Secret  TEXT 3"}, "ham"),
        Example("train:2", {"text": "another"}, "ham"),
        Example("train:3", {"text": "secret text 3"}, "ham"),
        Example("train:4", {"text": "secret text 5"}, "ham"),
    ]
    assert sealed.leaking_train_ids(train) == ("train:1", "train:3", "train:4")
    assert sealed.rows_repeated_by(train) == 2
    assert sealed.rows_repeated_by(train[:2]) == 1
    assert sealed.rows_repeated_by(train[:2], exactly=True) == 0


def test_the_hash_is_of_the_rows_in_any_order() -> None:
    assert rows_hash(ROWS) == rows_hash(ROWS[::-1]) == SealedTest(ROWS[::-1]).content_hash
    assert SealedTest(ROWS) == SealedTest(ROWS[::-1])
    assert rows_hash(ROWS) != rows_hash(ROWS[:-1])
    relabelled = (*ROWS[:-1], Example("test:5", ROWS[-1].fields, "ham"))
    assert rows_hash(ROWS) != rows_hash(relabelled)
    assert rows_hash((*ROWS, ROWS[0])) != rows_hash(ROWS)


def test_a_sample_keeps_the_hash_of_the_whole_test(sealed: SealedTest) -> None:
    samples = [sealed.sample(3, seed=1), sealed.sample(3, seed=2), sealed.sample(4, seed=1).sample(2, seed=1)]
    assert len({sample.content_hash for sample in samples}) == 3
    assert {sample.given_hash for sample in samples} == {sealed.given_hash} == {sealed.content_hash}


def test_a_sample_is_sealed_as_well_and_drawn_by_its_seed(sealed: SealedTest) -> None:
    few = sealed.sample(2, seed=1)
    assert few.n == 2 and few == sealed.sample(2, seed=1) and sealed.sample(sealed.n, seed=1) is sealed
    with pytest.raises(CotuneError, match="sealed"):
        iter(few)  # type: ignore[call-overload]
    opened = few.open({"arm": "hash"})
    assert {row.id for row in opened.examples_for("hash")} < {
        row.id for row in sealed.open({"arm": "hash"}).examples_for("hash")
    }
    with pytest.raises(CotuneError, match="open"):
        few.sample(1, seed=1)


def test_another_run_of_the_process_may_open_the_test_for_its_own_arms() -> None:
    test = SealedTest([Example("1", {"text": "a"}, "x")], given_hash="given")
    test.open({"arm": "one"})
    again = test.sealed_again()
    assert again.open({"arm": "other"}).frozen == {"arm": "other"}
    assert (again.content_hash, again.order_hash, again.given_hash) == (test.content_hash, test.order_hash, "given")
    with pytest.raises(CotuneError, match="opened for other arms before"):
        test.open({"arm": "other"})
