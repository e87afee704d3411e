"""Names and row order of a model's tensors in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.errors import InputError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from torch import Tensor

CONVERT = "Export with --to merged, and convert that folder with llama.cpp's convert_hf_to_gguf.py."
"""Hint for models that are not supported here."""
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_EMBEDDING, _HEAD = "model.embed_tokens", "lm_head"


@dataclass(frozen=True)
class Layout:
    """Names and order of the tensors of one model in GGUF.

    Attributes:
        config: transformers config of the model.
        architecture: llama.cpp's name of the architecture.
        names: gguf's table of names for transformers' modules.
        rotated: number of heads of projections whose rows llama.cpp orders differently, by the module's last name.
    """

    config: Any
    architecture: str
    names: Any
    rotated: dict[str, int]

    @classmethod
    def of(cls, folder: Path) -> Layout:
        """The layout of a model's folder; an :class:`InputError` names a part that this writer does not support."""
        import gguf
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kind = str(config.model_type)
        known = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
        if kind not in known:
            raise _refused(f"models of the type {kind!r} cannot be written as GGUF (only {', '.join(known)} can)", folder)
        if odd := _odd(config):
            raise _refused(f"a model with {odd} cannot be written as GGUF", folder)
        # Of the supported ones, llama.cpp rotates neighbouring rows of a head for llama, and its two halves for the others.
        heads = {"q_proj": int(config.num_attention_heads), "k_proj": int(config.num_key_value_heads)}
        return cls(
            config,
            gguf.MODEL_ARCH_NAMES[known[kind]],
            gguf.get_tensor_name_map(known[kind], int(config.num_hidden_layers)),
            heads if kind == "llama" else {},
        )

    @property
    def head_dim(self) -> int:
        found = getattr(self.config, "head_dim", None)
        return int(found or self.config.hidden_size // self.config.num_attention_heads)

    def place(self, tensor: str) -> str:
        """GGUF name of a tensor, such as ``model.layers.0.self_attn.q_proj.weight``; an :class:`InputError` if it has none."""
        module, _, part = tensor.rpartition(".")
        found: str | None = self.names.get_name(module)
        if found is None:
            raise InputError(f"{tensor} has no name in a GGUF file", where="--to gguf", hint=CONVERT)
        return f"{found}.{part}"

    def adapted(self, tensor: str) -> str:
        """The same for a weight that an adapter changes; an :class:`InputError` if llama.cpp supports no LoRA there."""
        if _module(tensor) in (_EMBEDDING, _HEAD):
            raise InputError(
                f"an adapter of {tensor} cannot be written as GGUF", where="--to gguf", hint="Export with --to gguf-merged."
            )
        return self.place(tensor)

    def skipped(self, tensor: str) -> bool:
        """Whether a tensor is omitted, as a copy of the embedding or because it follows from the config."""
        return tensor.endswith(".inv_freq") or (bool(self.config.tie_word_embeddings) and _module(tensor) == _HEAD)

    def reordered(self, tensor: str, values: Tensor) -> Tensor:
        """Rows in llama.cpp's order: the two halves of a rotated head become neighbours, pair by pair.

        For a LoRA's second factor, ``tensor`` is the name of the adapted weight.
        """
        return self._swapped(tensor, values, lambda half: (2, half))

    def restored(self, tensor: str, values: Tensor) -> Tensor:
        """Inverse of :meth:`reordered`."""
        return self._swapped(tensor, values, lambda half: (half, 2))

    def _swapped(self, tensor: str, values: Tensor, split: Callable[[int], tuple[int, int]]) -> Tensor:
        heads = self.rotated.get(_module(tensor).rpartition(".")[2])
        if heads is None:
            return values
        rows, *rest = values.shape
        return values.reshape(heads, *split(rows // heads // 2), *rest).transpose(1, 2).reshape(rows, *rest)

    def describe(self, writer: GGUFWriter) -> None:
        config = self.config
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])

    def frequency_factors(self) -> Tensor | None:
        """Divisors of the rotary frequencies for Llama 3's extended context, else None."""
        rope = self.config.rope_parameters
        if rope["rope_type"] != "llama3":
            return None
        import torch
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](self.config, torch.device("cpu"))
        plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        factors: Tensor = plain / stretched
        return factors


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _odd(config: Any) -> str:
    """Parts of a config that are not supported, in words; empty if all are."""
    rope = dict(config.rope_parameters)
    kind = rope.pop("rope_type", "default")
    known = ("rope_theta", *(_LLAMA3 if kind == "llama3" else ()))
    if kind not in ("default", "llama3") or (more := [name for name in rope if name not in known]):
        return f"rotary embeddings of the type {kind!r}" + (f" and {', '.join(more)}" if kind in ("default", "llama3") else "")
    if config.hidden_act != "silu":
        return f"the activation {config.hidden_act!r}"
    if getattr(config, "quantization_config", None) is not None:
        return "quantised weights"
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return "a sliding window"
    return ""


def _refused(what: str, folder: Path) -> InputError:
    return InputError(what, where=str(folder), hint=CONVERT)
