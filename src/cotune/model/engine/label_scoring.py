"""Requests for label scores: split into batches, answered from the cache or by the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cotune.errors import DivergedError
from cotune.model.adapters.files import BASE
from cotune.model.base import LabelScores, Progress
from cotune.model.engine.engine import Engine
from cotune.model.engine.fallback import naive_label_scores
from cotune.model.engine.hidden_states import layer_states
from cotune.model.engine.scoring import Batch, cut_batches, score_in_memory
from cotune.probe.readout import Probe
from cotune.prompt.prompt import Prompt
from cotune.prompt.reads import counts, first_read
from cotune.prompt.render import RenderedRow

_ENDLESS = 1 << 40


def score_labels(
    model: Engine,
    prompt: Prompt,
    rows: Sequence[Mapping[str, str]],
    labels: Sequence[str],
    *,
    adapter: str = BASE,
    top: int | None = None,
    batch_rows: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> LabelScores:
    """Log-probabilities of the labels for each row, or for each of its words if the adapter's probe reads words.

    Args:
        rows: input fields of each row.
        top: None returns the whole distribution; a number returns exact scores of that many best labels and may skip others,
            which is faster for labels of several tokens.
        batch_rows: maximum number of rows per batch; only needed to measure noise.
        fresh: bypass the cache.
        progress: called with the tokens of each finished batch.

    Raises:
        DivergedError: a score is not a number or infinite.
    """
    if not rows:
        return LabelScores(np.zeros((0, len(labels))))
    rendered, probe, prefix, batches = _batches(model, prompt, rows, labels, adapter, batch_rows)
    states = counts([row.read for row in rendered] if probe is not None else None, len(rendered))
    ends = np.cumsum(states)
    scores = np.empty((sum(states), len(labels)))
    cached = plain = 0
    cache = None if fresh else model.cache
    # A pass ends at the layer that a probe reads, which scores all labels.
    share, top = (1.0, top) if probe is None else (probe.layer / model.depth, None)
    looked_up, ran = sum(row.looked_up for row in rendered), len(prefix)
    for batch in batches:
        key = _key(model, adapter, prefix, batch, batch.completions if probe is None else labels, top)
        hit = cache.get(key) if cache else None
        rows_here = [rendered[i] for i in batch.places]
        plain += sum(len(row.prompt_ids) for row in rows_here)
        plain += len(rows_here) * len(batch.trie.tree.tokens)
        if hit is not None:
            # A token budget must not depend on the cache, so a hit counts as many tokens as the pass did.
            part_scores, cost = hit
            cached += len(rows_here)
        else:
            part_scores, cost = _compute(model, adapter, prefix, batch, rows_here, top, probe, labels)
            # Pruned labels have no score, but the best ones must.
            needed = part_scores if top is None else part_scores.max(axis=1)
            if np.isnan(part_scores).any() or not np.isfinite(needed).all():
                raise DivergedError(f"scores of prompt {prompt.id} with adapter {adapter} are not finite")
            if cache:
                cache.put(key, part_scores, cost)
            if probe is not None and model.runner.edges.began:
                # These say nothing about the speed of whole passes.
                cached += len(rows_here)
        ran += cost
        scores[np.concatenate([np.arange(ends[i] - states[i], ends[i]) for i in batch.places])] = part_scores
        if progress:
            progress(round(cost * share))
    if probe is not None:
        # The cache holds what the states say, which takes nearly all of the time.
        scores = probe.with_terms(scores, rows, labels)
    return LabelScores(
        scores,
        tokens=looked_up + round(ran * share),
        tokens_saved=max(0, plain - looked_up - ran),
        truncated=sum(row.truncated for row in rendered),
        cached=cached,
    )


@dataclass(frozen=True)
class UnknownBatch:
    """A batch of a request for whole distributions whose scores are not in the model's cache.

    Attributes:
        key: cache key of the scores.
        prefix: token ids that run once.
        rows: rows of the batch, in order.
    """

    key: str
    prefix: tuple[int, ...]
    rows: tuple[RenderedRow, ...]


def unknown_batches(
    model: Engine, prompt: Prompt, rows: Sequence[Mapping[str, str]], labels: Sequence[str], *, adapter: str
) -> list[UnknownBatch]:
    """The batches that :func:`score_labels` with ``top=None`` would compute, so that another process can compute them."""
    if not rows or model.cache is None or not model.shared:
        return []
    rendered, probe, prefix, batches = _batches(model, prompt, rows, labels, adapter)
    unknown = []
    for batch in batches:
        key = _key(model, adapter, prefix, batch, batch.completions if probe is None else labels, None)
        if model.cache.get(key) is None:
            unknown.append(UnknownBatch(key, prefix, tuple(rendered[i] for i in batch.places)))
    return unknown


def score_batch_alone(
    model: Engine, prefix: tuple[int, ...], rows: Sequence[RenderedRow], labels: Sequence[str], *, adapter: str
) -> tuple[NDArray[np.float64], int]:
    """``[rows, labels]`` scores of an :class:`UnknownBatch`, bitwise identical to the request's, and the number of tokens."""
    (batch,) = cut_batches(rows, len(prefix), _ENDLESS)
    return _compute(model, adapter, prefix, batch, rows, None, model.adapters.probe(adapter), labels)


def _batches(
    model: Engine,
    prompt: Prompt,
    rows: Sequence[Mapping[str, str]],
    labels: Sequence[str],
    adapter: str,
    batch_rows: int | None = None,
) -> tuple[list[RenderedRow], Probe | None, tuple[int, ...], list[Batch]]:
    """The rendered rows of a request, the probe that reads them, the token ids that run once, and the batches."""
    probe = model.adapters.probe(adapter)
    render = model.renderer.render if probe is None or not probe.words else model.renderer.render_twice
    rendered = render(prompt, rows, labels)
    most: int | None = None
    if probe is not None:
        # A probe reads the states of the prompt, so no label words are processed.
        rendered = [replace(row, completions=row.completions[:1]) for row in rendered]
        # Tokens whose mean it reads must run with their row.
        most = first_read([row.read for row in rendered])
    prefix = model.request_prefix(adapter, [row.prompt_ids for row in rendered], most)
    return rendered, probe, prefix, cut_batches(rendered, len(prefix), model.settings.batch_tokens, batch_rows)


def _compute(
    model: Engine,
    adapter: str,
    prefix_ids: tuple[int, ...],
    batch: Batch,
    rows: Sequence[RenderedRow],
    top: int | None,
    probe: Probe | None,
    labels: Sequence[str],
) -> tuple[NDArray[np.float64], int]:
    """``[rows, labels]`` scores of a batch (of all labels, or exact for the best ones) and the number of tokens."""
    model.adapters.use(adapter)
    if model.shared:
        with torch.inference_mode():
            frozen = model.adapters.frozen_layers(adapter)
            return score_in_memory(model.runner, model.prefix_state(adapter, prefix_ids), batch, top, probe, labels, frozen)
    if probe is not None:
        ids, reads = [row.prompt_ids for row in rows], [row.read for row in rows]
        states = layer_states(model, ids, [probe.layer], reads=reads, adapter=adapter, progress=None)[0]
        return probe.log_probs(states, labels), sum(batch.lengths)
    return naive_label_scores(model.model, rows, batch_tokens=model.settings.batch_tokens)


def _key(model: Engine, adapter: str, prefix: tuple[int, ...], batch: Batch, answers: Sequence[Any], top: int | None) -> str:
    scoring = "full" if top is None else f"top-{top}"
    return model.request_key(adapter, prefix, batch.suffixes, reads=batch.reads, labels=list(answers), scoring=scoring)
