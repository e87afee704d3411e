"""uvicorn, told when it is ready and made to end in order."""

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

from cotune.web.crowd import ACCEPTED, most_connections
from cotune.web.patience import PatientProtocol

_LOG = logging.getLogger(__name__)
# Connections that wait in the system to be taken.
_BACKLOG = 512
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# How long no further word is said about them.
_SILENT_S = 60.0
# What had reached this machine when the end came is read within this time, before idle connections are closed.
_SETTLE_S = 0.1
# How long an answered client may take to read the rest of its answer once nothing else is left to do.
_LAST_READ_S = 5.0
# How long those that are given up may take to be told so.
_LAST_WORD_S = 1.0


def bounded_config(app: ASGIApp, *, most: int, log_level: str, drain_s: float | None = None) -> uvicorn.Config:
    """How uvicorn runs ``app``: HTTP alone, with bounds on what clients may take of time and connections.

    Args:
        app: the application.
        most: connections at once; fewer where the limit of open files is low.
        log_level: of uvicorn's messages.
        drain_s: seconds after which uvicorn cancels requests that have not ended by the end; None for no such bound.

    Raises:
        InputError: the limit of open files leaves no room for connections.
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
        backlog=ACCEPTED,
        limit_concurrency=most_connections(most),
        timeout_graceful_shutdown=drain_s,  # type: ignore[arg-type]
    )


class ReadyServer(uvicorn.Server):
    """Says when it is ready: signals are handled by then, so that whoever reads the address may end it at once."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready, self._silent_until = ready, 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._complain)
        await super().startup(sockets)
        for listening in sockets or ():
            # More may wait in the system than asyncio is to take in one go.
            listening.listen(_BACKLOG)
        self._ready()

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _NO_MORE:
            loop.default_exception_handler(context)
        elif loop.time() >= self._silent_until:
            # asyncio would write a traceback for each connection that waits, again each second.
            self._silent_until = loop.time() + _SILENT_S
            _LOG.warning("no connection can be taken for the moment: %s", error.strerror)


class GracefulServer(ReadyServer):
    """On SIGTERM or SIGINT it takes no new connection, answers everything that had arrived, and returns as from a call.

    uvicorn itself raises the signal again in the end, so that the process dies of it. Here a service manager that asks for
    the end gets exit code 0. A second Ctrl-C waits for nothing.

    Args:
        config: of uvicorn.
        ready: called when requests are answered.
        drain_s: seconds in which all is to be answered; None for as long as it takes.
        give_up: called when they are over, or waiting was cut short: has the rest answered at once.
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
        """Have all answered at once when the time is over, then end whoever does not read that."""
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
        """Give up those who never read their answers to the end."""
        while self.server_state.tasks:
            await asyncio.sleep(0.1)
        await asyncio.sleep(_LAST_READ_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
