"""Zero-shot: the label whose words the small model finds likelier after a text than after none.

Contextual calibration (Zhao et al., Calibrate Before Use, arXiv 2102.09690): probabilities are divided by their mean after
texts that say nothing. Without it a model of this size gives nearly every row the label that the question names first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import small_model
from contract import Answers, Job, Row, Trained, most_likely, serve

NOTHING = ("N/A", "", "[MASK]")
"""The paper's texts without content."""


def train(job: Job) -> Trained:
    """Load the model and look what it says to nothing; no labelled row is learnt from."""
    tokenizer, model = small_model.load(job)

    def shares(texts: Sequence[str]) -> list[list[float]]:
        questions = [small_model.classification_question(text, job.labels) for text in texts]
        return small_model.label_shares(tokenizer, model, questions, job.labels)

    blank = [sum(column) / len(NOTHING) for column in zip(*shares(NOTHING), strict=True)]

    def answer(rows: Sequence[Row]) -> Answers:
        found = []
        for row in shares([row.text for row in rows]):
            weighed = [share / max(prior, 1e-12) for share, prior in zip(row, blank, strict=True)]
            found.append([value / sum(weighed) for value in weighed])
        return most_likely(found, job.labels)

    told = {
        "question": small_model.classification_question("{text}", job.labels),
        "read": "label words to their end token",
        "calibration": "divided by the mean after 'N/A', '' and '[MASK]'",
        "page": "arXiv 2102.09690",
    }
    return Trained(answer, base=[Path(job.model)], told=told)


if __name__ == "__main__":
    serve(train, ["torch", "transformers"])
