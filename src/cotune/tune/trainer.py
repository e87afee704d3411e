"""One tuning run: training an adapter on a prompt, which can be advanced, interrupted, resumed and finished."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from cotune.errors import CotuneError
from cotune.files import content_hash
from cotune.model.adapters.slots import BASE
from cotune.model.engine.plan import cut_by_length
from cotune.model.hardware.allocator import return_freed_memory
from cotune.model.hardware.machine import give_back_memory, out_of_memory
from cotune.model.local import LocalModel
from cotune.tune.batches import TrainingRow, rows_of_step
from cotune.tune.checkpoint import Checkpoint, write_checkpoint
from cotune.tune.loss import common_prefix, plain_loss, shared_prefix_loss
from cotune.tune.settings import TuneSettings, learning_rate_factor
from cotune.tune.stepping import StepReport, clipped_step
from cotune.tune.tuners import TUNERS


class TuningRun:
    """Trains one adapter on one prompt's rows.

    The state after step ``n`` depends only on the arguments and ``n``, so a run can be interrupted at any step, resumed from
    its last checkpoint, and gives the same weights as an uninterrupted one.

    Args:
        model: model to train; only one run can be active in it at a time, others are stored on disk.
        rows: rendered training rows.
        settings: how to train.
        seed: seed of the initial weights and of the order of rows.
        folder: folder of this run's checkpoints.
        start: adapter to start from; :data:`BASE` draws a new one.

    Attributes:
        rows: training rows.
        step: number of optimizer steps done.
        losses: loss per answer token of each step.
        tokens: number of tokens that ran in these steps.
        branch: name of the decay that the state is in; empty at the full learning rate.
    """

    def __init__(
        self,
        model: LocalModel,
        rows: Sequence[TrainingRow],
        settings: TuneSettings,
        *,
        seed: int,
        folder: Path,
        start: str = BASE,
    ) -> None:
        if not rows:
            raise CotuneError("there are no rows to train on")
        self.model, self.settings, self.seed, self.start = model, settings, seed, start
        self.rows = list(rows)
        self._prefix = common_prefix(self.rows)
        self._answer_length = sum(len(row.answer_ids) for row in self.rows) / len(self.rows)
        self._trainable = TUNERS[settings.method].trainable(model, settings, seed=seed, start=start)
        identity = {
            "model": model.fingerprint,
            "rows": [[row.prompt_ids, row.answer_ids] for row in self.rows],
            "settings": asdict(settings),
            "seed": seed,
            "start": start,
        }
        self.key = content_hash(identity, 20)
        self.folder = folder / self.key
        self.step = 0
        self.losses: list[float] = []
        self.tokens = 0
        self.branch = ""
        self._parameters: list[tuple[str, torch.nn.Parameter]] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._last: Path | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(len(self.rows) / min(self.settings.batch_size, len(self.rows)))

    @property
    def tokens_per_step(self) -> float:
        """Expected number of tokens per step."""
        size = min(self.settings.batch_size, len(self.rows))
        whole = sum(len(row.prompt_ids) + len(row.answer_ids) - 1 for row in self.rows) / len(self.rows)
        return size * (whole - self._prefix) + self._prefix if self._shares else size * whole

    def advance(
        self,
        to_step: int,
        *,
        decay_from: int | None = None,
        report: StepReport | None = None,
        checkpoint_every: int = 25,
        branch: str = "",
        until: Callable[[], bool] | None = None,
    ) -> None:
        """Train until ``to_step`` steps are done.

        Args:
            to_step: step to stop at.
            decay_from: first step of the decay, which reaches zero at ``to_step``; None keeps the rate constant.
            report: called after each step.
            checkpoint_every: steps between checkpoints; another one is written at the end.
            branch: name of the checkpoints of a decay, which other continuations must not start from.
            until: called after each step but the last; training stops if it returns True.

        Raises:
            DivergedError: a loss became NaN or infinite. The last checkpoint is kept.
        """
        return_freed_memory()
        self._enter()
        assert self._optimizer is not None
        self.branch = branch
        while self.step < to_step:
            factor = learning_rate_factor(
                self.step,
                warmup=self.settings.warmup,
                decay_from=decay_from,
                end=to_step if decay_from is not None else None,
            )
            for group in self._optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * factor
            picked = rows_of_step(self.step, len(self.rows), self.settings.batch_size, self.seed)
            loss, used = self._one_step([self.rows[i] for i in picked])
            self.step += 1
            self.losses.append(loss)
            self.tokens += used
            if report:
                report(self.step, loss, used)
            if self.step < to_step and until is not None and until():
                break
            if self.step < to_step and self.step % checkpoint_every == 0:
                self.checkpoint(branch)
        self.checkpoint(branch)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the adapter's current weights."""
        self._enter()
        return self._trainable.weights()

    def save(self, parent: Path) -> str:
        """Write the current adapter as a PEFT folder, named by its content, under ``parent``; returns its id."""
        self._enter()
        return self._trainable.save(parent)

    def _one_step(self, batch: Sequence[TrainingRow]) -> tuple[float, int]:
        """One optimizer step over one or more passes; returns the loss per answer token and the number of tokens that ran.

        The loss is the batch's mean summed loss per row, divided by the mean length of *all* answers. Dividing by the tokens of
        the batch would weight a row less beside long answers; dividing by the row's own length would weight tokens of long
        answers less, and would not be the likelihood of whole answers, by which prompts are compared. The constant makes the
        size of the gradient independent of the length of answers.
        """
        assert self._optimizer is not None
        self._optimizer.zero_grad(set_to_none=True)
        answers = sum(len(row.answer_ids) for row in batch)
        weight = len(batch) * self._answer_length
        lengths = [len(row.prompt_ids) - self._prefix + len(row.answer_ids) for row in batch]
        # The prefix runs in each pass, with gradient.
        most = max(1, self.settings.micro_tokens - (self._prefix if self._shares else 0))
        total, tokens, limit = 0.0, 0, most
        while True:
            try:
                for part in cut_by_length(range(len(batch)), lengths.__getitem__, limit):
                    loss, used = self._loss([batch[i] for i in part])
                    (loss / weight).backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
                    tokens += used
                break
            except RuntimeError as error:
                if not out_of_memory(error) or limit < max(lengths):
                    raise
            self._optimizer.zero_grad(set_to_none=True)
            give_back_memory(self.model.runner.device)
            total, tokens, limit = 0.0, 0, limit // 2
        parameters, mean = [p for _, p in self._parameters], total / answers
        clipped_step(self._optimizer, parameters, clip=self.settings.clip, loss=mean, step=self.step + 1)
        return mean, tokens

    @property
    def _shares(self) -> bool:
        return self.settings.shared_prefix and self.model.shared

    def _loss(self, rows: Sequence[TrainingRow]) -> tuple[Tensor, int]:
        return shared_prefix_loss(self.model, rows, self._prefix) if self._shares else plain_loss(self.model, rows)

    # Leaving and coming back --------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Activate this run's weights in the model, at the step where they were left."""
        if self._optimizer is not None and self.model.adapters.current == self._mark:
            return
        parked = self._optimizer is not None
        self._parameters = self._trainable.enter()
        self.model.adapters.current = self._mark
        self._optimizer = torch.optim.AdamW(
            [parameter for _, parameter in self._parameters],
            lr=self.settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        if not parked:
            return
        if self._last is not None:
            self._restore(self._last)
        else:
            self._rewind()

    @property
    def _mark(self) -> str:
        return f"training-{self.key}-{id(self)}"

    def checkpoint(self, branch: str = "") -> Path:
        """Write weights, optimizer state and step atomically, so that a kill leaves the previous checkpoint."""
        assert self._optimizer is not None
        self._last = self.folder / f"{branch or 'steady'}.safetensors"
        about = {"step": self.step, "losses": self.losses, "tokens": self.tokens}
        write_checkpoint(self._last, self._parameters, self._optimizer, about)
        return self._last

    def restart(self) -> None:
        """Go back to step 0; checkpoints stay until they are overwritten."""
        self._optimizer, self._last, self.branch = None, None, ""
        self._rewind()

    def _rewind(self) -> None:
        self.step, self.losses, self.tokens = 0, [], 0

    def resume(self, branch: str = "") -> bool:
        """Go back to the last checkpoint of a branch; returns False if there is none.

        A damaged checkpoint is removed and counts as missing: its steps are repeated from step 0.
        """
        from safetensors import SafetensorError

        path = self.folder / f"{branch or 'steady'}.safetensors"
        if not path.is_file():
            return False
        self._optimizer = None
        self._enter()
        try:
            self._restore(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError):
            # It may have been loaded in part.
            self.restart()
            path.unlink(missing_ok=True)
            return False
        self.branch = branch
        return True

    def _restore(self, path: Path) -> None:
        assert self._optimizer is not None
        checkpoint = Checkpoint.read(path)
        checkpoint.restore(self._parameters, self._optimizer)
        self.step, self.losses, self.tokens = checkpoint.step, checkpoint.losses, checkpoint.tokens
        self._last = path
