"""A trie of the labels' tokens, so that labels with a common beginning share its computation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cotune.errors import InputError
from cotune.model.engine.plan import Tree
from cotune.prompt.render import common_length


@dataclass(frozen=True)
class LabelTrie:
    """A token tree with the edges that make up each label.

    Attributes:
        tree: the inner nodes below the root, whose next-token distributions are needed. The root is the last prompt token.
        edges_from: for each edge the node whose distribution is read; 0 is the root, node ``i`` of the tree is ``i + 1``.
        edges_token: for each edge the token it reads.
        label_edges: ``[labels, edges]`` 1 for each edge of a label.
        into: for each inner node the edge that leads to it.
    """

    tree: Tree
    edges_from: NDArray[np.int64]
    edges_token: NDArray[np.int64]
    label_edges: NDArray[np.bool_]
    into: tuple[int, ...]

    @cached_property
    def runs(self) -> tuple[tuple[int, ...], ...]:
        """Each node with the unbranched path below it, which completes a label."""
        sources = Counter(self.edges_from.tolist())
        below = {parent: node for node, parent in enumerate(self.tree.parents) if parent >= 0}
        runs: list[tuple[int, ...]] = [()] * len(self.tree.tokens)
        # Parents come before children, so iterate backwards.
        for node in reversed(range(len(runs))):
            only = below.get(node) if sources[node + 1] == 1 else None
            runs[node] = (node,) if only is None else (node, *runs[only])
        return tuple(runs)

    @cached_property
    def incidence(self) -> NDArray[np.float64]:
        """``label_edges`` as floats, so that label scores are one matrix product."""
        return self.label_edges.astype(np.float64)


@lru_cache(maxsize=256)
def build_trie(completions: tuple[tuple[int, ...], ...]) -> LabelTrie:
    """Build the trie of labels from their token ids (with the stop token), as far as they differ (:func:`label_paths`).

    Raises:
        InputError: if two labels have the same tokens.
    """
    paths = label_paths(completions)
    node_of: dict[tuple[int, ...], int] = {(): 0}
    tokens: list[int] = []
    parents: list[int] = []
    for path in paths:
        for end in range(1, len(path)):
            piece = path[:end]
            if piece not in node_of:
                node_of[piece] = len(tokens) + 1
                tokens.append(piece[-1])
                parents.append(node_of[piece[:-1]] - 1)
    edge_of: dict[tuple[int, ...], int] = {}
    for path in paths:
        for end in range(1, len(path) + 1):
            edge_of.setdefault(path[:end], len(edge_of))
    label_edges = np.zeros((len(paths), len(edge_of)), dtype=bool)
    for label, path in enumerate(paths):
        for end in range(1, len(path) + 1):
            label_edges[label, edge_of[path[:end]]] = True
    return LabelTrie(
        tree=Tree(tuple(tokens), tuple(parents)),
        edges_from=np.array([node_of[piece[:-1]] for piece in edge_of], dtype=np.int64),
        edges_token=np.array([piece[-1] for piece in edge_of], dtype=np.int64),
        label_edges=label_edges,
        into=tuple(edge_of[piece] for piece in node_of if piece),
    )


@lru_cache(maxsize=256)
def label_paths(completions: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Each label's tokens up to the first one that no other label shares; the rest cannot distinguish labels.

    The probability of a label is that of its path. Labels with different first tokens need only the distribution behind the
    prompt; the 77 labels of BANKING77 need 23 further positions instead of 151. The stop token counts if one label is the
    beginning of another.

    Args:
        completions: token ids of each label, the stop token at the end.

    Raises:
        InputError: if two labels have the same tokens.
    """
    if len(set(completions)) < len(completions):
        second = next(i for i, ids in enumerate(completions) if completions.index(ids) < i)
        raise InputError(
            f"two labels have the same tokens (number {completions.index(completions[second]) + 1} and number {second + 1})",
            where="label words",
            hint="Give each label a different word.",
        )
    # In sorted order, the label with the longest common beginning is a neighbour.
    order = sorted(range(len(completions)), key=completions.__getitem__)
    shared = [0] * len(completions)
    for left, right in pairwise(order):
        common = common_length(completions[left], completions[right])
        shared[left] = max(shared[left], common)
        shared[right] = max(shared[right], common)
    return tuple(ids[: common + 1] for ids, common in zip(completions, shared, strict=True))


def label_scores(trie: LabelTrie, edge_log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[rows, labels]`` sums of log-probabilities along each label's path, from ``[rows, edges]``."""
    return edge_log_probs @ trie.incidence.T
