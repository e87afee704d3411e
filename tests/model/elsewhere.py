"""A device that is not the CPU, for machines that have no other: its tensors lie in the CPU's memory and say otherwise.

Everything that runs here takes the ways that are meant for other devices, and what would fail on a GPU for want of a copy fails
here too: an operation over tensors of both places, a tensor read as an array, an optimizer's count that lies apart from its
weights. What it cannot show is what a GPU's own kernels make of it: their numbers, their speed, their memory, and number types
that a device lacks.

The device calls itself ``meta``, the one name besides the CPU's for which torch asks for no driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")

_aten = torch.ops.aten
# Between devices one may copy, and numbers of rows may come from the CPU.
_CROSSING = (_aten.copy_, _aten._to_copy, _aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)


class Elsewhere(torch.Tensor):
    """A tensor on that device; ``here`` is what it holds."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=ELSEWHERE,
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.here.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of another device to numpy; copy it to the CPU first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        astray = [leaf for leaf in given if not isinstance(leaf, Elsewhere) and (leaf.dim() or "_f" in func.__name__[:2])]
        if astray and func.overloadpacket not in _CROSSING:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found two, {ELSEWHERE} and cpu")
        target = (kwargs or {}).get("device")
        arguments, named = tree_map(_here, (args, kwargs or {}))
        found = func(*arguments, **named)
        if target is not None and not _is_elsewhere(target):
            return found
        # What an operation changed in place comes back as it is.
        own = {id(leaf.here): leaf for leaf in given if isinstance(leaf, Elsewhere)}
        return tree_map(lambda leaf: own[id(leaf)] if id(leaf) in own else _there(leaf), found)


def _here(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.here if isinstance(leaf, Elsewhere) else leaf


def _there(leaf: Any) -> Any:
    return Elsewhere(leaf) if isinstance(leaf, torch.Tensor) else leaf


def _is_elsewhere(device: Any) -> bool:
    return device is not None and torch.device(device) == ELSEWHERE


class _Made(TorchDispatchMode):
    """Tensors that are made on the device, or copied to it, hold something; torch's own ones of that name hold nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if Elsewhere in types or not _is_elsewhere(named.get("device")):
            return func(*args, **named)
        return tree_map(_there, func(*args, **{**named, "device": torch.device("cpu")}))


class _Told(TorchFunctionMode):
    """``torch.tensor`` copies to its device below the level at which :class:`_Made` could see it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_elsewhere(named.get("device")):
            return func(*args, **{**named, "device": "cpu"}).to(ELSEWHERE)
        return func(*args, **named)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Have the device there."""
    optimizer: Any = import_module("torch.optim.optimizer")
    fused = optimizer._get_fused_kernels_supported_devices
    with pytest.MonkeyPatch.context() as patch, _Told(), _Made():
        # In inference mode torch would hand calls on whole, and take a view of a weight for a tensor of that mode.
        patch.setattr(torch, "inference_mode", torch.no_grad)
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [*fused(), ELSEWHERE.type])
        yield


def move(model: torch.nn.Module) -> None:
    """Move a model's weights to the device, in place; tied ones stay tied."""
    moved: dict[int, Any] = {}
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                key = id(weight)
                moved.setdefault(key, torch.nn.Parameter(Elsewhere(weight.detach()), requires_grad=False))
                module._parameters[name] = moved[key]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer)
