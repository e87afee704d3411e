"""Zero-shot JSON: the small model writes under the grammar that cotune writes under."""

from __future__ import annotations

from pathlib import Path

import small_model
from contract import Job, Trained, serve
from held_to_grammar import most_tokens, writer


def train(job: Job) -> Trained:
    """Load the model; of the labelled rows the schema was inferred, and how long an answer may be."""
    tokenizer, model = small_model.load(job)
    told = {"question": small_model.json_question("{text}", job.extra["schema"]), "most_tokens": most_tokens(job, tokenizer)}
    return Trained(writer(job, tokenizer, model), base=[Path(job.model)], told=told)


if __name__ == "__main__":
    serve(train, ["torch", "transformers", "llguidance"])
