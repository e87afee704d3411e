"""Every way picks as many rows as are wanted, none twice, the same for a seed, and by what its name says."""

from __future__ import annotations

import numpy as np
import pytest

from cotune.labelling.acquisition import ACQUISITIONS, Pool, margins


def two_heaps(rows: int = 60, seed: int = 0) -> Pool:
    """Rows in two heaps; the model is in doubt about the first ten of each."""
    rng = np.random.default_rng(seed)
    centres = np.array([[4.0, 0, 0, 0], [0, 4.0, 0, 0]])
    heap = np.arange(rows) % 2
    states = (centres[heap] + rng.normal(size=(rows, 4)) * 0.3).astype(np.float32)
    top = np.where(np.arange(rows) < 20, 0.5 + 0.001 * np.arange(rows), 0.98)
    shares = np.stack([top, (1 - top) * 0.9, (1 - top) * 0.1], axis=1)
    return Pool(np.log(shares), states)


def heaps(picked: list[int]) -> set[int]:
    return {row % 2 for row in picked}


@pytest.mark.parametrize("way", list(ACQUISITIONS))
def test_rows_are_distinct_and_the_same_for_a_seed(way: str) -> None:
    pool = two_heaps()
    for count in (1, 7, 60):
        picked, again = (ACQUISITIONS[way](pool, count, np.random.default_rng(3)) for _ in range(2))
        assert picked == again and len(picked) == len(set(picked)) == count
        assert all(0 <= row < 60 for row in picked)


@pytest.mark.parametrize("way", list(ACQUISITIONS))
def test_rows_that_are_all_alike_can_be_picked(way: str) -> None:
    pool = Pool(np.log(np.full((9, 3), 1 / 3)), np.zeros((9, 4), dtype=np.float32))
    assert len(set(ACQUISITIONS[way](pool, 5, np.random.default_rng(0)))) == 5


def test_doubt_is_picked_by_its_measure() -> None:
    shares = np.array([[0.5, 0.5, 0.0001], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]])
    pool = Pool(np.log(shares), np.eye(3, dtype=np.float32))
    assert margins(pool.log_probs) == pytest.approx([0, 0.1, 0.85])
    assert ACQUISITIONS["margin"](pool, 3, np.random.default_rng(0)) == [0, 1, 2]


def test_doubt_and_diversity_together_take_doubtful_rows_of_both_heaps() -> None:
    pool = two_heaps(400)
    picked = ACQUISITIONS["diverse_margin"](pool, 2, np.random.default_rng(0))
    assert heaps(picked) == {0, 1} and all(row < 20 for row in picked)
