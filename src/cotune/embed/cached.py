"""A cache of vectors on disk, keyed by content, so that each text is embedded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cotune.embed.embedder import IdentifiedEmbedder
from cotune.files import content_hash
from cotune.model.engine.score_cache import ScoreCache


class CachedEmbedder:
    """An embedder with a cache on disk.

    The key contains everything that could change a vector, see ``identity`` of the embedder. In bfloat16, rounding makes a
    vector depend on the batch as well; the first vector that was computed is stored.

    Args:
        embedder: a :class:`TextEmbedder` or an :class:`cotune.embed.Encoder`.
        path: the database file; created if missing.

    Attributes:
        found: number of texts found in the cache so far.
    """

    def __init__(self, embedder: IdentifiedEmbedder, path: Path) -> None:
        self.embedder, self.found = embedder, 0
        self._cache = ScoreCache(path)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, ``[texts, width]``; equal texts are embedded once."""
        keys = [content_hash(self.embedder.identity(text), 40) for text in texts]
        known: dict[str, NDArray[np.float32]] = {}
        for key in dict.fromkeys(keys):
            if (entry := self._cache.get(key)) is not None:
                known[key] = entry[0][0].astype(np.float32)
        self.found += len(known)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing or not texts:
            for key, vector in zip(missing, self.embedder.embed(list(missing.values())), strict=True):
                self._cache.put(key, vector[None].astype(np.float64), 0)
                known[key] = vector
        return np.stack([known[key] for key in keys])
