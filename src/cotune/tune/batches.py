"""The order of rows in training: which rows form each optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cotune.prompt.render import RenderedRow


@dataclass(frozen=True)
class TrainingRow:
    """Token ids of a training row: the prompt, and the answer with its stop token.

    Attributes:
        prompt_ids: ids of the prompt.
        answer_ids: ids of the right answer, including the stop token.
        looked_up: tokens that were run to choose the row's demonstrations.
    """

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    looked_up: int = 0


def training_rows(rendered: Sequence[RenderedRow], answers: Sequence[int] | None = None) -> list[TrainingRow]:
    """Pair each rendered row with its right completion.

    Args:
        rendered: rows of one prompt.
        answers: index of each row's completion; None if each row has only its own (``Renderer.render_answers``).
    """
    answers = [0] * len(rendered) if answers is None else answers
    return [
        TrainingRow(row.prompt_ids, row.completions[answer], row.looked_up)
        for row, answer in zip(rendered, answers, strict=True)
    ]


def rows_of_step(step: int, rows: int, batch_size: int, seed: int) -> list[int]:
    """Indices of the rows in optimizer step ``step``.

    Every epoch is a new permutation, drawn from the seed and the epoch only: a resumed run needs no random state, and runs with
    different prompts see the same rows in the same order, so that they are paired.
    """
    size = min(batch_size, rows)
    first = step * size
    picked = []
    for place in range(first, first + size):
        epoch, offset = divmod(place, rows)
        picked.append(int(_permutation(seed, epoch, rows)[offset]))
    return picked


@lru_cache(maxsize=64)
def _permutation(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(rows)
