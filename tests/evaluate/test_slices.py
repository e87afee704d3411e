from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.evaluate.slices import error_slices


def planted(seed: int, n: int = 240, share: float = 0.8) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Rows at eight places; those of place 0, about refunds, fail with ``share``, all others with 0.1."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(8, 32))
    place = np.arange(n) % 8
    vectors = middles[place] + 0.3 * rng.normal(size=(n, 32))
    nouns = ("refund", "cat", "tree", "river", "stone", "cloud", "lamp", "door")
    texts = [f"the {nouns[p]} number {rng.integers(9)} is here" for p in place]
    correct = (rng.random(n) > np.where(place == 0, share, 0.1)).astype(float)
    return vectors, texts, correct, place


@pytest.mark.parametrize("seed", range(4))
def test_failures_that_lie_together_become_a_slice_with_its_words_and_rates(seed: int) -> None:
    vectors, texts, correct, place = planted(seed)
    found = error_slices(vectors, texts, correct)
    first = found[0]
    assert first.words[0] == "refund" and "the" not in first.words
    assert np.mean(place[list(first.rows)] == 0) > 0.9
    assert first.rate == pytest.approx(1 - correct[list(first.rows)].mean())
    others = np.setdiff1d(np.arange(len(correct)), first.rows)
    assert first.rest == pytest.approx(1 - correct[others].mean())
    assert first.difference == pytest.approx(first.rate - first.rest)
    assert 0 < first.difference_ci.low < first.difference < first.difference_ci.high <= 1
    assert first.ci.low < first.rate <= first.ci.high
    assert first.p is not None and first.p <= 0.01
    # Right rows that lie there belong to it: a slice of failures alone would have rate 1 by its making.
    assert set(first.failures) <= set(first.rows)
    assert 0.55 < first.rate < 1
    assert all(correct[i] == 0 for i in first.failures)


def test_failures_anywhere_are_seldom_called_a_slice() -> None:
    """Under no structure at all, a slice is told in about one run of twenty."""
    told = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        vectors, correct = rng.normal(size=(80, 24)), (rng.random(80) > 0.3).astype(float)
        told += bool(error_slices(vectors, [f"row {i}" for i in range(80)], correct, draws=39, seed=seed))
    assert told <= 6  # binomial(40, 0.05) exceeds 6 with probability 0.003


@pytest.mark.parametrize(("cloud", "slices"), [(110, 0), (60, 1)])
def test_most_of_the_rows_are_no_slice(cloud: int, slices: int) -> None:
    """Every second row of a cloud is wrong, none far from it; that is a slice only where the cloud is not most rows."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(150, 24))
    vectors[cloud:] += 30
    correct = np.ones(150)
    correct[:cloud:2] = 0
    found = error_slices(vectors, ["what to say"] * 150, correct, most=1)
    assert len(found) == slices and all(len(s.rows) <= 75 and s.p is not None and s.p <= 0.05 for s in found)


def test_intervals_cover_the_true_difference_of_a_fixed_slice() -> None:
    from cotune.evaluate.slices import _difference
    from cotune.evaluate.stats.intervals import wilson

    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        a, b = rng.binomial(20, 0.5), rng.binomial(150, 0.2)
        hits += 0.3 in _difference(a / 20, wilson(a, 20), b / 150, wilson(b, 150))
    assert 0.92 <= hits / 400 <= 0.98


def test_grouped_rows_widen_the_interval_and_have_no_p() -> None:
    vectors, texts, correct, place = planted(1)
    # Five rows of a group lie at one place and share their fate.
    groups = place * 100 + np.arange(len(place)) // 8 // 5
    correct = np.array([correct[groups == group][0] for group in groups])
    alone, grouped = (error_slices(vectors, texts, correct, groups=given) for given in (None, groups))
    assert alone and grouped
    assert all(s.p is None for s in grouped)
    widths = [np.mean([s.rest_ci.width for s in found]) for found in (alone, grouped)]
    assert widths[1] > widths[0]


def test_it_is_the_same_every_time() -> None:
    vectors, texts, correct, _ = planted(2)
    assert error_slices(vectors, texts, correct, seed=3) == error_slices(vectors, texts, correct, seed=3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 2**32 - 1), st.booleans())
def test_any_rows_give_sound_slices(n: int, seed: int, constant: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.ones((n, 5)) if constant else rng.normal(size=(n, 5))
    correct = (rng.random(n) < rng.random()).astype(float)
    found = error_slices(vectors, ["wörter 日本 a"] * n, correct, draws=19, seed=seed)
    if n - correct.sum() < 4:
        assert found == []
    taken = [row for s in found for row in s.rows]
    assert len(taken) == len(set(taken)), "a row lies in one slice"
    for s in found:
        assert len(s.failures) >= 3 and set(s.failures) <= set(s.rows)
        assert 0 <= s.ci.low <= s.rate <= s.ci.high <= 1
        assert len(s.rows) <= n / 2 and s.p is not None and s.p <= 0.05
        assert s.rate > s.rest, "a slice is worse than what is outside of it"


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one row each"):
        error_slices(np.ones((3, 2)), ["a"] * 2, np.ones(3))
    with pytest.raises(ValueError, match="finite"):
        error_slices(np.full((2, 2), np.nan), ["a"] * 2, np.ones(2))
