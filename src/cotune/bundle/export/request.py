"""Requests to servers of other programs that give the same answers as the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cotune.bundle.predictor import Predictor
from cotune.bundle.snippets import Ids, code_block
from cotune.files import slug

SCHEMA, REQUEST, OLLAMA = "schema.json", "request.json", "ollama.json"

# Values that vLLM accepts for ``--max-lora-rank``.
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Asking:
    """Everything that a request to a bundle's model needs.

    Attributes:
        name: name of the model at a server. It contains the adapter's hash, since servers cache answers and adapters by name.
        marks: for each input field the text that stands for it in ``text`` and occurs nowhere else there: ``THE`` and its name
            in capitals, with a number where another field or the prompt itself has that.
        text: the prompt for a row whose fields contain their marks.
        chat: whether the text contains a chat template with its control tokens.
        tokens: most tokens of an answer, its stop token included.
        stop_ids: tokens that end an answer.
        lead: beginning of every answer: a space, or nothing.
        words: label words, the lead included; empty for generated answers.
        completions: token ids of each label, its stop token included; empty for generated answers.
        bias: bias of each label's log-probability by the decision rule; empty if there is none.
        schema: JSON Schema of answers; None if there is none.
        ids: how a text becomes token ids.
    """

    name: str
    marks: Mapping[str, str]
    text: str
    chat: bool
    tokens: int
    stop_ids: tuple[int, ...]
    lead: str
    words: tuple[str, ...]
    completions: tuple[tuple[int, ...], ...]
    bias: tuple[float, ...]
    schema: Mapping[str, Any] | None
    ids: Ids

    @classmethod
    def of(cls, predictor: Predictor) -> Asking:
        """Collect it from a loaded bundle."""
        renderer, writing = predictor.model.renderer, predictor.writing
        prompt, fields = predictor.prompt, predictor.input_fields
        lead, marks = renderer.lead(prompt, fields), _marks(predictor)
        (rendered,) = predictor.rendered([dict.fromkeys(fields, "a")])
        return cls(
            name=f"{slug(predictor.task)}-{predictor.adapter_id}",
            marks=marks,
            text=renderer.text(prompt, marks, predictor.labels),
            chat=renderer.chat,
            tokens=max(map(len, rendered.completions)) if writing is None else writing.limit,
            stop_ids=predictor.model.stop_ids,
            lead=lead,
            words=tuple(lead + word for word in prompt.words(predictor.labels)),
            completions=rendered.completions,
            bias=tuple(predictor.decision.bias),
            schema=None if writing is None else writing.output.schema,
            ids=Ids(not renderer.chat) if writing is not None else Ids.of(renderer, prompt, fields, predictor.labels),
        )

    @property
    def held(self) -> Mapping[str, Any] | None:
        """The schema, if a server can enforce it; schemas do not allow answers that begin with a space."""
        return None if self.lead else self.schema

    def shown(self) -> tuple[str, ...]:
        """The section of a README about the text that the model reads."""
        template = "; the chat template is already applied." if self.chat else "."
        return (
            "## What the model reads",
            f"Replace {', '.join(self.marks.values())} and keep every other character{template}",
            code_block("text", self.text),
        )

    @property
    def spelt_tokens(self) -> int:
        """Most tokens of a label if a server enforces the words, since a model may spell them in shorter tokens."""
        return 1 + max(len(word.encode()) for word in self.words)

    @property
    def label_bias(self) -> list[tuple[int, float]]:
        """The decision rule as a bias on the labels' first tokens; empty without one, or if two labels begin with one token."""
        first = [ids[0] for ids in self.completions]
        return [] if not self.bias or len(set(first)) < len(first) else list(zip(first, self.bias, strict=True))

    def vllm(self) -> dict[str, Any]:
        """Request body for ``/v1/completions`` of vLLM, with the names of its documentation."""
        body: dict[str, Any] = {
            "model": self.name,
            "prompt": self.text,
            "temperature": 0,
            # Otherwise the server uses the penalty from the model's generation_config.json.
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
        """Request body for ``/api/generate`` of Ollama, with the names of its documentation."""
        body: dict[str, Any] = {"model": self.name, "prompt": self.text, "raw": True, "stream": False}
        return body if self.held is None else body | {"format": dict(self.held)}


def vllm_rank(rank: int) -> int:
    """The smallest ``--max-lora-rank`` of vLLM for an adapter of a rank."""
    return next((each for each in _VLLM_RANKS if each >= rank), rank)


def _marks(predictor: Predictor) -> dict[str, str]:
    fields = predictor.input_fields
    bare = predictor.model.renderer.text(predictor.prompt, dict.fromkeys(fields, "a"), predictor.labels)
    marks: dict[str, str] = {}
    for name in fields:
        number, mark = 1, f"THE {name.upper()}"
        while mark in bare or mark in marks.values():
            number += 1
            mark = f"THE {name.upper()} {number}"
        marks[name] = mark
    return marks
