"""Defaults of a run that starts from a bundle."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from cotune.endpoint.server import REMOTE
from cotune.errors import InputError


def fill_from_bundle(values: dict[str, Any]) -> None:
    """Fill in input and label columns, metric and model from the bundle in ``start`` if they are missing, in place.

    Only the manifest is read; the bundle is checked before it is used. A bundle on the hub is fetched, and ``start`` then names
    its folder.

    Raises:
        InputError: ``start`` is not a bundle, its model is behind an endpoint, or its base model would have to be fetched from
            the hub.
    """
    start, data = values.get("start"), values.get("data")
    if not isinstance(start, str) or not start.strip() or not isinstance(data, dict):
        return
    from cotune.bundle.hub.fetch import is_on_hub
    from cotune.bundle.load import base_of, resolve_bundle
    from cotune.bundle.manifest import read_manifest

    folder = resolve_bundle(start)
    if is_on_hub(start):
        values["start"] = str(folder)
    manifest = read_manifest(folder)
    name = manifest.base_model.name
    if name.startswith(REMOTE):
        raise InputError(
            f"the bundle's answers come from {name}, behind an endpoint, and there are no weights to start from",
            where=start,
            hint="Start a new run with its prompt as --prompt.",
        )
    if values.get("model") is None:
        _check_here(base_of(manifest), start)
    columns = {"input": list(manifest.input_fields), "output": manifest.output_field}
    for place, defaults in ((data, columns), (values, {"metric": manifest.named_metric, "model": base_of(manifest)})):
        for key, value in defaults.items():
            if place.get(key) is None:
                place[key] = value


def _check_here(model: str, start: str) -> None:
    """Refuse a base model that is not on this machine, since a bundle of unknown origin may name a model of any size."""
    from cotune.model.loading.bundled import BUNDLED_MODEL, resolve_model
    from cotune.model.loading.folder import NotFetchedError

    if model.lower() == BUNDLED_MODEL or Path(model).exists():
        return
    try:
        resolve_model(model, fetch=False)
    except NotFetchedError as error:
        raise InputError(
            f"the bundle's base model: {error.what}",
            where=start,
            hint=f"If you want it, add --model {shlex.quote(model)} (in Python, model={model!r}).",
        ) from error
    except InputError:
        # Loading the model reports other errors.
        return
