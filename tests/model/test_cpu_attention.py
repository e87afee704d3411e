from __future__ import annotations

from typing import Any

import pytest
import torch

from cotune.model.engine import cpu_attention
from cotune.model.engine.cpu_attention import attend, attend_backward


def inputs(dtype: torch.dtype, *, masked: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, count, 16, generator=generator).to(dtype) for count in (12, 7, 7))
    mask = torch.zeros(3, 1, 12, 7).masked_fill_(torch.rand(3, 1, 12, 7, generator=generator) < 0.5, -torch.inf)
    # Every query sees something; some scores are far apart.
    mask[..., 0] = 0
    return q * 5, k, v, mask if masked else None


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_products_and_the_flash_kernel_agree(dtype: torch.dtype, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, mask = inputs(dtype, masked=masked)
    kernel: Any = cpu_attention._flash
    calls = []
    monkeypatch.setattr(cpu_attention, "_flash", lambda *a, **b: calls.append(1) or kernel(*a, **b))
    found = []
    for most in (cpu_attention.SHORT_KEYS, 0):
        monkeypatch.setattr(cpu_attention, "SHORT_KEYS", most)
        out, lse = attend(q, k, v, 0.4, mask)
        found.append((out.float(), lse, *(x.float() for x in attend_backward(out, q, k, v, out, lse, 0.4, mask))))
    assert len(calls) == 1
    scores = q.float() @ k.float().transpose(-1, -2) * 0.4 + (0 if mask is None else mask)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for out, lse, *_ in found:
        torch.testing.assert_close(lse, scores.logsumexp(-1), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(out, scores.softmax(-1) @ v.float(), atol=tolerance, rtol=tolerance)
    for dense, flash in zip(*found, strict=True):
        torch.testing.assert_close(dense, flash, atol=tolerance * float(flash.abs().max()), rtol=tolerance)


@pytest.mark.parametrize(("rows", "queries", "keys"), [(40, 6, 9), (2, 6, 9), (1, 12, 200), (1, 5, 128)])
@pytest.mark.parametrize("masked", [True, False])
def test_dense_and_flash_attention_are_what_autograd_gives(rows: int, queries: int, keys: int, masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(rows, 2, n, 8, requires_grad=True) for n in (queries, keys, keys))
    mask = torch.zeros(rows, 1, queries, keys)
    if masked:
        mask.masked_fill_(torch.rand(mask.shape) < 0.3, -torch.inf)
        mask[..., 0] = 0
    scores = (q @ k.transpose(-1, -2)) * 0.3 + mask
    wanted = torch.softmax(scores, -1) @ v
    grad = torch.randn_like(wanted)
    wanted.backward(grad)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        out, lse = attend(q, k, v, 0.3, mask if masked else None)
        found = attend_backward(grad, q, k, v, out, lse, 0.3, mask if masked else None)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(lse, torch.logsumexp(scores, -1), atol=1e-5, rtol=1e-4)
    for one, other in zip(found, (q.grad, k.grad, v.grad), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
