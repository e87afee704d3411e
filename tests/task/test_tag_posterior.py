"""Probabilities of copied values, against sums over all paths of tags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_chain import random_chain, score_of

from cotune.task.values.chain import Chain, likeliest, spans_of
from cotune.task.values.closed import ClosedFields, closed_fields
from cotune.task.values.copied import copied_fields
from cotune.task.values.tag_posterior import posteriors
from cotune.task.values.tags import Tags, answer_fields
from cotune.task.words import words_of

Spans = dict[int, list[tuple[int, int]]]


def paths_of(table: Any, chain: Chain) -> Iterator[tuple[Spans, float]]:
    """The values and the weight of every allowed path of tags."""
    for tags in product(range(2 * chain.parts + 1), repeat=len(table)):
        if np.isfinite(score := score_of(tags, table, chain)):
            yield dict(spans_of(np.array(tags, dtype=np.int64), chain.parts)), float(np.exp(score))


@given(st.data())
def test_posteriors_are_those_of_a_sum_over_all_paths(data: st.DataObject) -> None:
    parts, rng = data.draw(st.integers(1, 2)), np.random.default_rng(data.draw(st.integers(0, 10**6)))
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    chain = random_chain(parts, rng) if data.draw(st.booleans()) else Chain.flat(parts)
    tables = [rng.normal(size=(length, parts + 3)) * data.draw(st.sampled_from([0.1, 1, 5])) for length in lengths]
    every = [list(paths_of(table, chain)) for table in tables]
    asked = [data.draw(st.sampled_from(paths))[0] for paths in every]
    alone, together = posteriors(tables, asked, chain)
    assert alone.shape == (len(tables), parts) and together.shape == (len(tables),)
    for row, paths in enumerate(every):
        total, own = sum(weight for _, weight in paths), asked[row]
        assert together[row] == pytest.approx(sum(weight for spans, weight in paths if spans == own) / total)
        for part in range(1, parts + 1):
            alike = sum(weight for spans, weight in paths if spans.get(part) == own.get(part))
            assert alone[row, part - 1] == pytest.approx(alike / total)
        assert 0 <= together[row] <= alone[row].min() + 1e-12 and alone[row].max() <= 1


@given(st.data())
def test_no_path_is_likelier_than_the_likeliest(data: st.DataObject) -> None:
    parts, rng = data.draw(st.integers(1, 2)), np.random.default_rng(data.draw(st.integers(0, 10**6)))
    table = rng.normal(size=(data.draw(st.integers(0, 4)), parts + 3))
    chain = random_chain(parts, rng)
    best = spans_of(likeliest([table], chain)[0], parts)
    every = list(paths_of(table, chain))
    _, found = posteriors([table] * (1 + len(every)), [best, *(spans for spans, _ in every)], chain)
    assert found[0] == pytest.approx(found[1:].max()) and found[1:].sum() == pytest.approx(1)


def test_values_that_share_a_word_cannot_all_be_right() -> None:
    table = np.log(np.full((3, 5), 0.3))
    alone, together = posteriors([table], [{1: [(0, 1)], 2: [(1, 1)]}], Chain.flat(2))
    assert together[0] == 0 < alone.min()


def test_log_probabilities_far_below_doubles_do_no_harm() -> None:
    table = np.array([[-2e4, 0.0, -1e4, -5e3], [0.0, -1e4, -1e4, 0.0], [0.0, -1e4, 0.0, -1e4]])
    for spans in ({}, {1: [(0, 0)]}, {1: [(0, 2)]}):
        alone, together = posteriors([table], [spans], Chain.flat(1))
        assert np.isfinite(alone).all() and 0 <= together[0] <= 1
    assert posteriors([np.repeat(table, 200, axis=0)], [{}], Chain.flat(1))[1][0] == 0


def tags() -> Tags:
    name = {"type": "object", "properties": {"name": {"type": "string"}, "role": {"enum": ["host", "guest"]}}}
    text = {"type": "string"}
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "must": {"type": "integer"},
            "may": text,
            "list": {"type": "array", "items": {**text, "maxLength": 3}, "maxItems": 2},
            "who": {"type": "array", "items": {**name, "required": ["name", "role"]}},
        },
        "required": ["kind", "must", "list", "who"],
    }
    output = {"kind": "a", "must": 7, "may": "x", "list": ["y"], "who": [{"name": "z", "role": "host"}]}
    fields = answer_fields(schema, copied_fields(schema, [json.dumps(output)], ["7 x y z"]))
    assert isinstance(fields, Tags)
    return fields


@given(st.lists(st.sampled_from(["7", "x", "long", "z"]), max_size=9), st.integers(0, 10**6))
def test_answers_with_probabilities_are_those_without(words: list[str], seed: int) -> None:
    fields, texts, rng = tags(), [" ".join(words), "7 z"], np.random.default_rng(seed)
    states = sum(len(words_of(text)) + 1 for text in texts)
    parts = [rng.normal(size=(states, size)) * 2 for size in fields.sizes]
    log_probs = np.concatenate([part - np.logaddexp.reduce(part, axis=1, keepdims=True) for part in parts], axis=1)
    found = fields.judged(log_probs, texts)
    assert found.outputs == fields.answers(log_probs, texts) and found.confidence is not None
    assert found.shares.shape == (2, len(fields.shown)) and len(set(fields.shown)) == len(fields.shown)
    assert fields.shown[:3] == ("must", "may", "list[]") and 'kind="a"' in fields.shown
    assert fields.shown[3:5] == ('who[].name with role="host"', 'who[].name with role="guest"')
    assert 0 <= found.shares.min() <= found.shares.max() <= 1 + 1e-9
    assert (found.confidence <= found.shares[:, :5].min(axis=1) + 1e-9).all() and found.confidence.min() >= 0
    alone = fields.judged(log_probs[: len(words_of(texts[0])) + 1], texts[:1])
    assert alone.shares[0] == pytest.approx(found.shares[0])


def test_the_answered_words_count_where_the_likeliest_tags_are_not_answered() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    fields = answer_fields(schema, copied_fields(schema, ['{"a": 7}'], ["7"]))
    assert isinstance(fields, Tags) and fields.copied[0].blank == "never"
    # No word is likely, so the number is answered.
    table = np.log([[0.9, 0.1, 0.9, 0.1], [0.8, 0.2, 0.9, 0.1], [0.9, 0.1, 0.9, 0.1]])
    found = fields.judged(table, ["no 7"])
    wanted = posteriors([table[:2]], [{1: [(1, 1)]}], Chain.flat(1))[1][0]
    assert found.outputs == ('{"a": 7}',) and found.shares[0, 0] == pytest.approx(wanted) and wanted < 0.3
    # Of two values the clearer one is answered, which the tags do not say.
    table = np.log([[0.1, 0.9, 0.9, 0.1], [0.2, 0.8, 0.9, 0.1], [0.9, 0.1, 0.9, 0.1]])
    found = fields.judged(table, ["8 7"])
    assert found.outputs == ('{"a": 8}',) and found.confidence is not None and found.confidence[0] < 0.3


def test_closed_answers_are_right_with_the_product_of_their_values() -> None:
    items = {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 1}
    fields = closed_fields(
        {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}, "list": items}, "required": ["kind", "list"]}
    )
    assert isinstance(fields, ClosedFields)
    found = fields.judged(np.log([[0.7, 0.3, 0.4, 0.6, 0.1, 0.9]]))
    assert json.loads(found.outputs[0]) == {"kind": "a", "list": ["y"]}
    # Only one item fits into the list.
    assert found.confidence == pytest.approx([0.7 * 0.4 * 0.9]) and found.shares[0].tolist() == pytest.approx(
        [0.7, 0.3, 0.4, 0.6, 0.1, 0.9]
    )
