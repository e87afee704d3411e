"""A trained prefix: keys and values before a prompt's own tokens, in every layer of a frozen model (arXiv 2101.00190).

One that was started from a prompt's text *stands for* the first tokens of that text: they are not run any more, and what comes
after them attends to the trained keys and values in their place, at the same positions. One that was started from nothing
stands for no tokens and comes before the whole prompt. For a prompt that begins otherwise, a prefix stands for the tokens up
to the first that differs; behind them the prompt's own text runs. So every prompt can be scored under every prefix, and
training on goes on from just that state.

On disk it is a plain PEFT prefix-tuning folder, with ``prefix.json`` beside it for the tokens that it stands for. PEFT is to be
given a prompt's ids without these.
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
    """Keys and values of every layer, and the tokens that they stand for.

    Attributes:
        keys: ``[layers, tokens, key-value heads, head size]``, rotary positions applied.
        values: the same.
        ids: token ids that it stands for, as many as it has tokens; empty where it comes before the whole prompt.
    """

    keys: Tensor
    values: Tensor
    ids: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.keys.shape[1]

    def covered(self, ids: Ids, most: int | None = None) -> int:
        """How many leading tokens of ``ids`` it stands for, at most ``most``."""
        found = common_length(self.ids, ids)
        return found if most is None else min(found, most)

    def state(self, covered: int, like: Tensor) -> PrefixState | None:
        """What the rest of a prompt attends to when ``covered`` of its tokens are stood for; None where that is nothing.

        Args:
            covered: of :meth:`covered`.
            like: tensor whose device and number type are taken.
        """
        used = covered if self.ids else self.length
        if not used:
            return None
        keys, values = (part[:, :used].to(like) for part in (self.keys, self.values))
        return PrefixState(used, {layer: (keys[layer], values[layer]) for layer in range(keys.shape[0])})

    @classmethod
    def of_state(cls, state: PrefixState, ids: Ids = ()) -> TrainedPrefix:
        """A prefix, in fp32 and to be trained on, with the keys and values that a prefix has now.

        Raises:
            InputError: the model's layers differ in shape, which the file format does not know.
        """
        layers = [state.layers[layer] for layer in sorted(state.layers)]
        if sorted(state.layers) != list(range(len(layers))) or len({part.shape for pair in layers for part in pair}) != 1:
            raise InputError(
                "the model's layers do not all have keys and values of one shape",
                where="tune.method",
                hint="Use tune.method=lora with this model.",
            )
        keys, values = (torch.stack([pair[part].detach().float() for pair in layers]) for part in (0, 1))
        return cls(keys, values, tuple(ids))


def by_coverage(trained: TrainedPrefix | None, sequences: Sequence[Ids], most: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Sequences by how many of their leading tokens a prefix stands for: pairs of that number and places.

    What a row is answered must not depend on the rows beside it, so rows that a prefix fits less run apart.

    Args:
        trained: the prefix, if any.
        sequences: token ids.
        most: for each sequence, how many of its tokens may be stood for.
    """
    groups: dict[int, list[int]] = {}
    for place, (ids, limit) in enumerate(zip(sequences, most, strict=True)):
        groups.setdefault(trained.covered(ids, limit) if trained else 0, []).append(place)
    return sorted(groups.items(), reverse=True)


def save_prefix(trained: TrainedPrefix, dtype: torch.dtype, parent: Path, base_model: str | None = None) -> str:
    """Write a prefix as a PEFT folder named by its content under ``parent``; returns the adapter's id.

    Args:
        trained: the prefix.
        dtype: number type of the model's own keys and values. In it nothing is lost, since it is what the model reads.
        parent: where adapters lie.
        base_model: its name, for PEFT.
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
    """Read a prefix as :func:`save_prefix`, or PEFT itself, wrote it.

    Raises:
        InputError: files are missing, damaged, or of another kind of adapter.
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
    """Hash of a prefix's numbers, its shape and the tokens that it stands for."""
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
