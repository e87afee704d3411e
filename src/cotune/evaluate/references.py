"""References without a language model: the most frequent label, and TF-IDF with logistic regression on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_C = 10.0
"""Inverse of the penalty; scikit-learn's default of 1 is too small for rows of unit length with hundreds of terms."""
_MOST_CHARACTERS = 20_000
"""Maximum number of characters of a text, so that one very long row does not take most of the time."""


class MajorityReference:
    """Predicts the most frequent label; probabilities are the labels' shares, with half a row added to each.

    Args:
        labels: ``[rows]`` label indices of the training rows.
        classes: number of labels.
    """

    def __init__(self, labels: NDArray[np.int64], classes: int) -> None:
        counts = np.bincount(labels, minlength=classes) + 0.5
        self._log_probs: Floats = np.log(counts / counts.sum())

    def log_probs(self, texts: Sequence[str]) -> Floats:
        """``[rows, classes]``, the same in every row."""
        return np.tile(self._log_probs, (len(texts), 1))


def _tfidf() -> Any:
    """TF-IDF of words and word pairs, and of characters within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
    return make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=1))


def _cut(texts: Sequence[str]) -> list[str]:
    return [text[:_MOST_CHARACTERS] for text in texts]


class TfidfReference:
    """TF-IDF of words and of characters within words, with scikit-learn's logistic regression.

    Args:
        texts: training texts.
        labels: ``[rows]`` their label indices.
        classes: number of labels; a label without rows gets the probability ``1 / (rows + classes)``.

    Raises:
        ValueError: if there are fewer than two labels, or no text contains a letter or a number.
    """

    def __init__(self, texts: Sequence[str], labels: NDArray[np.int64], classes: int) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        self._pipeline = make_pipeline(_tfidf(), LogisticRegression(C=_C, max_iter=300))
        self._rows, self._classes = len(texts), classes
        self._pipeline.fit(_cut(texts), labels)

    def log_probs(self, texts: Sequence[str]) -> Floats:
        """``[rows, classes]`` log-probabilities."""
        probabilities = self._pipeline.predict_proba(_cut(texts))
        fitted_classes = self._pipeline[-1].classes_
        rare = 1 / (self._rows + self._classes)
        shares = np.full((len(texts), self._classes), rare)
        shares[:, fitted_classes] = np.maximum(probabilities, 1e-9) * (1 - rare * (self._classes - len(fitted_classes)))
        log_probs: Floats = np.log(shares / shares.sum(axis=1, keepdims=True))
        return log_probs
