"""Every way picks as many rows as are wanted, none twice, the same for a seed, and by what its name says."""

from __future__ import annotations

import numpy as np
import pytest

from cotune.labelling.acquisition import ACQUISITIONS, Pool, entropies, margins


def two_heaps(rows: int = 60, seed: int = 0) -> Pool:
    """Rows in two heaps; the model is in doubt about the first ten of each, and labelled rows lie in the first heap."""
    rng = np.random.default_rng(seed)
    centres = np.array([[4.0, 0, 0, 0], [0, 4.0, 0, 0]])
    heap = np.arange(rows) % 2
    states = (centres[heap] + rng.normal(size=(rows, 4)) * 0.3).astype(np.float32)
    top = np.where(np.arange(rows) < 20, 0.5 + 0.001 * np.arange(rows), 0.98)
    shares = np.stack([top, (1 - top) * 0.9, (1 - top) * 0.1], axis=1)
    return Pool(np.log(shares), states, states[::2][:10])


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
    pool = Pool(np.log(np.full((9, 3), 1 / 3)), np.zeros((9, 4), dtype=np.float32), np.zeros((0, 4), dtype=np.float32))
    assert len(set(ACQUISITIONS[way](pool, 5, np.random.default_rng(0)))) == 5


def test_doubt_is_picked_by_its_measure() -> None:
    shares = np.array([[0.5, 0.5, 0.0001], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]])
    pool = Pool(np.log(shares), np.eye(3, dtype=np.float32), np.zeros((0, 3), dtype=np.float32))
    assert margins(pool.log_probs) == pytest.approx([0, 0.1, 0.85])
    assert entropies(np.log(np.array([[0.5, 0.5]]))) == pytest.approx([np.log(2)])
    rng = np.random.default_rng(0)
    assert ACQUISITIONS["margin"](pool, 3, rng) == [0, 1, 2]
    assert ACQUISITIONS["entropy"](pool, 3, rng) == [1, 0, 2]


def test_spread_keeps_away_from_labelled_rows_and_from_each_other() -> None:
    rng = np.random.default_rng(0)
    states = (np.eye(3)[np.arange(60) % 3] * 4 + rng.normal(size=(60, 3)) * 0.2).astype(np.float32)
    pool = Pool(np.log(np.full((60, 2), 0.5)), states, states[::3])
    picked = ACQUISITIONS["spread"](pool, 2, rng)
    assert {row % 3 for row in picked} == {1, 2}


def test_doubt_and_spread_together_take_doubtful_rows_of_both_heaps() -> None:
    pool = two_heaps(400)
    picked = ACQUISITIONS["diverse_margin"](pool, 2, np.random.default_rng(0))
    assert heaps(picked) == {0, 1} and all(row < 20 for row in picked)
    # Drawn by the squared distance of gradients: mostly doubtful rows, which are 5% of the pool, and of both heaps.
    drawn = [ACQUISITIONS["badge"](pool, 4, np.random.default_rng(seed)) for seed in range(20)]
    assert np.mean([row < 20 for rows in drawn for row in rows]) > 0.4
    assert all(heaps(rows) == {0, 1} for rows in drawn)


def test_typical_rows_come_from_heaps_without_a_label() -> None:
    rng = np.random.default_rng(0)
    states = np.concatenate([np.eye(4)[i] * 4 + rng.normal(size=(20, 4)) * 0.1 for i in range(4)]).astype(np.float32)
    pool = Pool(np.log(np.full((80, 2), 0.5)), states, states[:2])
    picked = ACQUISITIONS["typical"](pool, 2, np.random.default_rng(0))
    assert not {row // 20 for row in picked} & {0}
