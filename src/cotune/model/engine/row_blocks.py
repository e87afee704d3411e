"""Padded tables of rows of similar length, for attention among a pass's own tokens.

Only this part of a pass is padded. A single table would be as wide as the longest row, and its cost grows with the square:
questions of 10 to 45 tokens in one table took three times as long as in four. So rows are split into blocks by length, weighed
against the cost of further calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from torch import Tensor

CALL_COST = 4_000
"""Number of table entries (queries by keys) that take as long as the calls of one more table.

Measured with nine heads of 64 on 2 cores; half or twice the number makes no difference.
"""


@dataclass(frozen=True)
class RowLayout:
    """One row of a pass.

    Attributes:
        past: own tokens that ran before.
        past_start: index of the first of them among those of all rows.
        suffix: number of own tokens without the tree's.
        places: positions of its own tokens among those of the pass: the suffix, then the tree's nodes.
        positions: positions of the same tokens in the row's whole sequence.
        ancestry: ``[node, other]`` of its tree, as :attr:`cotune.model.engine.plan.Tree.ancestry`.
    """

    past: int
    past_start: int
    suffix: int
    places: NDArray[np.int64]
    positions: NDArray[np.int64]
    ancestry: NDArray[np.bool_]


@dataclass
class RowBlock:
    """Rows in one padded table. Built by :func:`build_block`.

    Attributes:
        rows: indices of the rows in the pass.
        query_index: ``[rows, queries]`` index of the own token at each place; padding repeats the row's first.
        key_index: ``[rows, keys]`` the same over the past own tokens followed by this pass's own tokens.
        real: ``[rows, queries]`` False for padding.
        allowed: ``[rows, queries, keys]`` which own keys a query may see, without sliding windows.
        query_positions: ``[rows, queries]`` in the rows' whole sequences.
        key_positions: ``[rows, keys]``.
    """

    rows: NDArray[np.int64]
    query_index: Tensor
    key_index: Tensor
    real: Tensor
    allowed: Tensor
    query_positions: Tensor
    key_positions: Tensor
    _own_masks: dict[tuple[int | None, int, torch.dtype], Tensor] = field(default_factory=dict)
    _full_masks: dict[tuple[int | None, int], Tensor] = field(default_factory=dict)
    _taken: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def taken(self, heads: int, group: int) -> Tensor:
        """Flat indices into ``[own, heads, group]`` for each entry of ``[rows, heads, queries, group]``.

        Every head of every token has its own index, so that one copy is enough.
        """
        if (heads, group) not in self._taken:
            head, member = (torch.arange(count, device=self.query_index.device) for count in (heads, group))
            places = (self.query_index[:, None, :, None] * heads + head[:, None, None]) * group + member
            self._taken[heads, group] = places.flatten()
        return self._taken[heads, group]

    def own_mask(self, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """``[rows, 1, queries x group, keys]`` additive mask among own tokens, with ``group`` queries per key-value head."""
        key = (window, group, dtype)
        if key not in self._own_masks:
            allowed = self._windowed(window)
            mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
            mask.masked_fill_(~allowed, -torch.inf)
            self._own_masks[key] = mask.repeat_interleave(group, dim=1).unsqueeze(1)
        return self._own_masks[key]

    def full_mask(self, window: int | None, prefix: int) -> Tensor:
        """``[rows, 1, queries, prefix + keys]`` boolean mask over an expanded prefix of that length and the own tokens."""
        key = (window, prefix)
        if key not in self._full_masks:
            before = torch.arange(prefix, device=self.allowed.device)
            seen = torch.ones((*self.query_positions.shape, prefix), dtype=torch.bool, device=self.allowed.device)
            if window is not None:
                seen &= self.query_positions[:, :, None] - before < window
            self._full_masks[key] = torch.cat([seen, self._windowed(window)], dim=2).unsqueeze(1)
        return self._full_masks[key]

    def _windowed(self, window: int | None) -> Tensor:
        if window is None:
            return self.allowed
        near = self.query_positions[:, :, None] - self.key_positions[:, None, :] < window
        return self.allowed & near


def rows_of_like_length(queries: npt.ArrayLike, keys: npt.ArrayLike, call_cost: int) -> list[NDArray[np.int64]]:
    """Split rows into tables at the least cost of entries and calls.

    Optimal among splits of the rows in order of keys and queries, by dynamic programming. ``call_cost`` is the cost of one
    table's calls, in entries.

    Returns:
        Indices of the rows in each table, the shortest first; rows of equal lengths share a table.
    """
    wide, long = np.asarray(queries), np.asarray(keys)
    order = np.lexsort((wide, long))
    wide, long = wide[order], long[order]
    changes = np.flatnonzero((np.diff(wide) != 0) | (np.diff(long) != 0)) + 1
    starts, ends = np.concatenate([[0], changes]), np.concatenate([changes, [len(order)]])
    least = np.zeros(len(ends) + 1)
    first = np.zeros(len(ends), dtype=np.int64)
    for last, end in enumerate(ends):
        widest = np.maximum.accumulate(wide[starts[: last + 1]][::-1])[::-1]
        costs = least[: last + 1] + (end - starts[: last + 1]) * widest * long[end - 1] + call_cost
        first[last] = costs.argmin()
        least[last + 1] = costs[first[last]]
    blocks: list[NDArray[np.int64]] = []
    last = len(ends) - 1
    while last >= 0:
        blocks.append(order[starts[first[last]] : ends[last]])
        last = int(first[last]) - 1
    return blocks[::-1]


def build_block(
    chosen: NDArray[np.int64], layouts: Sequence[RowLayout], *, prefix: int, past: int, device: torch.device | str
) -> RowBlock:
    """Build the table of the rows with the indices ``chosen``; ``past`` own tokens, over all rows, ran before."""
    rows = [layouts[row] for row in chosen.tolist()]
    width, past_width = max(len(row.places) for row in rows), max(row.past for row in rows)
    query_index = np.repeat([row.places[:1] for row in rows], width, axis=1)
    query_positions = np.full((len(rows), width), prefix, dtype=np.int64)
    past_index = np.repeat([[row.past_start] for row in rows], past_width, axis=1)
    past_positions = np.zeros((len(rows), past_width), dtype=np.int64)
    allowed = np.zeros((len(rows), width, past_width + width), dtype=bool)
    for i, row in enumerate(rows):
        end, length = len(row.places), row.suffix
        query_index[i, :end], query_positions[i, :end] = row.places, row.positions
        query_positions[i, end:] += row.past
        past_index[i, : row.past] += np.arange(row.past)
        past_positions[i, : row.past] = prefix + np.arange(row.past)
        allowed[i, :end, : row.past] = True
        among_own = allowed[i, :, past_width:]
        among_own[:length, :length] = np.tri(length, dtype=bool)
        among_own[length:end, :length] = True
        among_own[length:end, length:end] = row.ancestry
        # A padded query must see a key, since a NaN in its softmax would spread to the kernel's row.
        among_own[end:, 0] = True
    return RowBlock(
        rows=chosen,
        query_index=as_tensor(query_index, device),
        key_index=as_tensor(np.concatenate([past_index, past + query_index], axis=1), device),
        real=as_tensor(np.arange(width) < np.array([[len(row.places)] for row in rows]), device),
        allowed=as_tensor(allowed, device),
        query_positions=as_tensor(query_positions, device),
        key_positions=as_tensor(np.concatenate([past_positions, query_positions], axis=1), device),
    )


def as_tensor(values: NDArray[np.generic], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
