"""Raw hidden states of whole passes between frozen layers and a tuned window, so that later passes begin at the window."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from torch import Tensor

from cotune.model.engine.plan import PackedPlan
from cotune.model.engine.prefix_cache import PrefixState

MOST_BYTES = 512 * 2**20
"""Maximum bytes of a run's edge states: 2,000 rows of 40 tokens under five prompts, for a model of width 576."""
_Key = tuple[int, tuple[int, ...], bytes]


class EdgeStates:
    """States of passes after the layers that an adapter leaves unchanged.

    An adapter of a window of layers computes the same states below the window as the base model does, bit by bit, if the pass
    consists of the same rows. So states are kept by pass, and the results are the same with and without them. Which layers are
    worth keeping is known from the adapters that were used so far.

    Args:
        most_bytes: maximum bytes of all states; the least recently used are dropped first. 0 keeps none.
    """

    def __init__(self, most_bytes: int = 0) -> None:
        self.most_bytes = most_bytes
        self.began = 0
        """Number of layers that the last pass for probes did not run again."""
        self._states: OrderedDict[_Key, Tensor] = OrderedDict()
        self._bytes = 0
        self._edges: set[int] = set()

    def room(self, width: int, number_bytes: int) -> float:
        """Number of tokens whose states, of a width and in numbers of so many bytes, are kept."""
        return self.most_bytes / (number_bytes * width)

    def worth(self, frozen: int, deepest: int) -> tuple[int, ...]:
        """Numbers of layers after which the states of a pass are worth keeping.

        Args:
            frozen: number of leading layers in which the pass has the base model's weights.
            deepest: number of layers of the pass.
        """
        if not self.most_bytes:
            return ()
        if 0 < frozen < deepest:
            self._edges.add(frozen)
        return tuple(sorted(edge for edge in self._edges if edge <= frozen and edge < deepest))

    def get(self, edge: int, prefix: PrefixState, plan: PackedPlan) -> Tensor | None:
        """``[tokens, width]`` states of a pass after ``edge`` layers; None if they are not known."""
        if not self._states:
            return None
        key = _key(edge, prefix, plan)
        found = self._states.get(key)
        if found is not None:
            self._states.move_to_end(key)
        return found

    def put(self, edge: int, prefix: PrefixState, plan: PackedPlan, states: Tensor) -> None:
        """Keep the states ``[tokens, width]`` of a pass; they must not be changed afterwards."""
        if states.nbytes > self.most_bytes or (key := _key(edge, prefix, plan)) in self._states:
            return
        self._states[key] = states
        self._bytes += states.nbytes
        while self._bytes > self.most_bytes:
            self._bytes -= self._states.popitem(last=False)[1].nbytes


def _key(edge: int, prefix: PrefixState, plan: PackedPlan) -> _Key:
    parts = [plan.ids.cpu().numpy(), *plan.own_places]
    rows = hashlib.sha256()
    for part in parts:
        rows.update(len(part).to_bytes(8, "little") + np.ascontiguousarray(part).tobytes())
    return edge, prefix.ids, rows.digest()
