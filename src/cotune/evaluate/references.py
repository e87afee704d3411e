"""References without a language model: the most frequent label, and TF-IDF with logistic regression on the same rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.probe.fields import log_softmax_by_field
from cotune.prompt.truncate import equal_length

Floats = NDArray[np.float64]

_C = 10.0
"""Inverse of the penalty; scikit-learn's default of 1 is too small for rows of unit length with hundreds of terms."""
_MOST_CHARACTERS = 20_000
"""Maximum number of characters of a text, so that one very long row does not take most of the time."""
_MOST_IN_ALL = 4_000_000
"""Maximum number of characters of all texts that are learnt from: seconds instead of minutes, and no gigabytes."""


def majority_log_probs(labels: NDArray[np.int64], classes: int, rows: int, sizes: Sequence[int] = ()) -> Floats:
    """Log-probabilities ``[rows, classes]`` of always predicting the most frequent label, the same in every row.

    They are the labels' shares, with half a row added to each.

    Args:
        labels: label indices of the training rows; with several fields, ``[rows, fields]`` places among all classes.
        sizes: number of classes of each of several fields; empty for one.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes) + 0.5
    return np.tile(log_softmax_by_field(np.log(counts), sizes), (rows, 1))


def tfidf_log_probs(texts: Sequence[str], labels: NDArray[np.int64], classes: int, asked: Sequence[str]) -> Floats:
    """Log-probabilities ``[asked, classes]`` by TF-IDF with scikit-learn's logistic regression.

    Args:
        labels: their label indices.
        classes: number of labels; a label without rows gets the probability ``1 / (rows + classes)``.

    Raises:
        ValueError: if there are fewer than two labels, or no text contains a letter or a number.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    most = min(_MOST_CHARACTERS, equal_length([(len(text), 1) for text in texts], _MOST_IN_ALL))
    learn, asked = ([text[:most] for text in part] for part in (texts, asked))
    with warnings.catch_warnings():
        # It warns of many labels for the rows, and of a fit that has not converged; users can change neither.
        warnings.simplefilter("ignore")
        pipeline = make_pipeline(_tfidf(), LogisticRegression(C=_C, max_iter=300)).fit(learn, labels)
    fitted = pipeline[-1].classes_
    rare = 1 / (len(texts) + classes)
    shares = np.full((len(asked), classes), rare)
    shares[:, fitted] = np.maximum(pipeline.predict_proba(asked), 1e-9) * (1 - rare * (classes - len(fitted)))
    log_probs: Floats = np.log(shares / shares.sum(axis=1, keepdims=True))
    return log_probs


def _tfidf() -> Any:
    """TF-IDF of words and word pairs, and of characters within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
    return make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=1))
