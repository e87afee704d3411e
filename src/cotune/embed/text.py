"""Vectors of texts from a decoder-only language model: pooling, layer and frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cotune.embed.embedder import MOST_CHARACTERS
from cotune.embed.static import StaticEmbedder, unit
from cotune.errors import InputError
from cotune.model.adapters.slots import BASE
from cotune.model.base import Model, Progress, TokenVectors
from cotune.model.engine.facts import engine_facts
from cotune.model.local import LocalModel

Vectors = NDArray[np.float32]
Pooling = Literal["mean", "weighted_mean", "last", "prompt_eol", "echo", "static"]

ONE_WORD_FRAMES = (
    'This sentence : "A man plays the guitar on the street." means in one word:"Busking". '
    'This sentence : "{text}" means in one word:"',
    'This sentence : "{text}" means in one word:"',
    'In one word, "{text}" is about:"',
    'The topic of the text "{text}" is best summed up as:"',
)
"""Frames that make the model summarise a text in the next token: PromptEOL with an example, PromptEOL, and two others."""
ECHO_FRAME = "Say it again: {text}\nAgain: {text}"
PLAIN_FRAME = "{text}"
WORDS_SHARE = 0.4
"""Length of the words' vector relative to the state. States differ by 0.4 of their length, words' vectors by all of it."""


@dataclass(frozen=True)
class EmbedSettings:
    """How a text becomes a vector. The defaults were best on STS-B, see docs/embedding.md.

    Attributes:
        pooling: ``prompt_eol`` reads the state at which the model would say the text in one word (arXiv 2307.16645); ``echo``
            repeats the text and averages over the repetition, whose tokens have seen the whole text (arXiv 2402.15449);
            ``weighted_mean`` weights later tokens more, since they have seen more (SGPT, arXiv 2202.08904); ``mean`` and
            ``last`` average all tokens or take the last; ``static`` runs no model, see :class:`cotune.embed.StaticEmbedder`.
        layer: output of this many layers; negative ones count from the last, so that -2 is the state before the last layer.
            None reads the last layer's output after the final norm.
        frames: number of frames to average; only ``prompt_eol`` has more than one.
        words: whether to append the static vector of the text's words, if the model's token vectors can be read.
        max_chars: longer texts are cut; use :func:`cotune.embed.whole_texts` to embed them whole.
    """

    pooling: Pooling = "prompt_eol"
    layer: int | None = -2
    frames: int = 1
    words: bool = True
    max_chars: int = MOST_CHARACTERS

    def __post_init__(self) -> None:
        most = len(frames_of(self.pooling))
        if not 1 <= self.frames <= most:
            raise InputError(
                f"pooling {self.pooling} has {most} frame{'s' if most > 1 else ''}",
                where="frames",
                hint=f"Give a number from 1 to {most}.",
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """The frames in use, each with one or two ``{text}``."""
        return frames_of(self.pooling)[: self.frames]


def frames_of(pooling: Pooling) -> tuple[str, ...]:
    """All frames of a pooling, the best first."""
    if pooling == "prompt_eol":
        return ONE_WORD_FRAMES
    return (ECHO_FRAME,) if pooling == "echo" else (PLAIN_FRAME,)


class TextEmbedder:
    """Embeds texts with a language model; the common beginning of a frame runs once for all texts.

    Vectors are not centred, although decoder states share a large common part: see :class:`cotune.embed.Standardizer`.

    Args:
        model: the language model.
        settings: how it embeds.
        progress: called with the number of tokens that ran.
    """

    def __init__(
        self,
        model: Model,
        settings: EmbedSettings | None = None,
        *,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.settings = model, settings or EmbedSettings()
        self.progress = progress

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors ``[texts, width]``: the mean of the frames' unit vectors; twice as wide with words."""
        if not texts:
            raise InputError("there are no texts to embed", where="texts", hint="Give at least one.")
        cut = [text[: self.settings.max_chars] for text in texts]
        if self.settings.pooling == "static":
            if self._words is None:
                raise InputError("the model's token vectors cannot be read", where="pooling", hint="Use another pooling.")
            return self._words.embed(cut)
        found = [self._framed(frame, cut) for frame in self.settings.texts]
        states: Vectors = found[0] if len(found) == 1 else np.mean([unit(each) for each in found], axis=0)
        return beside(states, self._words.embed(cut)) if self.settings.words and self._words is not None else states

    @cached_property
    def _words(self) -> StaticEmbedder | None:
        return StaticEmbedder(self.model) if isinstance(self.model, TokenVectors) else None

    def identity(self, text: str) -> dict[str, Any]:
        """Everything that could change the vector of a text: the bytes of model and adapter, the settings, device, dtype,
        threads, engine version, and the text in its frames."""
        facts = engine_facts(self.model) if isinstance(self.model, LocalModel) else {}
        about = {"model": self.model.fingerprint, "adapter": BASE, "settings": asdict(self.settings), **facts}
        return {"vector": [frame.replace("{text}", text) for frame in self.settings.texts], **about}

    def _framed(self, frame: str, texts: Sequence[str]) -> Vectors:
        sequences, weights = framed(self.model.tokenizer, texts, frame, self.settings.pooling)
        return self.model.mean_states(sequences, weights, layer=self.settings.layer, progress=self.progress)


def beside(states: Vectors, words: Vectors) -> Vectors:
    """Append words' vectors of length :data:`WORDS_SHARE` to states of unit length."""
    return np.concatenate([unit(states), WORDS_SHARE * words], axis=1)


def framed(tokenizer: Any, texts: Sequence[str], frame: str, pooling: Pooling) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids of each text in a frame, and the pooling weight of each token."""
    head, tail = frame.rsplit("{text}", 1)
    sequences, weights = [], []
    for text in texts:
        start = len(head.replace("{text}", text))
        whole = head.replace("{text}", text) + text + tail
        encoded = tokenizer(whole, add_special_tokens=True, return_offsets_mapping=True)
        sequences.append(encoded["input_ids"])
        weights.append(_weights(pooling, encoded["offset_mapping"], start, start + len(text)))
    return sequences, weights


def _weights(pooling: Pooling, offsets: Sequence[tuple[int, int]], start: int, end: int) -> list[float]:
    """Weight of each token, summing to 1; ``start`` and ``end`` are character positions of the text."""
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
