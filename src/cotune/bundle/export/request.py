"""What other programs' servers are sent, so that they answer as the bundle does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from cotune.bundle.manifest import Manifest
from cotune.bundle.predictor import Predictor
from cotune.files import slug

if TYPE_CHECKING:
    from cotune.model.local import LocalModel
    from cotune.prompt.prompt import Prompt
    from cotune.prompt.render import Renderer

SCHEMA, REQUEST, OLLAMA = "schema.json", "request.json", "ollama.json"

# vLLM sets memory aside for adapters of one of these ranks, and takes no other number.
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Asking:
    """How a bundle's model is asked.

    Attributes:
        name: what a server is told to call it. Servers keep answers and adapters by name, so the adapter's content is in it.
        text: what the model reads, for a row whose fields hold their own names.
        chat: whether a chat template, with its control tokens, is in the text.
        tokens: that an answer may have, its stop token included.
        stop_ids: tokens that end an answer.
        lead: what every answer begins with: a space, or nothing.
        words: what is said for each label, the lead included; none where answers are written.
        beyond: tokens of the text at its end that the model does not read before its answer: what a tokenizer merges with the
            answer's beginning, or an end token that it adds to every text.
        completions: the tokens that each label is said with, its stop token included; none where answers are written.
        bias: what the decision rule adds to each label's log-probability; empty where it adds nothing.
        schema: that a right answer fits; None where there is none.
        start: tokens that the texts of all rows begin with.
    """

    name: str
    text: str
    chat: bool
    tokens: int
    stop_ids: tuple[int, ...]
    lead: str
    words: tuple[str, ...]
    beyond: int
    completions: tuple[tuple[int, ...], ...]
    bias: tuple[float, ...]
    schema: Mapping[str, Any] | None
    start: int = 0

    @classmethod
    def of(cls, predictor: Predictor, manifest: Manifest) -> Asking:
        """What a bundle says of it."""
        model, prompt = cast("LocalModel", predictor.model), predictor.prompt
        lead = model.renderer.lead(prompt, manifest.input_fields)
        completions: tuple[tuple[int, ...], ...] = ()
        beyond = start = 0
        if manifest.written is None:
            row = dict.fromkeys(manifest.input_fields, "a")
            (rendered,) = model.renderer.render(prompt, [row], manifest.labels)
            completions, start = tuple(map(tuple, rendered.completions)), rendered.start
            beyond = beyond_of(model.renderer, prompt, manifest.input_fields, manifest.labels)
        return cls(
            name=f"{slug(manifest.task)}-{manifest.adapter_id}",
            text=example_text(predictor),
            chat=model.renderer.chat,
            tokens=manifest.answer_tokens or max(map(len, completions)),
            stop_ids=model.stop_ids,
            lead=lead,
            words=tuple(lead + word for word in prompt.words(manifest.labels)),
            beyond=beyond,
            completions=completions,
            bias=tuple(manifest.decision.bias),
            schema=None if manifest.written is None else manifest.written.schema,
            start=start,
        )

    @property
    def held(self) -> Mapping[str, Any] | None:
        """The schema where a server can hold answers to it. One that begins with a space is let through by no schema."""
        return None if self.lead else self.schema

    @property
    def spelt_tokens(self) -> int:
        """That a label may need where a server holds answers to the words: a model may spell them in shorter tokens."""
        return 1 + max(len(word.encode()) for word in self.words)

    @property
    def label_bias(self) -> list[tuple[int, float]]:
        """The decision rule as a bias on tokens: that of each label on the token it begins with.

        Empty where there is none, or where two labels begin with one token.
        """
        first = [ids[0] for ids in self.completions]
        return [] if not self.bias or len(set(first)) < len(first) else list(zip(first, self.bias, strict=True))

    def vllm(self) -> dict[str, Any]:
        """The body for ``/v1/completions`` of vLLM; the names are those of its documentation."""
        body: dict[str, Any] = {
            "model": self.name,
            "prompt": self.text,
            "temperature": 0,
            # Else the server takes the penalty that the model's generation_config.json may name.
            "repetition_penalty": 1,
            "max_tokens": self.spelt_tokens if self.words else self.tokens,
            "stop_token_ids": list(self.stop_ids),
            "add_special_tokens": not self.chat,
        }
        if self.words:
            body["structured_outputs"] = {"choice": list(self.words)}
            if self.label_bias:
                body["logit_bias"] = {str(token): bias for token, bias in self.label_bias}
        if self.held is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(self.held)}}
        return body

    def ollama(self) -> dict[str, Any]:
        """The body for ``/api/generate`` of Ollama; the names are those of its documentation."""
        body: dict[str, Any] = {"model": self.name, "prompt": self.text, "raw": True, "stream": False}
        return body if self.held is None else body | {"format": dict(self.held)}


def beyond_of(renderer: Renderer, prompt: Prompt, fields: Sequence[str], labels: Sequence[str]) -> int:
    """Tokens at a text's end that the model does not read before its answer; see :attr:`Asking.beyond`."""
    row = dict.fromkeys(fields, "a")
    (rendered,) = renderer.render(prompt, [row], labels)
    whole = renderer.tokenizer(renderer.text(prompt, row, labels), add_special_tokens=not renderer.chat)
    return len(whole["input_ids"]) - len(rendered.prompt_ids)


def vllm_rank(rank: int) -> int:
    """The smallest ``--max-lora-rank`` that vLLM takes for an adapter of a rank."""
    return next((each for each in _VLLM_RANKS if each >= rank), rank)


def example_text(predictor: Predictor) -> str:
    """What the model reads for a row whose fields hold their own names."""
    return predictor.model.renderer.text(
        predictor.prompt, {name: f"THE {name.upper()}" for name in predictor.input_fields}, predictor.labels
    )
