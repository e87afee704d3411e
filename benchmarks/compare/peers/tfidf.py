"""TF-IDF of words and pairs of words with logistic regression, for numbers ridge regression, in scikit-learn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from contract import Answers, Job, Row, Trained, serve
from logistic import GRID, answered, fit_chosen
from ridge import by_ridge

# One and two words, and a penalty chosen by cross-validation, are the grid of scikit-learn's own example:
# https://scikit-learn.org/stable/auto_examples/model_selection/plot_grid_search_text_feature_extraction.html
TOLD = {"ngram_range": [1, 2], "sublinear_tf": True, "C": list(GRID), "page": "scikit-learn, grid search of text features"}


def train(job: Job) -> Trained:
    """Fit."""
    import joblib
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def make(strength: float) -> Any:
        return make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=strength, max_iter=1000)
        )

    if job.kind == "number":
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(job.texts)
        return by_ridge(job, words.transform, TOLD)
    fitted, chosen = fit_chosen(make, job.texts, job.outputs, job.seed)
    held = io.BytesIO()
    joblib.dump(fitted, held)

    def answer(rows: Sequence[Row]) -> Answers:
        return answered(fitted, [row.text for row in rows])

    return Trained(answer, shipped=held.getbuffer().nbytes, told=TOLD | {"chosen_C": chosen})


if __name__ == "__main__":
    serve(train, ["scikit-learn"])
