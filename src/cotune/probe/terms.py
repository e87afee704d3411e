"""TF-IDF of a row's words and characters with a linear classifier, which a read-out may add to its probe.

Terms are hashed, so the classifier contains arrays and no text. Exports contain this file; it needs numpy and safetensors.

    from terms import load_terms

    terms = load_terms("FOLDER/probe.safetensors")
    logits = terms.logits(["a text"])                      # [rows, labels], to be added to those of the probe
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\b\w\w+\b")
_SIZES = range(2, 6)
"""Numbers of characters of a term within a word, including the blanks around it."""
MOST_CHARACTERS = 20_000
"""Characters of a text that are read, so that one very long row does not take most of the time."""
_SPREAD = np.uint32(2_654_435_769)
"""Odd number near 2**32 divided by the golden ratio, which spreads hashes over all bits (Knuth, Fibonacci hashing)."""
_STEP = np.uint32(16_777_619)
"""Factor of the rolling hash, the prime of FNV-1a."""

Buckets = NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class TermWeights:
    """A linear classifier of hashed TF-IDF features of a row's text, which is all of its fields.

    A text has two groups of features, each of unit length: words with pairs of words, and characters within words. A feature is
    ``(1 + log count) * idf``. Terms that no text had when the frequencies were counted are left out.

    Attributes:
        buckets: ``[terms]`` hashes of the known terms, increasing; those of characters follow those of words.
        idf: ``[terms]`` inverse document frequencies.
        weight: ``[terms, labels]``.
        bias: ``[labels]``.
        size: number of possible hashes of each group.
        fields: names of a row's fields, in the order in which they are joined by blanks.
    """

    buckets: Buckets
    idf: NDArray[np.float32]
    weight: NDArray[np.float16]
    bias: NDArray[np.float32]
    size: int
    fields: tuple[str, ...]

    def logits(self, rows: Sequence[str | Mapping[str, str]]) -> NDArray[np.float64]:
        """``[rows, labels]``; a row is a mapping of its fields, or their text."""
        found = np.tile(self.bias.astype(np.float64), (len(rows), 1))
        for logits, row in zip(found, rows, strict=True):
            text = row if isinstance(row, str) else " ".join(str(row[name]) for name in self.fields)
            places, values = features(term_counts(text, self.size), self.buckets, self.idf, self.size)
            logits += values @ self.weight[places].astype(np.float64)
        return found

    def times(self, factor: float) -> TermWeights:
        """The same with all logits multiplied by a number."""
        weight, bias = (self.weight * np.float32(factor)).astype(np.float16), (self.bias * factor).astype(np.float32)
        return replace(self, weight=weight, bias=bias)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays by their names in a file."""
        parts: dict[str, NDArray[Any]] = {"buckets": self.buckets, "idf": self.idf, "weight": self.weight, "bias": self.bias}
        return {f"terms.{name}": part for name, part in parts.items()}

    @classmethod
    def read(cls, stored: Any, about: Mapping[str, Any]) -> TermWeights:
        """Inverse of :meth:`arrays`.

        Args:
            stored: an opened file of safetensors.
            about: ``size`` and ``fields``.

        Raises:
            KeyError: something is missing.
            ValueError: the parts do not fit together.
        """
        buckets, idf, weight, bias = (stored.get_tensor(f"terms.{name}") for name in ("buckets", "idf", "weight", "bias"))
        size, fields = about["size"], tuple(map(str, about["fields"]))
        if type(size) is not int:
            raise ValueError("the size of its terms is not a number")
        found = cls(buckets, idf, weight, bias, size, fields)
        terms, shape = len(found.buckets), found.weight.shape
        kinds = [part.dtype.name for part in (found.buckets, found.idf, found.weight, found.bias)]
        if kinds != ["uint32", "float32", "float16", "float32"] or size < 1:
            raise ValueError("the arrays of its terms have other types")
        if found.buckets.ndim != 1 or found.idf.shape != (terms,) or shape != (terms, *found.bias.shape) or len(shape) != 2:
            raise ValueError("the arrays of its terms do not fit together")
        if not all(np.isfinite(part).all() for part in (found.idf, found.weight, found.bias)):
            raise ValueError("the arrays of its terms contain numbers that are not finite")
        if (found.buckets[1:] <= found.buckets[:-1]).any():
            raise ValueError("its terms are not in order")
        return found


def load_terms(path: str | Path) -> TermWeights | None:
    """The classifier in a file with a probe; None if the probe answers alone."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as stored:
        about = json.loads(stored.metadata()["cotune"]).get("terms")
        return None if about is None else TermWeights.read(stored, about)


def term_counts(text: str, size: int) -> tuple[Buckets, NDArray[np.float64]]:
    """The hashes of a text's terms, increasing, and how often each occurs.

    Hashes of characters are those of words plus ``size``, so that the two groups can be told apart.
    """
    text = text[:MOST_CHARACTERS].lower()
    words = _WORD.findall(text)
    spoken = [*words, *(f"{first} {second}" for first, second in pairwise(words))]
    hashes = np.fromiter((zlib.crc32(term.encode("utf-8", "surrogatepass")) for term in spoken), np.uint32, len(spoken))
    found = np.concatenate([hashes % np.uint32(size), _characters(text) % np.uint32(size) + np.uint32(size)])
    buckets, counts = np.unique(found, return_counts=True)
    return buckets, counts.astype(np.float64)


def _characters(text: str) -> Buckets:
    """Hashes of all sequences of 2 to 5 characters within a word, the blanks around it included."""
    words = text.split()
    if not words:
        return np.zeros(0, dtype=np.uint32)
    codes = np.frombuffer(f" {' '.join(words)} ".encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32)
    blank = codes == ord(" ")
    found = []
    for size in _SIZES:
        count = len(codes) - size + 1
        if count < 1:
            break
        hashes, inside = np.full(count, size, dtype=np.uint32), np.ones(count, dtype=bool)
        for place in range(size):
            part = slice(place, place + count)
            hashes = (hashes ^ codes[part]) * _STEP
            if 0 < place < size - 1:
                inside &= ~blank[part]
        hashes = hashes[inside] * _SPREAD
        found.append(hashes ^ (hashes >> np.uint32(15)))
    return np.concatenate(found)


def features(
    counted: tuple[Buckets, NDArray[np.float64]], known: Buckets, idf: NDArray[np.float32], size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices of a text's known terms, and their TF-IDF values; each group of values has unit length.

    ``counted`` comes from :func:`term_counts`; ``known`` are increasing hashes, and ``idf`` their inverse document frequencies.
    """
    buckets, counts = counted
    places = np.searchsorted(known, buckets)
    places[places == len(known)] = 0
    kept = known[places] == buckets if len(known) else np.zeros(len(buckets), dtype=bool)
    places, values = places[kept], 1 + np.log(counts[kept])
    values = values * idf[places]
    first = known[places] < size if len(known) else np.zeros(0, dtype=bool)
    for group in (first, ~first):
        if group.any():
            values[group] /= np.sqrt((values[group] ** 2).sum())
    return places, values
