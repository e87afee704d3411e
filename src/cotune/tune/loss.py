"""Loss of a batch on its answers' tokens, with the shared prefix run once or with plain padded batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cotune.model.engine.attention import use_plain_attention
from cotune.model.engine.fallback import pad
from cotune.model.engine.plan import plan_pass
from cotune.model.local import LocalModel
from cotune.tune.batches import TrainingRow


def shared_prefix_loss(model: LocalModel, rows: Sequence[TrainingRow], prefix: int) -> tuple[Tensor, int]:
    """Summed loss over the answers' tokens, and the number of tokens that ran.

    The prefix runs once, in the same pass as the rows and with gradient; the gradient through its keys and values is exact. The
    last token of an answer is predicted but never fed.

    Args:
        model: model with the weights being trained.
        rows: rows of one step; their prompts begin with the same ``prefix`` tokens.
        prefix: number of those tokens.
    """
    head = rows[0].prompt_ids[:prefix]
    suffixes = [(*row.prompt_ids[prefix:], *row.answer_ids[:-1]) for row in rows]
    plan = plan_pass(suffixes, prefix=prefix, head=head, device=model.runner.device)
    counts = np.array([len(row.answer_ids) for row in rows])
    last = plan.last.cpu().numpy()
    places = np.concatenate([np.arange(end - count + 1, end + 1) for end, count in zip(last, counts, strict=True)])
    hidden, _ = model.runner.hidden(plan, read=torch.from_numpy(places).to(model.runner.device))
    targets = torch.tensor([token for row in rows for token in row.answer_ids], device=hidden.device)
    logits = model.runner.logits(hidden)
    return cross_entropy(logits, targets, reduction="sum"), plan.tokens


def plain_loss(model: LocalModel, rows: Sequence[TrainingRow]) -> tuple[Tensor, int]:
    """The same with a right-padded batch in which every row runs its whole prompt; tokens are counted without padding."""
    use_plain_attention(model.model)
    ids, mask = pad([(*row.prompt_ids, *row.answer_ids[:-1]) for row in rows], model.model.device)
    hidden = model.model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    spots = [(i, len(row.prompt_ids) - 1 + place) for i, row in enumerate(rows) for place in range(len(row.answer_ids))]
    batch, places = torch.tensor(spots, device=hidden.device).T
    targets = torch.tensor([token for row in rows for token in row.answer_ids], device=hidden.device)
    loss = cross_entropy(model.runner.logits(hidden[batch, places]), targets, reduction="sum")
    return loss, int(mask.sum())
