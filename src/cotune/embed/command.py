"""From a file of texts to a file of vectors, and an embedder by a model's name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from cotune.embed.cached import CachedEmbedder
from cotune.embed.encoder import Encoder, named_encoder
from cotune.embed.standardize import Standard, Standardizer
from cotune.embed.text import EmbedSettings, Pooling, TextEmbedder
from cotune.embed.texts import check_format, read_texts, write_vectors
from cotune.errors import InputError
from cotune.files import read_text
from cotune.model.cache import cache_folder
from cotune.model.local import LocalModel
from cotune.model.opening import open_model

ENOUGH_TO_WHITEN = 300


def open_embedder(model: str = "smollm2-135m", settings: EmbedSettings | None = None) -> CachedEmbedder:
    """An embedder by its name, with its vectors kept in the cache folder.

    Args:
        model: the bundled model, a folder or a hub id of a language model; or ``sentence-transformers:FOLDER`` or
            ``model2vec:FOLDER`` for an encoder, which has no settings.
        settings: how a language model embeds.

    Raises:
        InputError: the model cannot be had, has fewer layers than the settings ask for, or takes no settings.
    """
    if (encoder := named_encoder(model)) is not None:
        if settings is not None:
            raise InputError(
                "an encoder embeds in its own way", where=model, mend="Leave pooling, layer and frames to language models."
            )
        return CachedEmbedder(Encoder(*encoder), cache_folder() / "vectors.sqlite")
    opened = open_model(model, light=True)
    settings = settings or EmbedSettings()
    _check_layer(opened, settings.layer)
    return CachedEmbedder(TextEmbedder(opened, settings), cache_folder() / "vectors.sqlite")


def embed_file(
    source: Path,
    out: Path,
    *,
    model: str,
    column: str,
    pooling: str | None,
    layer: int | None,
    frames: int | None,
    standard: str | None,
) -> dict[str, Any]:
    """Embed the texts of a file; returns what was done, for a message.

    Everything that can be wrong with the arguments is found before the model is loaded.

    Raises:
        InputError: an argument, a text or the model is wrong.
    """
    for name, value, known in (("--pooling", pooling, get_args(Pooling)), ("--standard", standard, get_args(Standard))):
        if value is not None and value not in known:
            raise InputError(f"unknown value {value!r}", where=name, mend=f"Use {', '.join(known)}.")
    given = {"pooling": pooling, "layer": layer, "frames": frames}
    given = {name: value for name, value in given.items() if value is not None}
    settings = EmbedSettings(**given) if given else None  # type: ignore[arg-type]
    check_format(out)
    piped = str(source) == "-"
    content = sys.stdin.read() if piped else read_text(source, "the file")
    texts = read_texts(content, "standard input" if piped else str(source), column=column)
    if standard is None:
        # Fewer texts than that do not tell in which directions texts vary.
        standard = "half_whiten" if len(set(texts)) >= ENOUGH_TO_WHITEN else "centre"
    if standard.endswith("whiten") and len(texts) < 2:
        raise InputError("whitening needs at least two texts", where=str(source), mend="Use --standard centre or none.")
    embedder = open_embedder(model, settings)
    vectors = embedder.embed(texts)
    if standard != "none":
        vectors = Standardizer.fit(vectors, standard).apply(vectors)  # type: ignore[arg-type]
    write_vectors(out, texts, vectors)
    width = int(vectors.shape[1])
    return {"out": str(out), "texts": len(texts), "width": width, "from_cache": embedder.found}


def _check_layer(model: LocalModel, layer: int | None) -> None:
    layers = int(model.model.config.get_text_config().num_hidden_layers)
    if layer is not None and not -layers <= layer <= layers:
        raise InputError(
            f"the model has {layers} layers, not {layer}", where="layer", mend=f"Give a number from {-layers} to {layers}."
        )
