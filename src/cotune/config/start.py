"""What a run that goes on from a bundle need not be told again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cotune.endpoint.server import REMOTE
from cotune.errors import InputError


def fill_from_bundle(values: dict[str, Any]) -> None:
    """Input and label columns, metric and model of the bundle under ``start``, in place, where nothing else is said.

    Only the manifest is read; whether the bundle is what it says is checked before it is used.

    Raises:
        InputError: ``start`` names no bundle, or one whose model answers behind an endpoint.
    """
    start, data = values.get("start"), values.get("data")
    if not isinstance(start, str) or not start.strip() or not isinstance(data, dict):
        return
    from cotune.bundle.load import base_of
    from cotune.bundle.manifest import read_manifest

    manifest = read_manifest(Path(start))
    name = manifest.base_model.name
    if name.startswith(REMOTE):
        raise InputError(
            f"the bundle's answers come from {name}, behind an endpoint, and there are no weights to go on from",
            where=start,
            mend="Start afresh, with its prompt as --prompt.",
        )
    columns = {"input": list(manifest.input_fields), "output": manifest.output_field}
    for place, known in ((data, columns), (values, {"metric": manifest.named_metric, "model": base_of(manifest)})):
        for key, value in known.items():
            if place.get(key) is None:
                place[key] = value
