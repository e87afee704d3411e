"""Vectors of character n-grams, for near-duplicates and diversity when no hidden states are available."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WIDTH = 4096


class HashedEmbedder:
    """Hashed character n-grams of 2 to 5 letters inside words, scaled to unit length.

    Texts with similar wording are close; paraphrases are not. Nothing is fitted and no model runs. Source: the hashing trick
    (Weinberger et al. 2009, arXiv 0902.2206), as scikit-learn does it.
    """

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, ``[texts, WIDTH]``."""
        from sklearn.feature_extraction.text import HashingVectorizer

        vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=WIDTH, norm="l2")
        vectors: NDArray[np.float32] = vectorizer.transform(list(texts)).toarray().astype(np.float32)
        return vectors
