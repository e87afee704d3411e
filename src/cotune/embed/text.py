"""Vectors of texts from a decoder-only language model: pooling, layer and frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from cotune.embed.embedder import MOST_CHARACTERS
from cotune.embed.standardize import Vectors, unit
from cotune.embed.static import StaticEmbedder
from cotune.errors import InputError
from cotune.model.adapters.slots import BASE
from cotune.model.base import Model, Progress, TokenVectors

Pooling = Literal["prompt_eol", "static"]

ONE_WORD_FRAME = (
    'This sentence : "A man plays the guitar on the street." means in one word:"Busking". '
    'This sentence : "{text}" means in one word:"'
)
"""Frame that makes the model summarise a text in the next token: PromptEOL after an example."""
WORDS_SHARE = 0.4
"""Length of the words' vector relative to the state. States differ by 0.4 of their length, words' vectors by all of it."""


@dataclass(frozen=True)
class EmbedSettings:
    """How a text becomes a vector. The defaults were best on STS-B, see docs/embedding.md.

    Attributes:
        pooling: ``prompt_eol`` reads the state at which the model would say the text in one word (arXiv 2307.16645);
            ``static`` runs no model, see :class:`cotune.embed.StaticEmbedder`.
        layer: output of this many layers; negative ones count from the last, so that -2 is the state before the last layer.
            None reads the last layer's output after the final norm.
        words: whether to append the static vector of the text's words, if the model's token vectors can be read.
        max_chars: longer texts are cut; use :func:`cotune.embed.whole_texts` to embed them whole.
    """

    pooling: Pooling = "prompt_eol"
    layer: int | None = -2
    words: bool = True
    max_chars: int = MOST_CHARACTERS

    def __post_init__(self) -> None:
        if self.pooling not in (known := get_args(Pooling)):
            raise InputError(f"unknown value {self.pooling!r}", where="pooling", hint=f"Use {', '.join(known)}.")


class TextEmbedder:
    """Embeds texts with a language model; the beginning of the frame runs once for all texts.

    Vectors are not centred, although decoder states share a large common part: see :class:`cotune.embed.Standardizer`.

    Args:
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
        """Vectors ``[texts, width]``, twice as wide with words."""
        if not texts:
            raise InputError("there are no texts to embed", where="texts", hint="Give at least one.")
        cut = [text[: self.settings.max_chars] for text in texts]
        if self.settings.pooling == "static":
            if self._words is None:
                raise InputError(
                    "the model's token vectors cannot be read", where="pooling", hint="Use the pooling prompt_eol."
                )
            return self._words.embed(cut)
        most = getattr(self.model, "longest_sequence", None)
        states = self.model.last_states(
            framed(self.model.tokenizer, cut, most), layer=self.settings.layer, progress=self.progress
        )
        return beside(states, self._words.embed(cut)) if self.settings.words and self._words is not None else states

    @cached_property
    def _words(self) -> StaticEmbedder | None:
        return StaticEmbedder(self.model) if isinstance(self.model, TokenVectors) else None

    @property
    def facts(self) -> Mapping[str, Any]:
        """See :class:`cotune.embed.embedder.IdentifiedEmbedder`."""
        return self.model.facts()

    def identity(self, text: str) -> dict[str, Any]:
        """Everything that could change the vector of a text: the bytes of model and adapter, the settings, device, dtype,
        threads, engine version, and the text in its frame."""
        about = {"model": self.model.fingerprint, "adapter": BASE, "settings": asdict(self.settings), **self.facts}
        return {"vector": text if self.settings.pooling == "static" else ONE_WORD_FRAME.replace("{text}", text), **about}


def beside(states: Vectors, words: Vectors) -> Vectors:
    """Append words' vectors of length :data:`WORDS_SHARE` to states of unit length."""
    return np.concatenate([unit(states), WORDS_SHARE * words], axis=1)


def framed(tokenizer: Any, texts: Sequence[str], most: int | None = None) -> list[list[int]]:
    """Token ids of each text in :data:`ONE_WORD_FRAME`, without the end token that some tokenizers append.

    Args:
        most: number of positions of the model; a text with more tokens loses its end.
    """

    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer(ONE_WORD_FRAME.replace("{text}", text), add_special_tokens=True)["input_ids"]
        ids = ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids
        # In some scripts a character has several tokens.
        return ids if most is None or len(ids) <= most or not text else ids_of(text[: int(0.9 * len(text) * most / len(ids))])

    return [ids_of(text) for text in texts]
