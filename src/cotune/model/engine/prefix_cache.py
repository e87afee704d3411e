"""A cache of keys and values of prompt prefixes, so that a common prefix runs once for all requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cotune.model.engine.cpu_attention import KeyValue

Ids = tuple[int, ...]

# Few states, since each holds keys and values of every layer.
_RECENT = 4


@dataclass(frozen=True)
class PrefixState:
    """Token ids of a prompt prefix, and its keys and values by layer, computed once at batch 1."""

    ids: Ids
    layers: dict[int, KeyValue]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.ids)


NO_PREFIX = PrefixState((), {})


class PrefixStates:
    """Prefix states by adapter and token ids: the last few that were computed, and those that are kept permanently.

    The caller must set the adapter in the model first.

    Args:
        run: runs a prefix under an adapter.
    """

    def __init__(self, run: Callable[[str, Ids], PrefixState]) -> None:
        self._run = run
        self._recent: dict[tuple[str, Ids], PrefixState] = {}
        self._kept: dict[tuple[str, Ids], PrefixState] = {}

    def get(self, adapter: str, ids: Ids) -> PrefixState:
        """The state of a prefix, computed if not cached."""
        key = (adapter, ids)
        if key in self._kept:
            return self._kept[key]
        if key not in self._recent:
            while len(self._recent) >= _RECENT:
                self._recent.pop(next(iter(self._recent)))
            self._recent[key] = self._run(adapter, ids)
        return self._recent[key]

    def keep(self, adapter: str, ids: Ids) -> None:
        """Compute the state of a prefix and keep it permanently."""
        if ids and (adapter, ids) not in self._kept:
            self._kept[adapter, ids] = self._run(adapter, ids)

    def longest_kept(self, adapter: str, shared: Ids) -> Ids:
        """The longest kept prefix of ``shared``, else all of ``shared``."""
        fitting = [ids for of, ids in self._kept if of == adapter and shared[: len(ids)] == ids]
        return max(fitting, key=len, default=shared)

    def clear(self) -> None:
        """Remove the states that are not kept permanently, for measurements and tests that compute them anew."""
        self._recent.clear()
