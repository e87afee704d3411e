"""Vectors for texts from a decoder-only model: how states are pooled, from which layer, under which frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cotune.errors import InputError
from cotune.model.adapters import BASE
from cotune.model.protocol import Model, Progress

Vectors = NDArray[np.float32]
Pooling = Literal["mean", "weighted_mean", "last", "prompt_eol", "echo"]

ONE_WORD_FRAMES = (
    'This sentence : "{text}" means in one word:"',
    'In one word, "{text}" is about:"',
    'The topic of the text "{text}" is best summed up as:"',
)
"""Frames after which the model is about to sum a text up; the first is that of PromptEOL."""
ECHO_FRAME = "Say it again: {text}\nAgain: {text}"
PLAIN_FRAME = "{text}"


@dataclass(frozen=True)
class EmbedSettings:
    """How a text becomes a vector.

    Attributes:
        pooling: ``prompt_eol`` reads the state at which the model would say the text in one word (arXiv 2307.16645); ``echo``
            says the text twice and averages over the second time, whose tokens have seen the whole text (arXiv 2402.15449);
            ``weighted_mean`` weights tokens by their place, since late ones have seen more (SGPT, arXiv 2202.08904);
            ``mean`` and ``last`` are what they say.
        layer: output of this many layers, negative ones counted from the last; None means all of them and the final norm.
        frames: how many frames are averaged; only ``prompt_eol`` has more than one.
        max_chars: longer texts are cut.
    """

    pooling: Pooling = "prompt_eol"
    layer: int | None = None
    frames: int = 1
    max_chars: int = 1200

    def __post_init__(self) -> None:
        most = len(self._all_frames)
        if not 1 <= self.frames <= most:
            raise InputError(
                f"pooling {self.pooling} has {most} frame{'s' if most > 1 else ''}",
                where="frames",
                mend=f"Give a number from 1 to {most}.",
            )

    @property
    def _all_frames(self) -> tuple[str, ...]:
        if self.pooling == "prompt_eol":
            return ONE_WORD_FRAMES
        return (ECHO_FRAME,) if self.pooling == "echo" else (PLAIN_FRAME,)

    @property
    def texts(self) -> tuple[str, ...]:
        """The frames in use, each with one or two ``{text}``."""
        return self._all_frames[: self.frames]


class TextEmbedder:
    """Embeds texts with a language model as its :class:`EmbedSettings` say; what a frame begins with runs once for all texts.

    Vectors are not centred: decoder states share a large common part, see :class:`cotune.embed.Standardizer`.

    Args:
        model: who reads.
        settings: how.
        adapter: which weights.
        progress: told the tokens that run.
    """

    def __init__(
        self,
        model: Model,
        settings: EmbedSettings | None = None,
        *,
        adapter: str = BASE,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.settings = model, settings or EmbedSettings()
        self.adapter, self.progress = adapter, progress

    def embed(self, texts: Sequence[str]) -> Vectors:
        """``[texts, width]``; with several frames the mean of each frame's unit vectors."""
        if not texts:
            raise InputError("there are no texts to embed", where="texts", mend="Give at least one.")
        found = [self._framed(frame, texts) for frame in self.settings.texts]
        if len(found) == 1:
            return found[0]
        mean: Vectors = np.mean([f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12) for f in found], axis=0)
        return mean

    def _framed(self, frame: str, texts: Sequence[str]) -> Vectors:
        head, tail = frame.rsplit("{text}", 1)
        sequences, weights = [], []
        for text in texts:
            cut = text[: self.settings.max_chars]
            start = len(head.replace("{text}", cut))
            whole = head.replace("{text}", cut) + cut + tail
            encoded = self.model.tokenizer(whole, add_special_tokens=True, return_offsets_mapping=True)
            sequences.append(encoded["input_ids"])
            weights.append(_weights(self.settings.pooling, encoded["offset_mapping"], start, start + len(cut)))
        return self.model.mean_states(
            sequences, weights, adapter=self.adapter, layer=self.settings.layer, progress=self.progress
        )


def _weights(pooling: Pooling, offsets: Sequence[tuple[int, int]], start: int, end: int) -> list[float]:
    """Weight of each token, which sum to 1; ``start`` and ``end`` are the text's characters."""
    count = len(offsets)
    inside = [i for i, (first, last) in enumerate(offsets) if last > start and first < end and last > first]
    if pooling == "prompt_eol" or not inside:
        inside, shares = [count - 1], [1.0]
    elif pooling == "last":
        inside, shares = [inside[-1]], [1.0]
    elif pooling == "weighted_mean":
        total = len(inside) * (len(inside) + 1) / 2
        shares = [(place + 1) / total for place in range(len(inside))]
    else:
        shares = [1 / len(inside)] * len(inside)
    weights = [0.0] * count
    for place, share in zip(inside, shares, strict=True):
        weights[place] = share
    return weights
