"""Attention on CPU with log-sum-exp, forward and backward: torch's flash kernel, or dense products if those are faster.

The flash kernel works through small blocks, one batch entry and head after the other; with few keys it spends most of its time
outside of products. With the keys of a short row dense products with scores in fp32 were 2 to 4 times as fast backward and 1.2
to 1.8 times forward; where many queries see all of 25 to 60 keys they were 1.5 to 1.9 times as fast, and no faster with 300 (2
cores, AVX512, fp32 and bf16). They need a table of queries by keys, so they are used only while it fits into the caches, and
copies of the keys in fp32, so they are not used if these are many for each query.
"""

from __future__ import annotations

import torch
from torch import Tensor

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each ``[tokens, key-value heads, head size]``."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Most entries of the table of queries by keys, over all rows and heads, for dense products.
_TABLE = 4_000_000
_LEAST_QUERIES = 8
SHORT_KEYS = 128
"""Most keys for which dense products are faster."""


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention ``[rows, heads, queries, size]`` and its log-sum-exp ``[rows, heads, queries]`` in fp32.

    ``mask`` is additive, ``[rows, 1, queries, keys]`` in fp32; every query must see something.
    """
    # In half precision the kernel is faster than a table in fp32.
    most = _TABLE if q.dtype == torch.float32 else _TABLE // 2
    if k.shape[2] <= SHORT_KEYS and q.shape[2] >= _LEAST_QUERIES and _table(q, k) <= most:
        return _dense(q, k, v, scale, mask)
    out, lse = _flash(q, k, v, 0.0, False, attn_mask=mask, scale=scale)
    return out, lse


def _dense(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = torch.matmul(q.float(), (k.float() * scale).transpose(-1, -2))
    if mask is not None:
        scores += mask
    weights = torch.softmax(scores, -1)
    # The highest score and its weight give the log-sum-exp with fewer passes over the table than a sum.
    lse = scores.amax(-1).sub_(weights.amax(-1).log_())
    return torch.matmul(weights.to(v.dtype), v), lse


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

    ``out`` and ``lse`` may belong to an attention over more keys, of which these are a part: the gradients are then this part's
    share (as in ring attention, arXiv 2310.01889).
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
