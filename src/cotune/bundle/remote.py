"""Bundles whose model answers behind an endpoint: a prompt, a decision rule, and whom to ask in which way; never a key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cotune.bundle.manifest import BaseModel, Manifest
from cotune.bundle.predictor import Predictor
from cotune.errors import InputError
from cotune.prompt.prompt import Prompt

if TYPE_CHECKING:
    from cotune.model.remote import RemoteModel

ENDPOINT = "endpoint"
LONGEST = 10_000_000
"""What such a bundle's manifest holds as the longest prompt: how long one may be, only the server knows."""

_CONCURRENCY = 8
_MEND = "Copy the bundle again from where it was made."


def remote_base(model: RemoteModel) -> BaseModel:
    """How the manifest names it."""
    return BaseModel(model.name, model.fingerprint)


def asking(prompt: Prompt, labels: Sequence[str], input_fields: Sequence[str], model: RemoteModel) -> dict[str, Any]:
    """Everything that decides how rows are asked: what ``prompt.json`` holds."""
    endpoint = model.endpoint
    data: dict[str, Any] = json.loads(
        json.dumps(
            {
                "prompt": prompt.to_json(),
                "labels": list(labels),
                "input_fields": list(input_fields),
                ENDPOINT: {
                    "base_url": endpoint.base_url,
                    "model": endpoint.model,
                    "key_env": endpoint.key_env,
                    "timeout": endpoint.timeout,
                    "way": model.way.to_json(),
                },
            }
        )
    )
    return data


def text_of(prompt: Prompt, fields: Mapping[str, str], labels: Sequence[str], model: RemoteModel) -> str:
    """What the model reads, for people."""
    messages = model.messages(prompt, [fields], labels)[0]
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def remote_predictor(
    manifest: Manifest,
    prompt: Prompt,
    saved: Mapping[str, Any],
    where: str,
    *,
    key_env: str | None,
    endpoint: str | None,
    patience: float,
) -> Predictor:
    """A predictor that asks the bundle's endpoint.

    Args:
        manifest: of the bundle.
        prompt: of the bundle.
        saved: what ``prompt.json`` holds.
        where: that file, for errors.
        key_env: environment variable with the key, as the caller allows it.
        endpoint: URL that rows may be sent to, as the caller allows it; one on this machine needs no leave.
        patience: seconds that one question may take, all tries and waits included.

    Raises:
        InputError: the bundle says nothing usable about the endpoint, or names one or a key that the caller did not allow.
        EndpointError: the key is not set.
    """
    from cotune.embed import Neighbours
    from cotune.endpoint import Client, Endpoint
    from cotune.endpoint.server import is_loopback
    from cotune.endpoint.way import Way
    from cotune.model.remote import RemoteModel
    from cotune.model.writing import Writing, json_schema

    data = saved[ENDPOINT]
    try:
        base_url, named, timeout = str(data["base_url"]), data["key_env"], float(data["timeout"])
        way, url = Way.from_json(data["way"]), urlsplit(base_url)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc and 0 < timeout < 1e6
        usable = (
            usable and base_url.isprintable() and (named is None or isinstance(named, str)) and manifest.adapter_id == "base"
        )
        asked = Endpoint(base_url, str(data["model"]), key_env, timeout, "--key-env, or the bundle")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("it does not say whom to ask, and how", where=where, mend=_MEND) from error
    if not usable:
        raise InputError("it does not say whom to ask, and how", where=where, mend=_MEND)
    if not is_loopback(url.hostname or "") and (endpoint or "").rstrip("/") != base_url.rstrip("/"):
        raise InputError(
            f"the bundle sends the rows to {base_url}, and it is for you to allow that"
            + (f", not {endpoint}" if endpoint else ""),
            where=where,
            mend=f"If you trust that server with them, add --endpoint {base_url} (in Python, endpoint={base_url!r}).",
        )
    if named is not None and key_env is None:
        raise InputError(
            f"the bundle asks {base_url} with a key, and it is for you to say which",
            where=where,
            mend=f"If you trust that server with it, add --key-env {named} (in Python, key_env={named!r}).",
        )
    written = manifest.written
    schema = json_schema(written) if written is not None else None
    model = RemoteModel(Client(asked, most=_CONCURRENCY, keep=True), way=way, schema=schema, patience=patience)
    if model.fingerprint != manifest.base_model.fingerprint:
        raise InputError("the endpoint is not the one that the manifest names", where=where, mend=_MEND)
    if prompt.nearest:
        model.chooser = Neighbours()
    return Predictor(
        model,
        prompt,
        manifest.labels,
        manifest.input_fields,
        decision=manifest.decision,
        bundle_id=manifest.id,
        task=manifest.task,
        writing=None if written is None else Writing(written, manifest.answer_tokens, None),
    )
