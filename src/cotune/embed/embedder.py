"""Embedders: their protocols, one without a model, and vectors of long texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from cotune.embed.standardize import Standardizer, Vectors

MOST_CHARACTERS = 1200
"""Number of characters of a text that a language model embeds at once."""


class Embedder(Protocol):
    """Turns texts into vectors; similar texts get close vectors."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """``[texts, width]``."""
        ...


class IdentifiedEmbedder(Embedder, Protocol):
    """An embedder whose vectors can be cached, because it names everything that they depend on."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts about machine and engine that could change vectors; none if vectors are the same everywhere."""
        ...

    def identity(self, text: str) -> Mapping[str, Any]:
        """Everything that could change the vector of a text, as a JSON object."""
        ...


class HashedEmbedder:
    """Hashed character n-grams of 2 to 5 letters inside words, scaled to unit length; for models without hidden states.

    Texts with similar wording are close; paraphrases are not. Nothing is fitted and no model runs. Source: the hashing trick
    (Weinberger et al. 2009, arXiv 0902.2206), as scikit-learn does it.
    """

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, ``[texts, 4096]``."""
        from sklearn.feature_extraction.text import HashingVectorizer

        vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=4096, norm="l2")
        vectors: Vectors = vectorizer.transform(list(texts)).toarray().astype(np.float32)
        return vectors


def whole_texts(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Vectors of texts of any length; a long text is the mean over its pieces, weighted by length.

    An embedder may read only the beginning of a text. Texts that differ later, such as long prompts with different
    demonstrations, would otherwise get the same vector.

    Args:
        embedder: embeds each different piece once.
        texts: at least one.

    Returns:
        ``[texts, width]``.
    """
    size = MOST_CHARACTERS
    pieces = [[text[start : start + size] for start in range(0, max(1, len(text)), size)] for text in texts]
    places = {piece: place for place, piece in enumerate(dict.fromkeys(piece for parts in pieces for piece in parts))}
    vectors = embedder.embed(list(places))
    means = [
        np.average(vectors[[places[piece] for piece in parts]], axis=0, weights=[max(1, len(piece)) for piece in parts])
        for parts in pieces
    ]
    return np.stack(means).astype(np.float32)


def centred(vectors: Vectors) -> Vectors:
    """Subtract the mean and scale to unit length, because decoder states share a large common part that hides differences."""
    return Standardizer.fit(vectors).apply(vectors)
