"""Vectors kept on disk by content, so that a text is embedded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cotune.embed.text import TextEmbedder
from cotune.files import content_hash
from cotune.model.engine_facts import engine_facts
from cotune.model.local import LocalModel
from cotune.model.score_cache import ScoreCache


class CachedEmbedder:
    """A :class:`TextEmbedder` that looks a text up before it is run.

    The key holds everything that could change a vector: the model's and the adapter's bytes, the settings, device, number type,
    threads, engine version, and the text as it is framed. In bfloat16 a vector also moves by rounding with the batch that it
    was first computed in; the first one stays.

    Args:
        embedder: over a local model.
        path: the database file; made when missing.

    Attributes:
        found: texts that were looked up so far and known.
    """

    def __init__(self, embedder: TextEmbedder, path: Path) -> None:
        self.embedder, self.found = embedder, 0
        self._cache = ScoreCache(path)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``[texts, width]``; equal texts are run once."""
        keys = [self._key(text) for text in texts]
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

    def _key(self, text: str) -> str:
        model = self.embedder.model
        facts = engine_facts(model) if isinstance(model, LocalModel) else {}
        settings = self.embedder.settings
        about = {"model": model.fingerprint, "adapter": self.embedder.adapter, "settings": asdict(settings), **facts}
        return content_hash({"vector": [frame.replace("{text}", text) for frame in settings.texts], **about}, 40)
