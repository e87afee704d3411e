"""How long a client may take, and how much of the server's time: uvicorn alone waits for ever, and reads all that has come.

A body may come in chunks of one byte each. What a socket gives in one go then holds thousands, which take as long as a hundred
small requests; so it is read in slices, and whoever else has something to do comes between. Between two slices several times
as long passes as the first one took: at each of its small steps the model's thread waits for the interpreter while this works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from cotune.web.crowd import BEYOND

_SLICE = 4096
_REST = 9
"""Times as long as a slice took that pass before the next one."""
_OVER = (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)


class _Flow(FlowControl):
    """Tells when reading may go on."""

    def __init__(self, transport: asyncio.Transport, resumed: Callable[[], None]) -> None:
        super().__init__(transport)
        self._resumed = resumed

    def resume_reading(self) -> None:
        super().resume_reading()
        self._resumed()


class PatientProtocol(H11Protocol):
    """Closes a connection whose next request does not begin in time, or whose client does not read, and reads in slices.

    Where there are as many connections as there may be, one that has asked for nothing makes room for a new one.

    Attributes:
        head_s: seconds from the first byte, or from the connection, to the end of a request's head.
        read_s: seconds that a client may leave a full buffer of its answer unread.
    """

    head_s = 20.0
    read_s = 30.0

    _head: asyncio.TimerHandle | None = None
    _read: asyncio.TimerHandle | None = None
    _slice: asyncio.TimerHandle | None = None
    _took = 0.0
    _arrived: bytearray

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arrived = bytearray()
        self.flow = _Flow(transport, self._go_on)
        self._await_head()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._make_room(self.limit_concurrency)

    def _make_room(self, most: int) -> None:
        """Close the connection that has waited longest without a request; this one where there is none and no room left."""
        idle = [each for each in self.connections if isinstance(each, PatientProtocol) and each is not self and each._head]
        if idle:
            oldest = min(idle, key=lambda each: each._head.when() if each._head else 0.0)
            # It counts no longer, although it hears of its end only when the event loop comes to it.
            self.connections.discard(oldest)
            oldest._give_up()
        elif len(self.connections) > most + BEYOND:
            self._give_up()

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        if self._slice is None:
            self._read_slice()

    def _go_on(self) -> None:
        """Read the next slice when whoever else has something to do has done it."""
        if self._arrived and self._slice is None:
            self.transport.pause_reading()
            self._slice = self.loop.call_later(_REST * self._took, self._read_slice)

    def _read_slice(self) -> None:
        self._slice = None
        if self.transport.is_closing() or self.conn.their_state in _OVER:
            self._arrived.clear()
        elif not self.flow.read_paused:
            started = self.loop.time()
            part = bytes(self._arrived[:_SLICE])
            del self._arrived[:_SLICE]
            try:
                super().data_received(part)
            except h11.ProtocolError:
                # What came is no HTTP, and its request was answered before that was seen.
                self._give_up()
                return
            self._await_head()
            self._took = self.loop.time() - started
            self._go_on()
            if not self._arrived and not self.flow.read_paused:
                self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived.clear()
        for timer in (self._head, self._read, self._slice):
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
