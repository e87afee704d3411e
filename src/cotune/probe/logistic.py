"""Multinomial logistic regression with an L2 penalty, many problems over the same rows at once.

Cross-fitting solves the same regression for every fold and every penalty. Here all of them share their matrix products: the
rows of a problem are a mask over all rows, and the weights of all problems are stacked, so that one product with the rows
serves every problem and class. The solver is L-BFGS (Liu and Nocedal, 1989) in coordinates in which the problem is nearly
round: rows are rotated to their principal axes, and each axis is scaled by Boehning's bound on the curvature (1992), which is
diagonal there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import one_hot

Floats = NDArray[np.float64]

_MEMORY = 5
"""Memory of L-BFGS, in pairs: more pairs did not reduce the number of rounds on states of width 1,152."""
_ARMIJO = 1e-4
_HALVINGS = 12
_ENDED = 0.25
"""Share of the problems that have converged from which they are taken out: copying the others costs as much as a round."""


class Axes:
    """Rows in the coordinates of their principal axes, computed once for all regressions over them.

    Args:
        features: ``[rows, width]``, centred and scaled by the caller.
        double: whether to compute in fp64.
    """

    def __init__(self, features: NDArray[np.float32], *, double: bool = False) -> None:
        self.x = torch.from_numpy(np.ascontiguousarray(features)).to(torch.float64 if double else torch.float32)
        self._parts: dict[bytes, tuple[Axes, float]] = {}
        rows, width = self.x.shape
        # Weights outside the span of the rows are only penalised, so min(rows, width) axes contain the solution.
        gram = self.x.double() @ self.x.double().T if rows < width else self.x.double().T @ self.x.double()
        self.scale, vectors = _principal(gram)
        self.left = vectors if rows < width else (self.x.double() @ vectors) / self.scale
        self.z = (self.left * self.scale).to(self.x.dtype)
        self._vectors = vectors

    @cached_property
    def back(self) -> Tensor:
        """``[width, axes]`` the axes in the coordinates of the features."""
        back = self._vectors if self.left is not self._vectors else (self.x.double().T @ self.left) / self.scale
        return back.to(self.x.dtype)

    def of_rows(self, rows: NDArray[np.int64]) -> tuple[Axes, float]:
        """The axes of some of the rows, and the mean square of their features; of all rows these axes, and 1.

        An inverse penalty that is divided by the mean square penalizes as if these rows had been scaled to unit variance.
        """
        if len(rows) == len(self.x):
            return self, 1.0
        key = rows.tobytes()
        if key not in self._parts:
            part = self.x[torch.from_numpy(rows)]
            square = max(float(part.double().square().mean()), 1e-9)
            self._parts = {key: (Axes(part.float().numpy(), double=part.dtype == torch.float64), square)}
        return self._parts[key]

    @classmethod
    def of_products(cls, products: Floats) -> Axes:
        """The axes of rows given by their Gram matrix, ``[rows, rows]``; weights are in the coordinates ``z``."""
        axes = cls.__new__(cls)
        axes.scale, axes.left = _principal(torch.from_numpy(np.ascontiguousarray(products, dtype=np.float64)))
        axes.x = axes.z = (axes.left * axes.scale).float()
        axes._vectors = torch.eye(len(axes.scale))
        return axes

    def ridge_loss(self, targets: NDArray[np.float64], strengths: Sequence[float]) -> Floats:
        """Mean squared leave-one-out error of ridge regression on targets ``[rows, classes]`` for each inverse penalty."""
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


@dataclass(frozen=True, eq=False)
class Weights:
    """Solutions of ``problems`` regressions.

    Attributes:
        axes: the rows' axes.
        along: ``[problems, classes, axes]`` weights in the coordinates ``axes.z``.
        bias: ``[problems, classes]``.
    """

    axes: Axes
    along: Floats
    bias: Floats

    @cached_property
    def weight(self) -> Floats:
        """``[problems, classes, width]`` weights of the features."""
        result: Floats = self.along @ self.axes.back.double().numpy().T
        return result

    def logits(self, features: NDArray[np.float32]) -> Floats:
        """``[problems, rows, classes]`` of rows ``[rows, width]``."""
        result: Floats = np.einsum("nd,bkd->bnk", features, self.weight, optimize=True) + self.bias[:, None]
        return result

    def logits_within(self, rows: NDArray[np.int64], problems: slice) -> Floats:
        """``[problems, rows, classes]`` by some of the problems, of some rows of :attr:`axes`, given by their indices."""
        along, bias = self.along[problems], self.bias[problems]
        result: Floats = np.einsum("nr,bkr->bnk", self.axes.z.numpy()[rows], along, optimize=True) + bias[:, None]
        return result


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
    """Fit one regression for each combination of labels, mask and strength, in the order of these loops.

    It minimises the summed cross-entropy of the masked rows plus ``|weight|^2 / (2 strength)``; the bias has no penalty. This
    is the objective of scikit-learn's ``LogisticRegression(C=strength)`` for three or more classes. For two classes
    scikit-learn has one row of weights and this function two, so its ``C`` is twice ``strength``. A class without a row in a
    mask gets zero weights and a bias for a probability of ``1 / (rows + classes)``.

    Args:
        features: ``[rows, width]``, or their :class:`Axes`.
        labels: ``[rows]`` numbers below ``classes``, or ``[fields, rows]`` for several regressions over the same rows.
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
    y = torch.from_numpy(np.asarray(labels, dtype=np.int64).reshape(-1, rows))
    masks = np.ones((1, rows), dtype=bool) if masks is None else masks
    each = len(masks) * len(strengths)
    problems = len(y) * each
    mask = torch.from_numpy(np.repeat(masks, len(strengths), axis=0)).to(dtype)  # [each, rows], for now
    penalty = torch.tensor([1 / s for s in strengths] * len(masks) * len(y), dtype=dtype)
    hot = one_hot(y, classes).to(dtype)
    counts = (mask @ hot).flatten(0, 1)  # [problems, classes]
    mask, hot = mask.repeat(len(y), 1), hot.mT.repeat_interleave(each, 0)
    totals = counts.sum(1)
    absent = torch.where(counts > 0, 0.0, -1e4).to(dtype)
    # Boehning's bound replaces p (1 - p) by 1/2; the mean over classes is closer to the curvature with many classes.
    spread = 0.5 * (1 - ((counts / totals[:, None]) ** 2).sum(1)) / max(1, classes - 1)
    curvature = axes.scale.to(dtype).square() * (spread * totals / rows)[:, None] + penalty[:, None]
    steps = torch.cat([curvature, (spread * totals + 1e-3)[:, None]], dim=1).rsqrt()
    penalties = torch.cat([penalty[:, None].expand(-1, width), torch.zeros(problems, 1, dtype=dtype)], dim=1)
    free = torch.ones(problems, classes, width + 1, dtype=dtype)
    free[..., width] = counts > 0
    offset = None if offsets is None else torch.from_numpy(offsets).to(dtype)
    # The bias is the weight of a last axis in which all rows are 1.
    extended = torch.cat([z, torch.ones(rows, 1, dtype=dtype)], dim=1)
    start = torch.zeros(problems, classes, width + 1, dtype=dtype)
    start[..., width] = torch.where(counts > 0, (counts.clamp_min(0.5) / totals[:, None]).log(), 0.0)
    scales, weights = _widened(steps, classes), _widened(penalties, classes)
    stacked = _Problems(mask, mask[:, None] * hot, absent, scales, weights, free.flatten(1))
    x = _minimise(_Losses(extended, offset), stacked, start.flatten(1), rounds, tolerance)
    w = x.view(problems, classes, width + 1).double()
    along, bias = w[..., :width].numpy(), w[..., width].numpy()
    missing = counts.numpy() == 0
    if missing.any():
        logits = w @ extended.double().T + absent.double()[..., None]
        own = torch.zeros(classes, rows, dtype=torch.float64) if offset is None else offset.double().T
        # Mean difference between the log-sum-exp of the other classes and the class's own offset.
        lead = (logits + own).logsumexp(1, keepdim=True) - own
        mean = ((lead * mask.double()[:, None]).sum(2) / totals.double()[:, None]).numpy()
        rare = mean - np.log(totals.double().numpy() + classes)[:, None]
        bias = np.where(missing, rare, bias)
        along[missing] = 0.0
    return Weights(axes, along, bias)


def _widened(part: Tensor, classes: int) -> Tensor:
    """``[problems, width + 1]`` repeated for all classes, in the layout of the weights."""
    return part[:, None].expand(-1, classes, -1).flatten(1)


@dataclass(frozen=True, eq=False)
class _Problems:
    """The data that differs between problems, which are the first dimension of each tensor.

    Attributes:
        mask: ``[problems, rows]`` 1 for rows to learn from.
        hot: ``[problems, classes, rows]`` 1 for the label of such a row.
        absent: ``[problems, classes]`` a large negative number for classes without a row, else 0.
        steps: ``[problems, classes x (width + 1)]`` scale of each weight; the next two have the same shape.
        free: 0 for the biases of classes without a row, else 1.
    """

    mask: Tensor
    hot: Tensor
    absent: Tensor
    steps: Tensor
    penalties: Tensor
    free: Tensor

    def kept(self, which: Tensor) -> _Problems:
        """Some of the problems."""
        return _Problems(*(getattr(self, part.name)[which] for part in fields(self)))


@dataclass(frozen=True, eq=False)
class _Losses:
    """Losses and gradients of problems over the same rows.

    Attributes:
        rows: ``[rows, width + 1]``, the last column 1.
        offset: ``[rows, classes]`` added to all logits, or None.
    """

    rows: Tensor
    offset: Tensor | None

    def __call__(self, x: Tensor, of: _Problems) -> tuple[Tensor, Tensor]:
        """Losses ``[problems]`` and gradients, in the layout of the weights, by the scaled weights."""
        # A batched product per problem, with as few columns as there are classes, would take several times as long.
        logits = (x.view(-1, self.rows.shape[1]) @ self.rows.T).view(of.hot.shape).add_(of.absent[..., None])
        if self.offset is not None:
            logits += self.offset.T
        normal = logits.logsumexp(1, keepdim=True)
        loss = vecdot(normal[:, 0], of.mask) - (logits * of.hot).sum((1, 2)) + 0.5 * vecdot(of.penalties * x, x)
        error = logits.sub_(normal).exp_().mul_(of.mask[:, None]).sub_(of.hot)
        gradient = (error.flatten(0, 1) @ self.rows).view(x.shape)
        return loss, torch.addcmul(gradient, of.penalties, x) * of.free * of.steps


def _minimise(losses: _Losses, of: _Problems, x: Tensor, rounds: int, tolerance: float) -> Tensor:
    """Run L-BFGS on all problems in parallel, from weights ``x``, ``[problems, weights]``; returns the weights.

    Problems that have converged are taken out when they are a quarter of those left.
    """
    loss, grad = losses(x, of)
    first = grad.norm(dim=1).clamp_min(1e-12)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    solutions, left = torch.empty_like(x), torch.arange(len(x))
    for _ in range(rounds):
        direction = _direction(grad, pairs)
        slope = vecdot(direction, grad)
        # Replace a direction that is not a descent direction by steepest descent.
        bad = slope >= 0
        if bool(bad.any()):
            direction = torch.where(bad[:, None], -grad, direction)
            slope = torch.where(bad, -vecdot(grad, grad), slope)
        length = torch.ones_like(loss)
        for _ in range(_HALVINGS):
            change = direction * length[:, None]
            new_x = torch.addcmul(x, change, of.steps)
            new_loss, new_grad = losses(new_x, of)
            # In fp32 a sum over rows has a relative error of about 1e-6.
            stuck = new_loss > loss + _ARMIJO * length * slope + 2e-6 * loss.abs()
            if not bool(stuck.any()):
                break
            length = torch.where(stuck, length * 0.5, length)
        turn = new_grad - grad
        if bool(stuck.any()):
            keep = ~stuck
            new_x, new_grad = torch.where(keep[:, None], new_x, x), torch.where(keep[:, None], new_grad, grad)
            new_loss = torch.where(keep, new_loss, loss)
            change, turn = change * keep[:, None], turn * keep[:, None]
        x, loss, grad = new_x, new_loss, new_grad
        ended = stuck | (grad.norm(dim=1) <= tolerance * first)
        if bool(ended.all()):
            break
        curved = vecdot(change, turn)
        good = curved > 1e-10 * vecdot(turn, turn).clamp_min(1e-30)
        rho = torch.where(good, 1 / curved.clamp_min(1e-30), torch.zeros_like(curved))
        pairs = [*pairs[-_MEMORY + 1 :], (change, turn, rho)]
        if int(ended.sum()) >= _ENDED * len(ended):
            solutions[left[ended]] = x[ended]
            going = ~ended
            left, of, x, loss, grad, first = left[going], of.kept(going), x[going], loss[going], grad[going], first[going]
            pairs = [(change[going], turn[going], rho[going]) for change, turn, rho in pairs]
    solutions[left] = x
    return solutions


def _direction(grad: Tensor, pairs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion of L-BFGS; a pair with ``rho`` 0 is ignored for that problem."""
    q = grad.clone()
    kept = []
    for change, turn, rho in reversed(pairs):
        alpha = rho * vecdot(change, q)
        q.addcmul_(alpha[:, None], turn, value=-1)
        kept.append(alpha)
    if pairs:
        _, turn, rho = pairs[-1]
        gamma = torch.where(rho > 0, 1 / (rho * vecdot(turn, turn)).clamp_min(1e-30), torch.ones_like(rho)).clamp(1e-3, 1e3)
        q *= gamma[:, None]
    for (change, turn, rho), alpha in zip(pairs, reversed(kept), strict=True):
        beta = rho * vecdot(turn, q)
        q.addcmul_((alpha - beta)[:, None], change)
    return q.neg_()
