"""Embedding the texts of a file in chunks on an executor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
from safetensors import SafetensorError

from cotune.embed.command import EmbedTask
from cotune.embed.embedder import IdentifiedEmbedder
from cotune.embed.encoder import named_encoder
from cotune.embed.named import model_content, named_embedder
from cotune.embed.standardize import Vectors
from cotune.embed.text import EmbedSettings
from cotune.errors import InputError
from cotune.executor import Done, Executor, Job, engine_of, run_all, unlike
from cotune.executor.tensors import packed, unpacked
from cotune.files import absolute, canonical_json, expanded

CHUNK = 256
"""Number of different texts per job."""


def embed_on(
    executor: Executor, task: EmbedTask, told: Callable[[Done], None] = lambda done: None
) -> tuple[dict[str, Any], str]:
    """Embed a file's texts on an executor and write their vectors.

    Equal texts run once. The cache of :func:`cotune.embed.command.open_embedder` is neither read nor written, so that vectors
    depend only on the texts.

    Args:
        task: the texts and the output file.
        told: called with each finished job, whose rows are different texts.

    Returns:
        Facts for a message, and the facts in which the workers' engines differ (empty if they agree).

    Raises:
        InputError: the model cannot be found, or a worker has a different model under this name.
    """
    content = model_content(task.model)
    engine = engine_of(executor)
    places = {"model": _anywhere(task.model)}
    settings = None if task.settings is None else asdict(task.settings)
    about = {"model": content, "settings": settings, "engine": engine}
    texts = task.different
    parts = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
    done = run_all(executor, (Job(embed_chunk, {**about, "texts": part}, places, len(part)) for part in parts), told)
    read = [_read(one) for one in done]
    vectors = np.concatenate([found for found, _ in read])
    row_of = {text: row for row, text in enumerate(texts)}

    def taken(these: Any) -> Vectors:
        found: Vectors = vectors[[row_of[text] for text in these]]
        return found

    result = task.write(taken(task.texts), lambda: taken(task.others or ()))
    return result, unlike([facts for _, facts in read])


def embed_chunk(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """Job that embeds some of the texts."""
    engine = given["engine"]
    settings = None if given["settings"] is None else canonical_json(given["settings"])
    embedder = _opened(places["model"], given["model"], settings, engine["device"], engine["dtype"], engine["threads"])
    return packed({"vectors": embedder.embed(given["texts"])}, {"engine": canonical_json(embedder.facts)})


@lru_cache(maxsize=1)
def _opened(model: str, content: str, settings: str | None, device: str, dtype: str, threads: int) -> IdentifiedEmbedder:
    if model_content(model) != content:
        raise InputError(
            "a worker has a different model under this name than the command",
            where=model,
            hint="Put the model into a folder that every node has under the same path, or fetch it again.",
        )
    chosen = None if settings is None else EmbedSettings(**json.loads(settings))
    return named_embedder(model, chosen, device=device, dtype=dtype, threads=threads)


def _anywhere(model: str) -> str:
    """A model's name that is valid in other processes: folders as absolute paths."""
    if (encoder := named_encoder(model)) is not None:
        return f"{encoder[0]}:{absolute(encoder[1])}"
    return absolute(model) if expanded(model).is_dir() else model


def _read(done: Done) -> tuple[Vectors, Mapping[str, Any]]:
    try:
        arrays, metadata = unpacked(done.read())
        return arrays["vectors"], json.loads(metadata["engine"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "the vectors in this file are damaged", where=done.where, hint="Remove it and run the same command again."
        ) from error
