"""One tuning run: an adapter trained on a prompt, which can be advanced, left, resumed and finished."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from cotune.errors import CotuneError, DivergedError
from cotune.files import content_hash
from cotune.model.adapters.slots import BASE
from cotune.model.engine.plan import cut_by_length
from cotune.model.hardware.machine import give_back_memory, out_of_memory
from cotune.model.local import LocalModel
from cotune.tune.batches import TrainingRow, rows_of_step
from cotune.tune.checkpoint import Checkpoint, write_checkpoint
from cotune.tune.loss import common_prefix, plain_loss, shared_prefix_loss
from cotune.tune.settings import TuneSettings, learning_rate_factor
from cotune.tune.tuners import TUNERS

StepReport = Callable[[int, float, int], None]
"""Called after each step with the step's number from 1, its loss per token, and its tokens."""


class TuningRun:
    """Trains one adapter on one prompt's rows.

    The state after step ``n`` is a function of the arguments and ``n`` alone, so a run can be left at any step, resumed from
    its last checkpoint, and gives the same weights as one never interrupted.

    Args:
        model: carries the weights; only one run can be in it at a time, others are parked on disk.
        rows: rendered rows to learn from.
        settings: how to train.
        seed: draws the initial weights and the order of rows.
        folder: where checkpoints of this run go.
        start: adapter to go on from; :data:`BASE` draws a fresh one.
        opening: token ids that the prompt begins with whatever the row, which a prefix may stand for; None takes what these
            rows begin with.

    Attributes:
        rows: what it learns from.
        step: optimizer steps done.
        losses: loss per answer token of each of these steps.
        tokens: tokens run in them.
        branch: name of the decay that the state belongs to; empty at the full learning rate.
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
        opening: Sequence[int] | None = None,
    ) -> None:
        if not rows:
            raise CotuneError("there are no rows to train on")
        self.model, self.settings, self.seed, self.start = model, settings, seed, start
        self.rows = list(rows)
        self._prefix = common_prefix(self.rows)
        self._answer_length = sum(len(row.answer_ids) for row in self.rows) / len(self.rows)
        tuner = TUNERS[settings.method]
        self._trainable = tuner.trainable(model, settings, self.rows, seed=seed, start=start, opening=opening)
        identity = {
            "model": model.fingerprint,
            "rows": [[row.prompt_ids, row.answer_ids] for row in self.rows],
            "settings": asdict(settings),
            "seed": seed,
            "start": start,
        }
        self.key = content_hash(identity | self._trainable.identity, 20)
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
        """Optimizer steps in which every row is met about once."""
        return math.ceil(len(self.rows) / min(self.settings.batch_size, len(self.rows)))

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens of a step."""
        size, covered = min(self.settings.batch_size, len(self.rows)), self._trainable.stands_for
        whole = sum(len(row.prompt_ids) + len(row.answer_ids) - 1 for row in self.rows) / len(self.rows)
        return size * (whole - self._prefix) + self._prefix - covered if self._shares else size * (whole - covered)

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
            to_step: where to stop.
            decay_from: from this step on the learning rate falls, to zero at ``to_step``; None keeps it constant.
            report: told about each step.
            checkpoint_every: steps between checkpoints; one more is written at the end.
            branch: names checkpoints of a decay, which other continuations must not start from.
            until: asked after each step but the last whether to stop there.

        Raises:
            DivergedError: a loss became NaN or infinite. The last checkpoint stays.
        """
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
                group["lr"] = self.settings.learning_rate * factor * group["pace"]
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
        """A copy of the adapter's present weights."""
        self._enter()
        return self._trainable.weights()

    def save(self, parent: Path) -> str:
        """Write the present adapter as a PEFT folder named by its content under ``parent``; returns its id."""
        self._enter()
        return self._trainable.save(parent)

    def _one_step(self, batch: Sequence[TrainingRow]) -> tuple[float, int]:
        """One optimizer step, however the batch is cut into passes; returns the loss per answer token, and the tokens run.

        The gradient is that of the mean row's summed loss over the mean length of *all* answers. Divided by the tokens of its
        own batch, a row would count less beside long answers than beside short ones; divided by its own, a token of a long
        answer would count less than one of a short answer, and what is minimised would not be the likelihood of whole answers,
        by which prompts are raced. The constant keeps the gradient's size apart from how long answers are.
        """
        assert self._optimizer is not None
        self._optimizer.zero_grad(set_to_none=True)
        answers = sum(len(row.answer_ids) for row in batch)
        weight = len(batch) * self._answer_length
        lengths = [len(row.prompt_ids) - self._prefix + len(row.answer_ids) for row in batch]
        # The prefix runs in each pass, gradient and all.
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
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in self._parameters], self.settings.clip)
        if not math.isfinite(total) or not bool(torch.isfinite(norm)):
            what = f"gradient's norm became {float(norm)}" if math.isfinite(total) else f"loss became {total / answers}"
            raise DivergedError(
                f"the {what} in step {self.step + 1}; the trial stops here. A lower tune.learning_rate may help."
            )
        self._optimizer.step()
        return total / answers, tokens

    @property
    def _shares(self) -> bool:
        return self.settings.shared_prefix and self.model.shared

    def _loss(self, rows: Sequence[TrainingRow]) -> tuple[Tensor, int]:
        trained = self._trainable.prefix()
        if self._shares:
            return shared_prefix_loss(self.model, rows, self._prefix, trained)
        return plain_loss(self.model, rows, trained)

    # Leaving and coming back --------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Put this run's weights into the model, from where they were left."""
        if self._optimizer is not None and self.model.adapters.current == self._mark:
            return
        parked = self._optimizer is not None
        self._parameters = self._trainable.enter()
        self.model.adapters.current = self._mark
        paces: dict[float, list[torch.nn.Parameter]] = {}
        for name, parameter in self._parameters:
            paces.setdefault(self._trainable.pace(name), []).append(parameter)
        self._optimizer = torch.optim.AdamW(
            [{"params": parameters, "pace": pace} for pace, parameters in paces.items()],
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
        """Write weights, optimizer state and step; atomically, so a kill leaves the one before."""
        assert self._optimizer is not None
        self._last = self.folder / f"{branch or 'steady'}.safetensors"
        about = {"step": self.step, "losses": self.losses, "tokens": self.tokens}
        write_checkpoint(self._last, self._parameters, self._optimizer, about)
        return self._last

    def restart(self) -> None:
        """Go back to step 0, from which every step can be reached again; checkpoints stay until they are written over."""
        self._optimizer, self._last, self.branch = None, None, ""
        self._rewind()

    def _rewind(self) -> None:
        self.step, self.losses, self.tokens = 0, [], 0

    def resume(self, branch: str = "") -> bool:
        """Go back to the last checkpoint of a branch, if there is one; returns whether there was.

        One that is damaged counts as none and is removed: its steps are made anew from step 0.
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
            # Parts of it may stand in the weights by now.
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
