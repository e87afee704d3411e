"""A model of how good prompts are, from where they lie: a Gaussian process over embeddings and format.

Nearest in the literature is HbBoPs (arXiv 2412.07820). Here the kernel is a sum over several views of a prompt, whose weights
are not optimised but averaged over a small grid by their marginal likelihood, which is sturdy with a dozen prompts and needs
no optimizer. What was seen of a prompt enters with its own noise (few rows, much noise) and its own number of tuning steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_OWN_SHARES = (0.2, 0.5, 0.8)
"""Shares of a prompt's worth that no view of it explains."""
_STEPS_REACH = 2.0
"""Distance in log steps over which what prompts are worth is forgotten by a factor e."""
_PERMUTATIONS = 400
ALPHA = 0.1
"""How often a surrogate that knows nothing is trusted."""


def similarity(vectors: NDArray[np.floating]) -> Floats:
    """``[points, points]`` likeness of directions, 1 for equal ones: a squared-exponential kernel at the median distance.

    Vectors are centred first. A vector of zeros (a prompt without demonstrations) is equally far from all others.
    """
    points = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(points, axis=1)
    there = lengths > 1e-9
    moved = np.where(there[:, None], points - points[there].mean(axis=0) if there.any() else points, 0.0)
    norms = np.linalg.norm(moved, axis=1, keepdims=True)
    unit = np.divide(moved, norms, out=np.zeros_like(moved), where=norms > 1e-9)
    squares = (unit**2).sum(axis=1)
    return _kernel(squares[:, None] + squares[None, :] - 2 * unit @ unit.T)


def feature_similarity(features: Floats) -> Floats:
    """``[points, points]`` likeness of plain numbers: columns are standardised, constant ones left out."""
    spread = features.std(axis=0)
    used = spread > 1e-9
    scaled = (features[:, used] - features[:, used].mean(axis=0)) / spread[used]
    squares = (scaled**2).sum(axis=1)
    return _kernel(squares[:, None] + squares[None, :] - 2 * scaled @ scaled.T)


def _kernel(squared: Floats) -> Floats:
    squared = np.maximum(squared, 0.0)
    apart = squared[squared > 1e-9]
    if not apart.size:
        return np.ones_like(squared)
    return np.asarray(np.exp(-squared / float(np.median(apart))))


@dataclass(frozen=True)
class Seen:
    """What was measured of prompts, one entry a prompt and context.

    Attributes:
        prompt: ``[entries]`` number of the prompt.
        value: ``[entries]`` loss relative to the other prompts of the same race; below zero is better.
        noise: ``[entries]`` variance of the value.
        steps: ``[entries]`` tuning steps behind the weights that it was measured under.
    """

    prompt: Ints
    value: Floats
    noise: Floats
    steps: Floats


@dataclass(frozen=True)
class _Member:
    """One point of the grid, conditioned on what was seen: its kernel among all prompts and its inverse among the entries."""

    prior: Floats
    cross: Floats
    inverse: Floats
    log_det: float


class Surrogate:
    """A Gaussian process over prompts, averaged over a grid of kernels.

    Args:
        views: ``[prompts, prompts]`` similarities, by name; prompts that were not measured yet among them.
        seen: what was measured.
        steps: tuning steps for which it is asked.

    Attributes:
        scale: standard deviation of what prompts are truly worth, the noise taken off.
        shares: posterior weight of each view, and of ``own``, what no view explains.
    """

    def __init__(self, views: Mapping[str, Floats], seen: Seen, *, steps: float = 0.0) -> None:
        self.seen = seen
        self.scale = _signal_scale(seen)
        self._values = seen.value / self.scale
        names = list(views)
        mixes = [(name,) for name in names] + ([tuple(names)] if len(names) > 1 else [])
        grid = [(mix, own) for own in _OWN_SHARES for mix in mixes]
        self._members = [self._conditioned([views[name] for name in mix], own, steps) for mix, own in grid]
        self._weights = self._posterior(self._values[None, :])[0]
        self.shares = dict.fromkeys((*names, "own"), 0.0)
        for (mix, own), weight in zip(grid, self._weights, strict=True):
            self.shares["own"] += float(weight * own)
            for name in mix:
                self.shares[name] += float(weight * (1 - own) / len(mix))

    def _conditioned(self, views: Sequence[Floats], own: float, steps: float) -> _Member:
        count = len(views[0])
        prior = (1 - own) * np.mean(views, axis=0) + own * np.eye(count)
        at = self.seen.prompt
        logs = np.log1p(self.seen.steps)
        fading = np.exp(-np.abs(logs[:, None] - logs[None, :]) / _STEPS_REACH)
        to_asked = np.exp(-np.abs(logs - np.log1p(steps)) / _STEPS_REACH)
        among = prior[np.ix_(at, at)] * fading + np.diag(self.seen.noise / self.scale**2 + 1e-6)
        return _Member(prior, prior[:, at] * to_asked, np.linalg.inv(among), float(np.linalg.slogdet(among)[1]))

    def _posterior(self, values: Floats) -> Floats:
        """``[draws, members]`` weights by marginal likelihood, for several sets of values ``[draws, entries]``."""
        fits = np.stack([-0.5 * ((values @ m.inverse) * values).sum(axis=1) - 0.5 * m.log_det for m in self._members], axis=1)
        weights = np.exp(fits - fits.max(axis=1, keepdims=True))
        result: Floats = weights / weights.sum(axis=1, keepdims=True)
        return result

    def predict(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of every prompt's true loss relative to the others, ``[prompts]`` each."""
        means = np.stack([m.cross @ (m.inverse @ self._values) for m in self._members])
        variances = np.stack(
            [np.maximum(np.diag(m.prior) - np.einsum("pe,ef,pf->p", m.cross, m.inverse, m.cross), 0.0) for m in self._members]
        )
        mean = self._weights @ means
        variance = self._weights @ (variances + means**2) - mean**2
        return self.scale * mean, self.scale * np.sqrt(np.maximum(variance, 0.0))

    def sample(self, rng: np.random.Generator, draws: int) -> Floats:
        """``[draws, prompts]`` true losses as they may be (Thompson sampling)."""
        count = len(self._members[0].prior)
        result = np.empty((draws, count))
        chosen = rng.choice(len(self._members), size=draws, p=self._weights)
        noise = rng.standard_normal((draws, count))
        for number in np.unique(chosen):
            member = self._members[number]
            mean = member.cross @ (member.inverse @ self._values)
            covariance = member.prior - member.cross @ member.inverse @ member.cross.T
            here = chosen == number
            result[here] = mean + noise[here] @ np.linalg.cholesky(covariance + 1e-8 * np.eye(count)).T
        return self.scale * result

    def leave_one_out(self, values: Floats | None = None) -> Floats:
        """What is predicted of each entry from the entries of all other prompts.

        Args:
            values: other values in place of those seen, ``[draws, entries]``.

        Returns:
            ``[entries]``, or ``[draws, entries]`` for other values.
        """
        given = self._values[None, :] if values is None else values / self.scale
        weights = self._posterior(given)
        result = np.zeros(given.shape)
        for number, member in enumerate(self._members):
            result += weights[:, number, None] * (given @ _leave_out(member.inverse, self.seen.prompt).T)
        return self.scale * (result[0] if values is None else result)


@dataclass(frozen=True)
class Proof:
    """Whether a surrogate has shown that it knows something.

    Attributes:
        correlation: Spearman's rank correlation of what it predicts of each left-out prompt with what was measured. A mean
            predictor says the same of all, so its own is zero.
        p: share of random relabellings in which the correlation is as high.
        n: prompts that it was tried on.
        on: whether it is used: ``p`` is at most ``ALPHA``.
    """

    correlation: float
    p: float
    n: int
    on: bool


def prove(surrogate: Surrogate, entries: Ints, rng: np.random.Generator) -> Proof:
    """Try a surrogate against the mean predictor on the entries of the last race, each prompt left out in turn.

    The values are dealt out anew among these entries many times (a permutation test), so a surrogate of a space that says
    nothing about quality is used in a share ``ALPHA`` of cases.

    Args:
        surrogate: conditioned on all that was seen.
        entries: numbers of the entries that it is tried on.
        rng: deals the values.
    """
    if len(entries) < 5:
        return Proof(0.0, 1.0, len(entries), on=False)
    seen = surrogate.seen
    dealt = np.tile(seen.value, (_PERMUTATIONS, 1))
    # Values seen on few rows vary more; only in units of what each varies by may they change places.
    spread = np.sqrt(surrogate.scale**2 + seen.noise[entries])
    dealt[1:, entries] = rng.permuted(dealt[1:, entries] / spread, axis=1) * spread
    found = rank_correlations(surrogate.leave_one_out(dealt)[:, entries], dealt[:, entries])
    p = float(np.mean(found >= found[0] - 1e-12))
    return Proof(round(float(found[0]), 4), round(p, 4), len(entries), on=p <= ALPHA)


def rank_correlations(first: Floats, second: Floats) -> Floats:
    """Spearman's rank correlation of each row of one table with that row of the other; 0 where a row is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(table, axis=1) for table in (first, second))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    below = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    result: Floats = np.divide((a * b).sum(axis=1), below, out=np.zeros(len(a)), where=below > 1e-12)
    return result


def _leave_out(inverse: Floats, prompt: Ints) -> Floats:
    """The map from values to predictions, ``[entries, entries]``; entries of its own prompt have no say in any of them."""
    result = np.eye(len(prompt))
    for number in np.unique(prompt):
        block = np.flatnonzero(prompt == number)
        result[block] -= np.linalg.solve(inverse[np.ix_(block, block)], inverse[block])
    result[np.abs(result) < 1e-12] = 0.0
    return result


def _signal_scale(seen: Seen) -> float:
    """Standard deviation of the values with their noise taken off."""
    if len(seen.value) < 2:
        return 1.0
    variance = float(np.mean(seen.value**2))
    return float(np.sqrt(max(variance - float(seen.noise.mean()), 0.1 * variance, 1e-12)))
