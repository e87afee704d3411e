from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.errors import InputError
from cotune.model.engine.trie import build_trie, label_paths, label_scores

STOP = 0

labels = st.lists(st.lists(st.integers(1, 3), max_size=4).map(tuple), min_size=1, max_size=8, unique=True)
completion_sets = labels.map(lambda bare: tuple((*ids, STOP) for ids in bare))


def brute_path(label: tuple[int, ...], completions: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """The shortest beginning that no other label has."""
    others = [ids for ids in completions if ids != label]
    return next(label[:n] for n in range(1, len(label) + 1) if all(ids[:n] != label[:n] for ids in others))


@given(completion_sets)
@settings(max_examples=300, deadline=None)
def test_a_path_goes_as_far_as_labels_are_alike_and_one_token_further(completions: tuple[tuple[int, ...], ...]) -> None:
    assert label_paths(completions) == tuple(brute_path(ids, completions) for ids in completions)


@given(completion_sets)
@settings(max_examples=300, deadline=None)
def test_scores_are_the_sums_along_each_path(completions: tuple[tuple[int, ...], ...]) -> None:
    trie = build_trie(completions)
    # a made-up log-probability for every (path so far, next token)
    table: dict[tuple[tuple[int, ...], int], float] = {}
    random = np.random.default_rng(0)
    paths = [brute_path(ids, completions) for ids in completions]
    for path in paths:
        for end, token in enumerate(path):
            table.setdefault((path[:end], token), float(random.normal()))
    brute = [sum(table[path[:end], token] for end, token in enumerate(path)) for path in paths]

    reached: list[tuple[int, ...]] = [()]
    for token, parent in zip(trie.tree.tokens, trie.tree.parents, strict=True):
        reached.append((*reached[parent + 1], token))
    edges = np.array([[table[reached[f], int(t)] for f, t in zip(trie.edges_from, trie.edges_token, strict=True)]])
    np.testing.assert_allclose(label_scores(trie, edges)[0], brute, atol=1e-12)

    # nothing runs twice, and nothing runs whose distribution is not read
    assert len(set(reached)) == len(reached)
    assert set(reached[1:]) == {path[:end] for path in paths for end in range(1, len(path))}
    assert len(trie.edges_from) == len(table)


def test_labels_with_different_first_tokens_need_no_node() -> None:
    assert build_trie(((5, STOP), (6, STOP), (7, STOP))).tree.tokens == ()


def test_the_stop_token_counts_only_where_a_label_begins_another() -> None:
    assert STOP not in build_trie(((5, 6, STOP), (5, 7, STOP))).edges_token
    trie = build_trie(((5, STOP), (5, 7, 8, STOP)))
    # the longer one is known by its next token
    assert list(trie.edges_token) == [5, STOP, 7]


def test_two_labels_that_read_the_same_are_refused() -> None:
    with pytest.raises(InputError, match="number 1 and number 3") as caught:
        build_trie(((5, 6, STOP), (5, STOP), (5, 6, STOP)))
    assert caught.value.hint


def test_runs_go_as_far_as_paths_do_not_branch() -> None:
    trie = build_trie(((1, 2, 3, 9), (1, 4, 5, 6, 9), (1, 4, 5, 7, 9), (7, 8, 9), (2, 9)))
    tokens = {tuple(trie.tree.tokens[node] for node in run) for run in trie.runs}
    # Nodes are inner ones: the token that tells a label from all others is read, not run.
    assert tokens == {(1,), (4, 5), (5,)}
