"""A plain linear probe: logistic regression on the last token's state after the small model's last layer.

Prompt-augmented linear probing (Cho et al., AAAI 2023, arXiv 2212.10873) with the text alone in the model's chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import small_model
from contract import Answers, Job, Row, Trained, serve
from logistic import GRID, answered, fit_chosen

TOLD = {
    "state": "last token of the chat template up to the answer, after the last layer and its norm",
    "standardised": True,
    "C": [strength / 1000 for strength in GRID],
    "page": "arXiv 2212.10873, section 3",
}


def train(job: Job) -> Trained:
    """Embed and fit."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    tokenizer, model = small_model.load(job)
    # Hundreds of standardised numbers want a larger penalty than a vector of unit length.
    fitted, chosen = fit_chosen(
        lambda strength: make_pipeline(StandardScaler(), LogisticRegression(C=strength / 1000, max_iter=2000)),
        states(tokenizer, model, job.texts),
        job.outputs,
        job.seed,
    )

    def answer(rows: Sequence[Row]) -> Answers:
        return answered(fitted, states(tokenizer, model, [row.text for row in rows]))

    shipped = sum(part.nbytes for part in (fitted[-1].coef_, fitted[-1].intercept_, fitted[0].mean_, fitted[0].scale_))
    return Trained(answer, shipped=shipped, base=[Path(job.model)], told=TOLD | {"chosen_C": chosen / 1000})


def states(tokenizer: Any, model: Any, texts: Sequence[str]) -> Any:
    """``[texts, width]`` states of the last token."""
    import numpy as np
    import torch

    found = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for part, ids, mask in small_model.padded_batches(tokenizer, texts):
            hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            found[part] = hidden[:, -1].numpy()
    return found


if __name__ == "__main__":
    serve(train, ["torch", "transformers", "scikit-learn"])
