"""The surrogate where the truth is known: it finds the best faster than chance, and steps aside where nothing is to know."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cotune.prompt.prompt import Demonstration, Prompt
from cotune.refine.features import FORMAT_FEATURES, format_features
from cotune.refine.surrogate import (
    ALPHA,
    Seen,
    Surrogate,
    feature_similarity,
    prove,
    rank_correlations,
    similarity,
)

Floats = NDArray[np.float64]


def world(seed: int, count: int, *, told: float) -> tuple[dict[str, Floats], Floats]:
    """Two views of prompts, and what they are worth: a share ``told`` of it follows the first view."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((5, 12))[rng.integers(5, size=count)] + 0.6 * rng.standard_normal((count, 12))
    views = {"text": similarity(points), "format": feature_similarity(rng.standard_normal((count, 6)))}
    smooth = np.linalg.cholesky(views["text"] + 1e-6 * np.eye(count)) @ rng.standard_normal(count)
    return views, np.sqrt(told) * smooth + np.sqrt(1 - told) * rng.standard_normal(count)


def seen_of(worth: Floats, noise: Floats, rng: np.random.Generator, prompts: NDArray[np.int64] | None = None) -> Seen:
    at = np.arange(len(worth)) if prompts is None else prompts
    value = worth[at] + np.sqrt(noise) * rng.standard_normal(len(at))
    return Seen(at, value - value.mean(), noise, np.zeros(len(at)))


def test_similarities_are_kernels() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((12, 5))
    vectors[3] = vectors[7]
    vectors[9] = 0.0
    kernel = similarity(vectors)
    assert np.allclose(kernel, kernel.T) and np.allclose(np.diag(kernel), 1.0)
    assert np.linalg.eigvalsh(kernel).min() > -1e-9
    assert kernel[3, 7] == pytest.approx(1.0)
    apart = np.delete(kernel[9], 9)
    assert np.allclose(apart, apart[0]), "what shows nothing is equally far from all"
    assert np.allclose(similarity(np.ones((4, 3))), 1.0)
    assert np.allclose(feature_similarity(np.ones((4, 3))), 1.0)


def test_known_prompts_are_believed_as_far_as_rows_were_seen() -> None:
    views, worth = world(1, 24, told=0.8)
    rng = np.random.default_rng(1)
    many = Surrogate(views, seen_of(worth, np.full(24, 1e-6), rng)).predict()
    few = Surrogate(views, seen_of(worth, np.full(24, 4.0), rng)).predict()
    assert np.allclose(many[0], worth - worth.mean(), atol=0.02)
    assert many[1].max() < 0.05 < few[1].min()


def test_unseen_prompts_are_foretold_from_the_view_that_counts() -> None:
    found = []
    for seed in range(12):
        views, worth = world(seed, 60, told=0.9)
        surrogate = Surrogate(views, seen_of(worth, np.full(40, 0.05), np.random.default_rng(seed), np.arange(40)))
        assert surrogate.shares["text"] > surrogate.shares["format"]
        assert sum(surrogate.shares.values()) == pytest.approx(1.0)
        found.append(spearmanr(surrogate.predict()[0][40:], worth[40:]).statistic)
    assert np.mean(found) > 0.4


def test_what_was_seen_at_far_other_steps_counts_less() -> None:
    views, worth = world(3, 20, told=0.5)
    seen = seen_of(worth, np.full(20, 0.01), np.random.default_rng(3))
    near, far = (Surrogate(views, Seen(seen.prompt, seen.value, seen.noise, np.full(20, s)), steps=50.0) for s in (40.0, 0.0))
    assert near.predict()[1].mean() < 0.6 * far.predict()[1].mean()


def test_draws_have_the_mean_and_deviation_that_are_told() -> None:
    views, worth = world(4, 16, told=0.6)
    surrogate = Surrogate(views, seen_of(worth, np.full(10, 0.1), np.random.default_rng(4), np.arange(10)))
    drawn = surrogate.sample(np.random.default_rng(0), 20_000)
    mean, deviation = surrogate.predict()
    assert np.allclose(drawn.mean(axis=0), mean, atol=0.04)
    assert np.allclose(drawn.std(axis=0), deviation, atol=0.04)


def test_leaving_out_is_what_a_fit_without_the_prompt_says() -> None:
    views, worth = world(5, 14, told=0.7)
    seen = seen_of(worth, np.full(14, 0.1), np.random.default_rng(5))
    twice = Seen(
        np.append(seen.prompt, 3), np.append(seen.value, seen.value[3] + 0.1), np.append(seen.noise, 0.2), np.zeros(15)
    )
    one = {"text": views["text"]}
    whole = Surrogate(one, twice)
    left = whole.leave_one_out()
    keep = twice.prompt != 3
    # The same scale and weights, so that only the entries differ.
    for number, member in enumerate(whole._members):
        kernel = member.cross[:, keep]
        among = np.linalg.inv(np.linalg.inv(member.inverse)[np.ix_(keep, keep)])
        part = kernel @ (among @ (twice.value[keep] / whole.scale))
        left[3] -= whole._weights[number] * part[3] * whole.scale
    assert left[3] == pytest.approx(0.0, abs=1e-9)
    assert whole.leave_one_out()[3] == pytest.approx(whole.leave_one_out()[14])


def test_it_finds_the_best_faster_than_chance() -> None:
    """Eight prompts are seen, then one after the other by lower confidence bound, or at random."""
    needed: dict[str, list[int]] = {"surrogate": [], "random": []}
    for seed in range(30):
        views, worth = world(seed, 40, told=0.95)
        rng = np.random.default_rng(seed)
        first = list(map(int, rng.permutation(40)[:8]))
        good = {int(worth.argmin())}
        for name in needed:
            known = list(first)
            while not good & set(known):
                if name == "random":
                    known.append(int(rng.choice([i for i in range(40) if i not in known])))
                    continue
                at = np.array(known)
                mean, deviation = Surrogate(views, seen_of(worth, np.full(len(at), 0.02), rng, at)).predict()
                bound = mean - deviation
                bound[at] = np.inf
                known.append(int(bound.argmin()))
            needed[name].append(len(known) - 8)
    assert np.mean(needed["surrogate"]) < 0.6 * np.mean(needed["random"])


@pytest.mark.parametrize("count", [12, 24])
def test_on_noise_it_is_used_as_seldom_as_stated(count: int) -> None:
    rows = np.where(np.arange(count) % 4 == 0, 128, np.where(np.arange(count) % 4 == 1, 64, 16))
    on = 0
    for seed in range(150):
        views, worth = world(1000 + seed, count, told=0.0)
        seen = seen_of(worth, 6.0 / rows, np.random.default_rng(seed))
        on += prove(Surrogate(views, seen), np.arange(count), np.random.default_rng(seed)).on
    # 150 draws: three standard errors above the stated rate.
    assert on / 150 <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / 150)


def test_where_there_is_something_to_know_it_is_used() -> None:
    proofs = []
    for seed in range(30):
        views, worth = world(seed, 32, told=0.95)
        seen = seen_of(worth, np.full(32, 0.05), np.random.default_rng(seed))
        proofs.append(prove(Surrogate(views, seen), np.arange(32), np.random.default_rng(seed)))
    assert np.mean([proof.on for proof in proofs]) > 0.7
    assert all(proof.n == 32 and -1 <= proof.correlation <= 1 and (proof.p <= ALPHA) == proof.on for proof in proofs)


def test_a_handful_of_prompts_proves_nothing() -> None:
    views, worth = world(0, 4, told=1.0)
    surrogate = Surrogate(views, seen_of(worth, np.full(4, 0.01), np.random.default_rng(0)))
    proof = prove(surrogate, np.arange(4), np.random.default_rng(0))
    assert not proof.on and proof.p == 1.0


def test_rank_correlations_are_spearmans() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, (4, 9)).astype(float), rng.standard_normal((4, 9))
    expected = [spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    assert rank_correlations(first, second) == pytest.approx(expected)
    assert rank_correlations(np.ones((1, 9)), second[:1]) == pytest.approx([0.0])


def test_format_features_tell_formats_apart() -> None:
    plain = Prompt("Name it: {labels}", "Text: {text}", "Label:")
    others = [
        plain.edit(order="input_first"),
        plain.edit(cue=""),
        plain.edit(input_template="{text}"),
        plain.edit(system="You are careful."),
        plain.edit(system=""),
        plain.edit(separator=" | "),
        plain.edit(label_words=(("a", "First"),)),
        plain.edit(demonstrations=(Demonstration((("text", "x"),), "a"),)),
        plain.edit(instruction="Name it."),
    ]
    found = format_features([plain, *others])
    assert found.shape == (10, len(FORMAT_FEATURES))
    assert len({tuple(row) for row in found.round(9)}) == 10
    assert format_features([]).shape == (0, len(FORMAT_FEATURES))
