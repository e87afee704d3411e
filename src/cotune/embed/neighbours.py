"""Demonstrations that fit the row: of a prompt's demonstrations, those that lie nearest to it in the model's own space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotune.embed.embedder import Embedder
from cotune.embed.hashed import HashedEmbedder
from cotune.embed.standardize import Standardizer
from cotune.embed.text import TextEmbedder
from cotune.files import content_hash
from cotune.model.base import Model
from cotune.prompt.messages import Shown
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.task.split import normalised

_KEPT_PROMPTS, _KEPT_ROWS = 8, 4096


@dataclass(frozen=True)
class _Pool:
    """A prompt's demonstrations as points, how to make a row one, and what tells a row from itself."""

    points: NDArray[np.float32]
    standard: Standardizer
    keys: tuple[str, ...]


class Neighbours:
    """Chooses what a prompt with ``nearest`` above 0 shows each row; give it to the model's renderer, or to a model behind an
    endpoint.

    Nearness is the cosine of PromptEOL vectors of the base model, centred on the prompt's own demonstrations: tuning does not
    move it, so a bundle shows a row what its training and its test would have shown it. Where no model can be seen into, it is
    that of the texts' letters. A row is never shown itself, whatever
    its case and white space. The nearest one stands last, next to the row (KATE, arXiv 2101.06804).

    Every text is embedded in a pass of its own: a state differs in its last digits between batches, and near ties with it.

    Args:
        model: who reads; None compares letters.
    """

    def __init__(self, model: Model | None = None) -> None:
        self._tokens: list[int] = []
        self._embedder: Embedder = HashedEmbedder()
        if model is not None:
            self._embedder = TextEmbedder(model, progress=self._tokens.append)
        self._pools: dict[str, _Pool] = {}
        # By their hash: a server's rows are as long as their senders like.
        self._rows: dict[str, tuple[NDArray[np.float32], int]] = {}

    def __call__(self, prompt: Prompt, rows: Sequence[Mapping[str, str]]) -> list[Shown]:
        """What each row is shown, and the tokens that its own vector takes; the demonstrations' are run once a prompt."""
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
            # What was known before costs as much as what was not, so that a run that goes on spends alike.
            self._rows[key] = vector, sum(self._tokens)
        return self._rows[key]


def show_nearest(prompt: Prompt, demonstrations: Sequence[Demonstration], count: int) -> Prompt:
    """The prompt with a stock of demonstrations, of which each row is shown the ``count`` nearest."""
    return prompt.edit(demonstrations=tuple(demonstrations), nearest=count)


def _text(row: Mapping[str, str]) -> str:
    return " ".join(row.values())


def _key(row: Mapping[str, str]) -> str:
    return "\x1f".join(normalised(text) for text in row.values())
