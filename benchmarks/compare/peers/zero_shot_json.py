"""Zero-shot JSON: the small model writes under the grammar that cotune writes under."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import small_model
from contract import Answers, Job, Row, Trained, serve
from held_to_grammar import processors_for


def train(job: Job) -> Trained:
    """Load the model; of the labelled rows the schema was inferred, and how long an answer may be."""
    tokenizer, model = small_model.load(job)
    processors = processors_for(tokenizer, model.config.vocab_size, job.extra["grammar"])
    most = 8 + max(len(tokenizer(output)["input_ids"]) for output in job.outputs) * 5 // 4

    def answer(rows: Sequence[Row]) -> Answers:
        questions = [small_model.json_question(row.text, job.extra["schema"]) for row in rows]
        return Answers(small_model.generated(tokenizer, model, questions, most, processors))

    told = {"question": small_model.json_question("{text}", job.extra["schema"]), "most_tokens": most}
    return Trained(answer, base=[Path(job.model)], told=told)


if __name__ == "__main__":
    serve(train, ["torch", "transformers", "llguidance"])
