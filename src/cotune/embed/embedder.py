"""Embedders: vectors of texts, and of the behaviour of prompts, from the model that is being tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cotune.embed.standardize import Standardizer
from cotune.model.base import Model, Progress
from cotune.prompt.prompt import Prompt

Vectors = NDArray[np.float32]

MOST_CHARACTERS = 1200
"""Number of characters of a text that a language model embeds at once."""


class Embedder(Protocol):
    """Turns texts into vectors; similar texts get close vectors."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """``[texts, width]``."""
        ...


class IdentifiedEmbedder(Embedder, Protocol):
    """An embedder whose vectors can be cached, because it names everything that they depend on."""

    def identity(self, text: str) -> Mapping[str, Any]:
        """Everything that could change the vector of a text, as a JSON object."""
        ...


def behaviour(
    model: Model,
    prompts: Sequence[Prompt],
    rows: Sequence[Mapping[str, str]],
    labels: Sequence[str],
    *,
    progress: Progress | None = None,
) -> Vectors:
    """Vectors of prompts by behaviour: the model's mean hidden state at the answer position over fixed inputs.

    Prompts with similar text can behave differently, and vice versa.

    Args:
        model: the model that is being tuned.
        prompts: prompts to embed.
        rows: a few inputs from the train split, the same for all prompts.
        labels: the task's labels; empty for generated answers.
        progress: called with the number of tokens that ran.

    Returns:
        ``[prompts, width]``.
    """
    vectors = []
    for prompt in prompts:
        renderer = model.renderer
        rendered = renderer.render(prompt, rows, labels) if labels else renderer.render_answers(prompt, rows, None)
        if progress and (looked_up := sum(row.looked_up for row in rendered)):
            progress(looked_up)
        states = model.last_states([row.prompt_ids for row in rendered], progress=progress)
        vectors.append(states.mean(axis=0))
    return np.stack(vectors)


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
