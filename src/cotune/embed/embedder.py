"""Vectors for texts and for prompts' behaviour, from the model that is being tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cotune.model.adapters import BASE
from cotune.model.protocol import Model
from cotune.prompt.prompt import Prompt

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Turns texts into vectors in which near means alike."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """``[texts, width]``."""
        ...


class PromptEOL:
    """The hidden state at which the model would say a text in one word (arXiv 2307.16645).

    Args:
        model: the model that is being tuned.
        adapter: which weights.
        max_chars: longer texts are cut; what a prompt is about stands at its beginning.
    """

    def __init__(self, model: Model, *, adapter: str = BASE, max_chars: int = 1200) -> None:
        self.model, self.adapter, self.max_chars = model, adapter, max_chars

    def embed(self, texts: Sequence[str]) -> Vectors:
        """``[texts, width]``, not centred; see :func:`centred`."""
        framed = [f'This sentence : "{text[: self.max_chars]}" means in one word:"' for text in texts]
        ids = self.model.tokenizer(framed, add_special_tokens=True)["input_ids"]
        return self.model.last_states(ids, adapter=self.adapter)


def behaviour(
    model: Model,
    prompts: Sequence[Prompt],
    rows: Sequence[Mapping[str, str]],
    labels: Sequence[str],
    *,
    adapter: str = BASE,
) -> Vectors:
    """What prompts make the model do: its mean hidden state at the answer position over fixed inputs.

    Texts that look alike can act differently, and the other way round.

    Args:
        model: the model that is being tuned.
        prompts: to be placed.
        rows: the same few inputs for all, of the train split.
        labels: the task's labels.
        adapter: which weights.

    Returns:
        ``[prompts, width]``.
    """
    vectors = []
    for prompt in prompts:
        rendered = model.renderer.render(prompt, rows, labels)
        vectors.append(model.last_states([row.prompt_ids for row in rendered], adapter=adapter).mean(axis=0))
    return np.stack(vectors)


def centred(vectors: Vectors, mean: Vectors | None = None) -> Vectors:
    """Unit vectors after taking off a mean: decoder states share a large common part that hides what differs."""
    moved = vectors - (vectors.mean(axis=0) if mean is None else mean)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    result: Vectors = moved / np.maximum(lengths, 1e-12)
    return result
