"""Limits on slow clients and on the time for reading from one client: uvicorn waits without limit and reads everything at once.

A body may arrive in chunks of one byte. One read from the socket then holds thousands of chunks, which take as long to parse as
a hundred small requests. So data is parsed in slices, with other work in between. The pause between two slices is several times
as long as parsing one took, because the model's thread waits for the interpreter lock meanwhile. The rest of a body whose
length the head gives, or of a chunk, is one piece for the parser, so that much more of it is taken at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

BEYOND = 16
"""Connections above the limit that get an answer saying so; further ones are closed at once."""
_SLICE, _LONG_SLICE = 4096, 2**18
_REST = 9
"""Pause before the next slice, as a multiple of the time that the last one took."""
_OVER = (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)


class _Flow(FlowControl):
    """Flow control that calls a function when reading resumes."""

    def __init__(self, transport: asyncio.Transport, resumed: Callable[[], None]) -> None:
        super().__init__(transport)
        self._resumed = resumed

    def resume_reading(self) -> None:
        super().resume_reading()
        self._resumed()


class PatientProtocol(H11Protocol):
    """Closes connections whose client does not send or read in time, and reads in slices.

    At the limit on connections, the oldest one without a request is closed to make room for a new one.

    Attributes:
        head_s: seconds from the connection, or from the first byte of a further request, to the end of a request's head.
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
        """Close the oldest connection without a request, or this one if there is none and the limit is far exceeded."""
        idle = [each for each in self.connections if isinstance(each, PatientProtocol) and each is not self and each._head]
        if idle:
            oldest = min(idle, key=lambda each: each._head.when() if each._head else 0.0)
            # Do not count it any more; the event loop reports its end only later.
            self.connections.discard(oldest)
            oldest._give_up()
        elif len(self.connections) > most + BEYOND:
            self._give_up()

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        if self._slice is None:
            self._read_slice()

    def _go_on(self) -> None:
        """Schedule the next slice behind other work."""
        if self._arrived and self._slice is None:
            self.transport.pause_reading()
            self._slice = self.loop.call_later(_REST * self._took, self._read_slice)

    def _read_slice(self) -> None:
        self._slice = None
        if self.transport.is_closing() or self.conn.their_state in _OVER:
            self._arrived.clear()
        elif not self.flow.read_paused:
            started = self.loop.time()
            size = max(_SLICE, min(self._one_piece(), _LONG_SLICE))
            part = bytes(self._arrived[:size])
            del self._arrived[:size]
            try:
                super().data_received(part)
            except h11.ProtocolError:
                # The data is not HTTP, and an answer was already sent.
                self._give_up()
                return
            self._await_head()
            self._took = self.loop.time() - started
            self._go_on()
            if not self._arrived and not self.flow.read_paused:
                self.transport.resume_reading()

    def _one_piece(self) -> int:
        """Number of bytes to come that are one piece for the parser, as far as h11 says."""
        reader = getattr(self.conn, "_reader", None)
        return int(getattr(reader, "_remaining", 0) or getattr(reader, "_bytes_in_chunk", 0))

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
