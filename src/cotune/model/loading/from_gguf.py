"""Conversion of the bundled model's GGUF file to safetensors and tokenizer files for transformers.

transformers can read a GGUF file itself, but takes half a minute at every start, and drops the rule by which
this model's tokenizer splits digits. The conversion here takes seconds, is done once, and depends on no
version of transformers: the same GGUF file gives the same bytes, so the model's fingerprint is the same everywhere.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.errors import CotuneError

if TYPE_CHECKING:
    import numpy as np

CONVERSION = 1
"""Version of the files that :func:`convert_gguf` writes; increase it on a change, so that older files are converted again."""

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_SPECIAL_TOKEN = 3


def convert_gguf(source: Path, folder: Path) -> None:
    """Write config, weights and tokenizer of a GGUF file into an empty folder.

    Weights are stored as float32: a scale of 11 bits times a weight of up to 8 fits neither half type exactly.

    Args:
        source: a GGUF file of the llama architecture with tied embeddings, a byte-level BPE tokenizer and the
            ``smollm`` splitting rule.
        folder: an existing folder, filled with ``config.json``, ``generation_config.json``,
            ``model.safetensors``, ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.

    Raises:
        CotuneError: the file is of another kind, or damaged.
        OSError: if the folder cannot be written to.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(str(source))
    except (ValueError, KeyError, IndexError) as error:
        raise CotuneError(f"{source.name} is not a readable GGUF file ({error}).") from error
    facts = {name: field.contents() for name, field in reader.fields.items()}
    expected = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.add_bos_token": False,
    }
    for name, value in expected.items():
        if facts.get(name) != value:
            raise CotuneError(f"{source.name} cannot be converted: {name} is {facts.get(name)!r}, not {value!r}.")

    _write(folder / "config.json", _config(facts))
    identifiers = {f"{name}_token_id": facts[f"tokenizer.ggml.{key}_token_id"] for name, key in _TOKEN_KEYS.items()}
    identifiers.pop("unk_token_id")
    _write(folder / "generation_config.json", identifiers)
    _write(folder / "tokenizer.json", _tokenizer(facts))
    _write(folder / "tokenizer_config.json", _tokenizer_config(facts))
    (folder / "chat_template.jinja").write_text(facts["tokenizer.chat_template"], encoding="utf-8")
    _write_weights(reader, facts, folder / "model.safetensors")


_TOKEN_KEYS = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "dtype": "float32",
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "head_dim": facts["llama.embedding_length"] // facts["llama.attention.head_count"],
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "initializer_range": 0.02,
        "intermediate_size": facts["llama.feed_forward_length"],
        "max_position_embeddings": facts["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        # GGUF stores this number as float32; its shortest decimal form is the intended value.
        "rms_norm_eps": float(str(np.float32(facts["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_parameters": {"rope_theta": float(facts["llama.rope.freq_base"]), "rope_type": "default"},
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": facts["llama.vocab_size"],
    }


def _tokenizer(facts: dict[str, Any]) -> dict[str, Any]:
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token, **flags}
            for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _SPECIAL_TOKEN
        ],
        "normalizer": None,
        # GGUF's "smollm" rule: single digits are split off, then GPT-2's word rule applies.
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in facts["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(facts: dict[str, Any]) -> dict[str, Any]:
    tokens = facts["tokenizer.ggml.tokens"]
    named = {f"{name}_token": tokens[facts[f"tokenizer.ggml.{key}_token_id"]] for name, key in _TOKEN_KEYS.items()}
    return {
        **named,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": facts["llama.context_length"],
        # Not the model's own class name: that class would replace the splitting rule by its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _write_weights(reader: Any, facts: dict[str, Any], path: Path) -> None:
    import gguf
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    heads = {"attn_q": facts["llama.attention.head_count"], "attn_k": facts["llama.attention.head_count_kv"]}
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in reader.tensors:
        values = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        name = _OUTER_NAMES.get(tensor.name)
        if name is None:
            match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
            if match is None or match[2] not in _LAYER_NAMES:
                raise CotuneError(f"the GGUF file contains an unknown tensor: {tensor.name}.")
            name = f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.weight"
            if match[2] in heads:
                values = _halves_from_pairs(values, heads[match[2]])
        weights[name] = np.ascontiguousarray(values)
    wanted = 2 + len(_LAYER_NAMES) * facts["llama.block_count"]
    if len(weights) != wanted:
        raise CotuneError(f"the GGUF file holds {len(weights)} tensors, not {wanted}.")
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # The writer wraps the system's error; the caller recognizes a full disk by its number.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _halves_from_pairs(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Reorder the rows of a query or key weight: GGUF rotates neighbouring rows of a head, transformers its halves."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
