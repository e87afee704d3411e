"""Attention on CPU with its log-sum-exp, forward and backward: torch's flash kernel, or dense products where those are faster.

The flash kernel works through small blocks, one batch entry and head after the other; with few keys most of its time is not
spent on products. Dense products in fp32 were 2 to 4 times as fast backward, with the keys of a short row, and 1.5 to 1.9 times
as fast where many queries see all of 25 to 60 keys (2 cores, AVX512), and no faster with 300. They hold a table of queries by
keys, so they stop where it grows.
"""

from __future__ import annotations

import torch
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Entries of the table of queries by keys, over all rows and heads, up to which it is made.
_TABLE = 4_000_000
SHORT_KEYS = 128
"""Keys up to which dense products are the faster way backward, or where every query sees every key."""


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention ``[rows, heads, queries, size]`` and its log-sum-exp ``[rows, heads, queries]`` in fp32.

    Args:
        q: ``[rows, heads, queries, size]``; keys and values the same with their own number of keys.
        k: keys.
        v: values.
        scale: of the products.
        mask: additive ``[rows, 1, queries, keys]`` in the queries' number type; every query must see something.
    """
    out, lse = _flash(q, k, v, 0.0, False, attn_mask=mask, scale=scale)
    return out, lse


def attend_to_all(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention ``[heads, queries, size]`` in which every query sees every key, and its log-sum-exp ``[heads, queries]``.

    Args:
        q: ``[heads, queries, size]``; keys and values the same with their own number of keys.
        k: keys.
        v: values.
        scale: of the products.
    """
    if k.shape[1] > SHORT_KEYS or q.shape[0] * q.shape[1] * k.shape[1] > _TABLE or q.dtype != torch.float32:
        out, lse = attend(q[None], k[None], v[None], scale)
        return out[0], lse[0]
    weights = torch.matmul(q, (k * scale).transpose(-1, -2))
    top = weights.amax(-1, keepdim=True)
    total = weights.sub_(top).exp_().sum(-1, keepdim=True)
    out = torch.matmul(weights, v).div_(total)
    return out, total.log_().add_(top).squeeze(-1)


def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values.

    ``out`` and ``lse`` may be those of a wider attention that these keys are a part of: then the gradients are this part's
    share of it (as in ring attention, arXiv 2310.01889).

    Args:
        grad: of the output.
        q: as in :func:`attend`, and so are the following.
        k: keys.
        v: values.
        out: the output.
        lse: its log-sum-exp.
        scale: of the products.
        mask: additive.
    """
    if k.shape[2] > SHORT_KEYS or _table(q, k) > _TABLE:
        dq, dk, dv = _flash_backward(grad, q, k, v, out, lse, 0.0, False, attn_mask=mask, scale=scale)
        return dq, dk, dv
    wide_q, wide_k, wide_grad = q.float() * scale, k.float(), grad.float()
    weights = torch.matmul(wide_q, wide_k.transpose(-1, -2))
    if mask is not None:
        weights += mask
    weights = weights.sub_(lse.unsqueeze(-1)).exp_()
    dv = torch.matmul(weights.transpose(-1, -2), wide_grad)
    shared = (wide_grad * out).sum(-1, keepdim=True)
    dscores = torch.matmul(wide_grad, v.float().transpose(-1, -2)).sub_(shared).mul_(weights)
    dq = torch.matmul(dscores, wide_k).mul_(scale)
    dk = torch.matmul(dscores.transpose(-1, -2), wide_q)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _table(q: Tensor, k: Tensor) -> int:
    return q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
