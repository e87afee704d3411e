"""Zero-shot: the label whose words the small model finds likeliest after a question that names them all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import small_model
from contract import Answers, Job, Row, Trained, most_likely, serve


def train(job: Job) -> Trained:
    """Load the model; there is nothing to learn."""
    tokenizer, model = small_model.load(job)

    def answer(rows: Sequence[Row]) -> Answers:
        questions = [small_model.classification_question(row.text, job.labels) for row in rows]
        return most_likely(small_model.label_shares(tokenizer, model, questions, job.labels), job.labels)

    told = {"question": small_model.classification_question("{text}", job.labels), "read": "label words to their end token"}
    return Trained(answer, base=[Path(job.model)], told=told)


if __name__ == "__main__":
    serve(train, ["torch", "transformers"])
