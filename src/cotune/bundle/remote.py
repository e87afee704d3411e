"""Models of bundles that are behind an endpoint, and the permissions that they need."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cotune.bundle.manifest import COPY_AGAIN, Manifest
from cotune.endpoint import Client, Endpoint
from cotune.endpoint.request_format import RequestFormat
from cotune.endpoint.server import is_loopback
from cotune.errors import InputError
from cotune.model.base import ENDPOINT
from cotune.model.structured.limits import json_schema

if TYPE_CHECKING:
    from cotune.model.remote.model import RemoteModel

_CONCURRENCY = 8


def check_allowed(
    base_url: str,
    named: str | None,
    endpoint: str | None,
    key_env: str | None,
    *,
    who: str,
    where: str,
    options: tuple[str, str] = ("endpoint", "key_env"),
) -> None:
    """Check that the user allows the server and the key variable that a folder names.

    Args:
        base_url: URL of the server that the folder names; a server on this machine needs no permission.
        named: environment variable with the key that the folder names.
        endpoint: URL that the user allows.
        key_env: environment variable that the user allows.
        who: name of the folder's content in errors, such as ``bundle``.
        where: the folder's file, for errors.
        options: names of the two options in Python; on the command line they have hyphens.

    Raises:
        InputError: the user allows another server or none, or names no key variable although the folder needs one.
    """
    flags = [f"--{option.replace('_', '-')}" for option in options]
    if not is_loopback(urlsplit(base_url).hostname or "") and (endpoint or "").rstrip("/") != base_url.rstrip("/"):
        added = f"{flags[0]} {shlex.quote(base_url)} (in Python, {options[0]}={base_url!r})"
        raise InputError(
            f"the {who} sends rows to {base_url}, which you have not allowed" + (f", unlike {endpoint}" if endpoint else ""),
            where=where,
            hint=f"If you trust that server with your rows, add {added}.",
        )
    if named is not None and key_env is None:
        added = f"{flags[1]} {shlex.quote(named)} (in Python, {options[1]}={named!r})"
        raise InputError(
            f"the {who} sends a key to {base_url}, which you have not allowed",
            where=where,
            hint=f"If you trust that server with the key, add {added}.",
        )


def endpoint_model(
    manifest: Manifest, saved: Mapping[str, Any], where: str, *, key_env: str | None, endpoint: str | None, patience: float
) -> RemoteModel:
    """The model of a bundle that is behind an endpoint.

    Args:
        saved: content of ``prompt.json``.
        where: path of that file, for errors.
        key_env: as for :func:`cotune.bundle.load`, like the two others.

    Raises:
        InputError: the bundle's endpoint is invalid, or the caller did not allow it or its key.
        EndpointError: the key is not set.
    """
    from cotune.model.remote.model import RemoteModel

    data = saved[ENDPOINT]
    try:
        base_url, named, timeout = str(data["base_url"]), data["key_env"], float(data["timeout"])
        way, url = RequestFormat.from_json(data["way"]), urlsplit(base_url)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc and 0 < timeout < 1e6
        usable = usable and base_url.isprintable() and (named is None or isinstance(named, str))
        if not usable or manifest.adapter_id != "base":
            raise ValueError("no usable endpoint")
        asked = Endpoint(base_url, str(data["model"]), key_env, timeout, "--key-env, or the bundle")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("the file names no valid endpoint and request format", where=where, hint=COPY_AGAIN) from error
    check_allowed(base_url, named, endpoint, key_env, who="bundle", where=where)
    schema = None if manifest.written is None else json_schema(manifest.written)
    model = RemoteModel(Client(asked, most=_CONCURRENCY, keep=True), way=way, schema=schema, patience=patience)
    if model.fingerprint != manifest.base_model.fingerprint:
        raise InputError("the endpoint is not the one in the manifest", where=where, hint=COPY_AGAIN)
    return model
