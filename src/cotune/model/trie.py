"""A trie over the labels' completions, so that labels that begin alike share their passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cotune.errors import InputError
from cotune.model.packed import Tree


@dataclass(frozen=True)
class LabelTrie:
    """Where in a token tree each label's log-probabilities are found.

    Attributes:
        tree: the inner nodes below the root, those whose next-token distribution is needed. The root is the last prompt token.
        edges_from: for each edge the node whose distribution is read; 0 is the root, node ``i`` of the tree is ``i + 1``.
        edges_token: for each edge the token it reads.
        label_edges: ``[labels, edges]`` which edges make up each label.
    """

    tree: Tree
    edges_from: NDArray[np.int64]
    edges_token: NDArray[np.int64]
    label_edges: NDArray[np.bool_]

    @cached_property
    def runs(self) -> tuple[tuple[int, ...], ...]:
        """Each node with the nodes below it as far as its path does not branch: to open them is to complete a label."""
        sources = Counter(self.edges_from.tolist())
        below = {parent: node for node, parent in enumerate(self.tree.parents) if parent >= 0}
        runs: list[tuple[int, ...]] = [()] * len(self.tree.tokens)
        # Parents come before children, so a child's run is known first from the end.
        for node in reversed(range(len(runs))):
            only = below.get(node) if sources[node + 1] == 1 else None
            runs[node] = (node,) if only is None else (node, *runs[only])
        return tuple(runs)

    @cached_property
    def incidence(self) -> NDArray[np.float64]:
        """``label_edges`` as numbers, so that label scores are one matrix product."""
        return self.label_edges.astype(np.float64)


@lru_cache(maxsize=256)
def build_trie(completions: tuple[tuple[int, ...], ...]) -> LabelTrie:
    """The trie of labels given as token ids, each with the stop token at its end.

    The stop token is scored only where one label is the beginning of another; elsewhere it cannot tell labels apart.

    Raises:
        InputError: two labels have the same tokens.
    """
    bare = [ids[:-1] for ids in completions]
    if len(set(bare)) < len(bare):
        twice = next(i for i, ids in enumerate(bare) if bare.index(ids) < i)
        raise InputError(
            f"two labels read the same to the model (number {bare.index(bare[twice]) + 1} and number {twice + 1})",
            where="label words",
            mend="Give every label a word of its own.",
        )
    paths: Sequence[tuple[int, ...]] = completions if needs_stop(completions) else bare
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
    )


def needs_stop(completions: Sequence[Sequence[int]]) -> bool:
    """Whether one label is the beginning of another, so that only the stop token tells them apart."""
    bare = sorted(tuple(ids[:-1]) for ids in completions)
    # In sorted order a sequence's extensions follow it directly.
    return any(b[: len(a)] == a for a, b in pairwise(bare))


def label_scores(trie: LabelTrie, edge_log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[rows, labels]`` sums of log-probabilities along each label's path, from ``[rows, edges]``."""
    return edge_log_probs @ trie.incidence.T
