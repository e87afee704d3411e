"""Files of an adapter's folder: PEFT's files, their content id, and validation."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.errors import InputError
from cotune.files import atomic_path, content_hash, load_json
from cotune.probe.readout import PROBE, probed_id

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

_NOT_PLAIN = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "target_parameters",
)
"""Options of peft that change the answers of a LoRA and are not supported here."""
_MOST_RANK, _MOST_ALPHA, _MOST_TARGETS, _MOST_LAYERS = 65_536, 10**6, 2_000, 10_000
"""Upper bounds on an adapter. Beyond them peft would use all memory, or compare names for hours, before it fails."""


BASE = "base"
"""The id of the model without an adapter."""


@dataclass(frozen=True)
class LoraSettings:
    """Shape of a LoRA adapter (arXiv 2106.09685).

    Attributes:
        rank: inner width of the update.
        alpha: the update is scaled by ``alpha / rank``.
        target: the linear layers to adapt, in peft's notation.
        layers: numbers of the adapted decoder layers, from 0 as in peft; empty for all.
    """

    rank: int = 16
    alpha: float = 32
    target: str = "all-linear"
    layers: tuple[int, ...] = ()


def adapter_content_id(folder: Path) -> str:
    """Hash of an adapter's weights, settings and probe, independent of the base model's path."""
    return with_probe_id(folder, bare_content_id(folder))


def with_probe_id(folder: Path, bare_id: str) -> str:
    """The same, given the id without the probe."""
    return probed_id(bare_id, (folder / PROBE).read_bytes()) if (folder / PROBE).is_file() else bare_id


def bare_content_id(folder: Path) -> str:
    """The id of an adapter without its probe; ``base`` for a probe on the untuned model."""
    if is_bare_probe(folder):
        return BASE
    read_settings(folder)
    config = load_json(folder / CONFIG)
    return content_id(config, (folder / WEIGHTS).read_bytes())


def is_bare_probe(folder: Path) -> bool:
    """Whether a folder contains a probe without an adapter, the read-out of an untuned model."""
    return (folder / PROBE).is_file() and not (folder / CONFIG).exists() and not (folder / WEIGHTS).exists()


def adapter_files(folder: Path, *, probe: bool = True) -> list[str]:
    """Names of the files that make up an adapter, its config first; without its probe where ``probe`` is False."""
    if is_bare_probe(folder):
        return [PROBE] if probe else []
    return [CONFIG, WEIGHTS, *([PROBE] if probe and (folder / PROBE).is_file() else [])]


def copy_adapter(folder: Path, target: Path, *, probe: bool = True) -> None:
    """Copy the :func:`adapter_files` of an adapter to another folder, which is created."""
    for name in adapter_files(folder, probe=probe):
        with atomic_path(target / name) as temporary:
            shutil.copyfile(folder / name, temporary)


def alpha_of(alpha: float | str) -> float:
    """LoRA's alpha from a config, as an int if it is whole, so that equal settings have equal hashes.

    Raises:
        ValueError: it is not a finite number.
    """
    found = float(alpha)
    if not math.isfinite(found):
        raise ValueError(f"lora_alpha is {found}")
    return int(found) if found.is_integer() else found


def read_settings(folder: Path) -> LoraSettings:
    """Shape of a saved adapter.

    Raises:
        InputError: files are missing or describe something other than a plain LoRA.
    """
    hint = "Give a folder that holds adapter_config.json and adapter_model.safetensors of a plain LoRA."
    try:
        config = load_json(folder / CONFIG)
        target = config["target_modules"]
        names = [target] if isinstance(target, str) else sorted(target)
        settings = LoraSettings(int(config["r"]), alpha_of(config["lora_alpha"]), ",".join(names), _layers_of(config))
        bounds = ((1, settings.rank, _MOST_RANK), (-_MOST_ALPHA, settings.alpha, _MOST_ALPHA), (1, len(names), _MOST_TARGETS))
        if not all(least <= value <= most for least, value, most in bounds) or max(map(len, names)) > 1_000:
            raise ValueError("r, lora_alpha or target_modules are out of range")
        plain = is_plain(config)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"not an adapter ({error})", where=str(folder / CONFIG), hint=hint) from error
    if not plain or not (folder / WEIGHTS).is_file():
        raise InputError("not a plain LoRA adapter in safetensors", where=str(folder), hint=hint)
    return settings


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether a config of peft is of LoRA in linear layers, without options that change the answers."""
    kind = config.get("peft_type")
    return getattr(kind, "value", kind) == "LORA" and not any(config.get(name) for name in _NOT_PLAIN)


def _layers_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The decoder layers in an adapter's config; empty if it applies to all.

    Raises:
        ValueError: they are not layer numbers.
    """
    found = config.get("layers_to_transform")
    numbers = [] if found is None else [found] if isinstance(found, int) else list(found)
    if config.get("layers_pattern") or not all(type(n) is int and 0 <= n < _MOST_LAYERS for n in numbers):
        raise ValueError("layers_to_transform or layers_pattern is not supported")
    return tuple(sorted(set(numbers)))


def content_id(config: Mapping[str, Any], weights: bytes) -> str:
    shape = {k: v for k, v in config.items() if k in ("r", "lora_alpha", "target_modules", "peft_type", "use_rslora")}
    # A missing key and null both mean all layers.
    if config.get("layers_to_transform") is not None:
        shape["layers_to_transform"] = config["layers_to_transform"]
    return content_hash({"config": shape, "weights": content_hash(weights, 64)})


def read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise InputError(f"the adapter's weights cannot be read ({error})", where=str(folder / WEIGHTS)) from error
