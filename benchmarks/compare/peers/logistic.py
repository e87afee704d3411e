"""Logistic regression whose penalty is chosen by cross-validated log-loss, for every peer that puts one on frozen vectors."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from contract import Answers, most_likely

GRID = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Inverse penalties that are tried; scikit-learn's default, 1, is among them."""


def fit_chosen(make: Callable[[float], Any], inputs: Sequence[Any], outputs: Sequence[str], seed: int) -> tuple[Any, float]:
    """Fit the best of :data:`GRID` to all rows.

    A label with a single row is in no fold's fit and held-out part at once, so its rows do not count in the choice.

    Args:
        make: an unfitted classifier of an inverse penalty.
        inputs: what it is fitted to, an entry a row.
        outputs: labels.
        seed: of the folds.

    Returns:
        The fitted classifier and its inverse penalty.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    labels = np.asarray(outputs)
    most = max(Counter(outputs).values())
    if len(set(outputs)) < 2:
        raise SystemExit("error: logistic regression needs two labels among the labelled rows")
    losses = dict.fromkeys(GRID, 0.0)
    if most >= 2:
        with warnings.catch_warnings():
            # Labels with fewer rows than folds are told of at every split.
            warnings.simplefilter("ignore", UserWarning)
            splits = list(StratifiedKFold(min(5, most), shuffle=True, random_state=seed).split(labels, labels))
        for strength in GRID:
            for learnt, held in splits:
                if len(set(labels[learnt])) < 2:
                    continue
                fitted = make(strength).fit([inputs[i] for i in learnt], labels[learnt])
                place = {label: i for i, label in enumerate(fitted.classes_)}
                known = [i for i in held if labels[i] in place]
                if known:
                    found = fitted.predict_proba([inputs[i] for i in known])
                    right = found[np.arange(len(known)), [place[labels[i]] for i in known]]
                    losses[strength] -= float(np.log(np.maximum(right, 1e-12)).sum())
    chosen = min(GRID, key=lambda strength: losses[strength]) if any(losses.values()) else 1.0
    return make(chosen).fit(list(inputs), labels), chosen


def answered(fitted: Any, inputs: Any) -> Answers:
    """What a fitted classifier answers."""
    return most_likely(fitted.predict_proba(inputs), [str(label) for label in fitted.classes_])
