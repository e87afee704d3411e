"""A trained prefix: keys and values before a prompt's own tokens, in every layer of a frozen model (arXiv 2101.00190).

A prefix that was started from a prompt's text *replaces* the first tokens of that text: they no longer run, and later tokens
attend to the trained keys and values at the same positions. A prefix that was started from random words replaces no tokens and
comes before the whole prompt. For another prompt, a prefix replaces the tokens that both have in common at the beginning, and
the rest of the prompt runs as text. So every prompt can be scored, and trained further, under every prefix.

On disk it is a plain PEFT prefix-tuning folder with an additional ``prefix.json`` for the replaced tokens. PEFT must be given a
prompt's ids without these tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotune.errors import InputError
from cotune.files import atomic_path, content_hash, write_json
from cotune.model.engine.prefix_cache import PrefixState
from cotune.prompt.render import common_length

Ids = Sequence[int]

WEIGHTS, CONFIG, STANDS_FOR = "adapter_model.safetensors", "adapter_config.json", "prefix.json"

_NAME = "prompt_embeddings"
_HINT = "Give a folder that holds a PEFT prefix-tuning adapter without projection, in safetensors."
_SHAPE = ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")


@dataclass(frozen=True)
class TrainedPrefix:
    """Keys and values of every layer, and the tokens that they replace.

    Attributes:
        keys: ``[layers, tokens, key-value heads, head size]``, rotary positions applied.
        values: the same.
        ids: ids of the replaced tokens, as many as it has tokens; empty if it comes before the whole prompt.
    """

    keys: Tensor
    values: Tensor
    ids: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Number of its tokens."""
        return self.keys.shape[1]

    def covered(self, ids: Ids, most: int | None = None) -> int:
        """Number of leading tokens of ``ids`` that it replaces, at most ``most``."""
        found = common_length(self.ids, ids)
        return found if most is None else min(found, most)

    def state(self, covered: int, like: Tensor) -> PrefixState | None:
        """Keys and values for the rest of a prompt of which ``covered`` tokens are replaced; None if there are none.

        Args:
            covered: result of :meth:`covered`.
            like: tensor with the wanted device and dtype.
        """
        used = covered if self.ids else self.length
        if not used:
            return None
        keys, values = (part[:, :used].to(like) for part in (self.keys, self.values))
        return PrefixState(used, {layer: (keys[layer], values[layer]) for layer in range(keys.shape[0])})

    @classmethod
    def of_state(cls, state: PrefixState, ids: Ids = ()) -> TrainedPrefix:
        """Create a trainable prefix in fp32 from a prefix's current keys and values.

        Raises:
            InputError: if the model's layers differ in shape, which the file format does not support.
        """
        layers = [state.layers[layer] for layer in sorted(state.layers)]
        if sorted(state.layers) != list(range(len(layers))) or len({part.shape for pair in layers for part in pair}) != 1:
            raise InputError(
                "the model's layers have keys and values of different shapes",
                where="tune.method",
                hint="Use tune.method=lora with this model.",
            )
        keys, values = (torch.stack([pair[part].detach().float() for pair in layers]) for part in (0, 1))
        return cls(keys, values, tuple(ids))


def by_coverage(trained: TrainedPrefix | None, sequences: Sequence[Ids], most: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Group sequences by the number of their leading tokens that a prefix replaces: pairs of that number and the indices.

    An answer must not depend on other rows of the batch, so rows with different numbers run separately.

    Args:
        trained: the prefix, if any.
        sequences: token ids.
        most: maximum number of replaced tokens of each sequence.
    """
    groups: dict[int, list[int]] = {}
    for place, (ids, limit) in enumerate(zip(sequences, most, strict=True)):
        groups.setdefault(trained.covered(ids, limit) if trained else 0, []).append(place)
    return sorted(groups.items(), reverse=True)


def save_prefix(trained: TrainedPrefix, dtype: torch.dtype, parent: Path, base_model: str | None = None) -> str:
    """Write a prefix as a PEFT folder named by its content under ``parent``; returns the adapter's id.

    Args:
        trained: the prefix.
        dtype: dtype of the model's keys and values; the model reads no higher precision.
        parent: folder of the adapters.
        base_model: name of the base model, for PEFT.
    """
    from peft import PrefixTuningConfig, TaskType
    from safetensors.torch import save

    layers, tokens, heads, size = trained.keys.shape
    config = PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=tokens,
        num_layers=layers,
        num_attention_heads=heads,
        token_dim=heads * size,
        num_transformer_submodules=1,
        encoder_hidden_size=heads * size,
        base_model_name_or_path=base_model,
        inference_mode=True,
    ).to_dict()
    config = json.loads(json.dumps(config, default=str))
    both = torch.stack([trained.keys, trained.values], 1)
    flat = both.detach().permute(2, 0, 1, 3, 4).reshape(tokens, -1).to(dtype).cpu().contiguous()
    data = save({_NAME: flat}, metadata={"format": "pt"})
    about = {"ids": list(trained.ids)}
    adapter_id = _content_id(config, about, data)
    folder = parent / adapter_id
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(data)
    write_json(folder / STANDS_FOR, about)
    write_json(folder / CONFIG, config)
    return adapter_id


def load_prefix(folder: Path) -> TrainedPrefix:
    """Read a prefix that :func:`save_prefix` or PEFT wrote.

    Raises:
        InputError: if files are missing, damaged, or of another kind of adapter.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config, about = _read(folder)
    tokens, layers, heads, width = (config[name] for name in _SHAPE)
    try:
        flat = load_file(folder / WEIGHTS)[_NAME]
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"the prefix cannot be read ({error})", where=str(folder / WEIGHTS), hint=_HINT) from error
    if flat.shape != (tokens, layers * 2 * width) or width % heads or not bool(torch.isfinite(flat).all()):
        raise InputError("the prefix's numbers are not those of its config", where=str(folder / WEIGHTS), hint=_HINT)
    both = flat.reshape(tokens, layers, 2, heads, width // heads).permute(1, 2, 0, 3, 4)
    return TrainedPrefix(both[:, 0].contiguous(), both[:, 1].contiguous(), tuple(about["ids"]))


def prefix_content_id(folder: Path) -> str:
    """Hash of a prefix's numbers, its shape and the replaced tokens."""
    config, about = _read(folder)
    try:
        return _content_id(config, about, (folder / WEIGHTS).read_bytes())
    except OSError as error:
        raise InputError(f"the prefix cannot be read ({error})", where=str(folder / WEIGHTS), hint=_HINT) from error


def _content_id(config: Mapping[str, Any], about: Mapping[str, Any], weights: bytes) -> str:
    shape = {name: config[name] for name in (*_SHAPE, "peft_type")}
    return content_hash({"config": shape, "ids": about["ids"], "weights": content_hash(weights, 64)})


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        place = folder / STANDS_FOR
        about = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {"ids": []}
        plain = (
            config["peft_type"] == "PREFIX_TUNING"
            and not config.get("prefix_projection")
            and all(isinstance(config[name], int) and config[name] > 0 for name in _SHAPE)
            and all(isinstance(i, int) for i in about["ids"])
            and len(about["ids"]) in (0, config["num_virtual_tokens"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"not an adapter ({error})", where=str(folder / CONFIG), hint=_HINT) from error
    if not plain:
        raise InputError("not a plain prefix", where=str(folder / CONFIG), hint=_HINT)
    return config, about
