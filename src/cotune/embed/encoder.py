"""Encoders that were trained for embedding, from folders of sentence-transformers and model2vec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from cotune.embed.standardize import Vectors
from cotune.errors import InputError
from cotune.files import content_hash, expanded, file_sha256, known_json, load_json
from cotune.plain import fields

KINDS = ("sentence-transformers", "model2vec")
"""Valid prefixes of ``KIND:FOLDER``."""
_READ = (".json", ".safetensors", ".txt", ".model")


def named_encoder(model: str) -> tuple[str, Path] | None:
    """Kind and folder of a name such as ``model2vec:FOLDER``; None if it names a language model."""
    kind, colon, folder = model.partition(":")
    return (kind, expanded(folder)) if colon and kind in KINDS else None


class Encoder:
    """An encoder in a local folder. Weights are read from safetensors only, and no code from the folder runs.

    Args:
        kind: one of :data:`KINDS`; its package must be installed.
        folder: a model as the package saves it.

    Attributes:
        facts: none.

    Raises:
        InputError: the package is missing, the folder is not one of its models, or it contains pickled weights.
    """

    facts: Mapping[str, Any] = {}

    def __init__(self, kind: str, folder: Path) -> None:
        _check(kind, folder)
        self.kind, self.folder = kind, folder
        try:
            package: Any = import_module(kind.replace("-", "_"))
        except ImportError as error:
            raise InputError(
                f"its models need the package {kind}",
                where=str(folder),
                hint="Install it with: pip install 'cotune[embed]'.",
            ) from error
        try:
            if kind == "model2vec":
                self._model = package.StaticModel.from_pretrained(folder)
            else:
                self._model = package.SentenceTransformer(
                    str(folder), local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
                )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
            told = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{kind} cannot load the model ({told})", where=str(folder), hint="Save it again with the installed version."
            ) from error
        self._about = {"encoder": kind, "files": encoder_fingerprint(folder), "version": version(kind)}

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, ``[texts, width]``, unchanged."""
        if not texts:
            raise InputError("there are no texts to embed", where="texts", hint="Give at least one.")
        found: Vectors = np.asarray(self._model.encode(list(texts), show_progress_bar=False), dtype=np.float32)
        return found

    def identity(self, text: str) -> dict[str, Any]:
        """Everything that could change the vector of a text."""
        return {**self._about, "text": text}


def _check(kind: str, folder: Path) -> None:
    if kind not in KINDS:
        raise InputError(f"unknown kind of encoder {kind!r}", where=str(folder), hint=f"Use {' or '.join(KINDS)}.")
    if not folder.is_dir():
        raise InputError("this is not a folder", where=str(folder), hint=f"Give {kind}:FOLDER; models are not fetched.")
    for path in sorted(folder.rglob("*.bin")):
        if not (path.parent / "model.safetensors").is_file():
            raise InputError(
                "the weights are in a pickle file, which could run code", where=str(path), hint="Save the model as safetensors."
            )
    modules = folder / "modules.json"
    if kind == "sentence-transformers" and not modules.is_file():
        raise InputError("there is no modules.json", where=str(folder), hint=f"Give a folder that {kind} saved.")
    if kind == "model2vec" and not (folder / "model.safetensors").is_file():
        raise InputError("there is no model.safetensors", where=str(folder), hint=f"Give a folder that {kind} saved.")
    if modules.is_file():
        _check_modules(modules)
    for path in sorted(folder.rglob("*.json")):
        _check_parts(path)


def _check_modules(path: Path) -> None:
    """Check that every part is a class of the package itself: a name in a file must not decide which code is imported."""
    try:
        types = [str(module["type"]) for module in load_json(path)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError("the file does not list modules", where=str(path), hint="Save the model again.") from error
    _check_types(types, path)


def _check_parts(path: Path) -> None:
    """The same check for a part that contains others, such as a router, whose file names their classes under ``types``."""
    # The code that needs a file reports that it cannot be read.
    parts = fields(fields(known_json(path)).get("types"))
    _check_types([str(name) for name in parts.values()], path)


def _check_types(types: Sequence[str], path: Path) -> None:
    for name in types:
        if not name.startswith("sentence_transformers."):
            raise InputError(
                f"the module {name!r} is not part of the package",
                where=str(path),
                hint="Use a model that needs no other code.",
            )


def encoder_fingerprint(folder: Path) -> str:
    """Content hash of the encoder's files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in _READ)
    return content_hash({str(path.relative_to(folder)): file_sha256(path) for path in paths}, 64)
