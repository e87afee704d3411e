"""Generation by the model's own ``generate``: serves models that the shared-prefix engine does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cotune.model.engine.fallback import use_plain_attention
from cotune.model.engine.sampling import Answer, Chooser

_ROWS = 16


def plain_generate(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Answer], chooser: Chooser) -> int:
    """Write all answers; prompts of one length run together, since not every architecture allows for padding.

    Args:
        model: a transformers causal language model.
        prompts: token ids before each answer.
        answers: fresh ones, filled here.
        chooser: chooses their tokens.

    Returns:
        The tokens run.
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

        with torch.inference_mode():
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
