"""What the engine is compared with: the same results from padded batches in which every row runs its whole prompt.

They are made as fast as plain batches get: rows sorted by length, the model's own fused attention, no mask where padding on the
right of causal attention needs none, no cache, logits only at the positions that are read, and the best of several batch sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from cotune.model.engine.attention import use_plain_attention
from cotune.model.engine.fallback import pad
from cotune.model.engine.trie import label_paths
from cotune.model.layers.packed_weights import plain_products
from cotune.model.local import LocalModel
from cotune.prompt.render import RenderedRow
from cotune.tune.batches import TrainingRow

Pair = tuple[int, int]
T = TypeVar("T")


def per_label_scores(
    local: LocalModel, rows: Sequence[RenderedRow], batch_rows: int, only: Sequence[Pair] | None = None
) -> NDArray[np.float64]:
    """``[rows, labels]`` log-probabilities, one full pass a row and label.

    Args:
        local: the model.
        rows: rendered rows with equally many completions.
        batch_rows: sequences in a batch.
        only: pairs of row and label to run, for trials; other scores stay 0.
    """
    pairs = sorted_pairs(rows) if only is None else list(only)
    scores = np.zeros((len(rows), len(rows[0].completions)))
    with torch.inference_mode(), plain_products(local.model):
        for part in _batches(pairs, batch_rows):
            answers = [_answer(rows[row], label) for row, label in part]
            fed = [(*rows[row].prompt_ids, *answer[:-1]) for (row, _), answer in zip(part, answers, strict=True)]
            hidden = _plain_hidden(local, fed)
            lines = np.repeat(np.arange(len(part)), [len(answer) for answer in answers])
            places = np.concatenate([np.arange(len(f) - len(a), len(f)) for f, a in zip(fed, answers, strict=True)])
            targets = torch.tensor([token for answer in answers for token in answer], device=hidden.device)
            logits = local.runner.logits(hidden[torch.from_numpy(lines), torch.from_numpy(places)])
            found = logits.gather(1, targets[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
            sums = np.bincount(lines, weights=found.double().cpu().numpy(), minlength=len(part))
            for (row, label), score in zip(part, sums, strict=True):
                scores[row, label] = score
    return scores


def sorted_pairs(rows: Sequence[RenderedRow]) -> list[Pair]:
    """All pairs of row and label, by the length of what runs for them."""
    pairs = [(row, label) for row in range(len(rows)) for label in range(len(rows[0].completions))]
    return sorted(pairs, key=lambda pair: len(rows[pair[0]].prompt_ids) + len(_answer(rows[pair[0]], pair[1])))


def one_pass_scores(
    local: LocalModel, rows: Sequence[RenderedRow], batch_rows: int, only: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """``[rows, labels]`` log-probabilities of one-token labels, one full pass a row, logits at its last position.

    Args:
        local: the model.
        rows: rendered rows; each completion is one token and the stop token.
        batch_rows: rows in a batch.
        only: rows to run, for trials.
    """
    order = sorted_rows(rows) if only is None else list(only)
    scores = np.zeros((len(rows), len(rows[0].completions)))
    tokens = torch.tensor([[completion[0] for completion in row.completions] for row in rows], device=local.runner.device)
    with torch.inference_mode(), plain_products(local.model):
        for part in _batches(order, batch_rows):
            hidden = _plain_hidden(local, [rows[row].prompt_ids for row in part])
            last = torch.tensor([len(rows[row].prompt_ids) - 1 for row in part])
            logits = local.runner.logits(hidden[torch.arange(len(part)), last])
            found = logits.gather(1, tokens[part]) - torch.logsumexp(logits, dim=-1, keepdim=True)
            scores[part] = found.double().cpu().numpy()
    return scores


def sorted_rows(rows: Sequence[RenderedRow]) -> list[int]:
    """Numbers of the rows, by the length of their prompts."""
    return sorted(range(len(rows)), key=lambda row: len(rows[row].prompt_ids))


def unmasked_loss(local: LocalModel, rows: Sequence[TrainingRow]) -> tuple[Tensor, int]:
    """What :func:`cotune.tune.loss.plain_loss` gives, without a mask: padding stands on the right of all that counts."""
    fed = [(*row.prompt_ids, *row.answer_ids[:-1]) for row in rows]
    hidden = _plain_hidden(local, fed)
    counts = [len(row.answer_ids) for row in rows]
    lines = np.repeat(np.arange(len(rows)), counts)
    places = np.concatenate([np.arange(len(f) - count, len(f)) for f, count in zip(fed, counts, strict=True)])
    targets = torch.tensor([token for row in rows for token in row.answer_ids], device=hidden.device)
    logits = local.runner.logits(hidden[torch.from_numpy(lines), torch.from_numpy(places)])
    return cross_entropy(logits, targets, reduction="sum"), sum(map(len, fed))


def _answer(row: RenderedRow, label: int) -> tuple[int, ...]:
    """The tokens that count, as in the engine: up to the first one that no other label shares."""
    return label_paths(row.completions)[label]


def _batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _plain_hidden(local: LocalModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    use_plain_attention(local.model)
    ids, _ = pad(sequences, local.runner.device)
    hidden: Tensor = local.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    return hidden
