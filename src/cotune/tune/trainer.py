"""One tuning run: training an adapter on a prompt, which can be advanced, interrupted, resumed and finished."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from cotune.errors import CotuneError
from cotune.model.adapters.slots import BASE
from cotune.model.local import LocalModel
from cotune.prompt.render import shared_prefix
from cotune.tune.base import AdapterRun, StepReport
from cotune.tune.batches import TrainingRow
from cotune.tune.loss import plain_loss, shared_prefix_loss
from cotune.tune.settings import TuneSettings, learning_rate_factor
from cotune.tune.trainable import Trainable
from cotune.tune.tuners import TUNERS


class TuningRun(AdapterRun):
    """Trains one adapter on one prompt's rows.

    Arguments as of :class:`AdapterRun`, with rendered training rows; :data:`BASE` as ``start`` draws a new adapter.

    Attributes:
        losses: loss per answer token of each step.
        branch: name of the decay that the state is in; empty at the full learning rate.
    """

    settings: TuneSettings

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
        self.rows = list(rows)
        self._shares = settings.shared_prefix and model.shared
        prefix = shared_prefix([row.prompt_ids for row in rows]) if self._shares and rows else 0
        # The last token of an answer is predicted but never fed.
        own = [len(row.prompt_ids) + len(row.answer_ids) - 1 - prefix for row in rows]
        trainable = TUNERS[settings.method].trainable(model, settings, seed=seed, start=start)
        identity = {"rows": [[row.prompt_ids, row.answer_ids] for row in rows]}
        super().__init__(model, trainable, own, prefix, settings, identity, seed=seed, folder=folder, start=start)
        self._answer_length = sum(len(row.answer_ids) for row in rows) / len(rows)
        self.branch = ""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(len(self.rows) / self.batch_size)

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
        self.branch = branch
        end, warmup = None if decay_from is None else to_step, self.settings.warmup

        def rate(step: int) -> float:
            return learning_rate_factor(step, warmup=warmup, decay_from=decay_from, end=end)

        self._train(to_step, rate, self._file(branch), checkpoint_every, report, until)
        self._write(self._file(branch))

    def weights(self) -> dict[str, Tensor]:
        """A copy of the adapter's current weights."""
        return self._trained().weights()

    def save(self, parent: Path) -> str:
        """Write the current adapter as a PEFT folder, named by its content, under ``parent``; returns its id."""
        return self._trained().save(parent)

    def _trained(self) -> Trainable:
        step = self.step
        self._enter()
        if self.step != step:
            raise CotuneError(f"the checkpoint of step {step} in {self.folder} was damaged or removed. Start the run again.")
        return self._trainable

    def restart(self) -> None:
        """Go back to step 0; checkpoints stay until they are overwritten."""
        self._optimizer, self._last, self.branch = None, None, ""
        self.step, self.losses, self.tokens = 0, [], 0

    def resume(self, branch: str = "") -> bool:
        """Go back to the last checkpoint of a branch; returns False if there is none.

        A damaged checkpoint is removed and counts as missing: its steps are repeated from step 0.
        """
        path = self._file(branch)
        if not path.is_file():
            return False
        self._optimizer, self._last = None, path
        self._enter()
        if self._last is None:
            self.branch = ""
            path.unlink(missing_ok=True)
            return False
        self.branch = branch
        return True

    def _file(self, branch: str) -> Path:
        return self.folder / f"{branch or 'steady'}.safetensors"

    def _backward(self, parts: Sequence[Sequence[int]]) -> tuple[float, float, int]:
        """Add the gradient of the batch's mean summed loss per row, divided by the mean length of *all* answers.

        Dividing by the tokens of the batch would weight a row less beside long answers; dividing by the row's own length would
        weight tokens of long answers less, and would not be the likelihood of whole answers, by which prompts are compared. The
        constant makes the size of the gradient independent of the length of answers.
        """
        weight = sum(map(len, parts)) * self._answer_length
        total, answers, tokens = 0.0, 0, 0
        for part in parts:
            rows = [self.rows[i] for i in part]
            loss, used = self._loss(rows)
            (loss / weight).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            answers += sum(len(row.answer_ids) for row in rows)
            tokens += used
        return total, answers, tokens

    def _loss(self, rows: Sequence[TrainingRow]) -> tuple[Tensor, int]:
        return shared_prefix_loss(self.model, rows, self._prefix) if self._shares else plain_loss(self.model, rows)
