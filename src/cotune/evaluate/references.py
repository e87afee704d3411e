"""References that need no language model: the commonest label, and TF-IDF with logistic regression on the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_FOLDS = 5
_MOST_CHARACTERS = 20_000
"""Of a text: beyond, n-grams of one very long row would take more time than they tell."""


class MajorityReference:
    """Answers with the commonest label; its probabilities are the labels' shares, half a row added to each.

    Args:
        labels: ``[rows]`` numbers of the labels learnt from.
        classes: how many labels there are.
    """

    def __init__(self, labels: NDArray[np.int64], classes: int) -> None:
        counts = np.bincount(labels, minlength=classes) + 0.5
        self._log_probs: Floats = np.log(counts / counts.sum())

    def log_probs(self, texts: Sequence[str]) -> Floats:
        """``[rows, classes]``, the same in every row."""
        return np.tile(self._log_probs, (len(texts), 1))


class TfidfReference:
    """TF-IDF of words and of characters within words, with scikit-learn's logistic regression.

    Args:
        texts: rows to learn from.
        labels: ``[rows]`` numbers of their labels.
        classes: how many labels there are; one without a row gets one part in ``rows + classes``.

    Raises:
        ValueError: there are fewer than two labels, or no text holds a letter or a number.
    """

    def __init__(self, texts: Sequence[str], labels: NDArray[np.int64], classes: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline, make_union

        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=1)
        # scikit-learn's own default of C is too small for rows of unit length with hundreds of terms.
        self._pipeline = make_pipeline(make_union(words, characters), LogisticRegression(C=10.0, max_iter=300))
        self._rows, self._classes = len(texts), classes
        self._pipeline.fit([text[:_MOST_CHARACTERS] for text in texts], labels)

    def log_probs(self, texts: Sequence[str]) -> Floats:
        """``[rows, classes]`` log-probabilities."""
        found = self._pipeline.predict_proba([text[:_MOST_CHARACTERS] for text in texts])
        known = self._pipeline[-1].classes_
        rare = 1 / (self._rows + self._classes)
        shares = np.full((len(texts), self._classes), rare)
        shares[:, known] = np.maximum(found, 1e-9) * (1 - rare * (self._classes - len(known)))
        log_probs: Floats = np.log(shares / shares.sum(axis=1, keepdims=True))
        return log_probs


def cross_fitted_tfidf(
    texts: Sequence[str], labels: NDArray[np.int64], classes: int, *, groups: Sequence[object] | None = None, seed: int = 0
) -> Floats | None:
    """``[rows, classes]`` log-probabilities of TF-IDF with logistic regression, each row by a fit that has not seen it.

    None where rows, labels or groups are too few, or where no text holds a word.
    """
    from cotune.probe.folds import fold_numbers

    units = len(labels) if groups is None else len(set(map(str, groups)))
    if units < 2:
        return None
    folds = min(_FOLDS, units)
    fold_of = fold_numbers(labels, folds, groups=groups, seed=seed)
    found = np.empty((len(labels), classes))
    try:
        for fold in range(folds):
            learn, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            known, asked = ([texts[int(i)] for i in rows] for rows in (learn, held))
            found[held] = TfidfReference(known, labels[learn], classes).log_probs(asked)
    except ValueError:
        return None
    return found
