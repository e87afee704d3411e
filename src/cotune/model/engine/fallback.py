"""Label scores without the shared prefix: padded batches of every row with every label, by the model's own attention.

Slow and simple. The reference for tests of the shared-prefix engine, and the fallback for models that it does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cotune.model.engine.attention import use_plain_attention
from cotune.model.engine.plan import cut_by_length
from cotune.model.engine.sampling import Answer, Chooser
from cotune.model.engine.trie import label_paths
from cotune.model.hardware.machine import halve_until_it_fits
from cotune.model.layers.cut import cut_decoder, layer_outputs, means, norm_epsilon, pooled, read_layers, unit_rms
from cotune.prompt.reads import Read, by_words
from cotune.prompt.render import RenderedRow


def naive_label_scores(
    model: Any,
    rows: Sequence[RenderedRow],
    *,
    batch_tokens: int,
    whole: bool = False,
) -> tuple[NDArray[np.float64], int]:
    """``[rows, labels]`` log-probabilities and the number of tokens, with one whole pass for each label.

    Args:
        rows: rendered rows with equally many completions.
        batch_tokens: most tokens in a pass, without padding; it runs in smaller parts if memory runs out.
        whole: whether to score completions to their end, stop token included, or only as far as needed to distinguish the
            labels.
    """
    use_plain_attention(model)
    sequences, owners = [], []
    for row, rendered in enumerate(rows):
        answers = rendered.completions if whole else label_paths(rendered.completions)
        for label, answer in enumerate(answers):
            sequences.append(((*rendered.prompt_ids, *answer), len(answer)))
            owners.append((row, label))
    scores = np.zeros((len(rows), len(rows[0].completions)))
    for part in cut_by_length(range(len(sequences)), lambda i: len(sequences[i][0]), batch_tokens):
        for i, score in zip(part, _score_all(model, [sequences[i] for i in part]), strict=True):
            scores[owners[i]] = score
    return scores, sum(len(sequence) for sequence, _ in sequences)


def _score_all(model: Any, sequences: Sequence[tuple[Sequence[int], int]]) -> list[float]:
    def score(rows: int) -> list[float]:
        parts = (sequences[first : first + rows] for first in range(0, len(sequences), rows))
        return [found for part in parts for found in _score(model, part)]

    return halve_until_it_fits(score, len(sequences), model.device)


def _score(model: Any, sequences: Sequence[tuple[Sequence[int], int]]) -> list[float]:
    """Log-probability of each sequence's last tokens, whose number is given beside it, in one pass."""
    ids, mask = pad([sequence for sequence, _ in sequences], model.device)
    spots = [(line, len(own) - count - 1 + i) for line, (own, count) in enumerate(sequences) for i in range(count)]
    lines, places = torch.tensor(spots, dtype=torch.long, device=ids.device).view(-1, 2).T

    def needed(_: Any, states: tuple[Tensor]) -> tuple[Tensor]:
        # Logits of all tokens would take gigabytes with a large vocabulary.
        return (states[0][lines, places][None],)

    with model.get_output_embeddings().register_forward_pre_hook(needed), torch.inference_mode():
        logits = model(ids, attention_mask=mask, use_cache=False).logits
        # This fails where a model's head was not called with the states.
        log_probs = torch.log_softmax(logits.view(len(spots), logits.shape[-1]).float(), dim=-1)
    found = log_probs.gather(1, ids[lines, places + 1][:, None])[:, 0].cpu().double()
    return [float(own.sum()) for own in torch.split_with_sizes(found, [count for _, count in sequences])]


def pad(sequences: Sequence[Sequence[int]], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and attention mask, each ``[rows, longest]``."""
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(list(sequence))
        mask[row, : len(sequence)] = 1
    return ids.to(device), mask.to(device)


def plain_states(model: Any, sequences: Sequence[Sequence[int]], layers: Sequence[int | None]) -> torch.Tensor:
    """Hidden states of all sequences' tokens, concatenated, ``[layers, tokens, width]``; see ``last_states``."""
    use_plain_attention(model)
    ids, mask = pad(sequences, model.device)
    wanted = any(n is not None for n in layers)
    output = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=wanted)
    return read_layers(output, layers)[:, mask.bool()]


def plain_layer_states(
    model: Any,
    sequences: Sequence[Sequence[int]],
    layers: Sequence[int],
    reads: Sequence[Read] | None = None,
) -> torch.Tensor:
    """States of each sequence, or of its words, after each of several layers, ``[layers, rows, width]``; no layer above runs.

    They are divided by their root mean square. ``reads`` as for :meth:`PackedRunner.layer_states`.
    """
    use_plain_attention(model)
    ids, mask = pad(sequences, model.device)
    part = cut_decoder(model.get_decoder(), 0, max(layers))
    with layer_outputs(part, layers) as outputs:
        part(input_ids=ids, attention_mask=mask, use_cache=False)
    epsilon, width = norm_epsilon(model), ids.shape[1]
    ends = torch.arange(len(sequences), device=mask.device) * width + mask.sum(1) - 1
    states = (unit_rms(outputs[number].flatten(0, 1), epsilon) for number in layers)
    if reads is None:
        return torch.stack([each.index_select(0, ends) for each in states])
    if by_words(reads):
        parts = [row * width + np.arange(*word) for row, words in enumerate(reads) for word in words]
        return torch.stack([means(each, parts) for each in states])
    own = [row * width + np.arange(read, len(sequences[row])) for row, read in enumerate(reads) if isinstance(read, int)]
    return torch.stack([pooled(each, ends, own) for each in states])


_ROWS = 16


@contextmanager
def _greedy(model: Any) -> Iterator[None]:
    """Leave out what a model's own generation config does to logits, such as a penalty on repetitions, until the block ends."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def plain_generate(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Answer], chooser: Chooser) -> int:
    """Fill empty answers to prompts; returns the number of tokens that ran.

    Prompts of the same length run together, since not every architecture supports padding.
    """
    use_plain_attention(model)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    tokens = 0
    while order:
        length = len(prompts[order[0]])
        part = [i for i in order[:_ROWS] if len(prompts[i]) == length]
        order = order[len(part) :]
        rows = [answers[i] for i in part]
        ids = torch.tensor([list(prompts[i]) for i in part], device=model.device)
        stop = min(chooser.stops)

        def choose(_: Tensor, scores: Tensor, rows: list[Answer] = rows, stop: int = stop) -> Tensor:
            active = [i for i, answer in enumerate(rows) if not answer.done]
            picked = torch.full((len(rows),), stop, device=scores.device)
            writing = [rows[i] for i in active]
            for answer in writing:
                answer.read()
            chooser.choose(scores[active].float(), writing)
            picked[active] = torch.tensor([answer.ids[-1] if answer.ids else stop for answer in writing], device=scores.device)
            return torch.full_like(scores, -torch.inf).scatter_(1, picked[:, None], 0.0)

        def finished(input_ids: Tensor, _: Tensor, rows: list[Answer] = rows) -> Tensor:
            return torch.tensor([answer.done for answer in rows], device=input_ids.device)

        with torch.inference_mode(), _greedy(model):
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max(answer.limit for answer in rows),
                do_sample=False,
                num_beams=1,
                pad_token_id=stop,
                eos_token_id=None,
                logits_processor=[choose],
                stopping_criteria=[finished],
            )
        tokens += sum(length + answer.fed for answer in rows)
    return tokens
