"""What each prompt is worth beside the others when they were judged on different numbers of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ROUNDS = 12


@dataclass(frozen=True)
class Effects:
    """Prompts' mean losses with the rows' own difficulty taken off.

    Attributes:
        value: ``[prompts]`` loss relative to the mean prompt, in the loss's unit; below zero is better. NaN without a row.
        noise: ``[prompts]`` variance of each value; infinite without a row.
    """

    value: Floats
    noise: Floats


def prompt_effects(losses: Sequence[Floats]) -> Effects:
    """Separate prompts from rows: a prompt that met only easy rows must not look good for it.

    A row's loss is taken as a prompt's effect, plus the row's difficulty, plus noise; the difficulties are shrunk towards zero,
    the more the fewer prompts met the row (a mixed model, fitted by alternating between the two).

    Args:
        losses: of each prompt, its losses on the first rows of one common order; as many as it met.
    """
    counts = np.array([len(row) for row in losses])
    if not len(counts) or not counts.any():
        return Effects(np.full(len(counts), np.nan), np.full(len(counts), np.inf))
    width = int(counts.max())
    met = np.arange(width)[None, :] < counts[:, None]
    table = np.zeros(met.shape)
    table[met] = np.concatenate([np.asarray(row, dtype=np.float64) for row in losses])
    seen = counts > 0
    on_row, ratio = met.sum(axis=0), 1.0
    hard = np.zeros(width)
    value = np.zeros(len(counts))
    variance = 0.0
    for _ in range(_ROUNDS):
        value[seen] = ((table - hard) * met).sum(axis=1)[seen] / counts[seen]
        hard = ((table - value[:, None]) * met).sum(axis=0) / (on_row + ratio)
        left = (table - value[:, None] - hard) * met
        spare = max(1.0, counts.sum() - seen.sum() - (on_row > 0).sum())
        variance = float((left**2).sum() / spare) if counts.sum() > seen.sum() else float(table[met].var())
        ratio = variance / max(float((hard**2).mean()), 1e-9 + 1e-3 * variance) if variance > 0 else 0.0
    value = value - value[seen].mean()
    value[~seen] = np.nan
    noise = np.where(seen, max(variance, 1e-12) / np.maximum(counts, 1), np.inf)
    return Effects(value, noise)
