"""Plans of packed passes: which tokens run, their positions, and which tokens each of them attends to.

A pass runs one flat sequence. Its *head* (optional) is the prompt prefix that every row shares; after it come each row's own
tokens, one row after the other. A row's own tokens are a *suffix*, followed by *nodes* of a token tree that all fork from the
end of that suffix. Rows are not padded, so the linear layers work on no padding but a few tokens at the end of a pass
(:func:`padded_count`); attention among a row's own tokens is padded, and that part is small. Tokens at which the suffixes of
two rows begin alike may run once for both: questions often begin with the same words, and a token's state depends only on the
tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cotune.model.engine.row_blocks import CALL_COST, RowBlock, RowLayout, as_tensor, build_block, rows_of_like_length


@dataclass(frozen=True)
class Tree:
    """Nodes below the end of a suffix, parents before children.

    Attributes:
        parents: index of each node's parent; -1 for a child of the suffix's last token.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]

    @property
    def depths(self) -> NDArray[np.int64]:
        """Depth of each node; 0 for children of the suffix's last token."""
        depths = np.zeros(len(self.tokens), dtype=np.int64)
        for node, parent in enumerate(self.parents):
            depths[node] = 0 if parent < 0 else depths[parent] + 1
        return depths

    @property
    def ancestry(self) -> NDArray[np.bool_]:
        """``[node, other]``: whether ``other`` is ``node`` itself or an ancestor."""
        table = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                table[node] |= table[parent]
        return table


EMPTY_TREE = Tree((), ())

_LEAST_STEP, _STEP_BITS = 8, 5
"""Numbers of tokens are rounded up to multiples of 8, and from 256 on of the power of two that is a 16th to a 32nd of them."""


def fork(*chains: Sequence[int]) -> Tree:
    """Sequences that all follow the same suffix and do not see each other."""
    tokens: list[int] = []
    parents: list[int] = []
    for chain in chains:
        parents += [-1, *range(len(tokens), len(tokens) + len(chain) - 1)][: len(chain)]
        tokens += chain
    return Tree(tuple(tokens), tuple(parents)) if tokens else EMPTY_TREE


@dataclass
class PackedPlan:
    """A pass that is ready to run. Built by :func:`plan_pass`.

    Attributes:
        ids: ``[tokens]`` token ids: the head, then each row's own tokens except those that run with an earlier row, then
            padding.
        positions: ``[tokens]`` position of each token in its row's whole sequence.
        head: number of leading tokens that are the shared prefix; 0 if it does not run in this pass.
        prefix: length of the whole shared prefix, whether it runs in this pass or is given as keys and values.
        blocks: the rows in padded tables by length.
        unpad_index: ``[own]`` position of each own token in the concatenated, flattened query tables, in the first row that has
            it; 0 for padding.
        own_places: per row, the positions of its tokens among the own tokens of the pass.
        last: ``[rows]`` position of each row's last suffix token in the whole pass.
        node_places: per row, the positions of its tree nodes in the whole pass.
        longest: largest position in the pass.
        padding: number of tokens at the end that belong to no row. No token attends to them, and their states mean nothing.
        merged: whether some tokens run for several rows; no gradients pass through such a plan.
    """

    ids: Tensor
    positions: Tensor
    head: int
    prefix: int
    blocks: tuple[RowBlock, ...]
    unpad_index: Tensor
    own_places: list[NDArray[np.int64]]
    last: Tensor
    node_places: list[NDArray[np.int64]]
    longest: int
    padding: int = 0
    merged: bool = False
    _found: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return len(self.ids) - self.padding

    def found(self, heads: int, group: int) -> Tensor:
        """Flat indices into the blocks' ``[rows, heads, queries, group]`` tables for each entry of ``[own, heads, group]``."""
        if (heads, group) not in self._found:
            end, tables = 0, []
            for block in self.blocks:
                rows, queries = block.query_index.shape
                places = torch.arange(end, end + rows * heads * queries * group, device=self.ids.device)
                tables.append(places.view(rows, heads, queries, group).transpose(1, 2).reshape(-1, heads * group))
                end += len(places)
            self._found[heads, group] = torch.cat(tables)[self.unpad_index].flatten()
        return self._found[heads, group]


def padded_count(tokens: int, device: torch.device | str) -> int:
    """Number of tokens that a pass of ``tokens`` tokens runs: on CPU a little more, so that fewer numbers occur.

    oneDNN generates code for every new number of rows of a product (2 to 8 ms for each shape of weight) and keeps it. In a run
    of 90 s on 500 rows these were 1,975 kernels and 6.6 s; with numbers that are rounded up by at most a sixteenth, 635 and
    1.4 s.
    """
    if torch.device(device).type != "cpu":
        return tokens
    step = max(_LEAST_STEP, 1 << max(0, tokens.bit_length() - _STEP_BITS))
    return -(-tokens // step) * step


def merged_starts(suffixes: Sequence[Sequence[int]], nodes: Sequence[int], most: Sequence[int]) -> list[list[int]]:
    """For each row the positions of its leading tokens that run with an earlier row that begins alike.

    Args:
        suffixes: the rows' tokens.
        nodes: number of tree tokens behind each row.
        most: number of leading tokens of each row that may run with another row; the last token, which is read, never does.
    """
    placed: dict[tuple[int, int], int] = {}
    merged: list[list[int]] = []
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
        merged.append(path)
        end += behind
    return merged


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
    """Plan a pass over rows that share a prefix.

    Args:
        suffixes: each row's own tokens; at least one unless the row has a past.
        prefix: length of the shared prefix.
        head: token ids of the prefix, if it runs in this pass (training).
        trees: each row's tree below its suffix; rows often share one object.
        past: for each row, the number of own tokens that ran before, whose keys and values are given to the pass. The row's new
            tokens see all of them.
        merge: number of leading tokens of each suffix (its last token excluded) that may run once for all rows that begin
            alike. Such a plan has no past and supports no gradients.
    """
    assert not (merge and past), "rows with a past cannot be merged"
    rows = len(suffixes)
    trees = [EMPTY_TREE] * rows if trees is None else trees
    past_lengths = np.zeros(rows, dtype=np.int64) if past is None else np.asarray(past, dtype=np.int64)
    suffix_lengths = np.array([len(s) for s in suffixes], dtype=np.int64)
    node_counts = np.array([len(t.tokens) for t in trees], dtype=np.int64)
    own = suffix_lengths + node_counts
    starts = merged_starts(suffixes, node_counts.tolist(), merge) if merge else [[]] * rows
    merged = np.array([len(start) for start in starts], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(own - merged)])
    past_starts = np.concatenate([[0], np.cumsum(past_lengths)])

    ids = list(head)
    positions = [np.arange(prefix - len(head), prefix, dtype=np.int64)]
    facts: dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}
    layouts = []
    for row, (suffix, tree) in enumerate(zip(suffixes, trees, strict=True)):
        ids.extend(suffix[merged[row] :])
        ids.extend(tree.tokens)
        if id(tree) not in facts:
            facts[id(tree)] = (tree.depths, tree.ancestry)
        depths, ancestry = facts[id(tree)]
        first, length = prefix + int(past_lengths[row]), len(suffix)
        layout = RowLayout(
            past=int(past_lengths[row]),
            past_start=int(past_starts[row]),
            suffix=length,
            places=np.concatenate([np.array(starts[row], dtype=np.int64), np.arange(*offsets[row : row + 2])]),
            positions=first + np.concatenate([np.arange(length), length + depths]),
            ancestry=ancestry,
        )
        layouts.append(layout)
        positions.append(layout.positions[merged[row] :])

    # On a GPU, further calls cost more than padding.
    cost = CALL_COST if torch.device(device).type == "cpu" else 1 << 60
    blocks, slots, end = [], np.zeros(rows, dtype=np.int64), 0
    for chosen in rows_of_like_length(own, past_lengths + own, cost):
        block = build_block(chosen, layouts, prefix=prefix, past=int(past_starts[-1]), device=device)
        width = block.query_index.shape[1]
        slots[chosen] = end + width * np.arange(len(chosen))
        end += width * len(chosen)
        blocks.append(block)
    unpad = [slots[row] + np.arange(merged[row], own[row]) for row in range(rows)]
    padding = padded_count(len(ids), device) - len(ids) if any(map(len, unpad)) else 0
    if padding:
        ids += [0] * padding
        positions.append(np.zeros(padding, dtype=np.int64))
        unpad.append(np.zeros(padding, dtype=np.int64))
    return PackedPlan(
        ids=torch.tensor(ids, dtype=torch.long, device=device),
        positions=as_tensor(np.concatenate(positions), device),
        head=len(head),
        prefix=prefix,
        blocks=tuple(blocks),
        unpad_index=as_tensor(np.concatenate(unpad), device),
        own_places=[layout.places for layout in layouts],
        last=as_tensor(len(head) + offsets[1:] - node_counts - 1, device),
        node_places=[len(head) + offsets[row + 1] - np.arange(node_counts[row], 0, -1) for row in range(rows)],
        longest=max(int(places.max(initial=0)) for places in positions),
        padding=padding,
        merged=bool(merged.any()),
    )


def cut_by_length(places: Iterable[int], own: Callable[[int], int], limit: int) -> Iterator[list[int]]:
    """Split rows of similar length, given by their indices, into parts of at most ``limit`` tokens.

    ``own`` gives a row's number of own tokens; a longer row is a part by itself.
    """
    part: list[int] = []
    tokens = 0
    for length, place in sorted((own(place), place) for place in places):
        if part and tokens + length > limit:
            yield part
            part, tokens = [], 0
        part.append(place)
        tokens += length
    if part:
        yield part
