"""Run the server of bundles."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotune.bundle.collect import Collector
from cotune.bundle.load import load_several
from cotune.bundle.predictor import Predictor
from cotune.bundle.serve.app import make_app
from cotune.bundle.serve.batcher import MODEL_THREAD, Batcher
from cotune.bundle.serve.exchange import Limits
from cotune.bundle.serve.shelf import Shelf
from cotune.errors import InputError
from cotune.files import slug
from cotune.web import LOOPBACK, GracefulServer, bounded_config, listen

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
# Most concurrent connections; uvicorn answers further ones with 503.
_MOST_CONNECTIONS = 1024


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a server.

    Attributes:
        host: address to listen on; any other than 127.0.0.1 requires a token.
        port: port to listen on; 0 chooses a free one.
        token_env: name of the environment variable that holds the token.
        queue: most rows that may wait for the model; further ones are refused with 429.
        batch: most rows in a batch.
        body_bytes: most bytes of a body.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        dtype: ``auto``, ``float32``, ``bfloat16``, ``float16``; in half precision probabilities vary slightly with the batch.
        allowed_hosts: host names that requests may use: on 127.0.0.1 in addition to that and localhost, elsewhere these only,
            if any are given. With a port or for any port; ``*.example.org`` and ``*`` match several.
        unsure: error rate of ``/predict``, which leaves rows undecided to keep it; None answers every row.
        collect: folder for rows that are most worth a label; None to collect none.
        drain_s: seconds for answering remaining requests at shutdown; the rest gets 503.
    """

    host: str = LOOPBACK
    port: int = 8000
    token_env: str | None = None
    queue: int = 1024
    batch: int = 64
    body_bytes: int = 2**20
    device: str = "auto"
    dtype: str = "auto"
    drain_s: float = 25.0
    allowed_hosts: tuple[str, ...] = ()
    unsure: float | None = None
    collect: Path | None = None


def serve(
    bundles: Sequence[str | Path],
    settings: ServeSettings | None = None,
    *,
    base: str | Path | None = None,
    like: Sequence[Sequence[Mapping[str, str]]] = (),
    ready: Callable[[str, list[str]], None] = lambda address, ids: None,
) -> bool:
    """Serve bundles until SIGTERM or Ctrl-C, then answer remaining requests and return. Call it from the main thread.

    Args:
        bundles: folders of the bundles; those with the same base model share it in memory.
        settings: settings of the server.
        base: folder or name of the base model if it moved.
        like: training rows of each bundle if known, by which ``collect`` recognizes unusual rows.
        ready: called with the address and the bundles' ids once the server answers requests.

    Returns:
        Whether the model's thread has ended. After ``drain_s`` it may still be running its last batch, which only
        :func:`os._exit` can interrupt.

    Raises:
        InputError: if a bundle cannot be loaded, has no calibration for ``unsure``, or its model is behind an endpoint; if the
            port cannot be opened, or a required token is missing.
    """
    settings = settings or ServeSettings()
    token = _token(settings)
    _check_names(settings.allowed_hosts)
    with listen(settings.port, settings.host) as listening:
        predictors = load_several(bundles, device=settings.device, dtype=settings.dtype, base=base)
        with prepared(predictors, listening, settings, token=token, like=like, ready=ready) as server:
            server.run(sockets=[listening])
    return not any(thread.name == MODEL_THREAD for thread in threading.enumerate())


@contextlib.contextmanager
def prepared(
    predictors: Sequence[Predictor],
    listening: socket.socket,
    settings: ServeSettings,
    *,
    token: str | None = None,
    like: Sequence[Sequence[Mapping[str, str]]] = (),
    ready: Callable[[str, list[str]], None] = lambda address, ids: None,
) -> Iterator[GracefulServer]:
    """Create a server and start its model's thread, which ends with the block. Only that thread may use the predictors."""
    collectors = _collectors(predictors, settings, like)
    shelf = Shelf(predictors, settings.unsure, collectors)
    batcher = Batcher(most_waiting=settings.queue, most_together=settings.batch, start=shelf.warm_up)
    # The longest body that is allowed has room if no other is there.
    batcher.room.most = max(batcher.room.most, settings.body_bytes)
    try:
        batcher.ready()
        port = listening.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{host}:{port}"
        limits = Limits(body_bytes=settings.body_bytes)
        loopback = settings.host == LOOPBACK
        names = settings.allowed_hosts
        app = make_app(shelf, batcher, limits, address=address, port=port, loopback=loopback, names=names, token=token)
        # uvicorn logs tracebacks, which could contain requests.
        config = bounded_config(app, most=_MOST_CONNECTIONS, log_level="critical")

        def give_up() -> None:
            if count := batcher.give_up():
                # Print one line on standard error at shutdown.
                _LOG.warning("%d requests were not answered before shutdown", count)

        yield GracefulServer(config, lambda: ready(address, list(shelf.served)), drain_s=settings.drain_s, give_up=give_up)
    finally:
        batcher.close()
        for collector in collectors:
            collector.close()


def _collectors(
    predictors: Sequence[Predictor], settings: ServeSettings, like: Sequence[Sequence[Mapping[str, str]]]
) -> list[Collector]:
    """The collector of each bundle; several bundles get a subfolder each."""
    if settings.collect is None:
        return []
    several = len(predictors) > 1
    folders = [settings.collect / f"{slug(p.task)}-{p.bundle_id}" if several else settings.collect for p in predictors]
    known = like or [()] * len(predictors)
    return [
        Collector(folder, predictor, rows, settings.unsure)
        for folder, predictor, rows in zip(folders, predictors, known, strict=True)
    ]


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{name!r} is not a valid host name for requests",
                where="--allowed-hosts",
                hint="Give names as in a Host header: example.org, example.org:8000, 10.0.0.5, [::1] or *.example.org.",
            )


def _token(settings: ServeSettings) -> str | None:
    if settings.token_env is None:
        if settings.host != LOOPBACK:
            raise InputError(
                f"everyone who can reach {settings.host} could use the server, because there is no token",
                where="--host",
                hint="Put a token into an environment variable and give its name as --token-env, or serve on 127.0.0.1.",
            )
        return None
    token = os.environ.get(settings.token_env, "").strip()
    if not token or not token.isascii() or not token.isprintable():
        what = "contains characters that are not printable ASCII" if token else "is not set"
        raise InputError(
            f"the environment variable with the token {what}",
            where=f"--token-env {settings.token_env}",
            hint="Set it to a long random text, such as the output of: openssl rand -hex 32",
        )
    return token
