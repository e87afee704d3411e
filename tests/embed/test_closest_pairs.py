"""Pairs that lie close together: by words alone, without a forward pass, and block by block."""

from __future__ import annotations

import numpy as np
import pytest

from cotune.embed import StaticEmbedder, closest_pairs, select
from tiny import tiny_local


@pytest.mark.parametrize(
    ("first", "second"), [(range(40), range(40)), (range(25), range(25, 40)), (range(30), range(10, 40)), (range(0), range(40))]
)
@pytest.mark.parametrize("block", [7, 1000])
def test_the_closest_pairs_are_those_of_brute_force(
    monkeypatch: pytest.MonkeyPatch, first: range, second: range, block: int
) -> None:
    monkeypatch.setattr(select, "_BLOCK", block)
    points = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    likeness = points @ points.T
    everyone = sorted(
        {(min(i, j), max(i, j)) for i in first for j in second if i < j}, key=lambda pair: (-likeness[pair], pair)
    )
    for count in (1, 12, 5000):
        assert closest_pairs(points, first, second, count) == everyone[:count]


def test_texts_of_the_same_words_are_close_without_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    local = tiny_local("llama")
    monkeypatch.setattr(local.model, "forward", None)
    texts = [
        "the card was not delivered",
        "was the CARD not delivered?",
        "who wrote the book about the river",
        "how many people live in the city",
        "the message is about a place",
        "",
    ]
    found = StaticEmbedder(local).embed(texts)
    assert found.shape == (6, 32) and found.dtype == np.float32
    likeness = found @ found.T
    assert likeness[0, 1] > 0.7 > max(likeness[0, 2:].max(), likeness[1, 2:].max())
    np.testing.assert_allclose(np.linalg.norm(found[:5], axis=1), 1, atol=1e-5)
    assert np.isfinite(found[5]).all()
    # A vector hangs on its text alone.
    np.testing.assert_allclose(StaticEmbedder(local).embed(texts[:1]), found[:1], atol=1e-6)
