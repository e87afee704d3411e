"""The mean of several LoRA adapters of one shape, as one adapter of that shape.

An adapter's update of a layer is the product ``B A``. The mean of several updates has up to as many times their rank, so no
single adapter of the same rank holds it exactly, unless the adapters share ``A`` or ``B``. Two ways to come near:

- ``factors``: the mean of the ``B`` times the mean of the ``A``. It holds products of one adapter's ``B`` with another's ``A``
  too, which the mean update does not. The two are near where the ``A`` have hardly moved apart: in runs of one seed that met
  the same rows, or along one run. For adapters that were drawn apart it is meaningless.
- ``updates``: the nearest adapter of the same rank to the mean update (Eckart and Young, 1936), whatever the adapters are.

How far the one that was made lies from the exact mean is measured and told.

Averaged weights often do better than each of them (model soups, arXiv 2203.05482), and the mean along one run does what letting
the learning rate fall does (arXiv 1803.05407).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cotune.errors import CotuneError
from cotune.model.adapters import AdapterSlot

How = Literal["factors", "updates"]
Weights = Mapping[str, Tensor]

_A, _B = ".lora_A.", ".lora_B."


@dataclass(frozen=True)
class Average:
    """A mean of adapters.

    Attributes:
        weights: under the names of the adapters' own.
        distance: Frobenius norm of what its updates lack to the exact mean's, over the norm of the exact mean's.
    """

    weights: dict[str, Tensor]
    distance: float


def average(adapters: Sequence[Weights], *, how: How = "factors", shares: Sequence[float] | None = None) -> Average:
    """The mean of adapters of one shape and one scale.

    Args:
        adapters: weights by name, as a peft file holds them.
        how: see above.
        shares: weight of each, in any unit; equal ones where None.

    Raises:
        CotuneError: there are no adapters, they are no LoRA adapters of one shape, or the shares do not fit.
    """
    if not adapters:
        raise CotuneError("there are no adapters to average")
    if any(_shapes(one) != _shapes(adapters[0]) for one in adapters):
        raise CotuneError("only adapters of the same shape can be averaged")
    if any(_A not in name and _B not in name for name in adapters[0]):
        raise CotuneError("only LoRA adapters can be averaged")
    weights = [1.0] * len(adapters) if shares is None else list(shares)
    total = math.fsum(weights)
    if len(weights) != len(adapters) or min(weights) < 0 or not total > 0 or not math.isfinite(total):
        raise CotuneError("each adapter needs a share, none below 0 and not all of them 0")
    parts = [weight / total for weight in weights]
    made: dict[str, Tensor] = {}
    missing = whole = 0.0
    for name in (n for n in adapters[0] if _A in n):
        other = name.replace(_A, _B)
        downs, ups = ([one[key].double() for one in adapters] for key in (name, other))
        up, down = torch.cat([part * b for part, b in zip(parts, ups, strict=True)], dim=1), torch.cat(downs)
        if how == "factors":
            new_up = torch.stack([part * b for part, b in zip(parts, ups, strict=True)]).sum(dim=0)
            new_down = torch.stack([part * a for part, a in zip(parts, downs, strict=True)]).sum(dim=0)
        else:
            new_up, new_down = _nearest(up, down, rank=downs[0].shape[0])
        made[name], made[other] = (value.to(adapters[0][key].dtype) for key, value in ((name, new_down), (other, new_up)))
        missing += _square(torch.cat([up, -made[other].double()], dim=1), torch.cat([down, made[name].double()]))
        whole += _square(up, down)
    return Average({name: made[name].contiguous() for name in adapters[0]}, math.sqrt(missing / whole) if whole else 0.0)


def save_average(
    slot: AdapterSlot,
    adapters: Sequence[str],
    folder: Path,
    *,
    how: How = "factors",
    shares: Sequence[float] | None = None,
) -> tuple[str, float]:
    """The mean of a model's adapters as an adapter of its own, saved below a folder.

    Args:
        slot: the model's adapters.
        adapters: ids of registered ones.
        folder: that the new adapter's own is made in.
        how: see above.
        shares: see :func:`average`.

    Returns:
        Its id, and :attr:`Average.distance`.

    Raises:
        CotuneError: as :func:`average`.
    """
    made = average([slot.read(adapter) for adapter in adapters], how=how, shares=shares)
    # What is saved is described as what the model holds.
    slot.use(adapters[0])
    return slot.save(made.weights, folder), made.distance


def _nearest(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the nearest matrix of this rank to ``up @ down``, of equal size; the product itself is never formed."""
    left, left_core = torch.linalg.qr(up)
    right, right_core = torch.linalg.qr(down.T)
    u, sizes, v = torch.linalg.svd(left_core @ right_core.T)
    count = min(rank, len(sizes))
    root = sizes[:count].sqrt()
    new_up, new_down = up.new_zeros(up.shape[0], rank), down.new_zeros(rank, down.shape[1])
    new_up[:, :count] = left @ (u[:, :count] * root)
    new_down[:count] = (root[:, None] * v[:count]) @ right.T
    return new_up, new_down


def _square(up: Tensor, down: Tensor) -> float:
    """Squared Frobenius norm of ``up @ down``."""
    return max(0.0, float(((up.T @ up) * (down @ down.T)).sum()))


def _shapes(adapter: Weights) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in adapter.items()}
