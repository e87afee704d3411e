"""Plans of packed passes: which tokens run, where they stand, and what each of them may attend to.

A pass runs one flat sequence. Its *head* (optional) is the prompt prefix that every row shares; after it come each row's own
tokens, one row after the other without padding. A row's own tokens are a *suffix*, followed by *nodes* of a token tree that
all fork from the end of that suffix. Because nothing is padded, the linear layers never work on padding; only attention among
a row's own tokens is padded, and that part is small. What the suffixes of two rows begin with alike may run once for both:
questions that begin with the same words are common, and a token's state hangs on nothing but what stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """Nodes below the end of a suffix, parents before children.

    Attributes:
        tokens: token id of each node.
        parents: index of each node's parent; -1 for a child of the suffix's last token.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]

    @property
    def depths(self) -> NDArray[np.int64]:
        """Distance of each node from the suffix's last token, counted from 0 for its children."""
        depths = np.zeros(len(self.tokens), dtype=np.int64)
        for node, parent in enumerate(self.parents):
            depths[node] = 0 if parent < 0 else depths[parent] + 1
        return depths

    @property
    def ancestry(self) -> NDArray[np.bool_]:
        """``[node, other]``: whether ``other`` is ``node`` itself or above it."""
        table = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                table[node] |= table[parent]
        return table


EMPTY_TREE = Tree((), ())


def fork(*chains: Sequence[int]) -> Tree:
    """Sequences that all follow the same suffix and do not see each other, one after the other."""
    tokens: list[int] = []
    parents: list[int] = []
    for chain in chains:
        parents += [-1, *range(len(tokens), len(tokens) + len(chain) - 1)][: len(chain)]
        tokens += chain
    return Tree(tuple(tokens), tuple(parents)) if tokens else EMPTY_TREE


@dataclass
class PackedPlan:
    """One pass, ready to run. Built by :func:`plan_pass`.

    Attributes:
        ids: ``[tokens]`` token ids: the head, then each row's own tokens but for those that run with an earlier row.
        positions: ``[tokens]`` position of each token in its row's whole sequence.
        head: number of leading tokens that belong to the shared prefix and run in this pass.
        prefix: length of the whole shared prefix, whether it runs here or comes as keys and values from before.
        query_index: ``[rows, queries]`` which own token stands there; padding repeats the row's first.
        key_index: ``[rows, keys]`` the same over the past own tokens followed by this pass's own tokens.
        unpad_index: ``[own]`` where each own token lies in the flattened ``query_index``, in the first row that has it.
        allowed: ``[rows, queries, keys]`` which own keys a query may see, sliding windows aside.
        query_positions: ``[rows, queries]``.
        key_positions: ``[rows, keys]``.
        last: ``[rows]`` place of each row's last suffix token in the whole pass.
        node_places: per row, the places of its tree nodes in the whole pass.
        longest: largest position in the pass.
        merged: whether some tokens run for several rows; no gradients pass through such a plan.
    """

    ids: Tensor
    positions: Tensor
    head: int
    prefix: int
    query_index: Tensor
    key_index: Tensor
    unpad_index: Tensor
    allowed: Tensor
    query_positions: Tensor
    key_positions: Tensor
    last: Tensor
    node_places: list[NDArray[np.int64]]
    longest: int
    merged: bool = False
    _masks: dict[tuple[int | None, int, torch.dtype], Tensor] = field(default_factory=dict)
    _slots: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def slots(self, heads: int, group: int) -> tuple[Tensor, Tensor]:
        """Where queries come from and go to, each head of each token by itself, so that either way takes one copy.

        Args:
            heads: key-value heads.
            group: queries of each, side by side.

        Returns:
            For each place of ``[rows, heads, queries, group]`` the one of ``[own, heads, group]`` that it is taken from, and
            for each of these the one of ``[rows, queries, group, heads]`` that it is found at; both flat.
        """
        if (heads, group) not in self._slots:
            head, member = (torch.arange(count, device=self.ids.device) for count in (heads, group))
            taken = (self.query_index[:, None, :, None] * heads + head[:, None, None]) * group + member
            found = (self.unpad_index[:, None, None] * group + member) * heads + head[:, None]
            self._slots[heads, group] = taken.flatten(), found.flatten()
        return self._slots[heads, group]

    def own_mask(self, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """``[rows, 1, queries x group, keys]`` additive mask among own tokens; ``group`` queries stand side by side."""
        key = (window, group, dtype)
        if key not in self._masks:
            allowed = self._windowed(window)
            mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
            mask.masked_fill_(~allowed, -torch.inf)
            self._masks[key] = mask.repeat_interleave(group, dim=1).unsqueeze(1)
        return self._masks[key]

    def full_mask(self, window: int | None) -> Tensor:
        """``[rows, 1, queries, prefix + keys]`` boolean mask over the expanded prefix and the own tokens."""
        key = (window, -1, torch.bool)
        if key not in self._masks:
            before = torch.arange(self.prefix, device=self.ids.device)
            seen = torch.ones((*self.query_positions.shape, self.prefix), dtype=torch.bool, device=self.ids.device)
            if window is not None:
                seen &= self.query_positions[:, :, None] - before < window
            self._masks[key] = torch.cat([seen, self._windowed(window)], dim=2).unsqueeze(1)
        return self._masks[key]

    def _windowed(self, window: int | None) -> Tensor:
        if window is None:
            return self.allowed
        near = self.query_positions[:, :, None] - self.key_positions[:, None, :] < window
        return self.allowed & near


def merged_starts(suffixes: Sequence[Sequence[int]], nodes: Sequence[int], most: Sequence[int]) -> list[list[int]]:
    """For each row the places of its leading tokens that run with an earlier row, which begins with the same.

    Args:
        suffixes: the rows' tokens.
        nodes: how many tokens of a tree stand behind each.
        most: leading tokens of each that may run with another row, at least the last one aside: what is read is the row's own.

    Returns:
        Places among the own tokens of a pass of all rows.
    """
    placed: dict[tuple[int, int], int] = {}
    found: list[list[int]] = []
    end = 0
    for suffix, behind, limit in zip(suffixes, nodes, most, strict=True):
        path: list[int] = []
        above = -1
        for token in suffix[: min(limit, len(suffix) - 1)]:
            place = placed.get((above, token))
            if place is None:
                break
            path.append(place)
            above = place
        for token in suffix[len(path) :]:
            above = placed.setdefault((above, token), end)
            end += 1
        found.append(path)
        end += behind
    return found


def plan_pass(
    suffixes: Sequence[Sequence[int]],
    *,
    prefix: int,
    head: Sequence[int] = (),
    trees: Sequence[Tree] | None = None,
    past: Sequence[int] | None = None,
    merge: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> PackedPlan:
    """Lay out one pass over rows that share a prefix.

    Args:
        suffixes: each row's own tokens, at least one a row unless the row has a past.
        prefix: length of the shared prefix.
        head: token ids of the prefix's end, or of all of it, where they run in this pass (training).
        trees: each row's tree below its suffix; rows often share one object.
        past: for each row, how many own tokens ran before (their keys and values are given to the pass); all of a row's
            new tokens may see all of them.
        merge: so many leading tokens of each suffix, at least its last one aside, may run once for all rows that begin with the
            same. No gradients pass through such a plan, and it has no past.
        device: where the tensors shall lie.
    """
    assert not (merge and past), "rows with a past have begun apart"
    rows = len(suffixes)
    trees = [EMPTY_TREE] * rows if trees is None else trees
    past_lengths = np.zeros(rows, dtype=np.int64) if past is None else np.asarray(past, dtype=np.int64)
    suffix_lengths = np.array([len(s) for s in suffixes], dtype=np.int64)
    node_counts = np.array([len(t.tokens) for t in trees], dtype=np.int64)
    own = suffix_lengths + node_counts
    starts = merged_starts(suffixes, node_counts.tolist(), merge) if merge else [[]] * rows
    merged = np.array([len(start) for start in starts], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(own - merged)])
    past_offsets = np.concatenate([[0], np.cumsum(past_lengths)])
    past_total = int(past_offsets[-1])
    queries = int(own.max())
    past_width = int(past_lengths.max()) if rows else 0
    keys = past_width + queries

    ids = list(head)
    positions = [np.arange(prefix - len(head), prefix, dtype=np.int64)]
    facts: dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}
    step = np.arange(queries)
    query_index = (offsets[:-1] - merged)[:, None] + np.where(step < own[:, None], step, 0)
    for row, start in enumerate(starts):
        if start:
            query_index[row, : len(start)] = start
            query_index[row, own[row] :] = start[0]
    past_step = np.arange(past_width)
    key_index = np.concatenate(
        [
            past_offsets[:-1, None] + np.where(past_step < past_lengths[:, None], past_step, 0),
            past_total + query_index,
        ],
        axis=1,
    )
    allowed = np.zeros((rows, queries, keys), dtype=bool)
    query_positions = np.zeros((rows, queries), dtype=np.int64)
    key_positions = np.zeros((rows, keys), dtype=np.int64)
    causal = np.tril(np.ones((queries, queries), dtype=bool))
    node_places = []
    for row, (suffix, tree) in enumerate(zip(suffixes, trees, strict=True)):
        ids.extend(suffix[merged[row] :])
        ids.extend(tree.tokens)
        length, nodes, before = int(suffix_lengths[row]), int(node_counts[row]), int(past_lengths[row])
        if id(tree) not in facts:
            facts[id(tree)] = (tree.depths, tree.ancestry)
        depths, ancestry = facts[id(tree)]
        first = prefix + before
        places = np.concatenate([first + np.arange(length), first + length + depths])
        positions.append(places[merged[row] :])
        end = length + nodes
        allowed[row, :end, :before] = True
        block = allowed[row, :, past_width:]
        block[:length, :length] = causal[:length, :length]
        block[length:end, :length] = True
        block[length:end, length:end] = ancestry
        # A padded query must see something, or its softmax is not a number and spoils the kernel's row.
        block[end:, 0] = True
        query_positions[row, :end] = places
        key_positions[row, :before] = prefix + np.arange(before)
        key_positions[row, past_width : past_width + end] = places
        query_positions[row, end:] = key_positions[row, past_width:][:1]
        node_places.append(len(head) + offsets[row + 1] - nodes + np.arange(nodes))
    unpad = np.concatenate([row * queries + np.arange(merged[row], own[row]) for row in range(rows)])

    def tensor(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return PackedPlan(
        ids=torch.tensor(ids, dtype=torch.long, device=device),
        positions=tensor(np.concatenate(positions)),
        head=len(head),
        prefix=prefix,
        query_index=tensor(query_index),
        key_index=tensor(key_index),
        unpad_index=tensor(unpad),
        allowed=tensor(allowed),
        query_positions=tensor(query_positions),
        key_positions=tensor(key_positions),
        last=tensor(len(head) + offsets[1:] - node_counts - 1),
        node_places=node_places,
        longest=max(int(places.max(initial=0)) for places in positions),
        merged=bool(merged.any()),
    )
