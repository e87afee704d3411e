"""Chains: the likeliest tags under random scores, and fits that learn which tags follow each other."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.probe.chain_fits import fit_chain
from cotune.task.values.chain import Chain, likeliest


def random_chain(parts: int, rng: np.random.Generator) -> Chain:
    size = 1 + parts
    return Chain(rng.normal(size=(size, size)), rng.normal(size=size), rng.normal(size=size), (0.7, -0.2))


def score_of(tags: tuple[int, ...], table: np.ndarray[Any, np.dtype[np.float64]], chain: Chain) -> float:
    total, parts = 0.0, chain.parts
    for word, tag in enumerate(tags):
        inner, part = tag > parts, tag - parts if tag > parts else tag
        before = 0 if word == 0 else tags[word - 1]
        if inner and (word == 0 or before not in (tag, part)):
            return -np.inf
        total += chain.scales[0] * table[word, part] + chain.scales[1] * table[word, -1 if inner else -2] + chain.bias[part]
        total += chain.further[part] if inner else chain.follows[before - parts if before > parts else before, part]
    return total


@given(st.data())
def test_the_likeliest_tags_are_those_of_a_search_of_all(data: st.DataObject) -> None:
    parts, rng = data.draw(st.integers(1, 2)), np.random.default_rng(data.draw(st.integers(0, 10**6)))
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    chain = random_chain(parts, rng) if data.draw(st.booleans()) else Chain.flat(parts)
    tables = [rng.normal(size=(length, parts + 3)) for length in lengths]
    for table, path in zip(tables, likeliest(tables, chain), strict=True):
        best = max(product(range(2 * parts + 1), repeat=len(table)), key=lambda tags, t=table: score_of(tags, t, chain))
        assert tuple(path.tolist()) == best


def test_a_chain_is_read_back_and_a_damaged_one_is_refused() -> None:
    chain = random_chain(2, np.random.default_rng(0))
    again = Chain.read(chain.arrays())
    assert np.allclose(again.follows, chain.follows) and np.allclose(again.scales, chain.scales) and again.parts == 2
    for name, value in (("further", np.zeros(2, np.float32)), ("bias", np.full(3, np.nan, np.float32))):
        with pytest.raises(ValueError, match="chain"):
            Chain.read({**chain.arrays(), f"chain.{name}": value})


def test_a_fitted_chain_finds_what_words_alone_do_not_tell() -> None:
    """A value of part 1 comes behind one of part 2; the words say only that they are in some part."""
    rng = np.random.default_rng(0)
    tables, tags = [], []
    for _ in range(60):
        row = [0] * int(rng.integers(1, 3)) + [2, 1] + [0]
        table = np.log(np.where(np.array(row)[:, None] == 0, [[0.8, 0.1, 0.1]], [[0.1, 0.45, 0.45]]))
        tables.append(np.concatenate([table, np.log(np.full((len(row), 2), 0.5))], axis=1) + rng.normal(0, 0.1, (len(row), 5)))
        tags.append(np.array(row))
    chain = fit_chain(tables[:40], tags[:40], 2)
    found = likeliest(tables[40:], chain)
    right = [np.array_equal(one, other) for one, other in zip(found, tags[40:], strict=True)]
    alone = [np.array_equal(a, b) for a, b in zip(likeliest(tables[40:], Chain.flat(2)), tags[40:], strict=True)]
    assert np.mean(right) > 0.9 > 0.5 > np.mean(alone)


def test_a_fit_is_the_same_however_rows_are_ordered_and_whatever_stands_behind_them() -> None:
    rng = np.random.default_rng(1)
    tables = [rng.normal(size=(length, 5)) for length in (3, 1, 4, 0, 2)]
    tags = [np.array([1, 3, 0]), np.array([2]), np.array([0, 1, 2, 4]), np.zeros(0, np.int64), np.array([0, 0])]
    one, other = fit_chain(tables, tags, 2), fit_chain(tables[::-1], tags[::-1], 2)
    assert np.allclose(one.follows, other.follows, atol=1e-4) and np.allclose(one.further, other.further, atol=1e-4)
    assert np.allclose(one.scales, other.scales, atol=1e-4)
    assert all(map(np.array_equal, likeliest(tables, one), [likeliest([table], one)[0] for table in tables]))


def test_without_a_word_the_chain_is_flat() -> None:
    chain = fit_chain([np.zeros((0, 5))], [np.zeros(0, np.int64)], 2)
    assert not chain.follows.any() and not chain.further.any() and chain.scales == (1.0, 1.0)
