"""Chains: how the tags of neighbouring words follow each other, learnt beside the probe that scores each word by itself.

A linear-chain conditional random field (Lafferty, McCallum and Pereira, 2001) whose scores of words are the probe's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ARRAYS = ("chain.follows", "chain.further", "chain.bias", "chain.scales")
"""Names of a chain's arrays in a file."""
_NEVER = -1e9


@dataclass(frozen=True, eq=False)
class Chain:
    """Scores of tags in a row, which are added to those of the words. Part 0 is that of words in no part.

    Attributes:
        follows: ``[1 + parts, 1 + parts]`` score of a word that begins a value of the second part, or is in none, behind a word
            of the first; a text begins behind a word in no part.
        further: ``[1 + parts]`` score of a word that continues a value.
        bias: ``[1 + parts]`` score of every word of a part.
        scales: factors of the words' log-probabilities of parts, and of beginning and continuing.
    """

    follows: Floats
    further: Floats
    bias: Floats
    scales: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def flat(cls, parts: int) -> Chain:
        """The chain that changes nothing."""
        return cls(np.zeros((1 + parts, 1 + parts)), np.zeros(1 + parts), np.zeros(1 + parts))

    @property
    def parts(self) -> int:
        """Number of parts."""
        return len(self.bias) - 1

    def scores(self, tables: Floats) -> tuple[Floats, Floats]:
        """Scores of the words alone, given log-probabilities ``[..., 1 + parts + 2]``.

        ``[..., 1 + parts]`` in no part or as a part's first word, and ``[..., parts]`` as a further word.
        """
        of_parts, kind = self.scales[0] * tables[..., :-2] + self.bias, self.scales[1] * tables[..., -2:]
        return of_parts + kind[..., :1], (of_parts + kind[..., 1:] + self.further)[..., 1:]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays by their names in a file."""
        parts = (self.follows, self.further, self.bias, np.array(self.scales))
        return {name: part.astype(np.float32) for name, part in zip(ARRAYS, parts, strict=True)}

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]]) -> Chain:
        """Inverse of :meth:`arrays`.

        Raises:
            KeyError: one is missing.
            ValueError: they do not fit together.
        """
        follows, further, bias, scales = (arrays[name].astype(np.float64) for name in ARRAYS)
        size = len(bias)
        if follows.shape != (size, size) or further.shape != (size,) or scales.shape != (2,) or size < 2:
            raise ValueError("the arrays of its chain do not fit together")
        if not all(np.isfinite(part).all() for part in (follows, further, bias, scales)):
            raise ValueError("the arrays of its chain contain numbers that are not finite")
        return cls(follows, further, bias, (float(scales[0]), float(scales[1])))


def likeliest(tables: Sequence[Floats], chain: Chain) -> list[NDArray[np.int64]]:
    """The likeliest tags of each row's words: 0 for no part, then the first words of all parts, then their further words.

    A further word follows a word of the same part (Viterbi's algorithm, all rows at once). ``tables`` are log-probabilities
    ``[words, 1 + parts + 2]`` of each row: of the parts, of a value's first word and of a further one.
    """
    lengths, parts = np.array([len(table) for table in tables], dtype=np.int64), chain.parts
    most, rows = int(lengths.max(initial=0)), len(tables)
    padded = np.zeros((most, rows, parts + 3))
    for row, table in enumerate(tables):
        padded[: len(table), row] = table
    first, own = chain.scores(padded)
    more = np.concatenate([np.full((most, rows, 1), _NEVER), own], axis=-1)
    before = np.zeros((most, rows, 1 + parts), dtype=np.int64)
    inside = np.zeros((most, rows, 1 + parts), dtype=bool)
    ends = np.zeros((rows, 1 + parts))
    scores = np.full((rows, 1 + parts), _NEVER)
    scores[:, 0] = 0.0
    for step in range(most):
        ways = scores[:, :, None] + chain.follows
        before[step] = ways.argmax(axis=1)
        begun, continued = ways.max(axis=1) + first[step], scores + more[step]
        inside[step] = continued > begun
        scores = np.maximum(begun, continued)
        ends = np.where((lengths == step + 1)[:, None], scores, ends)
    paths, lines = np.zeros((rows, most), dtype=np.int64), np.arange(rows)
    part = ends.argmax(axis=1)
    for step in range(most - 1, -1, -1):
        active, goes_on = step < lengths, inside[step, lines, part]
        paths[active, step] = np.where(goes_on, part + parts, part)[active]
        part = np.where(active & ~goes_on, before[step, lines, part], part)
    return [path[:length] for path, length in zip(paths, lengths, strict=True)]


def spans_of(path: NDArray[np.int64], parts: int) -> Mapping[int, list[tuple[int, int]]]:
    """First and last word of each part's values, in order; parts count from 1."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for word, tag in enumerate(path.tolist()):
        if tag > parts:
            own = found[tag - parts]
            own[-1] = (own[-1][0], word)
        elif tag:
            found[tag].append((word, word))
    return found
