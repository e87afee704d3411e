"""Label scores behind a shared prefix: one pass for a batch's suffixes and the label trie below each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cotune.model.engine.cpu_attention import KeyValue
from cotune.model.engine.plan import PackedPlan, Tree, plan_pass
from cotune.model.engine.prefix_cache import PrefixState
from cotune.model.engine.row_blocks import as_tensor
from cotune.model.engine.runner import PackedRunner
from cotune.model.engine.trie import LabelTrie, build_trie, label_scores
from cotune.model.hardware.machine import halve_until_it_fits
from cotune.prompt.reads import Read, moved
from cotune.prompt.render import RenderedRow

if TYPE_CHECKING:
    from cotune.probe.readout import Probe


@dataclass(frozen=True)
class Batch:
    """Rows that run together: indices in the request, own tokens, the trie that they share, and what a probe reads of each."""

    places: tuple[int, ...]
    suffixes: tuple[tuple[int, ...], ...]
    trie: LabelTrie
    completions: tuple[tuple[int, ...], ...]
    reads: tuple[Read, ...] = ()

    def part(self, start: int, end: int) -> Batch:
        """The batch of rows ``start`` to ``end``."""
        rows = slice(start, end)
        return Batch(self.places[rows], self.suffixes[rows], self.trie, self.completions, self.reads[rows])

    @property
    def lengths(self) -> list[int]:
        """Number of own tokens of each row, without the trie."""
        return [len(suffix) for suffix in self.suffixes]

    @property
    def own_tokens(self) -> int:
        """Tokens of the batch's full pass, without the prefix.

        Tokens that run once for several rows count for each of them: their number depends on how a request is split, and a
        budget of tokens must not.
        """
        return sum(self.lengths) + len(self.suffixes) * len(self.trie.tree.tokens)


def cut_batches(rows: Sequence[RenderedRow], prefix: int, batch_tokens: int, batch_rows: int | None = None) -> list[Batch]:
    """Split a request into batches of rows of similar length, with at most ``batch_tokens`` own tokens and ``batch_rows`` rows.

    The split depends on the rows alone, so that the same request always runs in the same batches.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i].completions, len(rows[i].prompt_ids), i))
    batches: list[Batch] = []
    for completions, group in groupby(order, key=lambda i: rows[i].completions):
        places, trie = list(group), build_trie(completions)
        costs = [len(rows[i].prompt_ids) - prefix + len(trie.tree.tokens) for i in places]
        cuts = _cuts(costs, batch_tokens, batch_rows) if batch_rows else _even_cuts(costs, batch_tokens)
        for start, end in pairwise([0, *cuts]):
            part = places[start:end]
            suffixes = tuple(rows[i].prompt_ids[prefix:] for i in part)
            reads = tuple(_own_read(rows[i].read, prefix) for i in part)
            batches.append(Batch(tuple(part), suffixes, trie, completions, reads))
    return batches


def _own_read(read: Read, prefix: int) -> Read:
    """A read at positions of a row's own tokens. Label words read nothing, so that their prefix may be longer."""
    return max(0, read - prefix) if isinstance(read, int) else moved(read, prefix)


def _even_cuts(costs: Sequence[int], most: int) -> list[int]:
    """Ends of the fewest possible batches of nearly equal size, since a last batch of few rows would be inefficient."""
    ends = _cuts(costs, most)
    low, high = max(costs), most
    while low < high:
        middle = (low + high) // 2
        cuts = _cuts(costs, middle)
        if len(cuts) > len(ends):
            low = middle + 1
        else:
            high, ends = middle, cuts
    return ends


def _cuts(costs: Sequence[int], most: int, most_rows: int | None = None) -> list[int]:
    """Ends of batches that are filled one after the other."""
    ends, tokens, start = [], 0, 0
    for i, cost in enumerate(costs):
        if i > start and (tokens + cost > most or i - start == most_rows):
            ends.append(i)
            tokens, start = 0, i
        tokens += cost
    return [*ends, len(costs)]


def score_in_memory(
    runner: PackedRunner,
    prefix: PrefixState,
    batch: Batch,
    top: int | None,
    probe: Probe | None,
    labels: Sequence[str],
    frozen: int,
) -> tuple[NDArray[np.float64], int]:
    """``[rows, labels]`` scores of a batch, or of its words, and its number of tokens; in smaller parts if memory runs out.

    Args:
        prefix: state of the rows' common prefix.
        top: None for all labels; a number as in :func:`score_batch_top`.
        probe: computes scores from the rows' states; None scores the label words.
        labels: the probe's labels, in the order of the scores.
        frozen: number of leading layers that have the base model's weights.
    """

    def score(part: Batch) -> tuple[NDArray[np.float64], int]:
        if probe is not None:
            return probe.log_probs(_row_states(runner, prefix, part, probe.layer, frozen), labels), sum(part.lengths)
        if top is not None:
            return score_batch_top(runner, prefix, part, top)
        return score_batch(runner, prefix, part), part.own_tokens

    def in_parts(rows: int) -> tuple[NDArray[np.float64], int]:
        results = [score(batch.part(first, first + rows)) for first in range(0, len(batch.places), rows)]
        return np.concatenate([scores for scores, _ in results]), sum(tokens for _, tokens in results)

    return halve_until_it_fits(in_parts, len(batch.places), runner.device)


def _row_states(runner: PackedRunner, prefix: PrefixState, batch: Batch, layer: int, frozen: int) -> NDArray[np.float32]:
    """States of rows or words after a layer, see :meth:`PackedRunner.layer_states`; no labels are processed."""
    plan = plan_pass(batch.suffixes, prefix=prefix.length, merge=batch.lengths, device=runner.device)
    states: NDArray[np.float32] = runner.layer_states(plan, prefix, [layer], batch.reads, frozen=frozen)[0].cpu().numpy()
    return states


def score_batch(runner: PackedRunner, prefix: PrefixState, batch: Batch) -> NDArray[np.float64]:
    """``[rows, labels]`` log-probabilities of every label, in one pass."""
    trie = batch.trie
    trees = [trie.tree] * len(batch.suffixes)
    plan = plan_pass(batch.suffixes, prefix=prefix.length, trees=trees, merge=batch.lengths, device=runner.device)
    # States row by row: the suffix's end, then the row's nodes.
    places = np.concatenate(
        [np.concatenate([[int(last)], nodes]) for last, nodes in zip(plan.last.tolist(), plan.node_places, strict=True)]
    )
    hidden, _ = runner.hidden(plan, prefix, read=torch.from_numpy(places).to(runner.device))
    edges = _read_edges(runner, hidden, trie, len(batch.suffixes))
    return label_scores(trie, edges)


def _read_edges(runner: PackedRunner, hidden: torch.Tensor, trie: LabelTrie, rows: int) -> NDArray[np.float64]:
    """``[rows, edges]`` log-probabilities, from states ``[rows x (1 + nodes)]``."""
    states = 1 + len(trie.tree.tokens)
    by_node = np.argsort(trie.edges_from, kind="stable")
    reads = (np.arange(rows)[:, None] * states + trie.edges_from[by_node]).ravel()
    tokens = np.tile(trie.edges_token[by_node], rows)
    log_probs = runner.log_probs(hidden, torch.from_numpy(reads).to(hidden.device), torch.from_numpy(tokens).to(hidden.device))
    edges = np.empty((rows, len(by_node)))
    edges[:, by_node] = log_probs.cpu().double().numpy().reshape(rows, -1)
    return edges


def score_batch_top(runner: PackedRunner, prefix: PrefixState, batch: Batch, top: int) -> tuple[NDArray[np.float64], int]:
    """Like :func:`score_batch`, but exact for the ``top`` best labels of each row only; other branches are pruned.

    A path's log-probability only falls as it grows, so a node whose path is already below the ``top``-th best complete label
    needs no pass. The likeliest branches are expanded first, since the labels that they complete prune others. Each round
    expands twice as many, so that few passes are needed if nothing can be pruned. Labels left out are ``-inf``.

    Returns:
        ``[rows, labels]`` and the number of tokens; those that ran once for several rows count for each.
    """
    trie, tree, rows = batch.trie, batch.trie.tree, len(batch.suffixes)
    plan = plan_pass(batch.suffixes, prefix=prefix.length, merge=batch.lengths, device=runner.device)
    hidden, keys = runner.hidden(plan, prefix, read=plan.last, collect=bool(tree.tokens))
    edges = np.full((rows, len(trie.edges_token)), -np.inf)
    root = np.flatnonzero(trie.edges_from == 0)
    _fill_edges(runner, hidden, [(row, root) for row in range(rows)], trie, edges)
    tokens = sum(batch.lengths)
    opened: list[set[int]] = [set() for _ in range(rows)]
    width, depths = top, tree.depths + 1
    while True:
        scores = _partial_scores(trie, edges)
        bounds = np.sort(scores, axis=1)[:, -min(top, scores.shape[1])]
        wanted: list[list[int]] = []
        for row in range(rows):
            paths = _path_scores(trie, edges[row])
            hopeful = [
                node
                for node in range(len(tree.tokens))
                if node not in opened[row] and np.isfinite(paths[node]) and paths[node] > bounds[row]
            ]
            hopeful.sort(key=lambda node: (-paths[node], node))
            pieces = list(hopeful[top:width])
            for node in hopeful[:top]:
                pieces += _promising(trie.runs[node], paths[node], depths[node], bounds[row])
            wanted.append(pieces)
        width *= 2
        active = [row for row in range(rows) if wanted[row]]
        if not active:
            return scores, tokens
        tokens += _open_nodes(runner, prefix, batch, plan, keys, active, wanted, opened, edges)


def _promising(run: tuple[int, ...], path: float, depth: int, bound: float) -> tuple[int, ...]:
    """The part of an unbranched run to expand at once: as far as its extrapolated path stays above the bound.

    Expanding node by node would repeat the nodes above; expanding all would waste those below the bound. ``path`` is the
    log-probability of the path to the first node, which has ``depth`` tokens.
    """
    return run[: 1 + sum(path * (1 + i / depth) > bound for i in range(1, len(run)))]


def _open_nodes(
    runner: PackedRunner,
    prefix: PrefixState,
    batch: Batch,
    first: PackedPlan,
    keys: dict[int, KeyValue],
    active: Sequence[int],
    wanted: Sequence[Sequence[int]],
    opened: Sequence[set[int]],
    edges: NDArray[np.float64],
) -> int:
    """Run nodes of the active rows behind the keys and values of their suffixes."""
    trie, tree = batch.trie, batch.trie.tree
    trees, chosen = [], []
    for row in active:
        # Ancestors run again: a path is a few tokens, and its keys would have to be kept otherwise.
        nodes: set[int] = set()
        for node in wanted[row]:
            while node >= 0:
                nodes.add(node)
                node = tree.parents[node]
        order = sorted(nodes)
        index = {node: i for i, node in enumerate(order)}
        trees.append(
            Tree(
                tuple(tree.tokens[n] for n in order),
                tuple(index[tree.parents[n]] if tree.parents[n] >= 0 else -1 for n in order),
            )
        )
        chosen.append([index[node] for node in wanted[row]])
        opened[row].update(wanted[row])
    suffixes = [first.own_places[row][: len(batch.suffixes[row])] for row in active]
    picks = as_tensor(np.concatenate(suffixes), runner.device)
    past = {layer: (k[picks], v[picks]) for layer, (k, v) in keys.items()}
    plan = plan_pass(
        [()] * len(active),
        prefix=first.prefix,
        trees=trees,
        past=[len(batch.suffixes[row]) for row in active],
        device=runner.device,
    )
    places = np.concatenate([plan.node_places[i][chosen[i]] for i in range(len(active))])
    hidden, _ = runner.hidden(plan, prefix, past, read=torch.from_numpy(places).to(runner.device))
    reads = [(row, np.flatnonzero(trie.edges_from == node + 1)) for row in active for node in wanted[row]]
    _fill_edges(runner, hidden, reads, trie, edges)
    return plan.tokens


def _fill_edges(
    runner: PackedRunner,
    states: torch.Tensor,
    reads: Sequence[tuple[int, NDArray[np.int64]]],
    trie: LabelTrie,
    edges: NDArray[np.float64],
) -> None:
    """Read for state ``i`` the edges ``reads[i][1]`` of row ``reads[i][0]``."""
    at = np.concatenate([np.full(len(e), i) for i, (_, e) in enumerate(reads)])
    tokens = np.concatenate([trie.edges_token[e] for _, e in reads])
    log_probs = runner.log_probs(states, torch.from_numpy(at).to(states.device), torch.from_numpy(tokens).to(states.device))
    rows = np.concatenate([np.full(len(e), row) for row, e in reads])
    edges[rows, np.concatenate([e for _, e in reads])] = log_probs.cpu().double().numpy()


def _partial_scores(trie: LabelTrie, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """``[rows, labels]``, ``-inf`` if a label's path is not known to its end."""
    finite = np.where(np.isfinite(edges), edges, 0.0)
    scores = label_scores(trie, finite)
    unknown = (~np.isfinite(edges)).astype(np.float64) @ trie.incidence.T > 0
    scores[unknown] = -np.inf
    return scores


def _path_scores(trie: LabelTrie, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probability of the path to each inner node of one row."""
    paths = np.empty(len(trie.into))
    for node, (parent, edge) in enumerate(zip(trie.tree.parents, trie.into, strict=True)):
        paths[node] = edges[edge] + (paths[parent] if parent >= 0 else 0.0)
    return paths
