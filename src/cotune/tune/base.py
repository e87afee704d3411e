"""The optimizer steps of a tuning run, with its checkpoints: what all tuning has in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cotune.errors import CotuneError, DivergedError
from cotune.files import content_hash
from cotune.model.engine.plan import cut_by_length
from cotune.model.hardware.allocator import return_freed_memory
from cotune.model.hardware.machine import halve_until_it_fits
from cotune.model.local import LocalModel
from cotune.tune.batches import rows_of_step
from cotune.tune.checkpoint import restore_checkpoint, write_checkpoint
from cotune.tune.settings import StepSettings
from cotune.tune.trainable import Named, Trainable

StepReport = Callable[[int, float, int], None]
"""Called after each step with the step's number from 1, its loss (per answer token, or per row of a window), and its tokens."""


class AdapterRun(ABC):
    """Trains an adapter on rows, step by step.

    The state after step ``n`` depends only on the arguments and ``n``, so a run can be interrupted at any step, resumed from
    its last checkpoint, and gives the same weights as an uninterrupted one.

    Args:
        model: model to train; only one run can be active in it at a time, others are stored on disk.
        trainable: the adapter's parameters.
        lengths: number of tokens of each training row after the rows' shared prefix.
        prefix: number of tokens of that prefix, which runs in each pass.
        identity: JSON value of everything else that the weights depend on, such as the rows.
        seed: seed of the initial weights and of the order of rows.
        folder: folder of all runs' checkpoints.
        start: id of the adapter to start from.

    Attributes:
        step: number of optimizer steps done.
        losses: loss of each step.
        tokens: number of tokens that ran in these steps.
    """

    def __init__(
        self,
        model: LocalModel,
        trainable: Trainable,
        lengths: Sequence[int],
        prefix: int,
        settings: StepSettings,
        identity: Mapping[str, Any],
        *,
        seed: int,
        folder: Path,
        start: str,
    ) -> None:
        if not lengths:
            raise CotuneError("there are no rows to train on")
        self.model, self.settings, self.seed, self.start = model, settings, seed, start
        self._trainable, self._lengths, self._prefix = trainable, list(lengths), prefix
        whole = {"model": model.fingerprint, "settings": asdict(settings), "seed": seed, "start": start, **identity}
        self.key = content_hash(whole, 20)
        self.folder = folder / self.key
        self.step = 0
        self.losses: list[float] = []
        self.tokens = 0
        self._parameters: Named = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._last: Path | None = None

    @property
    def batch_size(self) -> int:
        """Rows per optimizer step."""
        return min(self.settings.batch_size, len(self._lengths))

    @property
    def tokens_per_step(self) -> float:
        """Expected number of tokens per step."""
        return self.batch_size * sum(self._lengths) / len(self._lengths) + self._prefix

    @abstractmethod
    def _backward(self, parts: Sequence[Sequence[int]]) -> tuple[float, float, int]:
        """Add the gradient of a step's rows, given as indices, to the parameters; one pass for each part.

        Returns:
            The summed loss, the number that it is divided by for :attr:`losses`, and the number of tokens that ran.
        """

    def _rows(self) -> list[int]:
        """Indices of the next step's rows."""
        return rows_of_step(self.step, len(self._lengths), self.batch_size, self.seed)

    def _enter_head(self) -> tuple[Named, float]:
        """Reset the parameters outside the model that are trained too; returns them and their peak learning rate."""
        return [], 0.0

    def _train(
        self,
        to_step: int,
        rate: Callable[[int], float],
        checkpoint: Path,
        every: int,
        report: StepReport | None,
        until: Callable[[], bool] | None,
    ) -> None:
        """Train until ``to_step`` steps are done.

        Args:
            to_step: step to stop at.
            rate: share of the peak learning rate in each step.
            checkpoint: file of the checkpoints.
            every: steps between checkpoints; none is written after the last step.
            report: called after each step.
            until: called after each step but the last; training stops if it returns True.

        Raises:
            DivergedError: a loss or a gradient became NaN or infinite. The last checkpoint is kept.
        """
        return_freed_memory()
        self._enter()
        assert self._optimizer is not None
        while self.step < to_step:
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * rate(self.step)
            loss, used = self._one_step(self._rows())
            self.step += 1
            self.losses.append(loss)
            self.tokens += used
            if report:
                report(self.step, loss, used)
            if self.step < to_step and until is not None and until():
                break
            if self.step < to_step and self.step % every == 0:
                self._write(checkpoint)

    def _one_step(self, rows: Sequence[int]) -> tuple[float, int]:
        """One optimizer step over one or more passes; returns its loss and the number of tokens that ran."""
        optimizer = self._optimizer
        assert optimizer is not None

        def backward(limit: int) -> tuple[float, float, int]:
            optimizer.zero_grad(set_to_none=True)
            return self._backward([*cut_by_length(rows, self._lengths.__getitem__, limit)])

        limit, longest = max(1, self.settings.micro_tokens - self._prefix), max(self._lengths[row] for row in rows)
        total, count, tokens = halve_until_it_fits(backward, limit, self.model.runner.device, least=longest)
        loss = total / count
        norm, *_ = [torch.nn.utils.clip_grad_norm_(group["params"], self.settings.clip) for group in optimizer.param_groups]
        if not math.isfinite(loss) or not bool(torch.isfinite(norm)):
            what = f"gradient's norm became {float(norm)}" if math.isfinite(loss) else f"loss became {loss}"
            raise DivergedError(
                f"the {what} in step {self.step + 1}; the trial stops here. A lower tune.learning_rate may help."
            )
        optimizer.step()
        return loss, tokens

    # Leaving and coming back --------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Activate this run's weights in the model: those of the last checkpoint if others were active since."""
        mark = f"training-{self.key}-{id(self)}"
        if self._optimizer is not None and self.model.adapters.current == mark:
            return
        adapter = self._trainable.enter()
        self.model.adapters.current = mark
        head, head_rate = self._enter_head()
        groups = [(adapter, self.settings.learning_rate), *([(head, head_rate)] if head else [])]
        self._optimizer = torch.optim.AdamW(
            [{"params": [p for _, p in named], "lr": peak, "peak": peak} for named, peak in groups],
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )
        self._parameters = [*adapter, *head]
        self.step, self.losses, self.tokens = 0, [], 0
        if self._last is not None:
            restored = restore_checkpoint(self._last, self.key, self._parameters, self._optimizer)
            if restored is None:
                self._last = None
            else:
                self.step, self.losses, self.tokens = restored

    def _write(self, path: Path) -> None:
        """Write parameters, optimizer state and step atomically, so that a kill leaves the previous checkpoint."""
        assert self._optimizer is not None
        about = {"key": self.key, "step": self.step, "losses": self.losses, "tokens": self.tokens}
        write_checkpoint(path, self._parameters, self._optimizer, about)
        self._last = path
