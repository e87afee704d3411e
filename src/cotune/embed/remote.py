"""Vectors from an endpoint's ``/embeddings``, cached on disk like its answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.endpoint import AnswerCache, Client
from cotune.endpoint.prices import tokens_of
from cotune.files import content_hash
from cotune.model.base import Progress

_AT_ONCE = 64
_MOST_WIDTH = 20_000
_NUMBER_BYTES = 40
"""Maximum length of a number in JSON, with the white space of an indented answer. Usual are 13 to 22."""


class EndpointEmbedder:
    """An embedder that asks an endpoint.

    Args:
        model: name of the embedding model there.
        patience: seconds for one request, including retries.
        progress: called with the estimated number of tokens of the texts. Cached vectors count as well, so that a resumed run
            spends the same budget.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        answers: AnswerCache,
        *,
        patience: float,
        progress: Progress | None = None,
    ) -> None:
        self.client, self.model, self.answers, self.patience, self.progress = client, model, answers, patience, progress

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``[texts, width]``.

        Raises:
            EndpointError: the endpoint returned no vectors.
        """
        keys = [content_hash({"embeddings": [self.client.endpoint.base_url, self.model], "text": text}, 40) for text in texts]
        found = {key: self.answers.get(key) for key in keys}
        missing = [(key, text) for key, text in dict(zip(keys, texts, strict=True)).items() if found[key] is None]
        for start in range(0, len(missing), _AT_ONCE):
            part = missing[start : start + _AT_ONCE]
            body = {"model": self.model, "input": [text for _, text in part]}
            reply = self.client.post(
                "/embeddings",
                body,
                partial(_vectors, count=len(part)),
                patience=self.patience,
                most_bytes=_NUMBER_BYTES * _MOST_WIDTH * len(part),
            )
            for (key, _), vector in zip(part, reply.value, strict=True):
                self.answers.put(key, vector)
                found[key] = vector
        if self.progress:
            self.progress(sum(map(tokens_of, set(texts))))
        return np.array([found[key] for key in keys], dtype=np.float32)


def _vectors(body: Any, count: int) -> list[list[float]]:
    """The vectors in the order of the texts. Raises ValueError, KeyError or TypeError if the answer has none."""
    vectors = [[float(x) for x in item["embedding"]] for item in sorted(body["data"], key=lambda item: int(item["index"]))]
    widths = {len(vector) for vector in vectors}
    if len(vectors) != count or len(widths) != 1 or not 0 < widths.pop() <= _MOST_WIDTH:
        raise ValueError("there is not one vector for each text")
    if not np.isfinite(vectors).all():
        raise ValueError("a vector is not finite")
    return vectors
