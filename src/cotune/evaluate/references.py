"""References without a language model: the most frequent label, and TF-IDF with logistic regression on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.probe.fields import by_field, log_softmax_by_field

Floats = NDArray[np.float64]

_C = 10.0
"""Inverse of the penalty; scikit-learn's default of 1 is too small for rows of unit length with hundreds of terms."""
_MOST_CHARACTERS = 20_000
"""Maximum number of characters of a text, so that one very long row does not take most of the time."""


def majority_log_probs(labels: NDArray[np.int64], classes: int, rows: int, sizes: Sequence[int] = ()) -> Floats:
    """Log-probabilities ``[rows, classes]`` of always predicting the most frequent label, the same in every row.

    They are the labels' shares, with half a row added to each.

    Args:
        labels: label indices of the training rows; with several fields, ``[rows, fields]`` places among all classes.
        classes: number of labels.
        rows: number of rows to predict.
        sizes: number of classes of each of several fields; empty for one.
    """
    counts = np.bincount(labels.ravel(), minlength=classes) + 0.5
    return np.tile(log_softmax_by_field(np.log(counts), sizes), (rows, 1))


def tfidf_log_probs(
    texts: Sequence[str], labels: NDArray[np.int64], classes: int, asked: Sequence[str], sizes: Sequence[int] = ()
) -> Floats:
    """Log-probabilities ``[asked, classes]`` by TF-IDF with scikit-learn's logistic regression.

    Args:
        texts: training texts.
        labels: their label indices; with several fields, ``[rows, fields]`` places among the classes of all fields.
        classes: number of labels; a label without rows gets the probability ``1 / (rows + classes)``.
        asked: texts to predict.
        sizes: number of classes of each of several fields, each with its own regression; empty for one.

    Raises:
        ValueError: if there are fewer than two labels, or no text contains a letter or a number.
    """
    learn, asked = ([text[:_MOST_CHARACTERS] for text in part] for part in (texts, asked))
    vectors = _tfidf().fit(learn)
    known, new = vectors.transform(learn), vectors.transform(asked)
    parts = []
    for span, own in by_field(labels, sizes, classes):
        size = span.stop - span.start
        constant = sizes and len(np.unique(own)) < 2
        parts.append(majority_log_probs(own, size, len(asked)) if constant else _regression(known, own, size, new))
    return np.concatenate(parts, axis=1)


def _regression(known: Any, labels: NDArray[np.int64], classes: int, asked: Any) -> Floats:
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=_C, max_iter=300).fit(known, labels)
    rare = 1 / (len(labels) + classes)
    shares = np.full((asked.shape[0], classes), rare)
    shares[:, found.classes_] = np.maximum(found.predict_proba(asked), 1e-9) * (1 - rare * (classes - len(found.classes_)))
    log_probs: Floats = np.log(shares / shares.sum(axis=1, keepdims=True))
    return log_probs


def _tfidf() -> Any:
    """TF-IDF of words and word pairs, and of characters within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
    return make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=1))
