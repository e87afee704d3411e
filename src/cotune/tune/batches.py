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


def rows_of_step(step: int, rows: int, batch_size: int, seed: int, labels: tuple[int, ...] | None = None) -> list[int]:
    """Indices of the rows in optimizer step ``step``.

    Every epoch is a new permutation, drawn from the seed and the epoch only: a resumed run needs no random state, and runs with
    different prompts see the same rows in the same order, so that they are paired.

    Args:
        rows: number of rows.
        labels: label of each row; with it, rows follow each other in pairs of the same label as far as there are any.
    """
    size = min(batch_size, rows)
    first = step * size
    picked = []
    for place in range(first, first + size):
        epoch, offset = divmod(place, rows)
        order = _permutation(seed, epoch, rows) if labels is None else _pairs(seed, epoch, labels)
        picked.append(int(order[offset]))
    return picked


@lru_cache(maxsize=64)
def _permutation(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(rows)


@lru_cache(maxsize=64)
def _pairs(seed: int, epoch: int, labels: tuple[int, ...]) -> NDArray[np.int64]:
    waiting: dict[int, int] = {}
    groups: list[tuple[int, ...]] = []
    for row in _permutation(seed, epoch, len(labels)).tolist():
        partner = waiting.pop(labels[row], None)
        if partner is None:
            waiting[labels[row]] = row
        else:
            groups.append((partner, row))
    groups += [(row,) for row in waiting.values()]
    order = np.random.default_rng([seed, epoch, 1]).permutation(len(groups))
    return np.array([row for place in order for row in groups[place]], dtype=np.int64)
