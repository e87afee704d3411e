"""The order of rows, how a step is cut into passes, and the learning rate by step."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotune.model.engine.plan import cut_by_length
from cotune.tune.batches import rows_of_step
from cotune.tune.settings import learning_rate_factor

sizes = st.integers(1, 40)


@given(rows=sizes, batch=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_every_epoch_meets_every_row_once(rows: int, batch: int, seed: int) -> None:
    size = min(batch, rows)
    met = [i for step in range(2 * rows) for i in rows_of_step(step, rows, batch, seed)]
    assert len(met) == 2 * rows * size
    for start in range(0, len(met), rows):
        assert Counter(met[start : start + rows]) == Counter(range(rows))


@given(rows=st.integers(2, 40), batch=st.integers(1, 12), step=st.integers(0, 200), seed=st.integers(0, 9))
def test_the_order_hangs_on_seed_and_step_alone(rows: int, batch: int, step: int, seed: int) -> None:
    # Prompts are not asked: runs with different prompts meet the same rows in the same steps, which pairs them.
    first = rows_of_step(step, rows, batch, seed)
    rows_of_step(step + 7, rows + 1, batch, seed + 1)
    assert rows_of_step(step, rows, batch, seed) == first


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_rows_come_in_pairs_of_a_label(labels: list[int], seed: int) -> None:
    order = rows_of_step(0, len(labels), len(labels), seed, tuple(labels))
    assert Counter(order) == Counter(range(len(labels)))
    alone, place = Counter[int](), 0
    while place < len(order):
        label = labels[order[place]]
        paired = place + 1 < len(order) and labels[order[place + 1]] == label
        alone[label] += not paired
        place += 2 if paired else 1
    # Only the last row of an odd number has no partner.
    assert +alone == Counter(label for label, count in Counter(labels).items() if count % 2)


@given(rows=st.integers(8, 40), seed=st.integers(0, 99))
def test_pairs_differ_between_epochs(rows: int, seed: int) -> None:
    labels = (0,) * rows
    assert rows_of_step(0, rows, rows, seed, labels) != rows_of_step(1, rows, rows, seed, labels)


def test_seeds_and_epochs_differ() -> None:
    orders = {tuple(rows_of_step(step, 30, 30, seed)) for step in range(4) for seed in range(4)}
    assert len(orders) == 16


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30), limit=st.integers(1, 120))
def test_passes_hold_every_row_once_and_no_more_tokens_than_allowed(lengths: list[int], limit: int) -> None:
    parts = list(cut_by_length(range(len(lengths)), lengths.__getitem__, limit))
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    assert all(parts)
    for part in parts:
        assert len(part) == 1 or sum(lengths[i] for i in part) <= limit
    flat = [lengths[i] for part in parts for i in part]
    assert flat == sorted(flat)


@given(step=st.integers(0, 300), warmup=st.integers(0, 20), more=st.integers(1, 300))
def test_an_open_run_is_a_prefix_of_a_finished_one(step: int, warmup: int, more: int) -> None:
    open_end = learning_rate_factor(step, warmup=warmup)
    assert open_end == learning_rate_factor(step, warmup=warmup, decay_from=step + 1, end=step + 1 + more)
    assert 0 < open_end <= 1


@given(start=st.integers(0, 100), length=st.integers(1, 100), warmup=st.integers(0, 8))
def test_the_decay_falls_to_nearly_nothing_and_never_to_zero(start: int, length: int, warmup: int) -> None:
    begin = start + warmup
    found = [learning_rate_factor(s, warmup=warmup, decay_from=begin, end=begin + length) for s in range(begin, begin + length)]
    assert all(0 < later < earlier for earlier, later in zip([1.0, *found], found, strict=False))
    assert found[-1] == pytest.approx(1 / (length + 1))


def test_warm_up_rises_evenly() -> None:
    assert [learning_rate_factor(step, warmup=4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate_factor(0, warmup=0) == 1.0
