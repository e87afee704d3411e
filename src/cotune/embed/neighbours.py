"""Nearest demonstrations: for each row, the prompt's demonstrations closest to it in the model's embedding space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotune.embed.embedder import Embedder, HashedEmbedder
from cotune.embed.standardize import Standardizer
from cotune.embed.text import TextEmbedder
from cotune.files import content_hash
from cotune.model.base import Model
from cotune.prompt.messages import Shown
from cotune.prompt.prompt import Prompt
from cotune.task.split import normalised

_KEPT_PROMPTS, _KEPT_ROWS = 8, 4096


@dataclass(frozen=True)
class _Pool:
    """The demonstrations of a prompt as vectors, and how to embed and identify rows."""

    points: NDArray[np.float32]
    standard: Standardizer
    keys: tuple[str, ...]


class Neighbours:
    """Chooses the demonstrations that a prompt with ``nearest`` above 0 shows to each row.

    Pass it to the model's renderer, or to a model behind an endpoint. Similarity is the cosine of PromptEOL vectors of the base
    model, centred on the prompt's own demonstrations. Tuning does not change it, so a bundle shows a row the same
    demonstrations as training and test. Without hidden states, hashed character n-grams are compared. A row is never shown
    itself, ignoring case and white space. The nearest one comes last, next to the row (KATE, arXiv 2101.06804).

    Every text is embedded in a separate pass, because rounding differs between batches and could change near ties.

    Args:
        model: embeds the texts; None compares character n-grams.
    """

    def __init__(self, model: Model | None = None) -> None:
        self._tokens: list[int] = []
        self._embedder: Embedder = HashedEmbedder()
        if model is not None:
            self._embedder = TextEmbedder(model, progress=self._tokens.append)
        self._pools: dict[str, _Pool] = {}
        # Keyed by hash, because a server's rows can be arbitrarily long.
        self._rows: dict[str, tuple[NDArray[np.float32], int]] = {}

    def __call__(self, prompt: Prompt, rows: Sequence[Mapping[str, str]]) -> list[Shown]:
        """For each row its demonstrations, and the tokens for its vector; vectors of demonstrations are computed once per
        prompt.
        """
        pool = self._pool(prompt)
        shown = []
        for row in rows:
            vector, tokens = self._vector(_text(row))
            likeness = pool.points @ pool.standard.apply(vector[None])[0]
            own = _key(row)
            order = [i for i in np.argsort(-likeness, kind="stable") if pool.keys[i] != own][: prompt.nearest]
            shown.append(Shown(tuple(prompt.demonstrations[i] for i in reversed(order)), tokens))
        return shown

    def _pool(self, prompt: Prompt) -> _Pool:
        if prompt.id not in self._pools:
            while len(self._pools) >= _KEPT_PROMPTS:
                self._pools.pop(next(iter(self._pools)))
            fields = [dict(shown.fields) for shown in prompt.demonstrations]
            vectors = np.stack([self._vector(_text(row))[0] for row in fields])
            standard = Standardizer.fit(vectors)
            self._pools[prompt.id] = _Pool(standard.apply(vectors), standard, tuple(map(_key, fields)))
        return self._pools[prompt.id]

    def _vector(self, text: str) -> tuple[NDArray[np.float32], int]:
        key = content_hash(text.encode("utf-8", "surrogatepass"), 40)
        if key not in self._rows:
            while len(self._rows) >= _KEPT_ROWS:
                self._rows.pop(next(iter(self._rows)))
            self._tokens.clear()
            vector = self._embedder.embed([text])[0]
            # Cached vectors count as well, so that a resumed run spends the same budget.
            self._rows[key] = vector, sum(self._tokens)
        return self._rows[key]


def _text(row: Mapping[str, str]) -> str:
    return " ".join(row.values())


def _key(row: Mapping[str, str]) -> str:
    return "\x1f".join(normalised(text) for text in row.values())
