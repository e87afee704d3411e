"""A thread for parsing and shortening long texts, so that the event loop, the model and short requests do not wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from cotune.bundle.serve.kind import Ending, Kind, QueueFull

T = TypeVar("T")

# Number of characters from which on a text is long.
_LONG = 8192
# Most characters that may wait here, which bounds time (some seconds) and memory.
_MOST = 16 * 2**20
_PER_SECOND = 2**18


class LongTexts:
    """Checks rows and shortens them to what the model reads, one after the other. Call it from the event loop only.

    If more than ``most`` characters would wait, :class:`QueueFull` is raised.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most, self._waiting = most, 0
        self._gave_up = False
        self._thread = ThreadPoolExecutor(1, "cotune-texts")

    async def aside(self, size: int, work: Callable[[], T]) -> T:
        """Result of ``work``, which is called at once if ``size``, the number of characters that it reads, is small."""
        if size < _LONG:
            return work()
        with self._place(size):
            return await self._on_thread(work)

    async def shortened(self, kind: Kind, items: Sequence[Any]) -> tuple[list[Any], set[int]]:
        """The items to be queued, and the indices of those that were shortened."""
        found, cut = list(items), set()
        sizes = {place: size for place, item in enumerate(items) if (size := kind.size(item)) >= _LONG}
        with self._place(sum(sizes.values())):
            for place in sizes:
                # One by one, so that other requests get their turn.
                less = await self._on_thread(partial(kind.shortened, items[place]))
                if less is not None:
                    found[place] = less
                    cut.add(place)
        return found, cut

    async def _on_thread(self, work: Callable[[], T]) -> T:
        if self._gave_up:
            raise Ending
        found = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await found
        except asyncio.CancelledError:
            if self._gave_up and found.cancelled():
                raise Ending from None
            raise

    def give_up(self) -> None:
        """Start no more work; waiting work fails with :class:`Ending`."""
        self._gave_up = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End the thread, when nothing waits any more."""
        self._thread.shutdown(wait=not self._gave_up)

    @contextlib.contextmanager
    def _place(self, size: int) -> Iterator[None]:
        if size and self._waiting and self._waiting + size > self._most:
            raise QueueFull(max(1, min(60, self._waiting // _PER_SECOND)))
        self._waiting += size
        try:
            yield
        finally:
            self._waiting -= size
