from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.probe.folds import fold_numbers

LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=60)


@given(LABELS, st.integers(2, 6), st.integers(0, 3))
def test_folds_differ_by_one_row_in_all_and_of_each_label(labels: list[int], folds: int, seed: int) -> None:
    folds = min(folds, len(labels))
    found = fold_numbers(labels, folds, seed=seed)
    y = np.array(labels)
    for chosen in (np.ones(len(y), dtype=bool), *(y == label for label in set(labels))):
        sizes = np.bincount(found[chosen], minlength=folds)
        assert len(sizes) == folds and sizes.max() - sizes.min() <= 1
    assert np.bincount(found).min() >= 1
    assert np.array_equal(found, fold_numbers(labels, folds, seed=seed))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=2, max_size=60), st.integers(2, 5))
def test_groups_stay_whole_and_every_fold_is_used(rows: list[tuple[int, int]], folds: int) -> None:
    labels, groups = [label for label, _ in rows], [group for _, group in rows]
    units = len(set(groups))
    if units < 2:
        with pytest.raises(ValueError, match="folds"):
            fold_numbers(labels, 2, groups=groups)
        return
    folds = min(folds, units)
    found = fold_numbers(labels, folds, groups=groups, seed=1)
    assert set(found.tolist()) == set(range(folds))
    for group in set(groups):
        assert len({fold for fold, own in zip(found.tolist(), groups, strict=True) if own == group}) == 1
    assert np.array_equal(found, fold_numbers(labels, folds, groups=groups, seed=1))


def test_groups_of_one_label_are_spread_over_the_folds() -> None:
    labels = [i // 20 for i in range(60)]
    groups = [i // 2 for i in range(60)]
    found = fold_numbers(labels, 5, groups=groups, seed=0)
    for label in range(3):
        assert np.bincount(found[np.array(labels) == label], minlength=5).tolist() == [4] * 5


def test_the_seed_draws_other_folds() -> None:
    labels = [i % 3 for i in range(60)]
    draws = [fold_numbers(labels, 5, seed=seed).tolist() for seed in (0, 1)]
    assert draws[0] != draws[1]


@pytest.mark.parametrize(("rows", "folds"), [(3, 4), (3, 1), (3, 0)])
def test_folds_that_cannot_be_filled_are_refused(rows: int, folds: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows or groups cannot be put into {folds} folds"):
        fold_numbers([0] * rows, folds)
