"""The batched regression finds what scikit-learn and scipy find on the same penalised likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp
from sklearn.linear_model import LogisticRegression, RidgeCV

from cotune.probe.logistic import Axes, Weights, fit_logistic

Floats = Any


def clouds(rows: int, width: int, classes: int, seed: int = 0, apart: float = 1.0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    centres = rng.normal(size=(classes, width)) * apart
    return (centres[labels] + rng.normal(size=(rows, width)) * 2).astype(np.float32), labels


def log_probs(weights: Weights, features: Floats, problem: int = 0) -> Floats:
    return log_softmax(weights.logits(features)[problem], axis=1)


# More rows than numbers, and fewer: then the axes are those of the rows.
@pytest.mark.parametrize(("rows", "width"), [(120, 9), (40, 70)])
@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("strength", [0.003, 0.3])
def test_it_is_scikit_learns_logistic_regression(rows: int, width: int, classes: int, strength: float) -> None:
    x, y = clouds(rows, width, classes)
    # Of two classes scikit-learn has one row of weights, whose square is penalised once.
    c = strength if classes > 2 else 2 * strength
    wanted = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(x.astype(float), y)
    found = fit_logistic(x, y, classes, strengths=[strength], tolerance=1e-7, rounds=1000)
    other = clouds(50, width, classes, seed=1)[0]
    np.testing.assert_allclose(log_probs(found, other), wanted.predict_log_proba(other.astype(float)), atol=1e-3)
    if classes > 2:
        np.testing.assert_allclose(found.weight[0], wanted.coef_, atol=1e-4)
    # fp32 and the tolerance of the product are near enough for a probe.
    quick = fit_logistic(Axes(x), y, classes, strengths=[strength])
    np.testing.assert_allclose(log_probs(quick, other), wanted.predict_log_proba(other.astype(float)), atol=0.02)


def test_rows_known_by_their_products_alone_are_fitted_alike() -> None:
    x, y = clouds(40, 12, 3)
    wanted = fit_logistic(x, y, 3, strengths=[0.3], tolerance=1e-9, rounds=1000)
    axes = Axes.of_products(x.astype(float) @ x.T.astype(float))
    assert axes.z.shape == (40, 12), "as many directions as there are"
    found = fit_logistic(axes, y, 3, strengths=[0.3], tolerance=1e-9, rounds=1000)
    np.testing.assert_allclose(log_probs(found, axes.z.numpy()), log_probs(wanted, x), atol=1e-5)


def test_masks_and_strengths_are_fits_on_subsets() -> None:
    x, y = clouds(60, 8, 3)
    masks = np.random.default_rng(1).random((3, 60)) < 0.7
    strengths = [0.01, 1.0]
    found = fit_logistic(x, y, 3, strengths=strengths, masks=masks, tolerance=1e-7, rounds=1000)
    assert found.weight.shape == (6, 3, 8) and found.bias.shape == (6, 3)
    for place, mask in enumerate(masks):
        for offset, strength in enumerate(strengths):
            alone = fit_logistic(x[mask], y[mask], 3, strengths=[strength], tolerance=1e-7, rounds=1000)
            np.testing.assert_allclose(
                log_probs(found, x, 2 * place + offset), log_probs(alone, x), atol=2e-3, err_msg=f"{place}, {strength}"
            )


def test_several_labels_of_the_same_rows_are_fits_of_each() -> None:
    x, y = clouds(60, 8, 3)
    # A field whose last class has no row, and one of noise.
    fields = np.stack([y, y % 2, np.random.default_rng(2).integers(0, 3, 60)])
    masks, strengths = np.random.default_rng(1).random((2, 60)) < 0.7, [0.01, 1.0]
    exact: dict[str, Any] = {"tolerance": 1e-7, "rounds": 1000}
    found = fit_logistic(x, fields, 3, strengths=strengths, masks=masks, **exact)
    assert found.weight.shape == (12, 3, 8) and found.bias.shape == (12, 3)
    for place, field in enumerate(fields):
        alone = fit_logistic(x, field, 3, strengths=strengths, masks=masks, **exact)
        for problem in range(4):
            np.testing.assert_allclose(
                log_probs(found, x, 4 * place + problem), log_probs(alone, x, problem), atol=2e-3, err_msg=f"{place}, {problem}"
            )


def test_offsets_are_part_of_the_likelihood() -> None:
    x, y = clouds(50, 5, 4)
    offsets = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32) * 2
    strength, hot = 0.1, np.eye(4)[y]

    def loss(packed: Floats) -> tuple[float, Floats]:
        w, b = packed[:20].reshape(4, 5), packed[20:]
        logits = x @ w.T + b + offsets
        total = float((logsumexp(logits, axis=1) - (logits * hot).sum(1)).sum() + (w**2).sum() / (2 * strength))
        error = np.exp(log_softmax(logits, axis=1)) - hot
        return total, np.concatenate([(error.T @ x + w / strength).ravel(), error.sum(0)])

    wanted = minimize(loss, np.zeros(24), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9}).x
    found = fit_logistic(x, y, 4, strengths=[strength], offsets=offsets, tolerance=1e-8, rounds=1000)
    np.testing.assert_allclose(found.weight[0], wanted[:20].reshape(4, 5), atol=1e-4)
    np.testing.assert_allclose(found.bias[0] - found.bias[0].mean(), wanted[20:] - wanted[20:].mean(), atol=1e-3)
    without = fit_logistic(x, y, 4, strengths=[strength], tolerance=1e-8, rounds=1000)
    assert np.abs(found.weight - without.weight).max() > 0.05, "offsets that change nothing prove nothing"


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_a_class_without_a_row_gets_one_part_in_rows_and_classes(offset: float) -> None:
    x, y = clouds(40, 6, 3)
    offsets = np.zeros((40, 5), dtype=np.float32)
    offsets[:, 1] = offset
    y = np.array([0, 2, 4])[y]
    masks = np.stack([np.ones(40, dtype=bool), y != 4])
    found = fit_logistic(x, y, 5, strengths=[0.1], masks=masks, offsets=offsets, tolerance=1e-7, rounds=1000)
    assert not found.weight[0, [1, 3]].any() and not found.weight[1, [1, 3, 4]].any() and found.weight[0, 4].any()
    for problem, mask in enumerate(masks):
        known = log_softmax(found.logits(x[mask])[problem] + offsets[mask], axis=1)
        share = np.exp(known)[:, 1]
        # In the geometric mean over rows, before the classes without a row take their part of it.
        assert np.exp(np.log(share).mean()) == pytest.approx(1 / (mask.sum() + 5), rel=0.2)
        # The others are what they are without it.
        others = fit_logistic(x[mask], y[mask] // 2, 3, strengths=[0.1], tolerance=1e-7, rounds=1000)
        seen = sorted(set(y[mask]))
        np.testing.assert_allclose(
            log_softmax(known[:, seen], axis=1),
            log_softmax(others.logits(x[mask])[0][:, [c // 2 for c in seen]], axis=1),
            atol=2e-3,
        )


def test_one_class_alone_and_rows_that_are_all_alike_end_well() -> None:
    x, y = clouds(12, 4, 2)
    lone = fit_logistic(x, y, 2, strengths=[0.1], masks=(y == 0)[None])
    assert np.isfinite(lone.weight).all() and (log_probs(lone, x).argmax(1) == 0).all()
    alike = fit_logistic(np.ones((12, 4), dtype=np.float32), y, 2, strengths=[1.0])
    np.testing.assert_allclose(np.exp(log_probs(alike, np.ones((1, 4), dtype=np.float32))), 0.5, atol=1e-3)


@pytest.mark.parametrize(("rows", "width"), [(60, 7), (30, 50)])
def test_the_ridge_loss_is_the_leave_one_out_error(rows: int, width: int) -> None:
    x, y = clouds(rows, width, 3)
    x -= x.mean(0)
    hot = np.eye(3)[y]
    strengths = [0.001, 0.1]
    found = Axes(x, double=True).ridge_loss(hot, strengths)
    for strength, loss in zip(strengths, found, strict=True):
        wanted = RidgeCV(alphas=[1 / strength], store_cv_results=True).fit(x.astype(float), hot)
        assert loss == pytest.approx(float(wanted.cv_results_[..., 0].sum(1).mean()), rel=1e-3)
