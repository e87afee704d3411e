"""Vectors without a forward pass: the model's own table of token vectors, averaged with frequent tokens held down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cotune.model.base import TokenVectors

Vectors = NDArray[np.float32]

_SMOOTHING, _FLAT = 1e-4, 10
_COMMON, _SAMPLED = 3, 8192


class StaticEmbedder:
    """Places texts by their words alone; thousands take a second.

    Of the token vectors the directions in which they vary most are taken off, since these tell how frequent a token is rather
    than what it means (all-but-the-top: Mu and Viswanath, arXiv 1702.01417), and all are made equally long. A text is their
    mean, each weighted by ``a / (a + share)`` (smooth inverse frequency: Arora, Liang and Ma, ICLR 2017). Shares follow Zipf's
    law over the tokens' numbers, which vocabularies give in about the order of frequency; so a vector hangs on nothing but
    its text. Texts are read in lower case.

    Args:
        model: whose table and tokenizer serve.
    """

    def __init__(self, model: TokenVectors) -> None:
        self.model = model
        size = model.vocabulary
        sample = model.token_vectors(np.unique(np.linspace(0, size - 1, min(size, _SAMPLED)).astype(np.int64)))
        self._mean = sample.mean(axis=0)
        moved = (sample - self._mean).astype(np.float64)
        self._common = np.linalg.eigh(moved.T @ moved)[1][:, -_COMMON:].astype(np.float32)
        ranks = 1.0 / (np.arange(size) + _FLAT)
        self._weights = _SMOOTHING / (_SMOOTHING + ranks / ranks.sum())

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors ``[texts, width]``; zeros where a text has no token."""
        from scipy.sparse import csr_matrix

        # Within a text most words follow a blank, and their tokens hold it.
        sequences = self.model.tokenizer([f" {text.casefold()}" for text in texts], add_special_tokens=False)["input_ids"]
        lengths = [len(ids) for ids in sequences]
        tokens, column = np.unique(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in sequences]), return_inverse=True)
        table = self.model.token_vectors(tokens) - self._mean
        table -= (table @ self._common) @ self._common.T
        shares = csr_matrix((self._weights[tokens][column], column, np.cumsum([0, *lengths])), shape=(len(texts), len(tokens)))
        return unit(shares @ unit(table))


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Vectors of length 1; zeros stay."""
    found: Vectors = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return found
