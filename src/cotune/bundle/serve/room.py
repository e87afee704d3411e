"""How many bytes of bodies are in memory at once."""

from __future__ import annotations

from cotune.bundle.serve.kind import QueueFull

# Bytes up to which a body is short; as many as there may be connections take a few MiB.
_SHORT = 8192
_PER_SECOND = 2**20


class Room:
    """Counts the bytes of the bodies that arrive or wait to be read; from the event loop alone.

    A body leaves it as soon as its rows are known: what waits for the model is counted by the batcher.

    Attributes:
        most: bytes at once; a short body always finds a place.
        used: bytes now.
    """

    most = 64 * 2**20

    def __init__(self) -> None:
        self.used = 0


class Arriving:
    """A body that grows as it arrives.

    Args:
        room: that it takes.

    Attributes:
        data: what has arrived; empty where it was refused.
        refused: whether there was no room.
    """

    def __init__(self, room: Room) -> None:
        self._room, self._counted = room, 0
        self.data, self.refused = bytearray(), False

    def add(self, piece: bytes) -> None:
        """Keep a piece, or nothing at all from the first one on that has no place."""
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
        """Raises QueueFull where there was no room."""
        if self.refused:
            raise QueueFull(max(1, min(60, self._room.used // _PER_SECOND)))

    def release(self) -> None:
        """Give the room back."""
        self._room.used -= self._counted
        self._counted, self.data = 0, bytearray()
