"""Multinomial logistic regression with an L2 penalty, many problems over the same rows at once.

Cross-fitting solves the same regression for every fold and every penalty. Here all of them share their matrix products: the
rows of a problem are a mask over all rows, and the weights of all problems are stacked, so that one product with the rows
serves every fold. The solver is L-BFGS (Liu and Nocedal, 1989) in coordinates in which the problem is nearly round: rows are
rotated to their principal axes, and each axis is scaled by Boehning's bound on the curvature (1992), which is diagonal there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

_MEMORY = 10
"""Memory of L-BFGS, in pairs: more pairs did not reduce the number of rounds on states of width 576."""
_ARMIJO = 1e-4
_HALVINGS = 12


@dataclass(frozen=True, eq=False)
class Weights:
    """Solutions of ``problems`` regressions.

    Attributes:
        weight: ``[problems, classes, width]``.
        bias: ``[problems, classes]``.
        rounds: iterations of the solver.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    rounds: int

    def logits(self, features: NDArray[np.float32]) -> Floats:
        """``[problems, rows, classes]`` of rows ``[rows, width]``."""
        found: Floats = np.einsum("nd,bkd->bnk", features, self.weight, optimize=True) + self.bias[:, None]
        return found


class Axes:
    """Rows in the coordinates of their principal axes, computed once for all regressions over them.

    Args:
        features: ``[rows, width]``, centred and scaled by the caller.
        double: whether to compute in fp64.
    """

    def __init__(self, features: NDArray[np.float32], *, double: bool = False) -> None:
        self.x = torch.from_numpy(np.ascontiguousarray(features)).to(torch.float64 if double else torch.float32)
        rows, width = self.x.shape
        # Weights outside the span of the rows are only penalised, so min(rows, width) axes contain the solution.
        gram = self.x.double() @ self.x.double().T if rows < width else self.x.double().T @ self.x.double()
        self.scale, vectors = _principal(gram)
        if rows < width:
            self.left = vectors
            back = (self.x.double().T @ vectors) / self.scale
        else:
            back = vectors
            self.left = (self.x.double() @ vectors) / self.scale
        self.back = back.to(self.x.dtype)
        self.z = (self.left * self.scale).to(self.x.dtype)

    @classmethod
    def of_products(cls, products: Floats) -> Axes:
        """The axes of rows given by their Gram matrix, in fp64.

        Weights are then expressed in the coordinates ``z``.

        Args:
            products: Gram matrix, ``[rows, rows]``.
        """
        axes = cls.__new__(cls)
        axes.scale, axes.left = _principal(torch.from_numpy(np.ascontiguousarray(products, dtype=np.float64)))
        axes.x = axes.z = axes.left * axes.scale
        axes.back = torch.eye(len(axes.scale), dtype=torch.float64)
        return axes

    def ridge_loss(self, targets: NDArray[np.float64], strengths: Sequence[float]) -> Floats:
        """Mean squared leave-one-out error of ridge regression for each strength, in closed form.

        Args:
            targets: ``[rows, classes]``; they are centred inside.
            strengths: inverses of the penalty.
        """
        y = torch.from_numpy(targets)
        y = y - y.mean(0)
        inner = self.left.T @ y
        rows = len(y)
        losses = []
        for strength in strengths:
            shrink = self.scale.square() / (self.scale.square() + 1 / strength)
            fitted = self.left @ (shrink[:, None] * inner)
            lever = (self.left.square() @ shrink + 1 / rows).clamp_max(1 - 1e-6)
            losses.append(float((((y - fitted) / (1 - lever)[:, None]) ** 2).sum(1).mean()))
        return np.array(losses)


def _principal(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Square roots of the non-negligible eigenvalues, the largest first, and the eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > values[-1].clamp_min(1e-30) * 1e-9
    return values[kept].flip(0).clamp_min(0).sqrt(), vectors[:, kept].flip(1)


def fit_logistic(
    features: NDArray[np.float32] | Axes,
    labels: NDArray[np.int64],
    classes: int,
    *,
    strengths: Sequence[float],
    masks: NDArray[np.bool_] | None = None,
    offsets: NDArray[np.float32] | None = None,
    rounds: int = 200,
    tolerance: float = 1e-4,
) -> Weights:
    """Fit one regression for each combination of mask and strength, with masks as the outer loop.

    It minimises the summed cross-entropy of the masked rows plus ``|weight|^2 / (2 strength)``; the bias has no penalty. This
    is the objective of scikit-learn's ``LogisticRegression(C=strength)`` for three or more classes. For two classes
    scikit-learn has one row of weights and this function two, so its ``C`` is twice ``strength``. A class without a row in a
    mask gets zero weights and a bias for a probability of ``1 / (rows + classes)``.

    Args:
        features: ``[rows, width]``, or their :class:`Axes`.
        labels: ``[rows]`` numbers below ``classes``.
        classes: number of classes.
        strengths: inverses of the penalty, each above 0.
        masks: ``[masks, rows]`` rows to learn from; None learns from all.
        offsets: ``[rows, classes]`` added to the logits of every problem; None adds nothing.
        rounds: maximum number of iterations.
        tolerance: stop when the norm of each problem's scaled gradient is below this share of its initial norm.
    """
    axes = features if isinstance(features, Axes) else Axes(features, double=True)
    z, dtype = axes.z, axes.z.dtype
    rows, width = z.shape
    y = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    mask_list = np.ones((1, rows), dtype=bool) if masks is None else masks
    problems = len(mask_list) * len(strengths)
    mask = torch.from_numpy(np.repeat(mask_list, len(strengths), axis=0).T.copy()).to(dtype)  # [rows, problems]
    penalty = torch.tensor([1 / s for _ in mask_list for s in strengths], dtype=dtype)
    hot = torch.zeros(rows, classes, dtype=dtype)
    hot[torch.arange(rows), y] = 1
    counts = mask.T @ hot  # [problems, classes]
    present = (counts > 0).to(dtype)
    totals = counts.sum(1)
    add = None if offsets is None else torch.from_numpy(offsets).to(dtype)[:, None]
    absent = (1 - present) * -1e4
    # Boehning's bound replaces p (1 - p) by 1/2; the mean over classes is closer to the curvature with many classes.
    spread = 0.5 * (1 - ((counts / totals[:, None]) ** 2).sum(1)) / max(1, classes - 1)
    share = totals / rows
    curvature = axes.scale.to(dtype).square()[:, None] * (spread * share) + penalty
    step_w = curvature.rsqrt()[:, :, None]  # [width, problems, 1]
    step_b = (spread * totals + 1e-3).rsqrt()[:, None]

    def evaluate(w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = (z @ w.view(width, -1)).view(rows, problems, classes) + (b + absent)
        if add is not None:
            logits = logits + add
        normal = logits.logsumexp(2, keepdim=True)
        picked = (logits * hot[:, None]).sum(2)
        loss = ((normal[..., 0] - picked) * mask).sum(0) + 0.5 * penalty * w.square().sum((0, 2))
        error = ((logits - normal).exp_() - hot[:, None]) * mask[..., None]
        grad_w = (z.T @ error.view(rows, -1)).view(width, problems, classes) + penalty[:, None] * w
        return loss, grad_w, error.sum(0) * present

    w = torch.zeros(width, problems, classes, dtype=dtype)
    b = torch.where(counts > 0, (counts.clamp_min(0.5) / totals[:, None]).log(), torch.zeros((), dtype=dtype))
    w, b, done = _minimise(evaluate, w, b, step_w, step_b, rounds, tolerance)
    weight = torch.einsum("dr,rbk->bkd", axes.back.double(), w.double()).numpy()
    bias = b.double().numpy()
    missing = counts.numpy() == 0
    if missing.any():
        logits = (z.double() @ w.view(width, -1).double()).view(rows, problems, classes) + b.double() + absent.double()
        own = torch.zeros(rows, 1, classes, dtype=torch.float64) if add is None else add.double()
        # Mean difference between the log-sum-exp of the other classes and the class's own offset.
        lead = (logits + own).logsumexp(2, keepdim=True) - own
        mean = ((lead * mask.double()[..., None]).sum(0) / totals.double()[:, None]).numpy()
        rare = mean - np.log(totals.double().numpy() + classes)[:, None]
        bias = np.where(missing, rare, bias)
        weight[missing] = 0.0
    return Weights(weight, bias, done)


def _minimise(
    evaluate: object, w: Tensor, b: Tensor, step_w: Tensor, step_b: Tensor, rounds: int, tolerance: float
) -> tuple[Tensor, Tensor, int]:
    """Run L-BFGS on all problems in parallel; see :func:`fit_logistic` for shapes."""
    width = w.shape[0]

    def join(part_w: Tensor, part_b: Tensor) -> Tensor:
        return torch.cat([part_w * step_w, (part_b * step_b)[None]])

    loss, grad_w, grad_b = evaluate(w, b)  # type: ignore[operator]
    grad = join(grad_w, grad_b)
    first = grad.square().sum((0, 2)).sqrt().clamp_min(1e-12)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    for done in range(1, rounds + 1):  # noqa: B007
        direction = _direction(grad, pairs)
        slope = (direction * grad).sum((0, 2))
        # Replace a direction that is not a descent direction by steepest descent.
        bad = slope >= 0
        if bool(bad.any()):
            direction = torch.where(bad[:, None], -grad, direction)
            slope = torch.where(bad, -grad.square().sum((0, 2)), slope)
        length = torch.ones_like(loss)
        for _ in range(_HALVINGS):
            move = direction * length[:, None]
            new_w, new_b = w + move[:width] * step_w, b + move[width] * step_b
            new_loss, grad_w, grad_b = evaluate(new_w, new_b)  # type: ignore[operator]
            # In fp32 a sum over rows has a relative error of about 1e-6.
            short = new_loss > loss + _ARMIJO * length * slope + 2e-6 * loss.abs()
            if not bool(short.any()):
                break
            length = torch.where(short, length * 0.5, length)
        stuck = short
        new_grad = join(grad_w, grad_b)
        change, turn = move, new_grad - grad
        if bool(stuck.any()):
            keep = ~stuck
            new_w, new_b = torch.where(keep[:, None], new_w, w), torch.where(keep[:, None], new_b, b)
            new_grad, new_loss = torch.where(keep[:, None], new_grad, grad), torch.where(keep, new_loss, loss)
            change, turn = change * keep[:, None], turn * keep[:, None]
        w, b, loss, grad = new_w, new_b, new_loss, new_grad
        norm = grad.square().sum((0, 2)).sqrt()
        if bool((stuck | (norm <= tolerance * first)).all()):
            break
        curved = (change * turn).sum((0, 2))
        good = curved > 1e-10 * (turn.square().sum((0, 2))).clamp_min(1e-30)
        rho = torch.where(good, 1 / curved.clamp_min(1e-30), torch.zeros_like(curved))
        pairs = [*pairs[-_MEMORY + 1 :], (change, turn, rho)]
    return w, b, done


def _direction(grad: Tensor, pairs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion of L-BFGS; a pair with ``rho`` 0 is ignored for that problem."""
    q = grad.clone()
    kept = []
    for change, turn, rho in reversed(pairs):
        alpha = rho * (change * q).sum((0, 2))
        q -= alpha[:, None] * turn
        kept.append(alpha)
    if pairs:
        change, turn, rho = pairs[-1]
        size = turn.square().sum((0, 2))
        gamma = torch.where(rho > 0, 1 / (rho * size).clamp_min(1e-30), torch.ones_like(rho)).clamp(1e-3, 1e3)
        q *= gamma[:, None]
    for (change, turn, rho), alpha in zip(pairs, reversed(kept), strict=True):
        beta = rho * (turn * q).sum((0, 2))
        q += (alpha - beta)[:, None] * change
    return -q
