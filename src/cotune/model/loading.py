"""Loads a model folder, and remembers what the first load of a model found out, so that later loads need not find it again.

While it loads a model, transformers prepares for the layouts of all checkpoints that it can convert, and then converts those of
this one. Where a first load has shown that the files hold the model's tensors as they are, bit for bit, later ones take them
from there. That, and whether the shared-prefix engine fits, hangs on the files' content, the number type, the device and the
versions alone; so that is what it is remembered by, in the cache folder.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotune import __version__
from cotune.errors import CotuneError, InputError
from cotune.files import content_hash, write_json
from cotune.model.cache import cache_folder
from cotune.model.engine_facts import ENGINE_VERSION
from cotune.model.engine_settings import EngineSettings, weight_bytes
from cotune.model.folder import model_fingerprint, weight_files

# A larger model takes so long to be read that what is saved would not be noticed.
_WORTH_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Known:
    """What the first load of a model found.

    Attributes:
        shared: whether the shared-prefix engine fits it.
        straight: whether its files hold its tensors as they are.
    """

    shared: bool
    straight: bool


@dataclass(frozen=True)
class Loaded:
    """A model folder, loaded.

    Attributes:
        model: the transformers model, in evaluation mode, frozen, on its device.
        tokenizer: its fast tokenizer.
        fingerprint: content hash of the model's files.
        straight: whether its files hold its tensors as they are.
        shared: whether the shared-prefix engine fits it; None where this is the first load and nobody knows.
    """

    model: Any
    tokenizer: Any
    fingerprint: str
    straight: bool
    shared: bool | None


def load_folder(folder: Path, settings: EngineSettings) -> Loaded:
    """Load a checked model folder.

    Raises:
        InputError: the files cannot be loaded.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    fingerprint = model_fingerprint(folder)
    known = _recall(fingerprint, settings)
    dtype: torch.dtype = getattr(torch, settings.dtype)
    tokenizer = load_tokenizer(folder)
    try:
        model = _straight(folder, dtype) if known is not None and known.straight else _converted(folder, dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _not_loaded(folder, error) from error
    straight = known.straight if known is not None else _is_straight(model, folder, dtype)
    shared = known.shared if known is not None else None
    return Loaded(model.to(settings.device).requires_grad_(False), tokenizer, fingerprint, straight, shared)


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a checked model folder.

    Raises:
        InputError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _not_loaded(folder, error) from error


def _not_loaded(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"the model cannot be loaded ({str(error).splitlines()[0]})",
        where=str(folder),
        mend="Check that the folder holds a complete causal language model in safetensors.",
    )


def remember(loaded: Loaded, settings: EngineSettings, *, shared: bool) -> None:
    """Keep what a first load found; a cache that cannot be written costs time, not the answer.

    Args:
        loaded: what :func:`load_folder` gave.
        settings: that it was loaded with.
        shared: whether the shared-prefix engine fits it.
    """
    with contextlib.suppress(CotuneError, OSError):
        write_json(_memory_of(loaded.fingerprint, settings), asdict(Known(shared, loaded.straight)))


def _recall(fingerprint: str, settings: EngineSettings) -> Known | None:
    with contextlib.suppress(CotuneError, OSError, ValueError, TypeError):
        found = Known(**json.loads(_memory_of(fingerprint, settings).read_text(encoding="utf-8")))
        if isinstance(found.shared, bool) and isinstance(found.straight, bool):
            return found
    return None


def _memory_of(fingerprint: str, settings: EngineSettings) -> Path:
    import transformers

    processor = torch.backends.cpu.get_cpu_capability()
    versions = [__version__, ENGINE_VERSION, torch.__version__, transformers.__version__]
    key = [fingerprint, settings.device, settings.dtype, processor, *versions]
    return cache_folder("loaded") / f"{content_hash(key, 40)}.json"


def _converted(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True).eval()


def _straight(folder: Path, dtype: torch.dtype) -> Any:
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        tensors |= {name: value.to(dtype) if value.is_floating_point() else value for name, value in load_file(path).items()}
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval()


def _is_straight(model: Any, folder: Path, dtype: torch.dtype) -> bool:
    """Whether a folder's files, as they are, give the very model that transformers made of them."""
    if weight_bytes(folder) > _WORTH_BYTES:
        return False
    try:
        other = _straight(folder, dtype)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError):
        return False
    tensors, others = dict(_tensors(model)), dict(_tensors(other))
    return (
        type(model) is type(other)
        and model.config.to_dict() == other.config.to_dict()
        and model.config.get_text_config()._attn_implementation == other.config.get_text_config()._attn_implementation
        and _written(model.generation_config) == _written(other.generation_config)
        and tensors.keys() == others.keys()
        and all(_same(value, others[name]) for name, value in tensors.items())
    )


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _written(config: Any) -> Any:
    return None if config is None else config.to_dict()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.to(other.device), other)
