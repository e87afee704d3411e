"""The limit on bytes of request bodies in memory."""

from __future__ import annotations

from cotune.bundle.serve.kind import QueueFull

# Most bytes of a short body; one for each possible connection takes a few MiB.
_SHORT = 8192
_PER_SECOND = 2**20


class Room:
    """Counts the bytes of bodies that are arriving or waiting to be parsed. Use it from the event loop only.

    At most ``most`` bytes are used at once; short bodies are always accepted. A body is released once it is parsed: items that
    wait for the model are counted by the batcher.
    """

    most = 64 * 2**20

    def __init__(self) -> None:
        self.used = 0


class Arriving:
    """A body that is arriving; it is refused, and its data dropped, if there is no room for it."""

    def __init__(self, room: Room) -> None:
        self._room, self._counted = room, 0
        self.data, self.refused = bytearray(), False

    def add(self, piece: bytes) -> None:
        """Add a piece, or discard everything if there is no room for it."""
        if self.refused:
            return
        counted = len(self.data) + len(piece)
        if counted > _SHORT:
            if self._room.used - self._counted + counted > self._room.most:
                self.refused = True
                self.release()
                return
            self._room.used += counted - self._counted
            self._counted = counted
        self.data += piece

    def check(self) -> None:
        """Raise QueueFull if there was no room."""
        if self.refused:
            raise QueueFull(max(1, min(60, self._room.used // _PER_SECOND)))

    def release(self) -> None:
        self._room.used -= self._counted
        self._counted, self.data = 0, bytearray()
