"""Checkpoints of a training run: parameters, the optimizer's state, and how far it was."""

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
"""What AdamW keeps of a parameter. The count of steps too: a fused optimizer keeps it beside its parameter."""


def write_checkpoint(path: Path, named: Named, optimizer: torch.optim.Optimizer, about: Mapping[str, Any]) -> None:
    """Write a checkpoint; atomically, so a kill leaves the one before.

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
        # Written from here, so that a full disk is an OSError like any other.
        temporary.write_bytes(save(tensors, metadata={"about": json.dumps(about)}))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        key: of the run; empty where it was not written.
        step: optimizer steps that were done.
        losses: of each of them.
        tokens: that ran in them.
        tensors: parameters and the optimizer's state, by name.
    """

    key: str
    step: int
    losses: list[float]
    tokens: int
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read one.

        Raises:
            SafetensorError: it is damaged, as may be told by any other error.
        """
        from safetensors import safe_open

        with safe_open(path, framework="pt") as stored:
            about = json.loads(stored.metadata()["about"])
            # Copies, since the file may be written over.
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
        losses = [float(loss) for loss in about["losses"]]
        return cls(str(about.get("key", "")), int(about["step"]), losses, int(about["tokens"]), tensors)

    def fits(self, named: Named) -> bool:
        """Whether its tensors are those of these parameters, by name and shape."""
        left = {name: tensor.shape for name, tensor in self.tensors.items()}
        for name, parameter in named:
            weight, *state = (left.pop(f"{part}/{name}", None) for part in ("weight", *_STATE))
            # A parameter that no gradient has reached yet has no state.
            if weight != parameter.shape or state not in ([None] * 3, [torch.Size(), parameter.shape, parameter.shape]):
                return False
        return not left

    def restore(self, named: Named, optimizer: torch.optim.Optimizer) -> None:
        """Put it into parameters and their optimizer.

        Raises:
            KeyError: a parameter is missing.
        """
        with torch.no_grad():
            for name, parameter in named:
                parameter.copy_(self.tensors[f"weight/{name}"])
                state = {part: self.tensors[f"{part}/{name}"] for part in _STATE if f"{part}/{name}" in self.tensors}
                if state:
                    optimizer.state[parameter] = {part: value.to(parameter.device) for part, value in state.items()}
