"""Model folders: validation, fingerprint, and fetching from the hub."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cotune.cache import cache_folder
from cotune.errors import CotuneError, InputError
from cotune.files import content_hash, decode_json, file_sha256, load_json, write_json

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
)
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("spiece.model",), ("vocab.json", "merges.txt"))
_CONFIGS = ("config.json", "generation_config.json")
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_QUANTISED = ("aqlm", "awq", "bitsandbytes", "compressed-tensors", "eetq", "gptq", "higgs", "hqq", "quanto", "torchao")
"""Formats of quantised weights that transformers reads with further packages."""
_COPY_AGAIN = "Copy or download the model again."


FROM_HUB = "hub"
"""Value of ``base`` that allows fetching a bundle's base model from the hub."""


class NotFetchedError(InputError):
    """A model is not on this machine, and the user did not allow fetching it."""


def check_model_folder(folder: Path) -> None:
    """Check, without loading it, that a folder contains a supported causal language model.

    Raises:
        InputError: the folder is missing or unreadable, the config is missing or damaged, weights are missing, truncated or
            only pickled, there is no tokenizer, or the model is not a causal language model.
    """
    where = str(folder)
    if not folder.is_dir():
        raise InputError("this is not a folder", where=where, hint="Give the folder that holds config.json.")
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise _unreadable("folder", error, folder) from error
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise InputError(
                "this folder holds an adapter, not a model", where=where, hint="Give the base model's folder or hub id."
            )
        raise InputError(
            "there is no config.json", where=where, hint="Give the folder that a model was saved to by transformers."
        )
    _check_config(_read_json(folder / "config.json"), where)
    if "tokenizer_config.json" in names:
        _check_tokenizer(_read_json(folder / "tokenizer_config.json"), where)
    _check_weights(folder, names)
    if not any(names.issuperset(option) for option in _TOKENIZERS):
        raise InputError(
            "there is no tokenizer (tokenizer.json)",
            where=where,
            hint="Save the tokenizer beside the model: tokenizer.save_pretrained(folder).",
        )


def model_fingerprint(folder: Path) -> str:
    """The sha256 of everything in a model folder that an answer depends on, 64 hex digits.

    Covers names and contents of the configs, the safetensors files and the tokenizer files. Hashing takes about a
    second per gigabyte; each file's hash is kept in the cache folder and used again while its size and its times
    of change stay the same.

    Raises:
        InputError: a file cannot be read.
    """
    folder = folder.resolve()
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.name in _TOKENIZER_FILES or path.name in _CONFIGS or path.name == _INDEX or path.suffix == ".safetensors"
    )
    memory = _fingerprint_memory(folder)
    remembered = _known_hashes(memory)
    hashes: dict[str, str] = {}
    rows: dict[str, list[Any]] = {}
    try:
        for path in paths:
            stat = path.stat()
            state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            row = remembered.get(path.name)
            hashes[path.name] = row[4] if row and row[:4] == state else file_sha256(path)
            rows[path.name] = [*state, hashes[path.name]]
    except OSError as error:
        raise _unreadable("file", error, path) from error
    if memory is not None and rows != remembered:
        # An unwritable cache only costs time.
        with contextlib.suppress(CotuneError, OSError):
            write_json(memory, rows)
    return content_hash(hashes, 64)


def fetch_from_hub(name: str, progress: Callable[[str], None] | None = None, *, fetch: bool = True) -> Path:
    """The local folder of a model on the Hugging Face hub, fetched into the hub's own cache if necessary.

    Only safetensors, JSON and tokenizer files of the top folder are fetched.

    Args:
        name: ``org/name``, or ``org/name@revision`` for a branch, tag or commit.
        progress: called with a message about downloads.
        fetch: whether the hub may be contacted; otherwise only its local cache is used.

    Raises:
        InputError: the model or revision does not exist, cannot be accessed, or is not cached and there is no network.
        NotFetchedError: it is not in the hub's cache, and ``fetch`` is False.
    """
    import huggingface_hub
    from huggingface_hub import errors

    repository, _, revision = name.partition("@")
    options: dict[str, Any] = {
        "revision": revision or None,
        "allow_patterns": [*_CONFIGS, *_TOKENIZER_FILES, _INDEX, "*.safetensors"],
        "ignore_patterns": ["*/*", "consolidated*"],
    }
    try:
        with quiet_bars():
            with contextlib.suppress(errors.LocalEntryNotFoundError, InputError):
                folder = Path(huggingface_hub.snapshot_download(repository, local_files_only=True, **options))
                check_model_folder(folder)
                return folder
            if not fetch:
                raise NotFetchedError(f"{name} is not on this machine, and fetching it needs your permission", where="model")
            if progress:
                progress(f"Fetching {name} from the hub.")
            return Path(huggingface_hub.snapshot_download(repository, **options))
    except network_errors() as error:
        raise hub_error(error, repository, revision) from error


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """Disable the progress bars of the hub's client until the block ends."""
    from huggingface_hub import utils

    bars: Any = utils
    quiet = bool(bars.are_progress_bars_disabled())
    bars.disable_progress_bars()
    try:
        yield
    finally:
        if not quiet:
            bars.enable_progress_bars()


def network_errors() -> tuple[type[BaseException], ...]:
    """Errors of the hub's client. Its transport library differs between releases, so the base class is looked up."""
    from huggingface_hub import errors

    return (errors.HFValidationError, OSError, *errors.HfHubHTTPError.__bases__, errors.HfHubHTTPError)


def hub_error(error: BaseException, repository: str, revision: str, where: str = "model") -> InputError:
    """The error for a repository that cannot be fetched; ``where`` names it in messages."""
    from huggingface_hub import errors

    what, hint = {
        errors.HFValidationError: (f"{repository!r} is not a hub id", "Hub ids look like org/name."),
        errors.GatedRepoError: (
            f"access to {repository} is restricted",
            "Accept its terms on the hub and set HF_TOKEN in the environment.",
        ),
        errors.RevisionNotFoundError: (f"{repository} has no revision {revision!r}", "Check the part after the @."),
        errors.RepositoryNotFoundError: (
            f"there is no model {repository} on the hub, or it is private",
            "Check the name; for a private one set HF_TOKEN in the environment.",
        ),
    }.get(
        type(error),
        (
            f"{repository} is not on this machine and cannot be fetched from the hub",
            f"Check the network and HF_HUB_OFFLINE, or run `hf download {repository}` elsewhere and give the folder.",
        ),
    )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        what, hint = f"there is no space left for {repository}", "Free some space, or set HF_HOME to another disk."
    if type(error) is errors.HfHubHTTPError and error.response.status_code == 401:
        what, hint = "the hub refused the token", "Set HF_TOKEN to a valid one, or unset it for a public repository."
    return InputError(what, where=where, hint=hint)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = load_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"the file cannot be read as JSON ({error})", where=str(path), hint="Save it again.") from error
    if not isinstance(value, dict):
        raise InputError("the file holds no JSON object", where=str(path), hint="Save the model again.")
    return value


def _check_config(config: dict[str, Any], where: str) -> None:
    hint = "Choose a causal language model, such as a Llama, Qwen or Gemma."
    kind = str(config.get("model_type") or "")
    listed = config.get("architectures")
    architectures = [str(name) for name in listed] if isinstance(listed, list) else []
    shown = architectures[0] if architectures else kind
    if config.get("is_encoder_decoder"):
        raise InputError(f"{shown} is an encoder-decoder model", where=where, hint=hint)
    quantisation = config.get("quantization_config")
    quantised = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    if quantised in _QUANTISED:
        raise InputError(
            f"the weights are quantised ({quantised}), which is not supported",
            where=where,
            hint="Choose the unquantised model.",
        )
    if kind == "llama" and architectures == ["LlamaForCausalLM"]:
        # Looking up other types imports transformers, which takes longer than an answer of a minimal model.
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    if not kind or kind not in KNOWN:
        if config.get("auto_map"):
            raise InputError(
                f"the model type {kind!r} runs code from its own folder, which cotune does not do",
                where=where,
                hint="Choose a model of a type that transformers knows.",
            )
        raise InputError(f"the model type {kind!r} is not a known causal language model", where=where, hint=hint)
    # Most types have one class, some several.
    named = [KNOWN[kind]] if isinstance(KNOWN[kind], str) else KNOWN[kind]
    endings = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    writers = [name for name in architectures if name.endswith(endings) or name in named]
    if architectures and not writers:
        raise InputError(
            f"{shown} has no language model head (it is an encoder, an embedder or a classifier)", where=where, hint=hint
        )


def _check_tokenizer(config: dict[str, Any], where: str) -> None:
    """Refuse a tokenizer whose class is defined in the folder and unknown to transformers."""
    named = config.get("auto_map")
    if not named or (isinstance(named, dict) and not named.get("AutoTokenizer")):
        return
    # This import takes seconds, but the case is rare.
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    kind = str(config.get("tokenizer_class") or "")
    if not kind or all(tokenizer_class_from_name(name) is None for name in (kind, f"{kind}Fast")):
        raise InputError(
            f"the tokenizer class {kind!r} runs code from its own folder, which cotune does not do",
            where=where,
            hint="Choose a model with a tokenizer that transformers knows.",
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checked model folder: those that its index names, or the single file."""
    names = _indexed(folder) if (folder / _INDEX).is_file() else ["model.safetensors"]
    return [folder / name for name in names]


def _indexed(folder: Path) -> list[str]:
    return sorted({str(name) for name in (_read_json(folder / _INDEX).get("weight_map") or {}).values()})


def _check_weights(folder: Path, names: set[str]) -> None:
    where = str(folder)
    files = sorted(name for name in names if name.endswith(".safetensors"))
    if _INDEX in names:
        wanted = _indexed(folder)
        lost = [name for name in wanted if name not in names]
        if lost:
            what = f"{len(lost)} of {len(wanted)} weight files are missing, the first is {lost[0]}"
            raise InputError(what, where=where, hint=_COPY_AGAIN)
    if not files:
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise InputError(
                f"the weights are only there as a pickle file ({pickles[0]}), which can run code when it is read",
                where=where,
                hint="Save them as safetensors: model.save_pretrained(folder).",
            )
        raise InputError("there are no weights (*.safetensors)", where=where, hint=_COPY_AGAIN)
    for name in files:
        _check_safetensors(folder / name)


def _check_safetensors(path: Path) -> None:
    """Compare a file's length with its header, to detect truncated downloads."""
    try:
        size = os.path.getsize(path)  # noqa: PTH202
        with path.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if start.startswith(b"version "):
                raise InputError(
                    "this is a Git LFS pointer, not the weights", where=str(path), hint="Run `git lfs pull` there."
                )
            if len(start) < 8 or length > min(size, 100_000_000):
                raise ValueError("bad header")
            header = decode_json(stream.read(length))
        end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        whole = 8 + length + end
    except OSError as error:
        raise _unreadable("file", error, path) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError("this is not a safetensors file", where=str(path), hint=_COPY_AGAIN) from error
    if whole != size:
        what = f"the file has {size} bytes, not the {whole} that its header says"
        raise InputError(what, where=str(path), hint=_COPY_AGAIN)


def _unreadable(what: str, error: OSError, path: Path) -> InputError:
    return InputError(f"the {what} cannot be read ({error.strerror or error})", where=str(path), hint="Check its permissions.")


def _fingerprint_memory(folder: Path) -> Path | None:
    try:
        return cache_folder("fingerprints") / f"{content_hash(str(folder), 24)}.json"
    except InputError:
        return None


def _known_hashes(memory: Path | None) -> dict[str, list[Any]]:
    if memory is not None:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            rows = load_json(memory)
            return {str(name): list(row) for name, row in rows.items() if len(row) == 5}
    return {}
