from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cotune.cycle.references import told
from cotune.evaluate.decision import RAW
from cotune.evaluate.references import MajorityReference, TfidfReference, _tfidf, cross_fitted_tfidf
from cotune.evaluate.responses import LabelOutputs
from cotune.probe.folds import fold_numbers
from cotune.task.task import Task

WORDS = ("river tower", "card refund", "goal match")
TEXTS = [f"{WORDS[i % 3].split()[i % 2]} number {i} of the day" for i in range(36)]
LABELS = np.array([i % 3 for i in range(36)])


def test_the_majority_answers_with_the_shares_of_the_labels() -> None:
    found = MajorityReference(np.array([2, 2, 0, 2]), 4).log_probs(["a", "b"])
    assert found.shape == (2, 4) and np.array_equal(found[0], found[1])
    np.testing.assert_allclose(np.exp(found[0]), np.array([1.5, 0.5, 3.5, 0.5]) / 6)


def test_words_tell_the_labels_apart() -> None:
    reference = TfidfReference(TEXTS, LABELS, 3)
    found = reference.log_probs(["the TOWER by the river", "a refund, please", "a match"])
    np.testing.assert_allclose(np.exp(found).sum(1), 1)
    assert found.argmax(1).tolist() == [0, 1, 2]
    # Characters as well: a word that no row has, but for its ending.
    assert reference.log_probs(["towers!"]).argmax(1).tolist() == [0]


def test_it_is_scikit_learns_where_every_label_has_rows() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    plain = make_pipeline(make_union(words, characters), LogisticRegression(C=10.0, max_iter=300)).fit(TEXTS[:30], LABELS[:30])
    found = TfidfReference(TEXTS[:30], LABELS[:30], 3).log_probs(TEXTS[30:])
    np.testing.assert_allclose(np.exp(found), plain.predict_proba(TEXTS[30:]), atol=1e-6)


def test_a_label_without_a_row_gets_one_part_in_rows_and_labels() -> None:
    found = np.exp(TfidfReference(TEXTS, 2 * LABELS, 6).log_probs(TEXTS[:3]))
    np.testing.assert_allclose(found[:, [1, 3, 5]], 1 / 42)
    np.testing.assert_allclose(found.sum(1), 1)
    assert found.argmax(1).tolist() == [0, 2, 4]


def test_each_row_is_told_by_a_fit_that_has_not_seen_it() -> None:
    found = cross_fitted_tfidf(TEXTS, LABELS, 3)
    assert found is not None and found.shape == (36, 3) and (found.argmax(1) == LABELS).mean() > 0.9
    # Labels by chance: what it has seen it would tell.
    texts = [f"word{i} thing{i} matter{i}" for i in range(60)]
    labels = np.random.default_rng(0).permutation(np.arange(60) % 2)
    blind = cross_fitted_tfidf(texts, labels, 2)
    assert blind is not None and (blind.argmax(1) == labels).mean() < 0.75
    assert (TfidfReference(texts, labels, 2).log_probs(texts).argmax(1) == labels).all()
    again = cross_fitted_tfidf(texts, labels, 2)
    assert again is not None and again.tobytes() == blind.tobytes()


@pytest.mark.parametrize("classes", [2, 3])
def test_folds_that_are_fitted_at_once_are_what_scikit_learn_fits_one_by_one(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    numbers = np.random.default_rng(classes)
    words = [f"w{i}" for i in range(40)]
    labels = numbers.integers(classes, size=90)
    texts = [" ".join([*numbers.choice(words, 6), f"hint{label}" if numbers.random() < 0.5 else ""]) for label in labels]
    found = cross_fitted_tfidf(texts, labels, classes, seed=3)
    assert found is not None
    terms, fold_of = _tfidf().fit_transform(texts), fold_numbers(labels, 5, seed=3)
    for fold in range(5):
        learn, held = fold_of != fold, fold_of == fold
        fitted = LogisticRegression(C=10.0, max_iter=2000, tol=1e-8).fit(terms[learn], labels[learn])
        np.testing.assert_allclose(found[held], fitted.predict_log_proba(terms[held]), atol=0.04)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "weighted_f1"])
def test_a_reference_has_an_interval_whatever_the_metric(metric: str) -> None:
    task = Task.from_rows(
        [(text, WORDS[label]) for text, label in zip(TEXTS, LABELS, strict=True)], metric=metric, limit={"test": 10}
    )
    rows = (*task.train, *task.dev)
    gold = np.array([task.labels.index(row.output) for row in rows])
    answers = np.where(np.arange(len(rows)) % 4 == 0, (gold + 1) % 3, gold)
    log_probs = np.log(np.where(np.arange(3) == answers[:, None], 0.8, 0.1))
    context: Any = SimpleNamespace(task=task, seed=0)
    shipped: Any = SimpleNamespace(rows=rows, evaluation=LabelOutputs(log_probs).judge(rows, RAW, task))
    found = told(context, log_probs, shipped)
    low, high = found["ci"]
    assert 0 < low < found["score"] < high < 1 and found["n"] == len(rows)


def test_the_products_of_the_rows_are_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for module, name in ((torch.linalg, "torch"), (np.linalg, "numpy")):
        kept = module.eigh
        monkeypatch.setattr(module, "eigh", lambda matrix, kept=kept, name=name: calls.append(name) or kept(matrix))
    assert cross_fitted_tfidf(TEXTS, LABELS, 3) is not None
    assert len(calls) == 1


def test_rows_of_a_group_are_held_out_together() -> None:
    groups = np.arange(60) // 6
    texts = [f"only{group}" for group in groups]
    labels = np.random.default_rng(0).permutation(np.arange(10) % 2)[groups]
    leaking, honest = (cross_fitted_tfidf(texts, labels, 2, groups=g) for g in (None, groups.tolist()))
    assert leaking is not None and honest is not None
    assert (leaking.argmax(1) == labels).all() and (honest.argmax(1) == labels).mean() < 0.75


@pytest.mark.parametrize(
    ("texts", "labels", "groups"),
    [
        (["one"], [0], None),
        (["one", "two"], [0, 1], None),
        (["one", "two", "three"], [0, 0, 0], None),
        (["one", "two", "three"], [0, 1, 0], ["a", "a", "a"]),
        (["", " ", "", ""], [0, 1, 0, 1], None),
    ],
)
def test_where_nothing_can_be_learnt_there_is_no_reference(
    texts: list[str], labels: list[int], groups: list[str] | None
) -> None:
    assert cross_fitted_tfidf(texts, np.array(labels), 2, groups=groups) is None
