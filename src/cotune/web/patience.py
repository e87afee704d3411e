"""How long a client may take, and how much of the server's time: uvicorn alone waits for ever, and reads all that has come.

A body may come in chunks of one byte each. What a socket gives in one go then holds thousands, which take as long as a hundred
small requests; so it is read in slices, and whoever else has something to do comes between.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_SLICE = 4096


class PatientProtocol(H11Protocol):
    """Closes a connection whose next request does not begin in time, or whose client does not read, and reads in slices.

    Attributes:
        head_s: seconds from the first byte, or from the connection, to the end of a request's head.
        read_s: seconds that a client may leave a full buffer of its answer unread.
    """

    head_s = 20.0
    read_s = 30.0

    _head: asyncio.TimerHandle | None = None
    _read: asyncio.TimerHandle | None = None
    _slicing = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arrived = bytearray()
        self._await_head()

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        if not self._slicing:
            self._read_slice()

    def _read_slice(self) -> None:
        part = bytes(self._arrived[:_SLICE])
        del self._arrived[:_SLICE]
        super().data_received(part)
        self._await_head()
        more, sliced = bool(self._arrived), self._slicing
        self._slicing = more and not self.transport.is_closing()
        if self._slicing:
            self.transport.pause_reading()
            self.loop.call_soon(self._read_slice)
        elif sliced and not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._read):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read = self.loop.call_later(self.read_s, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read is not None:
            self._read.cancel()
            self._read = None

    def _await_head(self) -> None:
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self._head is not None:
                self._head.cancel()
                self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(self.head_s, self._give_up)

    def _give_up(self) -> None:
        self.transport.abort()
