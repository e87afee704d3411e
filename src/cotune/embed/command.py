"""From a file of texts to a file of vectors, and an embedder by a model's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from cotune.cache import cache_folder
from cotune.embed.cached import CachedEmbedder
from cotune.embed.encoder import Encoder, named_encoder
from cotune.embed.standardize import Standard, Standardizer
from cotune.embed.text import EmbedSettings, Pooling, TextEmbedder
from cotune.embed.texts import TABLES, check_format, read_texts, texts_of_table, write_vectors
from cotune.errors import InputError
from cotune.files import check_place, read_standard_input, read_text
from cotune.model.loading.by_name import open_model
from cotune.model.local import LocalModel
from cotune.task.reading.read import read_table

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
                "an encoder embeds in its own way", where=model, hint="Leave pooling, layer and frames to language models."
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
    column: str | None,
    settings: Mapping[str, Any],
    standard: str | None = None,
    fit_on: Path | None = None,
) -> dict[str, Any]:
    """Embed the texts of a file; returns what was done, for a message.

    Everything that can be wrong with the arguments is found before the model is loaded.

    Args:
        source: one text a line, or JSON lines; ``-`` is standard input.
        out: where vectors go.
        model: as :func:`open_embedder` takes it.
        column: column of a table, or key of a JSON line, that holds the text; None takes ``text``, or a table's only column.
        settings: some of :class:`EmbedSettings`; what is None is left as it is by default.
        standard: what is taken off vectors; None chooses by how many texts there are.
        fit_on: a file of texts on which that is fitted; those of ``source`` where None.

    Raises:
        InputError: an argument, a text or the model is wrong.
    """
    known = (("--pooling", settings.get("pooling"), get_args(Pooling)), ("--standard", standard, get_args(Standard)))
    for name, value, names in known:
        if value is not None and value not in names:
            raise InputError(f"unknown value {value!r}", where=name, hint=f"Use {', '.join(names)}.")
    given = {name: value for name, value in settings.items() if value is not None}
    chosen = EmbedSettings(**given) if given else None
    check_format(out)
    check_place(out)
    texts = _texts_of(source, column)
    others = None if fit_on is None else _texts_of(fit_on, column)
    encodes = named_encoder(model) is not None
    kind = _standard(standard, others or texts, encodes and others is None, str(fit_on or source))
    embedder = open_embedder(model, chosen)
    vectors = embedder.embed(texts)
    found = embedder.found
    if kind != "none":
        vectors = Standardizer.fit(vectors if others is None else embedder.embed(others), kind).apply(vectors)
    write_vectors(out, texts, vectors)
    most = None if encodes else (chosen or EmbedSettings()).max_chars
    return {
        "out": str(out),
        "texts": len(texts),
        "width": int(vectors.shape[1]),
        "from_cache": found,
        "standard": kind,
        "max_chars": most,
        "cut": 0 if most is None else sum(len(text) > most for text in texts),
    }


def _texts_of(source: Path, column: str | None) -> list[str]:
    if source.suffix.lower() in TABLES:
        return texts_of_table(read_table(source), column)
    piped = str(source) == "-"
    content = read_standard_input() if piped else read_text(source, "the file")
    return read_texts(content, "standard input" if piped else str(source), column=column or "text")


def _standard(asked: str | None, texts: Sequence[str], as_they_are: bool, where: str) -> Standard:
    """What is taken off vectors, by the texts that it is fitted on."""
    different = len(set(texts))
    if asked is None:
        if as_they_are or different < 2:
            return "none"
        # Fewer texts than that do not tell in which directions texts vary.
        return "half_whiten" if different >= ENOUGH_TO_WHITEN else "centre"
    if asked != "none" and different < 2:
        raise InputError(
            "what all texts share can only be told from two different ones",
            where=where,
            hint="Use --standard none, or name more texts: --fit-on FILE.",
        )
    return cast(Standard, asked)


def _check_layer(model: LocalModel, layer: int | None) -> None:
    layers = int(model.model.config.get_text_config().num_hidden_layers)
    if layer is not None and not -layers <= layer <= layers:
        raise InputError(
            f"the model has {layers} layers, not {layer}", where="layer", hint=f"Give a number from {-layers} to {layers}."
        )
