"""uvicorn with a callback when it is ready and a graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from cotune.errors import InputError
from cotune.web.patience import BEYOND, PatientProtocol

_LOG = logging.getLogger(__name__)
# Connections accepted at once: asyncio accepts as many as the backlog that it is given before it does anything else.
_ACCEPTED = 32
# Files that are open besides the connections, such as accepted ones that are about to be closed.
_SPARE = BEYOND + 3 * _ACCEPTED + 16
_FEWEST = 16
# Connections that may wait in the operating system to be accepted.
_BACKLOG = 512
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# Seconds between two warnings about these errors.
_SILENT_S = 60.0
# Seconds for reading data that had arrived before the shutdown, before idle connections are closed.
_SETTLE_S = 0.1
# Seconds that a client may take to read the rest of its answer once all requests are answered.
_LAST_READ_S = 5.0
# Seconds for sending the final answer to requests that are cancelled.
_LAST_WORD_S = 1.0


def bounded_config(app: ASGIApp, *, most: int, log_level: str, drain_s: float | None = None) -> uvicorn.Config:
    """The configuration of uvicorn for ``app``: HTTP alone, with limits on slow clients and on connections.

    There are at most ``most`` concurrent connections, or fewer if the limit on open files is low. At shutdown, uvicorn cancels
    unfinished requests after ``drain_s`` seconds; None for no limit.

    Raises:
        InputError: if the limit on open files leaves no room for connections.
    """
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_level=log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_ACCEPTED,
        limit_concurrency=most_connections(most),
        timeout_graceful_shutdown=drain_s,  # type: ignore[arg-type]
    )


def most_connections(most: int) -> int:
    """The limit on connections: ``most``, or fewer if the limit on open files requires it.

    Raises:
        InputError: if the limit on open files leaves room for hardly any connection.
    """
    try:
        import resource
    except ImportError:
        # Windows has no such limit.
        return most
    import psutil

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return most
    room = soft - int(psutil.Process().num_fds()) - _SPARE
    if room < _FEWEST:
        raise InputError(
            f"this process may have {soft} files open, which leaves no room for connections",
            where="ulimit -n",
            hint=f"Allow more, for example: ulimit -n {soft - room + most}",
        )
    return min(most, room)


class ReadyServer(uvicorn.Server):
    """Calls ``ready`` once requests are answered and signals are handled, so that it may be stopped from then on."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready, self._silent_until = ready, 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._complain)
        await super().startup(sockets)
        for listening in sockets or ():
            # The operating system may queue more connections than asyncio should accept at once.
            listening.listen(_BACKLOG)
        self._ready()

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _NO_MORE:
            loop.default_exception_handler(context)
        elif loop.time() >= self._silent_until:
            # asyncio would log a traceback for each waiting connection, every second.
            self._silent_until = loop.time() + _SILENT_S
            _LOG.warning("no connection can be accepted at the moment: %s", error.strerror)


class GracefulServer(ReadyServer):
    """On SIGTERM or SIGINT, accepts no new connection, answers all requests that had arrived, and returns normally.

    uvicorn itself raises the signal again at the end, which kills the process; this server lets it exit with code 0, as service
    managers expect. A second Ctrl-C stops it at once.

    Args:
        drain_s: seconds for answering the remaining requests; None for no limit.
        give_up: called when these have passed or at a second Ctrl-C; must make the remaining requests end at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        *,
        drain_s: float | None = None,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config, ready)
        self._drain_s, self._give_up = drain_s, give_up

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {which: signal.signal(which, self.handle_exit) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(_SETTLE_S)
        watching = [asyncio.create_task(self._sweep()), asyncio.create_task(self._deadline())]
        try:
            await super().shutdown(sockets)
        finally:
            for task in watching:
                task.cancel()
            if self.force_exit:
                self._give_up()

    async def _deadline(self) -> None:
        """End the remaining requests after ``drain_s``, then abort connections whose client does not read."""
        if self._drain_s is None:
            return
        await asyncio.sleep(self._drain_s)
        self._give_up()
        until = asyncio.get_running_loop().time() + _LAST_WORD_S
        while self.server_state.tasks and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.05)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self.force_exit = True

    async def _sweep(self) -> None:
        """Abort connections whose client does not read its answer."""
        while self.server_state.tasks:
            await asyncio.sleep(0.1)
        await asyncio.sleep(_LAST_READ_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
