"""Checkpoints of a training run: parameters, optimizer state, and progress."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotune.files import atomic_path

Named = Sequence[tuple[str, torch.nn.Parameter]]
_STATE = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter. It includes the step count, which a fused optimizer stores on the parameter's device."""


def write_checkpoint(path: Path, named: Named, optimizer: torch.optim.Optimizer, about: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically, so that a kill leaves the previous one.

    Args:
        path: a ``.safetensors`` file.
        named: the parameters.
        optimizer: AdamW over them.
        about: ``step``, ``losses`` and ``tokens`` of the run, and a ``key`` that says which run it is.
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


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        key: key of the run; empty if the file has none.
        step: number of optimizer steps done.
        losses: loss of each step.
        tokens: number of tokens that ran in these steps.
        tensors: parameters and optimizer state by name.
    """

    key: str
    step: int
    losses: list[float]
    tokens: int
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            SafetensorError: if it is damaged; a damaged file may also raise other exceptions.
        """
        from safetensors import safe_open

        with safe_open(path, framework="pt") as stored:
            about = json.loads(stored.metadata()["about"])
            # Copies, since the file may be overwritten.
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
        losses = [float(loss) for loss in about["losses"]]
        return cls(str(about.get("key", "")), int(about["step"]), losses, int(about["tokens"]), tensors)

    def fits(self, named: Named) -> bool:
        """Whether its tensors have the names and shapes of these parameters."""
        left = {name: tensor.shape for name, tensor in self.tensors.items()}
        for name, parameter in named:
            weight, *state = (left.pop(f"{part}/{name}", None) for part in ("weight", *_STATE))
            # A parameter without a gradient so far has no optimizer state.
            if weight != parameter.shape or state not in ([None] * 3, [torch.Size(), parameter.shape, parameter.shape]):
                return False
        return not left

    def restore(self, named: Named, optimizer: torch.optim.Optimizer) -> None:
        """Load it into parameters and their optimizer.

        Raises:
            KeyError: if a parameter is missing.
        """
        with torch.no_grad():
            for name, parameter in named:
                parameter.copy_(self.tensors[f"weight/{name}"])
                state = {part: self.tensors[f"{part}/{name}"] for part in _STATE if f"{part}/{name}" in self.tensors}
                if state:
                    optimizer.state[parameter] = {part: value.to(parameter.device) for part, value in state.items()}
