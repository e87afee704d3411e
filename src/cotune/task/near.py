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
_LONGEST = 1000
_MOST_MEETINGS = 5_000_000
_MOST_GRAMS_COMPARED = 50_000_000


def near_pairs(examples: Sequence[Example], threshold: float = THRESHOLD) -> list[tuple[int, int]]:
    """Pairs of positions (lower first) whose sets of character 5-grams have a Jaccard similarity of ``threshold``.

    Exact duplicates are not among them, nor are texts under five characters; of a text the first 1,000 characters
    count. Through prefix filtering (Bayardo, Ma and Srikant, "Scaling Up All Pairs Similarity Search", 2007): two sets
    that are this alike share one of their rarest grams, so only such pairs are compared. Exact, but for sets of texts
    that are all put together from the same few phrases: there the pairs that share most rare grams are compared, as many
    as take a few seconds.

    Args:
        examples: the rows; of rows with equal normalised inputs only the first is looked at.
        threshold: similarity in (0, 1] from which two rows are near-duplicates.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    first: dict[str, int] = {}
    for position, example in enumerate(examples):
        first.setdefault(duplicate_key(example), position)
    positions = np.array(sorted(first.values()), dtype=np.int64)
    if len(positions) < 2:
        return []
    texts = [normalised(" ".join(examples[position].fields.values()))[:_LONGEST] for position in positions]
    vectorizer = HashingVectorizer(
        analyzer="char", ngram_range=(5, 5), binary=True, norm=None, alternate_sign=False, n_features=2**22,
        lowercase=False, dtype=np.float32,
    )  # fmt: skip
    grams = vectorizer.transform(texts).tocsr()
    sizes = np.diff(grams.indptr)
    left, right = _candidates(_rarest(grams, sizes, threshold), sizes, threshold)
    if len(left) == 0:
        return []
    # piece by piece: gathering all candidate rows at once could take gigabytes
    shared = np.concatenate(
        [
            np.asarray(grams[left[start : start + 20_000]].multiply(grams[right[start : start + 20_000]]).sum(axis=1))
            for start in range(0, len(left), 20_000)
        ]
    ).ravel()
    alike = shared >= threshold * (sizes[left] + sizes[right] - shared) - 1e-6
    pairs = zip(positions[left[alike]].tolist(), positions[right[alike]].tolist(), strict=True)
    return sorted((min(pair), max(pair)) for pair in pairs)


def _rarest(grams: Any, sizes: NDArray[Any], threshold: float) -> Any:
    """The matrix cut to each row's rarest grams, as many as a similar row must share one of."""
    frequency = np.bincount(grams.indices, minlength=grams.shape[1])
    rows = np.repeat(np.arange(len(sizes)), sizes)
    # rarest first within a row; the gram's own number breaks ties the same way in every row
    order = np.lexsort((grams.indices, frequency[grams.indices], rows))
    rank = np.arange(len(order)) - np.repeat(grams.indptr[:-1], sizes)
    wanted = np.array([size - math.ceil(threshold * size) + 1 for size in range(int(sizes.max(initial=0)) + 1)])
    kept = order[rank < np.repeat(wanted[sizes], sizes)]
    prefix = grams.copy()
    mask = np.zeros(len(grams.data), dtype=np.float32)
    mask[kept] = 1.0
    prefix.data = mask
    prefix.eliminate_zeros()
    return prefix


def _candidates(prefix: Any, sizes: NDArray[Any], threshold: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pairs of rows (lower first) that share one of the kept grams and whose sizes allow the similarity."""
    from scipy.sparse import triu

    frequency = np.bincount(prefix.indices, minlength=prefix.shape[1]).astype(np.int64)
    by_rarity = np.argsort(frequency, kind="stable")
    work = np.cumsum(frequency[by_rarity] * (frequency[by_rarity] - 1) // 2)
    columns = np.sort(by_rarity[(work <= _MOST_MEETINGS) & (frequency[by_rarity] > 1)])
    prefix = prefix[:, columns]
    transposed = prefix.T.tocsr()
    found = [np.zeros((3, 0), dtype=np.int64)]
    for start in range(0, prefix.shape[0], 2000):
        block = triu(prefix[start : start + 2000] @ transposed, k=start + 1).tocoo()
        found.append(np.stack((block.row.astype(np.int64) + start, block.col, block.data)).astype(np.int64))
    left, right, shared = np.concatenate(found, axis=1)
    fits = np.minimum(sizes[left], sizes[right]) >= threshold * np.maximum(sizes[left], sizes[right]) - 1e-6
    left, right, shared = left[fits], right[fits], shared[fits]
    order = np.argsort(-shared, kind="stable")
    order = order[np.cumsum(sizes[left[order]] + sizes[right[order]]) <= _MOST_GRAMS_COMPARED]
    return left[order], right[order]
