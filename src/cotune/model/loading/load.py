"""Loading a model folder, and caching the results of checks on its first load.

If the first load has shown that the minimal model and tokenizer give the same results as transformers, they are used without
training. This result, and whether the shared-prefix engine supports the model, depends only on the files' content, the number
type, the device and the versions, which are the key in the cache folder.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotune.cache import cache_folder
from cotune.errors import CotuneError, InputError, shown_names
from cotune.files import content_hash, load_json, write_json
from cotune.model.engine.settings import ENGINE_VERSION, EngineSettings, weight_bytes
from cotune.model.loading.folder import model_fingerprint, weight_files
from cotune.model.loading.minimal_check import is_light
from cotune.model.loading.minimal_llama import light_llama
from cotune.model.loading.minimal_tokenizer import LightTokenizer
from cotune.version import __version__

_LOADING = (OSError, ValueError, KeyError, RuntimeError)
"""Errors of a folder whose files are missing or damaged."""
_RARE = "a é 的 \U0010ffff"
"""A text with characters that have no token in some vocabularies."""
# For larger models the saving is small compared to reading the weights.
_WORTH_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Known:
    """Results of a model's first load.

    Attributes:
        shared: whether the shared-prefix engine supports it.
        light: whether the minimal model and tokenizer give the same results.
    """

    shared: bool
    light: bool


@dataclass(frozen=True)
class Loaded:
    """A model folder, loaded.

    Attributes:
        model: the model, in evaluation mode, frozen, on its device.
        tokenizer: its fast tokenizer.
        known: cached results of the first load; None if this is the first load.
    """

    model: Any
    tokenizer: Any
    fingerprint: str
    known: Known | None


def load_folder(folder: Path, settings: EngineSettings, *, light: bool = False) -> Loaded:
    """Load a checked model folder.

    ``light`` allows the minimal model and tokenizer, if they are known to be equivalent.

    Raises:
        InputError: the files cannot be loaded.
    """
    fingerprint = model_fingerprint(folder)
    known = _recall(fingerprint, settings)
    dtype: torch.dtype = getattr(torch, settings.dtype)
    try:
        if light and known is not None and known.light:
            tokenizer: Any = LightTokenizer(folder)
            model: Any = light_llama(folder, _tensors_in(folder, dtype))
        else:
            tokenizer, model = _whole(folder, dtype)
            if known is None:
                _check_tokens(tokenizer, model.get_input_embeddings().weight.shape[0])
    # Checkpoints in some formats need further packages. A damaged config may fail in any way inside transformers.
    except (*_LOADING, ImportError, TypeError, AttributeError, ArithmeticError, _config_error()) as error:
        raise _not_loaded(folder, error) from error
    return Loaded(model.to(settings.device).requires_grad_(False), tokenizer, fingerprint, known)


def _config_error() -> type[Exception]:
    """The error of a config with a value of the wrong type; imported where something has failed."""
    from huggingface_hub.errors import StrictDataclassError

    return StrictDataclassError


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a checked model folder.

    Raises:
        InputError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (*_LOADING, TypeError, AttributeError) as error:
        raise _not_loaded(folder, error) from error


def _not_loaded(folder: Path, error: Exception) -> InputError:
    return InputError(
        f"the model cannot be loaded ({(str(error).splitlines() or [type(error).__name__])[0]})",
        where=str(folder),
        hint="Check that the folder holds a complete causal language model in safetensors.",
    )


def remember(loaded: Loaded, folder: Path, settings: EngineSettings, *, shared: bool) -> None:
    """Store the results of a first load; if the cache cannot be written, the checks are repeated next time.

    Call it after the layers were replaced by faster ones. ``shared`` says whether the shared-prefix engine supports the model.
    """
    small = shared and weight_bytes(folder) <= _WORTH_BYTES
    tensors = _tensors_in(folder, getattr(torch, settings.dtype)) if small else {}
    light = small and is_light(loaded.model, loaded.tokenizer, folder, tensors)
    with contextlib.suppress(CotuneError, OSError):
        write_json(_memory_of(loaded.fingerprint, settings), asdict(Known(shared, light)))


def _recall(fingerprint: str, settings: EngineSettings) -> Known | None:
    with contextlib.suppress(CotuneError, OSError, ValueError, TypeError):
        known = Known(**load_json(_memory_of(fingerprint, settings)))
        if all(isinstance(value, bool) for value in asdict(known).values()):
            return known
    return None


def _memory_of(fingerprint: str, settings: EngineSettings) -> Path:
    processor = torch.backends.cpu.get_cpu_capability()
    versions = [__version__, ENGINE_VERSION, *map(version, ("torch", "transformers", "tokenizers"))]
    key = [fingerprint, settings.device, settings.dtype, processor, *versions]
    return cache_folder("loaded") / f"{content_hash(key, 40)}.json"


def quiet_transformers() -> None:
    """Disable progress bars and warnings of transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _whole(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    model, found = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    if missing := sorted(found["missing_keys"]):
        # transformers draws them at random, each time anew, and only logs a warning.
        raise ValueError(f"its weights lack {shown_names(missing, 3)}")
    return load_tokenizer(folder), model.eval()


def _check_tokens(tokenizer: Any, known: int) -> None:
    """Check that the chat template works, and that the model has an embedding for all that rows are made of.

    Tokens that were added for another purpose, such as Gemma's for images, may have none.
    """
    from jinja2 import TemplateError

    text = _RARE
    if tokenizer.chat_template:
        try:
            asked = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ValueError(f"its chat template fails: {error or type(error).__name__}") from error
    added = tokenizer.added_tokens_decoder
    ordinary = [number for number in tokenizer.get_vocab().values() if number not in added]
    used = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    if (highest := max(*ordinary, *used)) >= known:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise ValueError(f"its tokenizer has a token {token!r} with the number {highest:,}, and the model {known:,} embeddings")


def _tensors_in(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        tensors |= {name: value.to(dtype) if value.is_floating_point() else value for name, value in load_file(path).items()}
    return tensors
