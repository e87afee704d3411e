"""Answers of transformers' ``generate`` held to the grammar that cotune writes under, by llguidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import small_model
from contract import Answers, Job, Row


def writer(job: Job, tokenizer: Any, model: Any) -> Callable[[Sequence[Row]], Answers]:
    """Answers rows with JSON under the job's grammar."""
    processors = processors_for(tokenizer, model.config.vocab_size, job.extra["grammar"])
    most = most_tokens(job, tokenizer)

    def answer(rows: Sequence[Row]) -> Answers:
        questions = [small_model.json_question(row.text, job.extra["schema"]) for row in rows]
        return Answers(small_model.generated(tokenizer, model, questions, most, processors))

    return answer


def most_tokens(job: Job, tokenizer: Any) -> int:
    """How long an answer may be: a quarter longer than the longest of the labelled rows, and a little."""
    return 8 + max(len(tokenizer(output)["input_ids"]) for output in job.outputs) * 5 // 4


def processors_for(tokenizer: Any, vocabulary: int, grammar: str) -> Any:
    """What :func:`small_model.generated` takes: makes the logits processors of a batch.

    Args:
        tokenizer: a fast tokenizer.
        vocabulary: width of the logits.
        grammar: as the harness hands it over.
    """
    import llguidance
    import llguidance.hf
    import numpy as np
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    table = llguidance.hf.from_tokenizer(tokenizer, n_vocab=max(vocabulary, len(tokenizer)))
    first = llguidance.LLMatcher(table, grammar, log_level=0)
    if first.is_error():
        raise SystemExit(f"error: the grammar is refused: {first.get_error()}")
    end = int(tokenizer.eos_token_id)

    class Held(LogitsProcessor):  # type: ignore[misc]
        """Rules out, in every row, what the grammar does not let through."""

        def __init__(self, width: int, rows: int) -> None:
            self._width = width
            self._walks = [first.deep_copy() for _ in range(rows)]

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            for row, walk in enumerate(self._walks):
                made = input_ids[row, self._width :].tolist()
                if made and made[-1] != end and not walk.is_stopped():
                    walk.consume_token(made[-1])
                if walk.is_stopped() or (made and made[-1] == end):
                    allowed = np.zeros(scores.shape[1], dtype=bool)
                else:
                    bits = np.frombuffer(walk.compute_bitmask(), dtype=np.uint8)
                    allowed = np.unpackbits(bits, bitorder="little")[: scores.shape[1]].astype(bool)
                    allowed[end] = walk.is_accepting()
                if not allowed.any():
                    allowed[end] = True
                scores[row, torch.from_numpy(~allowed)] = -float("inf")
            return scores

    return lambda width, rows: LogitsProcessorList([Held(width, rows)])
