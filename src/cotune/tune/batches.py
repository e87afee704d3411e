"""Which rows make up which optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cotune.prompt.render import RenderedRow


@dataclass(frozen=True)
class TrainingRow:
    """Token ids of a row to learn from: what is given, and the answer with its stop token.

    Attributes:
        prompt_ids: what is given.
        answer_ids: what is right, stop token included.
        looked_up: tokens that a model ran to choose what the row is shown.
    """

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    looked_up: int = 0


def training_rows(rendered: Sequence[RenderedRow], answers: Sequence[int] | None = None) -> list[TrainingRow]:
    """Pair each rendered row with the completion that is right for it.

    Args:
        rendered: rows of one prompt.
        answers: the number of each row's completion; None where each has just its own (``Renderer.render_answers``).
    """
    answers = [0] * len(rendered) if answers is None else answers
    return [
        TrainingRow(row.prompt_ids, row.completions[answer], row.looked_up)
        for row, answer in zip(rendered, answers, strict=True)
    ]


def rows_of_step(step: int, rows: int, batch_size: int, seed: int) -> list[int]:
    """Numbers of the rows in optimizer step ``step``.

    Every epoch is a fresh permutation, drawn from the seed and the epoch alone: a resumed run needs no random state, and runs
    with different prompts meet the same rows in the same order, which pairs them.
    """
    size = min(batch_size, rows)
    first = step * size
    picked = []
    for place in range(first, first + size):
        epoch, offset = divmod(place, rows)
        picked.append(int(_permutation(seed, epoch, rows)[offset]))
    return picked


def _permutation(seed: int, epoch: int, rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    key = (seed, epoch, rows)
    if key not in _permutations:
        if len(_permutations) > 64:
            _permutations.clear()
        _permutations[key] = np.random.default_rng([seed, epoch]).permutation(rows)
    return _permutations[key]


_permutations: dict[tuple[int, int, int], np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
