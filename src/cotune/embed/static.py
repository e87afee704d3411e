"""Vectors without a forward pass: averaged token vectors of the model, with frequent tokens weighted down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cotune.embed.standardize import Vectors, unit
from cotune.model.base import TokenVectors

_SMOOTHING, _FLAT = 1e-4, 10
_COMMON, _SAMPLED = 3, 8192


class StaticEmbedder:
    """Embeds texts by their words only; thousands of texts take a second.

    The directions of highest variance, which encode frequency rather than meaning, are removed from the token vectors
    (all-but-the-top: Mu and Viswanath, arXiv 1702.01417), and all are scaled to unit length. A text is their mean, weighted by
    ``a / (a + share)`` (smooth inverse frequency: Arora, Liang and Ma, ICLR 2017). Shares follow Zipf's law over token ids,
    which are roughly ordered by frequency; so a vector depends only on its text. Texts are lower-cased.
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
        """Unit vectors ``[texts, width]``; zeros for a text without a token."""
        from scipy.sparse import csr_matrix

        # Most words in a text follow a blank, and their tokens include it.
        sequences = self.model.tokenizer([f" {text.casefold()}" for text in texts], add_special_tokens=False)["input_ids"]
        lengths = [len(ids) for ids in sequences]
        tokens, column = np.unique(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in sequences]), return_inverse=True)
        table = self.model.token_vectors(tokens) - self._mean
        table -= (table @ self._common) @ self._common.T
        shares = csr_matrix((self._weights[tokens][column], column, np.cumsum([0, *lengths])), shape=(len(texts), len(tokens)))
        return unit(shares @ unit(table))
