"""Noise between two scorings of the same rows, and the gains that it makes doubtful."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from cotune.evaluate.arms import ArmScores
from cotune.evaluate.attribution import attribute
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.frozen_arms import ARMS
from cotune.evaluate.noise import Noise, compare, told_with_noise
from cotune.evaluate.words import gains_sentence as sentence


def test_differences_are_measured_and_flips_counted() -> None:
    first = np.log([[0.6, 0.4], [0.505, 0.495], [0.1, 0.9]])
    second = first + np.array([[0.01, 0.0], [-0.02, 0.01], [0.0, 0.0]])
    noise = compare(first, second)
    assert noise.n == 3 and noise.flipped == 1
    assert noise.largest == pytest.approx(0.02) and noise.mean == pytest.approx(0.04 / 6) and noise.reach == pytest.approx(0.03)
    # A bias moves the place where answers tip.
    assert compare(first, second, Decision("bias", (1.0, 0.0))).flipped == 0
    assert compare(first, first) == Noise(3, 0.0, 0.0, 0.0, 0.0, 0)
    with pytest.raises(ValueError, match="shapes"):
        compare(first, second[:2])


@pytest.mark.parametrize("rows", [100, 500])
@pytest.mark.parametrize("shape", ["normal", "uniform"])
def test_the_floor_holds_what_noise_does_to_an_accuracy(rows: int, shape: str) -> None:
    """In about 95% of scorings, or more, the accuracy moves less; and not far less, or real gains would be silenced."""
    rng = np.random.default_rng(0)
    inside, floors, moves = [], [], []
    for _ in range(300):
        scores, gold = rng.normal(size=(rows, 4)), rng.integers(0, 4, rows)
        change = rng.normal(0, 0.05, scores.shape) if shape == "normal" else rng.uniform(-0.09, 0.09, scores.shape)
        looked = rng.normal(size=(48, 4))
        again = looked + (rng.normal(0, 0.05, looked.shape) if shape == "normal" else rng.uniform(-0.09, 0.09, looked.shape))
        floor = compare(looked, again).floor(scores)
        moved = np.mean((scores + change).argmax(1) == gold) - np.mean(scores.argmax(1) == gold)
        inside.append(abs(moved) <= floor)
        floors.append(floor)
        moves.append(moved)
    assert np.mean(inside) >= 0.94
    assert np.mean(floors) <= 4 * np.std(moves)


def test_what_was_seen_to_flip_is_believed() -> None:
    assert Noise(10, 0.0, 0.0, 0.0, 0.0, 0).floor(np.zeros((5, 3))) == 0
    assert Noise(10, 0.1, 0.1, 0.1, 0.05, 3).floor(np.array([[0.0, 5.0]] * 100)) == pytest.approx(
        1.96 * (0.3 / 100) ** 0.5, rel=1e-3
    )
    # The margin that counts is the one after the decision rule.
    tied = Noise(10, 0.1, 0.1, 0.1, 0.05, 0)
    assert tied.floor(np.array([[0.0, 5.0]] * 100), Decision("bias", (5.0, 0.0))) == pytest.approx(1.96 * 0.005**0.5, rel=1e-3)


def test_a_gain_within_the_noise_is_not_called_a_difference() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2, 400).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:30]] = 1
    arms = {name: ArmScores(better if "tuned" in name else base, candidate="b" if "tuned" in name else "a") for name in ARMS}
    candidates = {name: arm.candidate for name, arm in arms.items()}
    plain = attribute(arms)
    assert plain.gains["tuning"].significant() and plain.gains["tuning"].value == pytest.approx(0.075)
    quiet = told_with_noise(plain, dict.fromkeys(ARMS, 0.02), candidates)
    assert quiet.gains["tuning"].noise == pytest.approx(0.02 * 2**0.5) and quiet.gains["tuning"].significant()
    loud = told_with_noise(plain, dict.fromkeys(ARMS, 0.06), candidates)
    gain = loud.gains["tuning"]
    assert gain.within_noise and not gain.significant() and gain.as_dict()["within_noise"]
    told = sentence(loud.gains, loud.n)
    assert "within the noise of this machine" in told and "within the noise" not in sentence(quiet.gains, quiet.n)
    # Arms that are one candidate have nothing to be noisy about.
    assert loud.gains["prompt"].identical and not loud.gains["prompt"].within_noise


def test_the_floor_of_f1_is_counted_and_agrees_with_accuracy_where_both_say_the_same() -> None:
    rng = np.random.default_rng(4)
    margin = rng.normal(0, 0.4, 600)
    scores = np.log(special.expit(np.stack([margin, -margin], axis=1)))
    gold = (rng.random(600) < 0.5).astype(int)
    noise = Noise(n=40, largest=0.1, mean=0.05, reach=0.2, spread=0.1, flipped=0)
    plain, counted = noise.floor(scores), noise.f1_floor(scores, RAW, gold, "macro")
    # With two labels of equal weight, macro F1 moves as accuracy does.
    assert counted == pytest.approx(plain, rel=0.25)
    # A rare label weighs as much as a frequent one: the same flips move macro F1 further.
    rare = (rng.random(600) < 0.04).astype(int)
    sure = np.where(rare == 1, -0.02, 3.0)
    scores = np.log(special.expit(np.stack([sure, -sure], axis=1)))
    assert noise.f1_floor(scores, RAW, rare, "macro") > 2 * noise.floor(scores)
    assert replace(noise, spread=0.0).f1_floor(scores, RAW, rare, "weighted") == 0.0
    # What was seen to flip is the least that is expected to.
    seen = replace(noise, spread=0.0, flipped=4)
    assert seen.floor(scores) == pytest.approx(1.96 * np.sqrt(0.1 / 600), rel=0.01)
    assert seen.f1_floor(scores, RAW, rare, "weighted") > 0.0


def test_arms_that_cancel_out_add_no_noise() -> None:
    rng = np.random.default_rng(2)
    base = rng.integers(0, 2, 200).astype(float)
    candidates = {"seed_prompt": "s", "seed_tuned": "s", "prompt_only": "p", "best_prompt": "p", "best_tuned": "t"}
    arms = {name: ArmScores(1 - base if name == "best_tuned" else base, candidate=candidates[name]) for name in ARMS}
    found = told_with_noise(attribute(arms), dict.fromkeys(ARMS, 0.02), candidates)
    # The seed prompt is not tuned, so the synergy is the winner's tuning alone: two arms.
    assert found.gains["synergy"].noise == pytest.approx(0.02 * 2**0.5)
