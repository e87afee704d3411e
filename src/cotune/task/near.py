"""Near-duplicate inputs by character 5-grams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.task.example import Example
from cotune.task.split import duplicate_key, normalised

THRESHOLD = 0.8
"""Similarity from which two rows are near-duplicates."""
_WIDTH, _BITS = 5, 22
_BLOCK = 500
"""Rows whose grams are processed together; all at once would take 80 bytes for each character."""
_SMALL = 1_000_000
"""Number of grams of all rows up to which unused columns are removed."""
_LONGEST = 1000
_ENOUGH = 10_000
_MOST_MEETINGS = 5_000_000
_MOST_GRAMS_COMPARED = 50_000_000


def near_pairs(examples: Sequence[Example]) -> list[tuple[int, int]]:
    """Pairs of positions (lower first) whose sets of character 5-grams have a Jaccard similarity of :data:`THRESHOLD`.

    Exact duplicates and texts under five characters are left out; only the first 1,000 characters of a text are compared. Uses
    prefix filtering (Bayardo, Ma and Srikant, "Scaling Up All Pairs Similarity Search", 2007): two similar sets share one of
    their rarest grams, so only pairs that do are compared. The result is exact unless all texts are made of the same few
    phrases; then only the pairs that share most rare grams are compared, as many as take a few seconds.

    Args:
        examples: the rows; of rows with equal normalised inputs only the first is compared.
    """
    from scipy.sparse import vstack

    first: dict[str, int] = {}
    for position, example in enumerate(examples):
        first.setdefault(duplicate_key(example), position)
    positions = np.array(sorted(first.values()), dtype=np.int64)
    if len(positions) < 2:
        return []
    blocks = [positions[start : start + _BLOCK] for start in range(0, len(positions), _BLOCK)]
    parts = [_gram_matrix([_beginning(examples[position].text) for position in block]) for block in blocks]
    parts = _compact(parts)
    frequency = np.zeros(parts[0].shape[1], dtype=np.int64)
    for part in parts:
        frequency += np.bincount(part.indices, minlength=len(frequency))
    prefix = vstack([_rarest(part, frequency) for part in parts], "csr")
    grams = vstack(parts, "csr")
    sizes = np.diff(grams.indptr)
    left, right = _candidates(prefix, sizes)
    if len(left) == 0:
        return []
    # piece by piece: gathering all candidate rows at once could take gigabytes
    shared = np.concatenate(
        [
            np.asarray(grams[left[start : start + _BLOCK]].multiply(grams[right[start : start + _BLOCK]]).sum(axis=1))
            for start in range(0, len(left), _BLOCK)
        ]
    ).ravel()
    alike = shared >= THRESHOLD * (sizes[left] + sizes[right] - shared) - 1e-6
    pairs = zip(positions[left[alike]].tolist(), positions[right[alike]].tolist(), strict=True)
    return sorted((min(pair), max(pair)) for pair in pairs)


def near_duplicates(first: Example, second: Example) -> bool:
    """Whether two rows are equal after normalisation, or a pair that :func:`near_pairs` would return."""
    grams = []
    for row in (first, second):
        text = _beginning(row.text)
        grams.append({text[start : start + _WIDTH] for start in range(len(text) - _WIDTH + 1)})
    shared = len(grams[0] & grams[1])
    return duplicate_key(first) == duplicate_key(second) or shared >= THRESHOLD * max(1, len(grams[0] | grams[1]))


def _beginning(text: str) -> str:
    """The part of the normalised text that is compared; the rest of a very long text is not normalised."""
    begun = normalised(text[:_ENOUGH])
    # Normalisation may differ at the cut, but that is far beyond the part that is compared.
    return (begun if len(text) <= _ENOUGH or len(begun) >= 2 * _LONGEST else normalised(text))[:_LONGEST]


def _gram_matrix(texts: Sequence[str]) -> Any:
    """Which text contains which 5-gram, as a sparse 0/1 matrix of shape (texts, 2**22); grams are hashed into columns.

    One pass over all characters is twenty times faster than a vectorizer that processes each text.
    """
    from scipy.sparse import csr_matrix

    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    count = max(len(codes) - _WIDTH + 1, 0)
    hashed = np.zeros(count, dtype=np.uint64)
    for offset in range(_WIDTH):  # a polynomial hash modulo 2**64, wrapping by design
        hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + count]
    hashed = (hashed ^ (hashed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    rows = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)[:count]
    ends = np.repeat(np.cumsum(lengths), lengths)[:count]
    whole = np.arange(count) + _WIDTH <= ends
    cells = np.sort((rows[whole] << _BITS) | (hashed[whole] >> np.uint64(64 - _BITS)).astype(np.int64))
    cells = cells[np.diff(cells, prepend=-1) > 0]  # np.unique is several times slower here
    columns = cells & ((1 << _BITS) - 1)
    ones = np.ones(len(cells), dtype=np.bool_)
    return csr_matrix((ones, (cells >> _BITS, columns)), shape=(len(texts), 1 << _BITS))


def _compact(parts: list[Any]) -> list[Any]:
    """The matrices without unused columns, if they are small: arrays over all columns would then take most of the time."""
    if sum(part.nnz for part in parts) > _SMALL:
        return parts
    from scipy.sparse import csr_matrix

    used = np.unique(np.concatenate([part.indices for part in parts]))
    return [
        csr_matrix((part.data, np.searchsorted(used, part.indices), part.indptr), shape=(part.shape[0], len(used)))
        for part in parts
    ]


def _rarest(grams: Any, frequency: NDArray[Any]) -> Any:
    """The matrix with only each row's rarest grams, so many that every similar row shares at least one.

    ``frequency`` says how many rows of all blocks have each gram.
    """
    sizes = np.diff(grams.indptr)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    # rarest first within a row; the gram's number breaks ties in the same way for every row
    order = np.lexsort((grams.indices, frequency[grams.indices], rows))
    rank = np.arange(len(order)) - np.repeat(grams.indptr[:-1], sizes)
    wanted = np.array([size - math.ceil(THRESHOLD * size) + 1 for size in range(int(sizes.max(initial=0)) + 1)])
    kept = order[rank < np.repeat(wanted[sizes], sizes)]
    prefix = grams.copy()
    mask = np.zeros(len(grams.data), dtype=np.float32)
    mask[kept] = 1.0
    prefix.data = mask
    prefix.eliminate_zeros()
    return prefix


def _candidates(prefix: Any, sizes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pairs of rows (lower first) that share one of the kept grams and whose sizes allow the similarity."""
    from scipy.sparse import triu

    frequency = np.bincount(prefix.indices, minlength=prefix.shape[1])
    # Nearly all of the millions of columns have at most one row, which has no partner.
    several = np.flatnonzero(frequency > 1)
    by_rarity = several[np.argsort(frequency[several], kind="stable")]
    work = np.cumsum(frequency[by_rarity] * (frequency[by_rarity] - 1) // 2)
    columns = np.sort(by_rarity[work <= _MOST_MEETINGS])
    prefix = prefix[:, columns]
    transposed = prefix.T.tocsr()
    pairs = [np.zeros((3, 0), dtype=np.int32)]
    for start in range(0, prefix.shape[0], _BLOCK):
        block = triu(prefix[start : start + _BLOCK] @ transposed, k=start + 1).tocoo()
        left, right = block.row + start, block.col
        fits = np.minimum(sizes[left], sizes[right]) >= THRESHOLD * np.maximum(sizes[left], sizes[right]) - 1e-6
        pairs.append(np.stack((left[fits], right[fits], block.data[fits])).astype(np.int32))
    left, right, shared = np.concatenate(pairs, axis=1)
    order = np.argsort(-shared, kind="stable")
    order = order[np.cumsum(sizes[left[order]] + sizes[right[order]]) <= _MOST_GRAMS_COMPARED]
    return left[order], right[order]
