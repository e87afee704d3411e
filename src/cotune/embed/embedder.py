"""Vectors for texts and for prompts' behaviour, from the model that is being tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cotune.embed.standardize import Standardizer
from cotune.model.adapters.slots import BASE
from cotune.model.base import Model, Progress
from cotune.prompt.prompt import Prompt

Vectors = NDArray[np.float32]

MOST_CHARACTERS = 1200
"""Of a text: what a language model reads at once to embed it."""


class Embedder(Protocol):
    """Turns texts into vectors in which near means alike."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """``[texts, width]``."""
        ...


class IdentifiedEmbedder(Embedder, Protocol):
    """An embedder whose vectors can be kept, since it can say what they hang on."""

    def identity(self, text: str) -> Mapping[str, Any]:
        """Everything that could change the vector of a text, as a JSON object."""
        ...


def behaviour(
    model: Model,
    prompts: Sequence[Prompt],
    rows: Sequence[Mapping[str, str]],
    labels: Sequence[str],
    *,
    adapter: str = BASE,
    progress: Progress | None = None,
) -> Vectors:
    """What prompts make the model do: its mean hidden state at the answer position over fixed inputs.

    Texts that look alike can act differently, and the other way round.

    Args:
        model: the model that is being tuned.
        prompts: to be placed.
        rows: the same few inputs for all, of the train split.
        labels: the task's labels; empty where answers are written.
        adapter: which weights.
        progress: told the tokens that run.

    Returns:
        ``[prompts, width]``.
    """
    vectors = []
    for prompt in prompts:
        renderer = model.renderer
        rendered = renderer.render(prompt, rows, labels) if labels else renderer.render_answers(prompt, rows, None)
        if progress and (looked_up := sum(row.looked_up for row in rendered)):
            progress(looked_up)
        states = model.last_states([row.prompt_ids for row in rendered], adapter=adapter, progress=progress)
        vectors.append(states.mean(axis=0))
    return np.stack(vectors)


def whole_texts(embedder: Embedder, texts: Sequence[str], *, size: int = MOST_CHARACTERS) -> Vectors:
    """Vectors of texts of any length: of a long one the mean over its pieces, each by its share of the text.

    An embedder may read a text's beginning alone. Texts that differ only further on, such as long prompts with different
    demonstrations, would then be one and the same.

    Args:
        embedder: reads each different piece once.
        texts: at least one.
        size: characters of a piece.

    Returns:
        ``[texts, width]``.
    """
    pieces = [[text[start : start + size] for start in range(0, max(1, len(text)), size)] for text in texts]
    places = {piece: place for place, piece in enumerate(dict.fromkeys(piece for parts in pieces for piece in parts))}
    vectors = embedder.embed(list(places))
    means = [
        np.average(vectors[[places[piece] for piece in parts]], axis=0, weights=[max(1, len(piece)) for piece in parts])
        for parts in pieces
    ]
    return np.stack(means).astype(np.float32)


def centred(vectors: Vectors) -> Vectors:
    """Unit vectors after taking off their own mean: decoder states share a large common part that hides what differs."""
    return Standardizer.fit(vectors).apply(vectors)
