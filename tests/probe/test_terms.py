"""Hashed TF-IDF: the features are scikit-learn's, hashes never change, and what is stored answers the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from scipy.special import log_softmax

from cotune.errors import CotuneError, InputError
from cotune.probe.readout import PROBE, Probe, load_probe
from cotune.probe.term_fits import TermFits
from cotune.probe.terms import TermWeights, features, load_terms, term_counts

TEXTS = [
    "Wire money to Mum",
    "wire  the MONEY",
    "book a table",
    "a table for two, a quiet one",
    "Zürich \u6771\u4eac \U0001f600 ok",
    "I",
]
LABELS = np.array([0, 0, 1, 1, 2, 2])
SIZE = 2**20


def fitted(texts: list[str] = TEXTS, classes: int = 3) -> TermWeights:
    return TermFits(texts, LABELS, classes).fit(np.ones(len(texts), dtype=bool), ("text",))


def probe_with(terms: TermWeights | None) -> Probe:
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    return Probe(("a", "b", "c"), weight, np.zeros(3, dtype=np.float32), 2, terms=terms)


def test_the_features_are_those_of_scikit_learn() -> None:
    """Products of rows do not depend on the order of terms; with 2**20 hashes these texts have no collision."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    wanted = make_union(words, characters).fit(TEXTS)
    counted = [term_counts(text, SIZE) for text in TEXTS]
    known, rows = np.unique(np.concatenate([buckets for buckets, _ in counted]), return_counts=True)
    idf = (np.log((1 + len(TEXTS)) / (1 + rows)) + 1).astype(np.float32)
    for texts in (TEXTS, ["wire a quiet table", "nothing known: qqq", ""]):
        dense = np.zeros((len(texts), len(known)))
        for row, text in zip(dense, texts, strict=True):
            places, values = features(term_counts(text, SIZE), known, idf, SIZE)
            row[places] = values
        found = wanted.transform(texts).toarray()
        np.testing.assert_allclose(dense @ dense.T, found @ found.T, atol=1e-6)


def test_hashes_stay_the_same_in_all_versions() -> None:
    """Bundles store hashes of terms, so another hash would silently change their answers."""
    buckets, counts = term_counts("Ab c ab", 2**16)
    assert buckets.tolist() == [
        18541, 35354, 74756, 77836, 86134, 93426, 94496, 116489, 122793, 124859, 130851
    ]  # fmt: skip
    assert counts.tolist() == [2, 1, 2, 1, 2, 1, 1, 2, 2, 2, 2]


@given(st.text(st.characters(), max_size=60), st.sampled_from([16, 2**16]))
def test_any_text_has_features_of_unit_length(text: str, size: int) -> None:
    buckets, counts = term_counts(text, size)
    assert (buckets[1:] > buckets[:-1]).all() and (counts > 0).all() and (buckets < 2 * size).all()
    lengths = [len(word) + 2 for word in text.lower().split()]
    assert counts[buckets >= size].sum() == sum(max(0, length - n + 1) for length in lengths for n in range(2, 6))
    places, values = features((buckets, counts), buckets, np.ones(len(buckets), dtype=np.float32), size)
    groups = [values[buckets[places] < size], values[buckets[places] >= size]]
    np.testing.assert_allclose([(group**2).sum() for group in groups if len(group)], 1)


def test_only_the_beginning_of_a_very_long_text_is_read() -> None:
    text = "word " * 4000
    assert np.array_equal(term_counts(text + "more", SIZE)[0], term_counts(text, SIZE)[0])
    assert not np.array_equal(term_counts(text[:-5] + "more", SIZE)[0], term_counts(text, SIZE)[0])


def test_a_text_without_a_known_term_gets_the_bias() -> None:
    terms = fitted()
    np.testing.assert_allclose(terms.logits(["", "\u4e00"]), np.tile(terms.bias, (2, 1)))


def test_a_row_is_read_in_the_order_of_its_fields() -> None:
    terms = replace(fitted(), fields=("first", "second"))
    row = {"second": "to Mum", "other": "book a table", "first": "Wire money"}
    np.testing.assert_array_equal(terms.logits([row]), terms.logits(["Wire money to Mum"]))


def test_a_probe_with_terms_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    probe = probe_with(fitted())
    (tmp_path / PROBE).write_bytes(probe.to_bytes())
    read = load_probe(tmp_path)
    assert read is not None and read.terms is not None and read.to_bytes() == probe.to_bytes()
    assert read.to_bytes() != probe_with(None).to_bytes() and read.terms.fields == ("text",)
    alone = load_terms(tmp_path / PROBE)
    assert alone is not None
    np.testing.assert_array_equal(alone.logits(TEXTS), fitted().logits(TEXTS))
    (tmp_path / PROBE).write_bytes(probe_with(None).to_bytes())
    assert load_terms(tmp_path / PROBE) is None


def test_logits_of_terms_are_added_in_the_order_of_the_labels() -> None:
    probe, rows = probe_with(fitted()), [{"text": text} for text in TEXTS]
    states = np.random.default_rng(1).normal(size=(len(rows), 4)).astype(np.float32)
    assert probe.terms is not None
    wanted = log_softmax(states @ probe.weight.T + probe.terms.logits(TEXTS), axis=1)
    for order in ([0, 1, 2], [2, 0, 1]):
        labels = [probe.labels[i] for i in order]
        found = probe.with_terms(probe.log_probs(states, labels), rows, labels)
        np.testing.assert_allclose(found, wanted[:, order], atol=1e-5)
    with pytest.raises(CotuneError, match="other labels"):
        probe.with_terms(wanted, rows, ["a", "b", "d"])


def test_times_scales_all_logits() -> None:
    np.testing.assert_allclose(fitted().times(0.5).logits(TEXTS), 0.5 * fitted().logits(TEXTS), atol=2e-3)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weight", lambda part: part[:-1]),
        ("weight", lambda part: part[:, :2]),
        ("weight", lambda part: part.astype(np.float32)),
        ("weight", lambda part: np.full_like(part, np.nan)),
        ("idf", lambda part: part[:-1]),
        ("idf", lambda part: part * np.inf),
        ("buckets", lambda part: part[::-1].copy()),
        ("buckets", lambda part: part.astype(np.int64)),
        ("bias", lambda part: part[:2]),
        ("bias", None),
    ],
)
def test_damaged_terms_are_refused(tmp_path: Path, name: str, change: Any) -> None:
    probe = probe_with(fitted())
    assert probe.terms is not None
    arrays = {"weight": probe.weight, "bias": probe.bias, **probe.terms.arrays()}
    part = arrays.pop(f"terms.{name}")
    if change is not None:
        arrays[f"terms.{name}"] = change(part)
    about = {"labels": probe.labels, "layer": 2, "terms": {"size": probe.terms.size, "fields": ["text"]}}
    (tmp_path / PROBE).write_bytes(save(arrays, metadata={"cotune": json.dumps(about)}))
    with pytest.raises(InputError, match="the probe cannot be read"):
        load_probe(tmp_path)


@pytest.mark.parametrize("about", [{}, {"size": "x", "fields": ["text"]}, {"size": 0, "fields": ["text"]}, {"size": 8}, 3])
def test_terms_that_are_not_described_are_refused(tmp_path: Path, about: Any) -> None:
    probe = probe_with(fitted())
    assert probe.terms is not None
    arrays = {"weight": probe.weight, "bias": probe.bias, **probe.terms.arrays()}
    said = {"labels": probe.labels, "layer": 2, "terms": about}
    (tmp_path / PROBE).write_bytes(save(arrays, metadata={"cotune": json.dumps(said)}))
    with pytest.raises(InputError, match="the probe cannot be read"):
        load_probe(tmp_path)
