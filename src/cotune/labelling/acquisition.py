"""Acquisition functions: pick rows of an unlabelled pool by the model's uncertainty, by diversity, or by both."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotune.embed.static import unit

Floats = NDArray[np.float64]
States = NDArray[np.float32]

CANDIDATES = 10
"""Number of uncertain rows that :func:`diverse_margin` clusters, for each row that it picks."""
_NEIGHBOURS = 20
_MOST_CLUSTERS = 500


@dataclass(frozen=True, eq=False)
class Pool:
    """The input of acquisition functions.

    Attributes:
        log_probs: ``[rows, labels]`` log-probabilities from the model that will learn from the labels.
        states: ``[rows, width]`` hidden states, standardised.
        labelled: ``[labelled, width]`` states of the rows that already have labels; empty if they are not known.
    """

    log_probs: Floats
    states: States
    labelled: States

    def __len__(self) -> int:
        return len(self.log_probs)


Acquisition = Callable[[Pool, int, np.random.Generator], list[int]]


def margins(log_probs: Floats) -> Floats:
    """Difference between the probabilities of each row's two likeliest labels, from 0 to 1."""
    leading = np.partition(np.exp(log_probs), -2, axis=1)[:, -2:]
    found: Floats = leading[:, 1] - leading[:, 0]
    return found


def entropies(log_probs: Floats) -> Floats:
    """Entropy of each row's label probabilities in nats."""
    found: Floats = -(np.exp(log_probs) * log_probs).sum(axis=1)
    return found


def random_rows(pool: Pool, count: int, rng: np.random.Generator) -> list[int]:
    """Pick rows at random."""
    return [int(row) for row in rng.permutation(len(pool))[:count]]


def least_margin(pool: Pool, count: int, rng: np.random.Generator) -> list[int]:
    """Pick the rows with the smallest margin between their two likeliest labels (Scheffer, Decomain and Wrobel, 2001)."""
    return [int(row) for row in np.argsort(margins(pool.log_probs), kind="stable")[:count]]


def most_entropy(pool: Pool, count: int, rng: np.random.Generator) -> list[int]:
    """Pick the rows with the highest entropy (Settles, Active Learning Literature Survey, 2009)."""
    return [int(row) for row in np.argsort(-entropies(pool.log_probs), kind="stable")[:count]]


def spread(pool: Pool, count: int, rng: np.random.Generator) -> list[int]:
    """k-center: pick each row farthest from all labelled and picked ones (Sener and Savarese, arXiv 1708.00489)."""
    states = unit(pool.states)
    nearest = np.full(len(states), np.inf)
    for start in range(0, len(pool.labelled), 256):
        nearest = np.minimum(nearest, (1 - states @ unit(pool.labelled[start : start + 256]).T).min(axis=1))
    picked: list[int] = []
    while len(picked) < min(count, len(states)):
        row = int(rng.integers(len(states))) if np.isinf(nearest).all() else int(nearest.argmax())
        picked.append(row)
        nearest = np.minimum(nearest, 1 - states @ states[row])
        nearest[picked] = -np.inf
    return picked


def badge(pool: Pool, count: int, rng: np.random.Generator) -> list[int]:
    """BADGE: k-means++ seeding on the probe's gradients for the likeliest labels (Ash et al., arXiv 1906.03671).

    A gradient is the outer product of ``probabilities - one-hot of the likeliest label`` and the state. It is long if the model
    is uncertain, and its direction depends on the row and on the labels that compete. The inner product of two gradients is
    the product of the inner products of their parts, so the outer products are never computed.
    """
    errors = np.exp(pool.log_probs)
    errors[np.arange(len(errors)), errors.argmax(axis=1)] -= 1
    states = pool.states.astype(np.float64)
    lengths = (errors**2).sum(axis=1) * (states**2).sum(axis=1)

    def to(row: int) -> Floats:
        products = (errors @ errors[row]) * (states @ states[row])
        return np.asarray(np.maximum(lengths + lengths[row] - 2 * products, 0.0))

    picked = [int(lengths.argmax())]
    nearest = to(picked[0])
    while len(picked) < min(count, len(pool)):
        nearest[picked] = 0.0
        # Equal rows, and rows of which the model is sure, have no gradient that distinguishes them.
        weights = nearest if nearest.sum() > 0 else np.ones(len(pool)) * ~np.isin(np.arange(len(pool)), picked)
        row = int(rng.choice(len(pool), p=weights / weights.sum()))
        picked.append(row)
        nearest = np.minimum(nearest, to(row))
    return picked


def diverse_margin(pool: Pool, count: int, rng: np.random.Generator) -> list[int]:
    """Cluster the rows of least margin, ten for each pick, by k-means and pick the row nearest to each centre.

    Rows are weighted by one minus the margin (Zhdanov, Diverse mini-batch active learning, arXiv 1901.05954).
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    doubt = 1 - margins(pool.log_probs)
    candidates = np.argsort(-doubt, kind="stable")[: CANDIDATES * count]
    if len(candidates) <= count:
        return [int(row) for row in candidates]
    states, weights = unit(pool.states[candidates]), doubt[candidates] + 1e-6
    with warnings.catch_warnings():
        # Equal rows give fewer clusters than asked for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(count, n_init=1, random_state=int(rng.integers(2**31))).fit(states, sample_weight=weights)
    gaps = ((states - found.cluster_centers_[found.labels_]) ** 2).sum(axis=1)
    picked = [int(candidates[min(rows, key=lambda row: gaps[row])]) for rows in _clusters(found.labels_)]
    rest = [int(row) for row in candidates[~np.isin(candidates, picked)]]
    return sorted([*picked, *rest[: count - len(picked)]], key=lambda row: -doubt[row])


def typical(pool: Pool, count: int, rng: np.random.Generator) -> list[int]:
    """Pick the most typical row of each large cluster without a label, by the states only (TypiClust, arXiv 2202.02794)."""
    from sklearn.cluster import MiniBatchKMeans

    states = unit(np.concatenate([pool.labelled, pool.states]))
    known = len(pool.labelled)
    clusters = min(_MOST_CLUSTERS, known + count, len(states))
    seed = int(rng.integers(2**31))
    numbers = MiniBatchKMeans(clusters, n_init=1, batch_size=1024, random_state=seed).fit(states).labels_
    order = sorted(_clusters(numbers), key=lambda rows: (sum(row < known for row in rows), -len(rows)))
    ranked = [sorted((row for row in rows if row >= known), key=_density(states, rows)) for rows in order]
    picked: list[int] = []
    while len(picked) < min(count, len(pool)):
        for rows in ranked:
            if rows and len(picked) < count:
                picked.append(rows.pop(0) - known)
    return picked


ACQUISITIONS: Mapping[str, Acquisition] = {
    "random": random_rows,
    "margin": least_margin,
    "entropy": most_entropy,
    "spread": spread,
    "badge": badge,
    "diverse_margin": diverse_margin,
    "typical": typical,
}
"""Acquisition functions by name."""


def _clusters(numbers: NDArray[np.int32]) -> list[list[int]]:
    rows: dict[int, list[int]] = {}
    for row, number in enumerate(numbers.tolist()):
        rows.setdefault(number, []).append(row)
    return list(rows.values())


def _density(states: States, rows: list[int]) -> Callable[[int], float]:
    """Mean distance of each row to its nearest neighbours in its cluster; the smaller, the more typical."""
    gaps = np.sort(1 - states[rows] @ states[rows].T, axis=1)[:, 1 : 1 + _NEIGHBOURS]
    mean = gaps.mean(axis=1) if gaps.shape[1] else np.zeros(len(rows))
    of = dict(zip(rows, mean.tolist(), strict=True))
    return of.__getitem__
