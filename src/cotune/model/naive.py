"""Label scores the plain way: every row with every label in a pass of its own, padded batches, the model's own attention.

Slow and simple. It is what the shared-prefix engine is checked against, and what serves models that the engine does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cotune.model.attention import ATTENTION_NAME, PLAIN_ATTENTION
from cotune.model.trie import label_paths
from cotune.prompt.render import RenderedRow


def naive_label_scores(
    model: Any, rows: Sequence[RenderedRow], *, batch_rows: int = 16, whole: bool = False
) -> tuple[NDArray[np.float64], int]:
    """``[rows, labels]`` log-probabilities and the tokens run, one whole pass a label.

    Args:
        model: a transformers causal language model.
        rows: rendered rows with equally many completions.
        batch_rows: sequences in a padded batch.
        whole: score completions to their end, the stop token included, not just as far as they tell labels apart.
    """
    use_plain_attention(model)
    sequences, owners = [], []
    for row, rendered in enumerate(rows):
        answers = rendered.completions if whole else label_paths(rendered.completions)
        for label, answer in enumerate(answers):
            sequences.append(((*rendered.prompt_ids, *answer), len(answer)))
            owners.append((row, label))
    scores = np.zeros((len(rows), len(rows[0].completions)))
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i][0]))
    for start in range(0, len(order), batch_rows):
        part = order[start : start + batch_rows]
        ids, mask = pad([sequences[i][0] for i in part], model.device)
        with torch.inference_mode():
            logits = model(ids, attention_mask=mask, use_cache=False).logits.float()
        log_probs = torch.log_softmax(logits[:, :-1], dim=-1).gather(2, ids[:, 1:, None])[..., 0]
        for line, i in enumerate(part):
            sequence, answer_length = sequences[i]
            end = len(sequence) - 1
            scores[owners[i]] = float(log_probs[line, end - answer_length : end].double().sum())
    return scores, sum(len(sequence) for sequence, _ in sequences)


def pad(sequences: Sequence[Sequence[int]], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and attention mask, each ``[rows, longest]``."""
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(list(sequence))
        mask[row, : len(sequence)] = 1
    return ids.to(device), mask.to(device)


def use_plain_attention(model: Any) -> None:
    """Give the model back the attention that it was loaded with, after packed passes."""
    if model.config.get_text_config()._attn_implementation == ATTENTION_NAME:
        model.set_attn_implementation(getattr(model, PLAIN_ATTENTION, "sdpa"))


def plain_states(model: Any, sequences: Sequence[Sequence[int]], layer: int | None) -> torch.Tensor:
    """Hidden states of all sequences' tokens, one after the other, ``[tokens, width]``; see ``LocalModel.mean_states``."""
    use_plain_attention(model)
    ids, mask = pad(sequences, model.device)
    output = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=layer is not None)
    hidden = output.last_hidden_state if layer is None else output.hidden_states[layer]
    states: torch.Tensor = hidden[mask.bool()]
    return states
