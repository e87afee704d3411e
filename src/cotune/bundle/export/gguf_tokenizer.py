"""Tokenizers in llama.cpp's format: byte-level BPE with a named pre-tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotune.bundle.export.gguf_layout import CONVERT
from cotune.errors import InputError

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from cotune.prompt.render import Renderer

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_WORDS % r"\p{N}{1,3}": "llama-bpe", _WORDS % r"\p{N}": "qwen2"}


@dataclass(frozen=True)
class GgufTokenizer:
    """The parts of a tokenizer that a GGUF file contains.

    Attributes:
        splitting: llama.cpp's name of the pre-tokenizer.
        tokens: token of each id, spelled as in the vocabulary.
        control: ids of control tokens.
        added: ids of other tokens that were added to the vocabulary.
        merges: merges in order, each as two tokens with a space in between.
        special: special token ids by llama.cpp's names: ``bos``, ``eos``, ``eot``, ``unk``, ``pad``.
        adds_bos: whether a first token is added to texts.
    """

    splitting: str
    tokens: tuple[str, ...]
    control: frozenset[int]
    added: frozenset[int]
    merges: tuple[str, ...]
    special: dict[str, int]
    adds_bos: bool
    chat_template: str | None

    @classmethod
    def of(cls, renderer: Renderer) -> GgufTokenizer:
        """Read the tokenizer of a renderer.

        No first token is added to texts with a chat template, as exported prompts have, so that llama.cpp gives the same ids
        for a rendered text.

        Raises:
            InputError: if llama.cpp would give other ids.
        """
        tokenizer = renderer.tokenizer
        data = json.loads(tokenizer.backend_tokenizer.to_str())
        model = data["model"]
        splitting = _splitting(data)
        if splitting is None or bool(model.get("ignore_merges")) != (splitting == "llama-bpe"):
            raise InputError(
                "the model's tokenizer cannot be written as GGUF (only byte-level BPE that splits like GPT-2, SmolLM, Llama 3 "
                "or Qwen2 can)",
                where="--to gguf",
                hint=CONVERT,
            )
        by_id = {index: token for token, index in model["vocab"].items()}
        added = {entry["id"]: entry for entry in data["added_tokens"]}
        by_id |= {index: entry["content"] for index, entry in added.items()}
        special = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "unk", "pad")}
        special["eot"] = renderer.stop_id
        plain = tokenizer("a")["input_ids"]
        template = tokenizer.chat_template
        return cls(
            splitting,
            tuple(by_id.get(index, f"[PAD{index}]") for index in range(max(by_id) + 1)),
            frozenset(index for index, entry in added.items() if entry["special"]),
            frozenset(index for index, entry in added.items() if not entry["special"]),
            tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]),
            {name: int(index) for name, index in special.items() if index is not None},
            not renderer.chat and special["bos"] is not None and plain[:1] == [special["bos"]],
            template if isinstance(template, str) else (template or {}).get("default"),
        )

    def write(self, writer: GGUFWriter, size: int) -> None:
        """Write it for a model whose embedding has ``size`` rows; rows beyond the vocabulary become unused tokens."""
        from gguf import TokenType

        more = range(len(self.tokens), size)
        kinds = [
            TokenType.CONTROL if index in self.control else TokenType.USER_DEFINED if index in self.added else TokenType.NORMAL
            for index in range(len(self.tokens))
        ]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.splitting)
        writer.add_token_list([*self.tokens, *(f"[PAD{index}]" for index in more)])
        writer.add_token_types([*kinds, *(TokenType.UNUSED for _ in more)])
        writer.add_token_merges(self.merges)
        for name, index in self.special.items():
            getattr(writer, f"add_{name}_token_id")(index)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(False)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def _splitting(data: dict[str, Any]) -> str | None:
    """llama.cpp's name of the pre-tokenizer of a ``tokenizer.json``; None if it has none."""
    model, normalizer = data["model"], data["normalizer"]
    plain = (
        model["type"] == "BPE"
        and not model.get("byte_fallback")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
    )
    before = data["pre_tokenizer"] or {}
    steps = before.get("pretokenizers", [before] if before else [])
    if not plain or not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    *first, bytes_ = steps
    found = None
    if not first and bytes_.get("use_regex", True):
        found = "gpt-2"
    elif first == [{"type": "Digits", "individual_digits": True}] and bytes_.get("use_regex", True):
        found = "smollm"
    elif len(first) == 1 and first[0].get("type") == "Split" and not bytes_.get("use_regex", True):
        split = first[0]
        whole = split.get("behavior") == "Isolated" and not split.get("invert")
        found = _SPLITS.get((split.get("pattern") or {}).get("Regex", "")) if whole else None
    # Qwen2 also normalizes to NFC, which llama.cpp does not.
    return found if normalizer is None or (found == "qwen2" and normalizer == {"type": "NFC"}) else None
