"""Opening an embedder by its model's name."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from cotune.embed.embedder import IdentifiedEmbedder
from cotune.embed.encoder import Encoder, encoder_fingerprint, named_encoder
from cotune.embed.text import EmbedSettings, TextEmbedder
from cotune.errors import InputError
from cotune.model.loading.bundled import resolve_model
from cotune.model.loading.by_name import open_model
from cotune.model.loading.folder import model_fingerprint


def named_embedder(
    model: str,
    settings: EmbedSettings | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
) -> IdentifiedEmbedder:
    """Open an embedder without a cache; otherwise like :func:`cotune.embed.command.open_embedder`.

    ``device``, ``dtype`` and ``threads`` apply to language models, see :func:`cotune.model.loading.by_name.open_model`.
    """
    if (encoder := named_encoder(model)) is not None:
        if settings is not None:
            raise InputError(
                "an encoder accepts no settings", where=model, hint="Use pooling and layer with language models only."
            )
        return Encoder(*encoder)
    opened = open_model(model, device=device, dtype=dtype, threads=threads, light=True)
    settings = settings or EmbedSettings()
    layer, layers = settings.layer, opened.depth
    if layer is not None and not -layers <= layer <= layers:
        raise InputError(
            f"the model has {layers} layers, not {layer}", where="layer", hint=f"Give a number from {-layers} to {layers}."
        )
    return TextEmbedder(opened, settings)


def model_content(model: str) -> str:
    """Content hash of a model's files, to compare the models of two machines. Does not load the model.

    Raises:
        InputError: it cannot be found.
    """
    if (encoder := named_encoder(model)) is not None:
        return f"{encoder[0]} {_version(encoder[0])} {encoder_fingerprint(encoder[1])}"
    return model_fingerprint(resolve_model(model))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        # Loading the model reports this error.
        return ""
