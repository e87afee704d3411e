"""Checkpoints of a training run: parameters, optimizer state, and progress."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotune.files import atomic_path, decode_json

Named = Sequence[tuple[str, torch.nn.Parameter]]
_STATE = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter. It includes the step count, which a fused optimizer stores on the parameter's device."""


def write_checkpoint(path: Path, named: Named, optimizer: torch.optim.Optimizer, about: Mapping[str, Any]) -> None:
    """Write a checkpoint of parameters and their AdamW atomically, so that a kill leaves the previous one.

    ``about`` holds ``step``, ``losses`` and ``tokens`` of the run, and a ``key`` that says which run it is.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for name, parameter in named:
        tensors[f"weight/{name}"] = parameter.detach().cpu()
        for part, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{part}/{name}"] = torch.as_tensor(value).detach().cpu()
    with atomic_path(path) as temporary:
        # Written with Python's own I/O, so that a full disk raises an ordinary OSError.
        temporary.write_bytes(save(tensors, metadata={"about": json.dumps(about)}))


def restore_checkpoint(
    path: Path, key: str, named: Named, optimizer: torch.optim.Optimizer
) -> tuple[int, list[float], int] | None:
    """Load a run's checkpoint into parameters and their optimizer.

    Returns:
        ``step``, ``losses`` and ``tokens`` of the run; None, and nothing is changed, if the file is missing, damaged or has
        another key.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            about = decode_json(stored.metadata()["about"])
            # Copies, since the file may be overwritten.
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
        step, losses, tokens = int(about["step"]), [float(loss) for loss in about["losses"]], int(about["tokens"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    # Check everything before using anything: half a checkpoint is worse than none.
    if about.get("key") != key or step != len(losses) or not _fits(tensors, named):
        return None
    with torch.no_grad():
        for name, parameter in named:
            parameter.copy_(tensors[f"weight/{name}"])
            state = {part: tensors[f"{part}/{name}"] for part in _STATE if f"{part}/{name}" in tensors}
            if state:
                optimizer.state[parameter] = {part: value.to(parameter.device) for part, value in state.items()}
    return step, losses, tokens


def _fits(tensors: Mapping[str, Tensor], named: Named) -> bool:
    """Whether tensors have the names and shapes of these parameters and their optimizer state."""
    left = {name: tensor.shape for name, tensor in tensors.items()}
    for name, parameter in named:
        weight, *state = (left.pop(f"{part}/{name}", None) for part in ("weight", *_STATE))
        # A parameter without a gradient so far has no optimizer state.
        if weight != parameter.shape or state not in ([None] * 3, [torch.Size(), parameter.shape, parameter.shape]):
            return False
    return not left
