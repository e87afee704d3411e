"""Reading of the winner's trained prefix, for the report."""

from __future__ import annotations

from typing import Any

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.journal import attempt
from cotune.model.adapters.prefix_reading import read_prefix

_MOST = 256


def measure_prefix(context: RunContext, candidate: Candidate) -> None:
    """Record the tokens of a trained prefix, how far each has moved, and the words nearest to it; a ``prefix`` step.

    Does nothing for other adapters. It reads only the first layer, which is not charged to the budget.
    """
    trained = context.model.adapters.trained_prefix(candidate.adapter)
    if trained is None:
        return

    def effect() -> dict[str, Any]:
        tokens = [
            {
                "text": token.text,
                "moved": None if token.moved is None else round(token.moved, 4),
                "words": [[word, round(near, 3)] for word, near in token.words],
            }
            for token in read_prefix(context.model, trained)[:_MOST]
        ]
        return {"adapter_id": candidate.adapter, "prompt_id": candidate.prompt.id, "length": trained.length, "tokens": tokens}

    context.journal.step("prefix", [candidate.adapter], lambda: attempt(context.journal, effect))
