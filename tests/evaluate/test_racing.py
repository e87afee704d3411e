"""Races drop losers early and the best one hardly ever."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from cotune.errors import DivergedError
from cotune.evaluate.stats.racing import (
    Evidence,
    Race,
    Round,
    loss_bound,
    schedule_cost,
    successive_halving_schedule,
)


def _race_many(losses: np.ndarray, alpha: float, size: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Many races side by side: who was lost, and rows spent.

    ``losses`` are within 0 to 1, or sums of ``size`` rows that are one bet, shape (bets, races, candidates).
    """
    _, races, candidates = losses.shape
    evidence = Evidence.none(candidates, (races,))
    active = np.ones((races, candidates), dtype=bool)
    spent = np.zeros((races, candidates), dtype=int)
    here = np.arange(races)
    for row in losses:
        running = active[here]
        evidence = evidence.after(row[here], running, size, size)
        spent[here] += size
        spent[here] -= size * ~running
        losers = running & (evidence.log_not_best() >= -np.log(alpha))
        losers[losers.sum(axis=1) == running.sum(axis=1)] = False
        active[here] &= ~losers
        # Races that are over are taken out, so that the others go on faster.
        going = active[here].sum(axis=1) > 1
        if not going.any():
            break
        if not going.all():
            here = here[going]
            evidence = Evidence(*(part[going] for part in (evidence.pairs, evidence.leader, evidence.totals, evidence.rows)))
    return ~active, spent


def _zero_one(rows: int, races: int, candidates: int, generator, *, gap: float, discordant: float, best: float = 0.75):
    """Candidate 0 is best by ``gap``, and on a share ``discordant`` of rows just one of it and another is right."""
    right = generator.random((rows, races, 1)) < best
    up, down = (discordant + gap) / 2 / best, (discordant - gap) / 2 / (1 - best)
    draw = generator.random((rows, races, candidates))
    correct = np.where(right, draw >= up, draw < down)
    correct[..., 0] = right[..., 0]
    return correct


def _latent(rows: int, races: int, candidates: int, generator, *, shift: float):
    """Right answers and log-losses of one model of margins: rows differ in difficulty, candidate 0 is best."""
    spread = 0.64 + 0.25
    margin = special.ndtri(0.75) * np.sqrt(spread) + generator.normal(0, 0.8, (rows, races, 1))
    margin = margin + generator.normal(0, 0.5, (rows, races, candidates))
    margin[..., 1:] -= shift
    return margin > 0, np.logaddexp(0, -2 * margin)


def test_the_best_is_dropped_wrongly_in_at_most_alpha_of_races_when_all_are_equal():
    generator, alpha, races = np.random.default_rng(0), 0.1, 1500
    for candidates, draw in (
        (2, lambda size: generator.random(size)),
        (4, lambda size: (generator.random(size) < 0.3).astype(float)),
        (4, lambda size: np.minimum(generator.exponential(0.15, size), 1.0)),
    ):
        lost, _ = _race_many(draw((150, races, candidates)), alpha)
        # Any fixed candidate is a best one here. Two standard errors of 1,500 races are 1.5 points.
        assert lost[:, 0].mean() <= alpha + 0.015


def test_the_best_is_dropped_wrongly_in_at_most_alpha_of_races_among_near_equals():
    generator, alpha = np.random.default_rng(1), 0.1
    correct = _zero_one(200, 500, 5, generator, gap=0.01, discordant=0.3)
    lost, _ = _race_many(1.0 - correct, alpha)
    assert lost[:, 0].mean() <= alpha
    _, losses = _latent(200, 500, 5, generator, shift=0.02)
    lost, _ = _race_many(np.minimum(losses, 2.0) / 2.0, alpha)
    assert lost[:, 0].mean() <= alpha


def test_looking_often_with_a_plain_test_would_break_that():
    generator = np.random.default_rng(2)
    differences = np.cumsum(generator.choice([-1.0, 1.0], size=(300, 1000)), axis=0)
    rows = np.arange(1, 301)[:, None]
    z = differences / np.sqrt(rows)
    assert ((z[20:] > 1.2816).any(axis=0)).mean() > 0.2


def test_sixteen_candidates_cost_at_most_sixty_percent():
    generator, rows, races, candidates = np.random.default_rng(3), 400, 150, 16
    correct = _zero_one(rows, races, candidates, generator, gap=0.15, discordant=0.25)
    differs = (correct[..., 1:] != correct[..., :1]).mean()
    assert differs == pytest.approx(0.25, abs=0.01)
    lost, spent = _race_many(1.0 - correct, 0.05)
    assert spent.sum(axis=1).mean() <= 0.6 * rows * candidates
    assert lost[:, 0].mean() <= 0.05
    assert lost[:, 1:].mean() > 0.95


def test_log_loss_decides_sooner_than_right_or_wrong():
    generator, rows, races, candidates = np.random.default_rng(4), 400, 150, 16
    correct, losses = _latent(rows, races, candidates, generator, shift=0.4)
    gap = correct[..., 0].mean() - correct[..., 1:].mean()
    differs = (correct[..., 1:] != correct[..., :1]).mean()
    assert gap == pytest.approx(0.15, abs=0.01)
    assert differs == pytest.approx(0.25, abs=0.01)
    bound = loss_bound(6)
    lost, spent = _race_many(np.minimum(losses, bound) / bound, 0.05)
    lost_by_answers, spent_by_answers = _race_many(1.0 - correct, 0.05)
    assert lost[:, 0].mean() <= 0.05 and lost_by_answers[:, 0].mean() <= 0.05
    assert spent.sum(axis=1).mean() <= 0.6 * rows * candidates
    ratio = spent.sum() / spent_by_answers.sum()
    print(f"evaluations with log-losses, as a share of those with right and wrong: {ratio:.2f}")
    assert ratio <= 0.9
    assert lost[:, 1:].sum() >= lost_by_answers[:, 1:].sum()


def test_rows_that_are_one_are_one_bet():
    generator, alpha, races, size = np.random.default_rng(9), 0.1, 1500, 5
    equal = (generator.random((80, races, 4)) < 0.3).astype(float)
    lost, _ = _race_many(size * equal, alpha, size)
    # Any fixed candidate is a best one here. Two standard errors of 1,500 races are 1.5 points.
    assert lost[:, 0].mean() <= alpha + 0.015
    lost_by_rows, _ = _race_many(equal[:, :400].repeat(size, axis=0), alpha)
    assert lost_by_rows[:, 0].mean() > alpha + 0.05, "a bet a row takes one row for five"
    better = equal.copy()
    better[..., 1:] = np.maximum(better[..., 1:], generator.random((80, races, 3)) < 0.4)
    lost, _ = _race_many(size * better[:, :300], alpha, size)
    assert lost[:, 0].mean() <= alpha and lost[:, 1:].mean() > 0.5


def test_a_race_takes_the_rows_of_a_group_for_one_bet():
    generator = np.random.default_rng(10)
    units = np.round(generator.random((40, 3)), 3) + np.array([0.0, 0.8, 0.8])
    ids = np.arange(40).repeat(5)
    by_group = Race(3, bound=2.0, largest=5).update(units.repeat(5, axis=0), ids)
    by_unit = Race(3, bound=2.0).update(units)
    assert by_group.dropped == by_unit.dropped and len(by_unit.dropped) == 2
    assert by_group.mean_losses == pytest.approx(by_unit.mean_losses)
    assert by_group.rows == tuple(5 * count for count in by_unit.rows)
    apart = Race(3, bound=2.0, largest=5).update(units[:2].repeat(5, axis=0), ids[:10])
    apart = apart.update(units[2:].repeat(5, axis=0), ids[10:])
    assert apart.dropped == by_group.dropped and apart.mean_losses == pytest.approx(by_group.mean_losses)
    with pytest.raises(ValueError, match="more than 4 rows, the given size"):
        Race(3, largest=4).update(units[:1].repeat(5, axis=0), ids[:5])
    with pytest.raises(ValueError, match="do not fit"):
        Race(3).update(units, ids)


def test_small_groups_weigh_what_their_rows_weigh():
    # One large group speaks for candidate 0, many small ones for candidate 1, with more rows in all.
    losses = np.concatenate([np.tile([0.0, 1.0], (20, 1)), np.tile([1.0, 0.0], (60, 1))])
    ids = np.concatenate([np.zeros(20, dtype=int), np.arange(1, 61)])
    race = Race(2, bound=1.0, largest=20).update(losses, ids)
    assert race.mean_losses == pytest.approx((0.75, 0.25)) and race.ranking() == (1, 0) and race.dropped == ()


def test_a_race_is_the_same_however_its_rows_are_cut():
    generator = np.random.default_rng(5)
    losses = _latent(300, 1, 5, generator, shift=0.5)[1][:, 0]
    whole = Race(5, bound=3.0).update(losses)
    parts, start = Race(5, bound=3.0), 0
    while start < 300:
        step = int(generator.integers(1, 40))
        parts = parts.update(losses[start : start + step][:, list(parts.active)])
        start += step
    assert whole.dropped == parts.dropped
    assert len(whole.dropped) >= 3 and 0 not in whole.dropped
    assert whole.rows == parts.rows
    assert whole.mean_losses == pytest.approx(parts.mean_losses)
    np.testing.assert_allclose(parts._evidence.log_pairs(), whole._evidence.log_pairs())


def test_a_race_agrees_with_the_vectorised_one_and_leaves_its_past_alone():
    losses = _latent(200, 1, 4, np.random.default_rng(6), shift=0.5)[1]
    start = Race(4, bound=2.0)
    end = start.update(losses[:, 0])
    lost, _ = _race_many(np.minimum(losses, 2.0) / 2.0, 0.05)
    assert set(end.dropped) == set(np.flatnonzero(lost[0]))
    assert start.rows == (0, 0, 0, 0) and start.dropped == () and np.isnan(start.mean_losses[0])


def test_a_clear_loser_is_dropped_and_ties_keep_the_shorter_prompt():
    generator = np.random.default_rng(7)
    close = generator.random(200)
    losses = np.stack([close, close, close + 1.0], axis=1)
    race = Race(3, bound=2.0, lengths=(90, 40, 10)).update(losses)
    assert race.dropped == (2,)
    assert race.ranking() == (1, 0), "ties keep the shorter prompt"
    assert Race(3, bound=2.0).update(losses).ranking() == (0, 1)


def test_the_last_candidate_stays_and_costs_nothing_to_keep():
    race = Race(2, bound=1.0).update(np.tile([0.0, 1.0], (60, 1)))
    assert race.active == (0,)
    assert race.update(np.ones((30, 1))).active == (0,)
    with pytest.raises(ValueError, match="last candidate"):
        race.retire([0])


def test_retired_candidates_are_out_without_a_verdict():
    race = Race(3).update(np.full((5, 3), 0.4)).retire([1])
    assert race.active == (0, 2) and race.retired == (1,) and race.dropped == ()
    assert race.update(np.full((5, 2), 0.4)).rows == (10, 5, 10)


@pytest.mark.parametrize(
    ("losses", "error"),
    [
        ([[0.1, float("nan")]], DivergedError),
        ([[0.1, float("inf")]], DivergedError),
        ([[0.1, -0.2]], ValueError),
        ([[0.1]], ValueError),
        ([0.1, 0.2], ValueError),
    ],
)
def test_losses_that_are_none_are_refused(losses, error):
    with pytest.raises(error):
        Race(2).update(losses)


def test_halving_spends_about_the_same_in_each_round_and_ends_on_all_rows():
    schedule = successive_halving_schedule(16, 400)
    assert schedule == [Round(8, 26), Round(4, 80), Round(2, 186), Round(2, 400)]
    fields = [16, 8, 4, 2]
    costs = [size * (two - one) for size, (one, two) in zip(fields, pairwise([0, 26, 80, 186, 400]), strict=True)]
    assert sum(costs) == schedule_cost(16, schedule) < 0.27 * 16 * 400
    assert max(costs) - min(costs) <= 16, "but for whole rows"


def test_few_rows_mean_few_rounds_and_a_first_one_that_is_long_enough():
    assert successive_halving_schedule(16, 64, final=4) == [Round(8, 16), Round(4, 32), Round(4, 64)]
    assert successive_halving_schedule(16, 32, final=4) == [Round(4, 16), Round(4, 32)]
    assert successive_halving_schedule(16, 20, final=4) == [Round(4, 20)]
    assert successive_halving_schedule(16, 64, final=4, first_rows=4)[0].rows == 9


@given(
    candidates=st.integers(1, 200),
    rows=st.integers(1, 500),
    final=st.integers(1, 6),
    first=st.integers(1, 40),
)
def test_schedules_end_on_all_rows_with_the_wanted_number(candidates, rows, final, first):
    schedule = successive_halving_schedule(candidates, rows, final=final, first_rows=first)
    assert schedule[-1] == Round(min(final, candidates), rows)
    assert all(one.rows <= two.rows and one.keep >= two.keep for one, two in pairwise(schedule))
    assert schedule[0].rows >= min(rows, first)
    assert all(two.rows - one.rows >= (first - 1) // 2 for one, two in pairwise(schedule))
    # Whoever meets all rows is one of those that were to.
    assert len(schedule) == 1 or schedule[-2].keep == min(final, candidates)
    assert schedule_cost(candidates, schedule) <= candidates * rows
