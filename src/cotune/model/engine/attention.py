"""Attention over a shared prefix and each row's own tokens, as one function that transformers models call.

The prefix is attended to once for the whole batch: the queries of all rows form one long query of each head. Own tokens are
attended to separately, and both results are merged by their log-sum-exp (Hydragen, arXiv 2402.05099). On CPU each part's
backward pass, called with the *merged* output and log-sum-exp, gives its exact gradient. On other devices, and if a sliding
window cuts into the prefix, the prefix is expanded over the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cotune.model.engine.cpu_attention import SHORT_KEYS, KeyValue, attend, attend_backward
from cotune.model.engine.decode_attention import DecodeStep
from cotune.model.engine.plan import PackedPlan
from cotune.model.engine.row_blocks import RowBlock

ATTENTION_NAME = "cotune_shared_prefix"

PLAIN_ATTENTION = "_cotune_plain_attention"
"""Attribute of a model that stores the attention implementation it was loaded with."""


@dataclass
class Pass:
    """State of the running pass, which the attention function reads.

    Attributes:
        plan: the layout; None for a pass over the prefix alone.
        prefix: keys and values by layer of the shared prefix, if it ran before this pass; the plan then has no head.
        past: keys and values of the rows' earlier own tokens by layer.
        collected: keys and values of this pass by layer, if ``collect`` is set.
        collect: whether to fill ``collected``.
        step: attention of a decoding step with one token per row; there is then no plan.
        read: positions of the pass whose states will be read; None for all. The last layer may skip the others.
        last: number of the layer after which the pass ends; None for the model's last.
    """

    plan: PackedPlan | None
    prefix: dict[int, KeyValue] | None = None
    past: dict[int, KeyValue] | None = None
    collect: bool = False
    collected: dict[int, KeyValue] = field(default_factory=dict)
    step: DecodeStep | None = None
    read: Tensor | None = None
    last: torch.nn.Module | None = None


_current: ContextVar[Pass | None] = ContextVar("cotune_pass", default=None)


@contextmanager
def running(current: Pass) -> Iterator[Pass]:
    """Use ``current`` in the attention function until the block ends."""
    token = _current.set(current)
    try:
        yield current
    finally:
        _current.reset(token)


def read_places(gate: torch.nn.Module, ends: bool) -> Tensor | None:
    """Positions of the running pass that a feed-forward layer must compute; None for all.

    Args:
        gate: the feed-forward layer.
        ends: whether it belongs to the model's last layer.
    """
    current = _current.get()
    if current is None:
        return None
    at_end = ends if current.last is None else getattr(current.last, "mlp", None) is gate
    return current.read if at_end else None


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """The function registered with transformers as :data:`ATTENTION_NAME`.

    Args:
        query: ``[1, heads, tokens, head size]``; keys and values the same with their own number of heads.
        attention_mask: ignored; the plan defines the mask.
        sliding_window: size of the layer's sliding window in tokens, the current one included.

    Returns:
        ``[1, tokens, heads, head size]`` and no weights.

    Raises:
        RuntimeError: if no pass is running.
    """
    current = _current.get()
    if current is None:
        raise RuntimeError("shared-prefix attention was called outside of a cotune pass")
    if unused.get("softcap") is not None:
        raise RuntimeError("attention with soft-capped scores is not supported by the shared-prefix engine")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    layer: int = module.layer_idx  # type: ignore[assignment]
    if current.collect:
        current.collected[layer] = (k, v)
    prefix = current.prefix[layer] if current.prefix else None
    if current.step is not None:
        return current.step.attend(layer, q, k, v, prefix, scale, sliding_window).unsqueeze(0), None
    plan = current.plan
    if plan is None:
        return _causal(q, k, v, scale, sliding_window).unsqueeze(0), None
    if plan.head:
        prefix = k[: plan.head], v[: plan.head]
        first = _causal(q[: plan.head], *prefix, scale, sliding_window)
        own = _own(plan, q[plan.head :], k[plan.head :], v[plan.head :], prefix, None, scale, sliding_window)
        return torch.cat([first, own]).unsqueeze(0), None
    past = current.past[layer] if current.past else None
    return _own(plan, q, k, v, prefix, past, scale, sliding_window).unsqueeze(0), None


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """Plain causal attention of one sequence, ``[tokens, heads, size]`` in and out."""
    group, tokens = q.shape[1] // k.shape[1], q.shape[0]
    needed = q.requires_grad or k.requires_grad
    if q.device.type == "cpu" and window is None and needed and tokens <= SHORT_KEYS and q.shape[-1] == v.shape[-1]:
        short: Tensor = _ShortCausal.apply(q, k, v, scale)  # type: ignore[no-untyped-call]
        return short
    mask = None
    if window is not None and tokens > window:
        place = torch.arange(tokens, device=q.device)
        gap = place[:, None] - place
        mask = (gap >= 0) & (gap < window)
    out = scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1).repeat_interleave(group, 0)[None],
        v.transpose(0, 1).repeat_interleave(group, 0)[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
    )
    return out[0].transpose(0, 1)


def _own(
    plan: PackedPlan,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix: KeyValue | None,
    past: KeyValue | None,
    scale: float,
    window: int | None,
) -> Tensor:
    if past is not None:
        k, v = torch.cat([past[0], k]), torch.cat([past[1], v])
    if window is not None and plan.longest < window:
        window = None
    if q.device.type != "cpu" or (window is not None and prefix is not None) or q.shape[-1] != v.shape[-1]:
        return _expanded(plan, q, k, v, prefix, scale, window)
    prefix_k, prefix_v = prefix if prefix is not None else (None, None)
    result: Tensor = _SharedPrefix.apply(plan, q, k, v, prefix_k, prefix_v, scale, window)  # type: ignore[no-untyped-call]
    return result


def _expanded(
    plan: PackedPlan, q: Tensor, k: Tensor, v: Tensor, prefix: KeyValue | None, scale: float, window: int | None
) -> Tensor:
    """The same with the prefix expanded over the rows, for any device and window, with gradients by autograd."""
    parts = [_expanded_block(plan.prefix, block, q, k, v, prefix, scale, window) for block in plan.blocks]
    return _joined(parts)[plan.unpad_index]


def _expanded_block(
    length: int, block: RowBlock, q: Tensor, k: Tensor, v: Tensor, prefix: KeyValue | None, scale: float, window: int | None
) -> Tensor:
    """``[rows x queries, heads, size]``."""
    group = q.shape[1] // k.shape[1]
    rows = block.query_index.shape[0]
    padded_q = q[block.query_index].transpose(1, 2)
    padded_k, padded_v = (x[block.key_index].transpose(1, 2) for x in (k, v))
    if prefix is not None:
        long_k, long_v = (x.transpose(0, 1)[None].expand(rows, -1, -1, -1) for x in prefix)
        padded_k, padded_v = torch.cat([long_k, padded_k], 2), torch.cat([long_v, padded_v], 2)
        mask = block.full_mask(window, length)
    else:
        mask = block.own_mask(window, 1, q.dtype)
    out = scaled_dot_product_attention(
        padded_q,
        padded_k.repeat_interleave(group, 1),
        padded_v.repeat_interleave(group, 1),
        attn_mask=mask,
        scale=scale,
    )
    return out.transpose(1, 2).flatten(0, 1)


class _SharedPrefix(torch.autograd.Function):
    """Prefix and own attention merged by log-sum-exp; every tensor ``[tokens, heads, size]``."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: PackedPlan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prefix_k: Tensor | None,
        prefix_v: Tensor | None,
        scale: float,
        window: int | None,
    ) -> Tensor:
        assert not (plan.merged and any(ctx.needs_input_grad)), "merged rows have no gradients"
        heads = k.shape[1]
        group = q.shape[1] // heads
        # Each padded table is gathered from these, so they are made contiguous by token once.
        q = q.contiguous()
        parts = [
            attend(
                _pad_queries(block, q, heads),
                _pad_keys(block, k),
                _pad_keys(block, v),
                scale,
                block.own_mask(window, group, torch.float32),
            )
            for block in plan.blocks
        ]
        out = _unpad_queries(plan, [part for part, _ in parts], group)
        lse = _unpad_queries(plan, [part.unsqueeze(-1) for _, part in parts], group)
        if prefix_k is not None and prefix_v is not None:
            # Each head has its own keys, so that queries need no copy. One long query for each key-value head would avoid
            # copies of the few keys but need two of all queries.
            own_k, own_v = (x.transpose(0, 1).repeat_interleave(group, 0) for x in (prefix_k, prefix_v))
            head_out, head_lse = attend(q.transpose(0, 1)[None], own_k[None], own_v[None], scale)
            out_prefix, lse_prefix = head_out[0].transpose(0, 1), head_lse[0].transpose(0, 1).unsqueeze(-1)
            out = torch.lerp(out, out_prefix, torch.sigmoid(lse_prefix - lse).to(out.dtype))
            if any(ctx.needs_input_grad):
                lse = torch.logaddexp(lse, lse_prefix)
        ctx.plan, ctx.scale, ctx.window = plan, scale, window
        ctx.save_for_backward(q, k, v, prefix_k, prefix_v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plan: PackedPlan = ctx.plan
        q, k, v, prefix_k, prefix_v, out, lse = ctx.saved_tensors
        heads = k.shape[1]
        group = q.shape[1] // heads
        grad = grads[0].contiguous()
        parts = [
            attend_backward(
                _pad_queries(block, grad, heads) * block.real[:, None, :, None].repeat_interleave(group, 2),
                _pad_queries(block, q, heads),
                _pad_keys(block, k),
                _pad_keys(block, v),
                _pad_queries(block, out, heads),
                _pad_queries(block, lse, heads).squeeze(-1),
                ctx.scale,
                block.own_mask(ctx.window, group, torch.float32),
            )
            for block in plan.blocks
        ]
        dq = _unpad_queries(plan, [part[0] for part in parts], group)
        dk, dv = (_unpad_keys(plan, [part[i] for part in parts], k.shape[0]) for i in (1, 2))
        if plan.padding:
            # Padding was given the entries of the first query.
            for gradient in (dq, dk, dv):
                gradient[-plan.padding :] = 0
        dprefix_k = dprefix_v = None
        if prefix_k is not None:
            dq_long, dlong_k, dlong_v = attend_backward(
                _long(grad, heads),
                _long(q, heads),
                _head_first(prefix_k),
                _head_first(prefix_v),
                _long(out, heads),
                _long(lse, heads).squeeze(-1),
                ctx.scale,
            )
            dq = dq + _short(dq_long, q.shape[0])
            dprefix_k, dprefix_v = dlong_k[0].transpose(0, 1), dlong_v[0].transpose(0, 1)
        return None, dq, dk, dv, dprefix_k, dprefix_v, None, None


class _ShortCausal(torch.autograd.Function):
    """Causal attention of one short sequence that is trained through, ``[tokens, heads, size]``."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        tokens, heads = q.shape[0], k.shape[1]
        group = q.shape[1] // heads
        mask = _causal_mask(tokens, group)
        out, lse = attend(_long(q, heads), _head_first(k), _head_first(v), scale, mask)
        ctx.mask, ctx.scale = mask, scale
        ctx.save_for_backward(q, k, v, out, lse)
        return _short(out, tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        heads = k.shape[1]
        dq, dk, dv = attend_backward(
            _long(grads[0], heads), _long(q, heads), _head_first(k), _head_first(v), out, lse, ctx.scale, ctx.mask
        )
        return _short(dq, q.shape[0]), dk[0].transpose(0, 1), dv[0].transpose(0, 1), None


@lru_cache(maxsize=4)
def _causal_mask(tokens: int, group: int) -> Tensor:
    """Additive ``[1, 1, tokens x group, tokens]``; cached, since every layer of every step needs the same one."""
    mask = torch.full((tokens, tokens), -torch.inf).triu_(1)
    return mask.repeat_interleave(group, 0)[None, None]


def _pad_queries(block: RowBlock, x: Tensor, heads: int) -> Tensor:
    """``[own, key-value heads x group, size]`` to ``[rows, key-value heads, queries x group, size]``."""
    rows, queries = block.query_index.shape
    group, size = x.shape[1] // heads, x.shape[2]
    return x.reshape(-1, size).index_select(0, block.taken(heads, group)).view(rows, heads, queries * group, size)


def _unpad_queries(plan: PackedPlan, parts: Sequence[Tensor], group: int) -> Tensor:
    heads, size = parts[0].shape[1], parts[0].shape[3]
    flat = _joined([x.reshape(-1, size) for x in parts])
    return flat.index_select(0, plan.found(heads, group)).view(-1, heads * group, size)


def _pad_keys(block: RowBlock, x: Tensor) -> Tensor:
    """``[past and own, heads, size]`` to ``[rows, heads, keys, size]``."""
    rows, keys = block.key_index.shape
    return x.index_select(0, block.key_index.flatten()).view(rows, keys, x.shape[1], -1).transpose(1, 2)


def _unpad_keys(plan: PackedPlan, parts: Sequence[Tensor], tokens: int) -> Tensor:
    """Gradients of the padded keys, gathered at their tokens; those of padding are zero."""
    flat = _joined([x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3]) for x in parts])
    if tokens == len(plan.unpad_index):
        # Without a past, keys have the same padding as queries, and each token has one place.
        return flat.index_select(0, plan.unpad_index)
    places = torch.cat([block.key_index.flatten() for block in plan.blocks])
    return flat.new_zeros(tokens, *flat.shape[1:]).index_add_(0, places, flat)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _long(x: Tensor, heads: int) -> Tensor:
    """``[tokens, key-value heads x group, size]`` to one long query ``[1, key-value heads, tokens x group, size]``."""
    tokens, all_heads, size = x.shape
    return x.reshape(tokens, heads, all_heads // heads, size).transpose(0, 1).reshape(1, heads, -1, size)


def _short(x: Tensor, tokens: int) -> Tensor:
    """Inverse of :func:`_long`."""
    _, heads, _, size = x.shape
    return x[0].reshape(heads, tokens, -1, size).transpose(0, 1).reshape(tokens, -1, size)


def _head_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1).unsqueeze(0).contiguous()


def use_plain_attention(model: Any) -> None:
    """Restore the attention implementation that the model was loaded with."""
    if model.config.get_text_config()._attn_implementation == ATTENTION_NAME:
        model.set_attn_implementation(getattr(model, PLAIN_ATTENTION, "sdpa"))
