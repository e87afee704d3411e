"""Fits of chains to the tags of labelled rows, given what a probe that has not seen the rows says of each word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cotune.task.values.chain import Chain

Floats = NDArray[np.float64]

PENALTY = 1.0
"""L2 penalty of the scores. From 1 to 3 F1 hardly differs, 10 is worse (docs/probe-measurements.md)."""
_OF_SCALES = 0.1
"""Penalty of the scales, as a share: they have to be free to become smaller, since neighbouring words share their evidence."""
MOST_WORDS = 100
"""Words of a row that a fit reads, from the first on; its time grows with the longest row."""
_ROUNDS = 30
_NEVER = -1e9


def fit_chain(tables: Sequence[Floats], tags: Sequence[NDArray[np.int64]], parts: int, *, penalty: float = PENALTY) -> Chain:
    """The chain under which the right tags are likeliest, with a penalty on its scores.

    Args:
        tables: log-probabilities ``[words, 1 + parts + 2]`` of each row, as in :func:`cotune.task.values.chain.likeliest`.
        tags: ``[words]`` right tags of each row, as there.
        parts: number of parts.
        penalty: of the squared distance from the chain that changes nothing.
    """
    tables, tags = [one[:MOST_WORDS] for one in tables], [one[:MOST_WORDS] for one in tags]
    lengths = torch.tensor([len(one) for one in tables])
    if not lengths.sum():
        return Chain.flat(parts)
    rows, most = len(tables), int(lengths.max())
    padded, right = np.zeros((most, rows, parts + 3)), np.zeros((most, rows), dtype=np.int64)
    for row, (table, own) in enumerate(zip(tables, tags, strict=True)):
        padded[: len(table), row], right[: len(own), row] = table, own
    scores, inside = torch.from_numpy(padded), torch.arange(most)[:, None] < lengths
    further = torch.from_numpy(right > parts)
    part = torch.from_numpy(np.where(right > parts, right - parts, right))
    behind = torch.cat([torch.zeros_like(part[:1]), part[:-1]])
    size = 1 + parts
    follows, goes_on, bias = (torch.zeros(*shape, dtype=torch.float64) for shape in ((size, size), (size,), (size,)))
    scales = torch.ones(2, dtype=torch.float64)
    learnt = [one.requires_grad_() for one in (follows, goes_on, bias, scales)]
    solver = torch.optim.LBFGS(learnt, max_iter=_ROUNDS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        of_parts = scales[0] * scores[..., :-2] + bias
        first, more = of_parts + scales[1] * scores[..., -2:-1], of_parts + scales[1] * scores[..., -1:] + goes_on
        of_right = torch.where(further, _at(more, part), _at(first, part) + follows[behind, part])
        all_ways = _log_sum(first, more, follows, inside)
        distance = sum((one**2).sum() for one in learnt[:-1]) + _OF_SCALES * ((scales - 1) ** 2).sum()
        return all_ways.sum() - of_right[inside].sum() + 0.5 * penalty * distance

    def closure() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    threads = torch.get_num_threads()
    # All products are small: several threads are slower, and 50 times slower while another program uses the processors.
    torch.set_num_threads(1)
    try:
        with torch.enable_grad():
            solver.step(closure)  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(threads)
    found = [one.detach().numpy() for one in learnt]
    if not all(np.isfinite(one).all() for one in found):
        return Chain.flat(parts)
    return Chain(found[0], found[1], found[2], (float(found[3][0]), float(found[3][1])))


def fit_seconds(rows: int, words: int, parts: int) -> float:
    """Expected seconds of a fit on a slow core, for rows of at most so many words."""
    return min(words, MOST_WORDS) * (0.012 + 5e-6 * rows * (1 + parts))


def _at(scores: Tensor, part: Tensor) -> Tensor:
    return scores.gather(2, part[..., None])[..., 0]


def _log_sum(first: Tensor, more: Tensor, follows: Tensor, inside: Tensor) -> Tensor:
    """``[rows]`` logarithm of the sum over all tags of the exponential of their score (forward algorithm)."""
    ways = torch.exp(follows)
    more = torch.cat([torch.full_like(more[..., :1], _NEVER), more[..., 1:]], dim=-1)
    sums = torch.full_like(first[0], _NEVER)
    sums[:, 0] = 0.0
    for word in range(len(first)):
        top = sums.max(dim=1, keepdim=True).values
        begun = torch.log(torch.exp(sums - top) @ ways) + top + first[word]
        sums = torch.where(inside[word][:, None], torch.logaddexp(begun, sums + more[word]), sums)
    return torch.logsumexp(sums, dim=1)
