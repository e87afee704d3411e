from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cotune.config.task import Task
from cotune.cycle.references import told
from cotune.evaluate.decision import RAW
from cotune.evaluate.references import majority_log_probs, tfidf_log_probs
from cotune.evaluate.responses import LabelOutputs

WORDS = ("river tower", "card refund", "goal match")
TEXTS = [f"{WORDS[i % 3].split()[i % 2]} number {i} of the day" for i in range(36)]
LABELS = np.array([i % 3 for i in range(36)])


def test_the_majority_answers_with_the_shares_of_the_labels() -> None:
    found = majority_log_probs(np.array([2, 2, 0, 2]), 4, 2)
    assert found.shape == (2, 4) and np.array_equal(found[0], found[1])
    np.testing.assert_allclose(np.exp(found[0]), np.array([1.5, 0.5, 3.5, 0.5]) / 6)


def test_words_tell_the_labels_apart() -> None:
    found = tfidf_log_probs(TEXTS, LABELS, 3, ["the TOWER by the river", "a refund, please", "a match"])
    np.testing.assert_allclose(np.exp(found).sum(1), 1)
    assert found.argmax(1).tolist() == [0, 1, 2]
    # Characters as well: a word that no row has, but for its ending.
    assert tfidf_log_probs(TEXTS, LABELS, 3, ["towers!"]).argmax(1).tolist() == [0]


def test_it_is_scikit_learns_where_every_label_has_rows() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    plain = make_pipeline(make_union(words, characters), LogisticRegression(C=10.0, max_iter=300)).fit(TEXTS[:30], LABELS[:30])
    found = tfidf_log_probs(TEXTS[:30], LABELS[:30], 3, TEXTS[30:])
    np.testing.assert_allclose(np.exp(found), plain.predict_proba(TEXTS[30:]), atol=1e-6)


def test_a_label_without_a_row_gets_one_part_in_rows_and_labels() -> None:
    found = np.exp(tfidf_log_probs(TEXTS, 2 * LABELS, 6, TEXTS[:3]))
    np.testing.assert_allclose(found[:, [1, 3, 5]], 1 / 42)
    np.testing.assert_allclose(found.sum(1), 1)
    assert found.argmax(1).tolist() == [0, 2, 4]


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "weighted_f1"])
def test_a_reference_has_an_interval_whatever_the_metric(metric: str) -> None:
    task = Task.from_rows(
        [(text, WORDS[label]) for text, label in zip(TEXTS, LABELS, strict=True)], metric=metric, limit={"test": 10}
    )
    rows = (*task.train, *task.dev)
    gold = np.array([task.labels.index(row.output) for row in rows])
    answers = np.where(np.arange(len(rows)) % 4 == 0, (gold + 1) % 3, gold)
    log_probs = np.log(np.where(np.arange(3) == answers[:, None], 0.8, 0.1))
    context: Any = SimpleNamespace(
        task=task, seed=0, choosing=SimpleNamespace(outputs=lambda scores, rows: LabelOutputs(scores))
    )
    shipped: Any = SimpleNamespace(rows=rows, evaluation=LabelOutputs(log_probs).judge(rows, RAW, task))
    found = told(context, log_probs, shipped)
    low, high = found["ci"]
    assert 0 < low < found["score"] < high < 1 and found["n"] == len(rows)
    assert found["difference"]["metric"] == metric and (found["difference"]["value"], found["difference"]["p"]) == (0.0, 1.0)
    # Compared by the metric itself: the reference always says the first label.
    always = told(context, np.log(np.tile([0.8, 0.1, 0.1], (len(rows), 1))), shipped)
    assert always["difference"]["value"] == pytest.approx(shipped.evaluation.score - always["score"], abs=1e-6)
    assert always["difference"]["p"] < 0.05 and always["difference"]["ci"][0] > 0
    some = told(context, np.log(np.tile([0.8, 0.1, 0.1], (12, 1))), shipped, np.arange(12))
    assert some["n"] == 12 and some["difference"]["ci"][0] <= some["difference"]["value"] <= some["difference"]["ci"][1]
