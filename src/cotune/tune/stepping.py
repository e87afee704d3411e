"""The end of an optimizer step, which both ways of tuning share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from cotune.errors import DivergedError

StepReport = Callable[[int, float, int], None]
"""Called after each step with the step's number from 1, its loss (per answer token, or per row of a window), and its tokens."""


def clipped_step(
    optimizer: torch.optim.Optimizer, *groups: Sequence[torch.nn.Parameter], clip: float, loss: float, step: int
) -> None:
    """Clip the gradient and take an optimizer step.

    Args:
        optimizer: the optimizer.
        groups: parameters whose gradients are clipped together; the norm of the first group is checked.
        clip: largest norm of a group's gradient.
        loss: loss of the step.
        step: number of the step, from 1, for the error.

    Raises:
        DivergedError: the loss or the norm is not finite.
    """
    norm, *_ = [torch.nn.utils.clip_grad_norm_(group, clip) for group in groups]
    if not math.isfinite(loss) or not bool(torch.isfinite(norm)):
        what = f"gradient's norm became {float(norm)}" if math.isfinite(loss) else f"loss became {loss}"
        raise DivergedError(f"the {what} in step {step}; the trial stops here. A lower tune.learning_rate may help.")
    optimizer.step()
