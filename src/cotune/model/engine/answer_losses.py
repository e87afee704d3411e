"""Log-likelihood of each row's right answer by teacher forcing, with all rows of a batch in one packed pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotune.errors import DivergedError
from cotune.model.adapters.files import BASE
from cotune.model.base import AnswerLosses, Progress
from cotune.model.engine.engine import Engine
from cotune.model.engine.fallback import naive_label_scores
from cotune.model.engine.plan import cut_by_length, plan_pass
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow


def answer_losses(
    model: Engine,
    prompt: Prompt,
    rows: Sequence[Mapping[str, str]],
    answers: Sequence[str],
    *,
    adapter: str = BASE,
    progress: Progress | None = None,
) -> AnswerLosses:
    """Negative log-likelihood of each row's reference answer, including its stop token.

    Args:
        rows: input fields of each row.
        answers: the reference answer of each row.
        progress: called with the tokens of each finished batch.

    Raises:
        InputError: a prompt and its answer exceed the model's positions.
        DivergedError: a loss is not a number or infinite.
    """
    rendered = model.renderer.render_answers(prompt, rows, answers)
    losses = np.empty(len(rendered))
    lengths = np.array([len(row.completions[0]) for row in rendered], dtype=np.int64)
    if not rendered:
        return AnswerLosses(losses, lengths)
    model.check_positions(rendered)
    prefix_ids = model.request_prefix(adapter, [row.prompt_ids for row in rendered])
    tokens, cached = len(prefix_ids), 0
    own = [len(row.prompt_ids) - len(prefix_ids) + len(row.completions[0]) - 1 for row in rendered]
    for part in cut_by_length(range(len(rendered)), own.__getitem__, model.settings.batch_tokens):
        chosen = [rendered[i] for i in part]
        suffixes, texts = [row.prompt_ids[len(prefix_ids) :] for row in chosen], [row.completions[0] for row in chosen]
        key = model.request_key(adapter, prefix_ids, suffixes, answers=texts, scoring="answers")
        hit = model.cache.get(key) if model.cache else None
        if hit is not None:
            cached += len(part)
            part_losses, cost = hit[0][:, 0], hit[1]
        else:
            part_losses, cost = _compute(model, adapter, prefix_ids, chosen)
            if not np.isfinite(part_losses).all():
                raise DivergedError(f"losses of prompt {prompt.id} with adapter {adapter} are not finite")
            if model.cache:
                model.cache.put(key, part_losses[:, None], cost)
        losses[part] = part_losses
        tokens += cost
        if progress:
            progress(cost)
    plain = sum(len(row.prompt_ids) + len(row.completions[0]) - 1 for row in rendered)
    return AnswerLosses(
        losses,
        lengths,
        tokens=tokens,
        tokens_saved=max(0, plain - tokens),
        truncated=sum(row.truncated for row in rendered),
        cached=cached,
    )


def _compute(
    model: Engine, adapter: str, prefix_ids: tuple[int, ...], rows: Sequence[RenderedRow]
) -> tuple[NDArray[np.float64], int]:
    model.adapters.use(adapter)
    if not model.shared:
        scores, tokens = naive_label_scores(model.model, rows, batch_tokens=model.settings.batch_tokens, whole=True)
        return -scores[:, 0], tokens - len(rows)
    runner, shared, answers = model.runner, len(prefix_ids), [row.completions[0] for row in rows]
    suffixes = [(*row.prompt_ids[shared:], *row.completions[0][:-1]) for row in rows]
    asked = [len(row.prompt_ids) - shared - 1 for row in rows]
    with torch.inference_mode():
        prefix = model.prefix_state(adapter, prefix_ids)
        plan = plan_pass(suffixes, prefix=shared, merge=asked, device=runner.device)
        ends = zip(plan.last.tolist(), answers, strict=True)
        places = np.concatenate([np.arange(end - len(answer) + 1, end + 1) for end, answer in ends])
        states, _ = runner.hidden(plan, prefix, read=torch.from_numpy(places).to(runner.device))
        return runner.answer_losses(states, answers), sum(map(len, suffixes))
