"""Fits of TF-IDF: those of scikit-learn, blind to held-out rows, and as one stores them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from cotune.evaluate.references import _tfidf, tfidf_log_probs
from cotune.probe.folds import fold_numbers
from cotune.probe.term_fits import TermFits

WORDS = ("river tower", "card refund", "goal match")
TEXTS = [f"{WORDS[i % 3].split()[i % 2]} number {i} of the day" for i in range(36)]
LABELS = np.array([i % 3 for i in range(36)])


def noisy(classes: int, count: int = 90) -> tuple[list[str], np.ndarray]:
    numbers = np.random.default_rng(classes)
    words, labels = [f"w{i}" for i in range(40)], numbers.integers(classes, size=count)
    return [" ".join([*numbers.choice(words, 6), f"hint{y}" if numbers.random() < 0.5 else ""]) for y in labels], labels


def test_each_row_is_told_by_a_fit_that_has_not_seen_it() -> None:
    found = TermFits(TEXTS, LABELS, 3).cross_fitted()
    assert found is not None and found.shape == (36, 3) and (found.argmax(1) == LABELS).mean() > 0.9
    # Labels by chance: what it has seen it would tell.
    texts = [f"word{i} thing{i} matter{i}" for i in range(60)]
    labels = np.random.default_rng(0).permutation(np.arange(60) % 2)
    fits = TermFits(texts, labels, 2)
    blind = fits.cross_fitted()
    assert blind is not None and (blind.argmax(1) == labels).mean() < 0.75
    assert (fits.fit(np.ones(60, dtype=bool), ("text",)).logits(texts).argmax(1) == labels).all()
    again = TermFits(texts, labels, 2).cross_fitted()
    assert again is not None and again.tobytes() == blind.tobytes()


@pytest.mark.parametrize("classes", [2, 3])
def test_folds_that_are_fitted_at_once_are_what_scikit_learn_fits_one_by_one(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    texts, labels = noisy(classes)
    fits = TermFits(texts, labels, classes)
    found = fits.cross_fitted(seed=3)
    assert found is not None
    terms, fold_of = _tfidf().fit_transform(texts), fold_numbers(labels, 5, seed=3)
    for fold in range(5):
        learn, held = fold_of != fold, fold_of == fold
        fitted = LogisticRegression(C=10.0, max_iter=2000, tol=1e-8).fit(terms[learn], labels[learn])
        np.testing.assert_allclose(found[held], fitted.predict_log_proba(terms[held]), atol=0.04)
        # What is stored gives the same, but for half precision.
        stored = fits.fit(learn, ("text",)).logits([text for text, out in zip(texts, held, strict=True) if out])
        np.testing.assert_allclose(log_softmax(stored, axis=1), found[held], atol=0.01)


def test_new_texts_are_told_as_by_the_reference() -> None:
    """The reference keeps its terms apart instead of hashing them; its frequencies are those of the same rows."""
    texts, labels = noisy(3, 200)
    found = log_softmax(
        TermFits(texts[:150], labels[:150], 3).fit(np.ones(150, dtype=bool), ("t",)).logits(texts[150:]), axis=1
    )
    np.testing.assert_allclose(found, tfidf_log_probs(texts[:150], labels[:150], 3, texts[150:]), atol=0.15)


def test_many_labels_share_hashes_and_stay_within_the_bound() -> None:
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), size=(600, 20, 8))
    texts = [" ".join("".join(word) for word in row) for row in letters]
    every = np.ones(600, dtype=bool)
    few, many = (TermFits(texts, np.arange(600) % classes, classes).fit(every, ("text",)) for classes in (2, 500))
    assert few.weight.nbytes < many.weight.nbytes <= 2**24 and len(few.buckets) * 500 > 2**23 and many.size < few.size


def test_the_products_of_the_rows_are_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for module, name in ((torch.linalg, "torch"), (np.linalg, "numpy")):
        kept = module.eigh
        monkeypatch.setattr(module, "eigh", lambda matrix, kept=kept, name=name: calls.append(name) or kept(matrix))
    fits = TermFits(TEXTS, LABELS, 3)
    assert fits.cross_fitted() is not None
    fits.fit(LABELS < 9, ("text",))
    assert len(calls) == 1


def test_a_fit_to_no_rows_says_nothing() -> None:
    """Of very many rows only the first ones are read, and those to learn from may not be among them."""
    terms = TermFits(TEXTS, LABELS, 3).fit(np.zeros(36, dtype=bool), ("text",))
    assert not terms.logits(TEXTS).any()


def test_rows_of_a_group_are_held_out_together() -> None:
    groups = np.arange(60) // 6
    texts = [f"only{group}" for group in groups]
    labels = np.random.default_rng(0).permutation(np.arange(10) % 2)[groups]
    leaking, honest = (TermFits(texts, labels, 2).cross_fitted(groups=g) for g in (None, groups.tolist()))
    assert leaking is not None and honest is not None
    assert (leaking.argmax(1) == labels).all()
    # A held-out group's only word is new, and both labels are as common: nothing is known of it.
    np.testing.assert_allclose(honest, np.log(0.5), atol=1e-5)


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
def test_where_nothing_can_be_learnt_there_is_no_fit(texts: list[str], labels: list[int], groups: list[str] | None) -> None:
    assert TermFits(texts, np.array(labels), 2).cross_fitted(groups=groups) is None
