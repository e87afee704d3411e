"""Acquisition functions: pick rows of an unlabelled pool at random or by the model's uncertainty, also with diversity."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotune.embed.standardize import unit

Floats = NDArray[np.float64]

CANDIDATES = 10
"""Number of uncertain rows that :func:`diverse_margin` clusters, for each row that it picks."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The input of acquisition functions.

    Attributes:
        log_probs: ``[rows, labels]`` log-probabilities from the model that will learn from the labels.
        states: ``[rows, width]`` hidden states, standardised.
    """

    log_probs: Floats
    states: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.log_probs)


Acquisition = Callable[[Pool, int, np.random.Generator], list[int]]


def margins(log_probs: Floats) -> Floats:
    """Difference between the probabilities of each row's two likeliest labels, from 0 to 1."""
    leading = np.partition(np.exp(log_probs), -2, axis=1)[:, -2:]
    found: Floats = leading[:, 1] - leading[:, 0]
    return found


def random_rows(pool: Pool, count: int, rng: np.random.Generator) -> list[int]:
    return [int(row) for row in rng.permutation(len(pool))[:count]]


def least_margin(pool: Pool, count: int, rng: np.random.Generator) -> list[int]:
    """Pick the rows with the smallest margin between their two likeliest labels (Scheffer, Decomain and Wrobel, 2001)."""
    return [int(row) for row in np.argsort(margins(pool.log_probs), kind="stable")[:count]]


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
    order = np.argsort(gaps, kind="stable")
    _, nearest = np.unique(found.labels_[order], return_index=True)
    picked = [int(row) for row in candidates[order[nearest]]]
    rest = [int(row) for row in candidates[~np.isin(candidates, picked)]]
    return sorted([*picked, *rest[: count - len(picked)]], key=lambda row: -doubt[row])


ACQUISITIONS: Mapping[str, Acquisition] = {"random": random_rows, "margin": least_margin, "diverse_margin": diverse_margin}
"""Acquisition functions by name."""
