"""Centring and whitening of vectors, fitted on one set of texts and applied to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cotune.errors import InputError

Vectors = NDArray[np.float32]
Standard = Literal["none", "centre", "half_whiten", "whiten"]

_POWERS = {"half_whiten": 0.5, "whiten": 1.0}
_SMALLEST = 1e-5
"""Share of the largest standard deviation below which a direction is rounding error of single precision."""
_PART = 4096


@dataclass(frozen=True)
class Standardizer:
    """An affine map, fitted once and applied to any vectors.

    Attributes:
        mean: ``[width]``, subtracted.
        rotation: ``[width, kept]`` applied afterwards; None for no rotation.
    """

    mean: Vectors
    rotation: Vectors | None = None

    @classmethod
    def fit(cls, vectors: Vectors, kind: Standard = "centre", *, keep: int = 256) -> Standardizer:
        """Fit on vectors of other texts.

        Args:
            vectors: ``[texts, width]``.
            kind: ``none`` changes nothing; ``centre`` subtracts the mean; ``whiten`` also gives each of the leading directions
                the same variance (arXiv 2103.15316); ``half_whiten`` divides by the square root of a direction's standard
                deviation, which amplifies noise directions less.
            keep: maximum number of directions that whitening keeps.

        Raises:
            InputError: whitening on fewer than two vectors, or on vectors that are all equal.
        """
        width = vectors.shape[1]
        if kind == "none":
            return cls(np.zeros(width, dtype=np.float32))
        mean = vectors.mean(axis=0).astype(np.float32)
        if kind == "centre":
            return cls(mean)
        if len(vectors) < 2:
            raise InputError("whitening needs at least two texts", where="texts", hint="Give more texts, or only centre.")
        deviations, directions = _principal_directions(vectors, mean)
        kept = min(keep, int((deviations > deviations[0] * _SMALLEST).sum()))
        if not kept:
            raise InputError("whitening needs different vectors", where="texts", hint="Give other texts, or only centre.")
        return cls(mean, (directions[:, :kept] / deviations[:kept] ** _POWERS[kind]).astype(np.float32))

    def apply(self, vectors: Vectors) -> Vectors:
        """Apply the map; returns unit vectors ``[texts, kept]``."""
        moved = vectors - self.mean
        if self.rotation is not None:
            moved = moved @ self.rotation
        return unit(moved)


def _principal_directions(vectors: Vectors, mean: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard deviations in the directions in which vectors vary, largest first, and the directions ``[width, directions]``.

    Many vectors are summed into a covariance matrix part by part: a decomposition of the vectors themselves would need several
    copies of them in double precision.
    """
    count, width = vectors.shape
    if count <= width:
        _, lengths, directions = np.linalg.svd((vectors - mean).astype(np.float64), full_matrices=False)
        return lengths / np.sqrt(count - 1), directions.T
    covariance = np.zeros((width, width))
    for start in range(0, count, _PART):
        part = (vectors[start : start + _PART] - mean).astype(np.float64)
        covariance += part.T @ part
    variances, directions = np.linalg.eigh(covariance / (count - 1))
    return np.sqrt(np.maximum(variances[::-1], 0.0)), directions[:, ::-1]


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Scale vectors to length 1; zeros stay zeros."""
    found: Vectors = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return found
