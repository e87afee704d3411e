"""uvicorn, told when it is ready and made to end in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

# What had reached this machine when the end came is read within this time, before idle connections are closed.
_SETTLE_S = 0.1
# How long an answered client may take to read the rest of its answer once nothing else is left to do.
_LAST_READ_S = 5.0


class ReadyServer(uvicorn.Server):
    """Says when it is ready: signals are handled by then, so that whoever reads the address may end it at once."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


class GracefulServer(ReadyServer):
    """On SIGTERM or SIGINT it takes no new connection, answers everything that had arrived, and returns as from a call.

    uvicorn itself raises the signal again in the end, so that the process dies of it. Here a service manager that asks for
    the end gets exit code 0.
    """

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
        sweep = asyncio.create_task(self._sweep())
        try:
            await super().shutdown(sockets)
        finally:
            sweep.cancel()

    async def _sweep(self) -> None:
        """Give up those who never read their answers to the end."""
        while self.server_state.tasks:
            await asyncio.sleep(0.1)
        await asyncio.sleep(_LAST_READ_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
