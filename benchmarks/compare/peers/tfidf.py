"""TF-IDF of words and pairs of words with logistic regression, in scikit-learn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from contract import Answers, Job, Row, Trained, serve
from logistic import GRID, answered, fit_chosen

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

    fitted, chosen = fit_chosen(make, job.texts, job.outputs, job.seed)
    held = io.BytesIO()
    joblib.dump(fitted, held)

    def answer(rows: Sequence[Row]) -> Answers:
        return answered(fitted, [row.text for row in rows])

    return Trained(answer, shipped=held.getbuffer().nbytes, told=TOLD | {"chosen_C": chosen})


if __name__ == "__main__":
    serve(train, ["scikit-learn"])
