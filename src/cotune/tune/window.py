"""Tuning a window of layers below a probe, from states kept at the window's lower edge.

The loss is the cross-entropy of the probe's head plus a supervised contrastive term, which pulls the states of rows with the
same label together and pushes others apart (arXiv 2004.11362; with cross-entropy arXiv 2011.01403): each row learns from every
other row of its step.

A probe that reads the state after ``last`` layers needs none of the layers above, and the layers below ``first`` are frozen, so
their states are the same in every step: they are computed once, and each step runs only ``first`` to ``last``. The prompt's
shared prefix runs once per step, with gradient, inside the window. The head starts as the fitted probe (linear probing then
fine-tuning, arXiv 2202.10054).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cotune.errors import CotuneError
from cotune.files import content_hash
from cotune.model.adapters.files import LoraSettings
from cotune.model.adapters.slots import BASE
from cotune.model.engine.fallback import plain_layer_states
from cotune.model.engine.plan import cut_by_length, plan_pass
from cotune.model.engine.prefix_cache import PrefixState
from cotune.model.hardware.allocator import return_freed_memory
from cotune.model.hardware.machine import give_back_memory, out_of_memory
from cotune.model.local import LocalModel
from cotune.prompt.render import shared_prefix
from cotune.tune.batches import rows_of_step
from cotune.tune.checkpoint import Checkpoint, write_checkpoint
from cotune.tune.stepping import StepReport, clipped_step

MOST_STATE_BYTES = 2 * 10**9
"""Upper bound on the stored states at the window's edge, in bytes; states of further rows are recomputed in each step."""
_CHECKPOINT, _CHECKPOINT_EVERY = "window.safetensors", 10


@dataclass(frozen=True)
class WindowSettings:
    """Settings of tuning a window.

    Attributes:
        lora: shape of the adapter; its ``layers`` are set by the window.
        learning_rate: peak learning rate of AdamW for the adapter.
        head_rate: peak learning rate for the head, whose inputs are standardised.
        batch_size: rows in an optimizer step.
        warmup: share of the steps over which the rates rise linearly from zero; they fall linearly to zero over the rest.
        smoothing: label smoothing, the probability that is spread over all labels.
        contrast: share of the contrastive term in the loss, from 0 to 1.
        contrast_temperature: divisor of the cosines in that term.
        clip: largest norm of the gradient.
        micro_tokens: tokens per pass; larger batches are accumulated.
    """

    lora: LoraSettings = field(default_factory=LoraSettings)
    learning_rate: float = 1e-3
    head_rate: float = 1e-3
    batch_size: int = 16
    warmup: float = 0.1
    smoothing: float = 0.0
    contrast: float = 0.0
    contrast_temperature: float = 0.1
    clip: float = 1.0
    micro_tokens: int = 4096


@dataclass(frozen=True, eq=False)
class StartHead:
    """A linear classifier of standardised states, the starting point of tuning.

    Attributes:
        weight: ``[labels, width]``.
        bias: ``[labels]``.
        mean: ``[width]`` means of the frozen states.
        spread: ``[width]`` standard deviations of the frozen states.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    def folded(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight and bias for states without standardisation."""
        weight = self.weight / self.spread
        return weight.astype(np.float32), (self.bias - weight @ self.mean).astype(np.float32)


class WindowStates:
    """States of rows at a window's lower edge, computed once and stored in the model's number type.

    For a model without the shared-prefix engine nothing is stored, and each step runs every layer from the token ids.

    Args:
        model: model in which the adapter below the window, if any, is registered.
        sequences: token ids of each row's prompt.
        first: number of layers below the window.
        starts: position of each row's first own token if the head reads pooled states, see
            :meth:`cotune.model.local.LocalModel.layer_states`; None if it reads only the last token.
        adapter: adapter below the window.
        progress: called with the number of tokens that run.
        most_bytes: upper bound on stored states.
    """

    def __init__(
        self,
        model: LocalModel,
        sequences: Sequence[Sequence[int]],
        first: int,
        *,
        starts: Sequence[int] | None = None,
        adapter: str = BASE,
        progress: Callable[[int], None] | None = None,
        most_bytes: int = MOST_STATE_BYTES,
    ) -> None:
        self.first = first
        self.sequences = [tuple(ids) for ids in sequences]
        self.starts = None if starts is None else list(starts)
        self.length = min(shared_prefix(self.sequences), *(self.starts or [len(self.sequences[0])])) if model.shared else 0
        self.head = self.sequences[0][: self.length]
        self.tokens = 0
        self._runner = model.runner
        self._before: PrefixState | None = None
        self._prefix: Tensor | None = None
        self._rows: dict[int, Tensor] = {}
        if first > 0 and model.shared:
            self._compute(model, adapter, progress, most_bytes)

    def own(self, row: int) -> int:
        """Number of a row's tokens after the shared prefix."""
        return len(self.sequences[row]) - self.length

    def skips(self, rows: Sequence[int]) -> list[int] | None:
        """Number of tokens after the shared prefix to leave out of pooling; None without pooling."""
        return None if self.starts is None else [self.starts[row] - self.length for row in rows]

    def of(self, rows: Sequence[int]) -> Tensor:
        """``[tokens, width]`` of the shared prefix and then each row's own tokens.

        States that are not stored are recomputed with the present weights, which are frozen below the window.
        """
        missing = [row for row in dict.fromkeys(rows) if row not in self._rows]
        stored = {**self._rows, **self._run(missing)} if missing else self._rows
        parts = [] if self._prefix is None else [self._prefix]
        return torch.cat([*parts, *(stored[row] for row in rows)])

    def _run(self, rows: Sequence[int]) -> Mapping[int, Tensor]:
        suffixes = [self.sequences[i][self.length :] for i in rows]
        device = self._runner.device
        plan = plan_pass(suffixes, prefix=self.length, merge=[len(s) for s in suffixes], device=device)
        # Not in inference mode, because stored states are inputs of passes with gradient.
        with torch.no_grad():
            states = self._runner.edge(plan, self._before, self.first)
        return {row: states[torch.from_numpy(at).to(device)] for row, at in zip(rows, plan.own_places, strict=True)}

    def _compute(self, model: LocalModel, adapter: str, progress: Callable[[int], None] | None, most_bytes: int) -> None:
        model.adapters.use(adapter)
        runner, kept = model.runner, 0
        with torch.no_grad():
            if self.length:
                shortest = min(self.sequences, key=len)[self.length :]
                plan = plan_pass([shortest], prefix=self.length, head=self.head, device=runner.device)
                self._prefix = runner.edge(plan, None, self.first)[: self.length].clone()
            self._before = runner.prefix(self.head, depth=self.first)
        self.tokens = self.length
        for part in cut_by_length(range(len(self.sequences)), self.own, model.settings.batch_tokens):
            states = self._run(part)
            kept += sum(one.nbytes for one in states.values())
            if kept > most_bytes:
                break
            self._rows |= states
            tokens = sum(map(self.own, part))
            self.tokens += tokens
            if progress:
                progress(tokens)


def contrastive_loss(features: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss, summed over rows: the variant of arXiv 2004.11362 with the mean outside the logarithm.

    A softmax of cosines gives each row a distribution over all other rows. Its loss is minus the mean log-probability of the
    rows with its label; a row that is alone with its label has no loss.

    Args:
        features: ``[rows, width]``.
        targets: ``[rows]``, labels as numbers.
        temperature: divisor of the cosines.
    """
    unit = normalize(features, dim=-1)
    alike = (unit @ unit.T) / temperature
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    # Not minus infinity, which would give NaN gradients for a row that is alone.
    others = alike.masked_fill(itself, torch.finfo(alike.dtype).min)
    log_shares = alike - torch.logsumexp(others, dim=1, keepdim=True)
    same = (targets[:, None] == targets[None]) & ~itself
    count = same.sum(dim=1)
    each = -log_shares.masked_fill(~same, 0.0).sum(dim=1) / count.clamp_min(1)
    return each[count > 0].sum()


class WindowRun:
    """Tunes LoRA weights in a window of layers, and the head that reads the window's output.

    The state after step ``n`` depends only on the arguments and ``n``; a killed run resumes from its last checkpoint and ends
    with the same weights.

    Args:
        model: model to train.
        states: states at the window's lower edge.
        rows: indices of the training rows in ``states``.
        labels: label of each row of ``states``, as a number.
        last: last layer of the window, whose output is read.
        head: initial head.
        settings: how to train.
        steps: total number of optimizer steps; the learning rates are zero after them.
        seed: seed of the initial weights and of the order of rows.
        folder: folder of the checkpoints.
        start: adapter to start from; :data:`BASE` draws a new one.

    Attributes:
        step: optimizer steps done.
        losses: mean loss per row of each step.
        tokens: number of tokens that ran.
    """

    def __init__(
        self,
        model: LocalModel,
        states: WindowStates,
        rows: Sequence[int],
        labels: Sequence[int],
        last: int,
        head: StartHead,
        settings: WindowSettings,
        *,
        steps: int,
        seed: int,
        folder: Path,
        start: str = BASE,
    ) -> None:
        if not rows:
            raise CotuneError("there are no rows to train on")
        layers = tuple(range(states.first, last))
        self.settings = replace(settings, lora=replace(settings.lora, layers=layers))
        self.model, self.states, self.rows, self.last, self.steps, self.seed = model, states, list(rows), last, steps, seed
        self.labels, self.start_head, self.start = list(labels), head, start
        identity = {
            "model": model.fingerprint,
            "rows": [[states.sequences[i], self.labels[i]] for i in self.rows],
            "starts": None if states.starts is None else [states.starts[i] for i in self.rows],
            "settings": asdict(self.settings),
            "steps": steps,
            "seed": seed,
            "start": start,
            "head": content_hash(b"".join(part.astype(np.float32).tobytes() for part in head.folded()), 20),
        }
        self.key = content_hash(identity, 20)
        self.folder = folder / self.key
        self.step = 0
        self.losses: list[float] = []
        self.tokens = 0
        self._weight = torch.nn.Parameter(torch.from_numpy(head.weight.astype(np.float32)).to(model.runner.device))
        self._bias = torch.nn.Parameter(torch.from_numpy(head.bias.astype(np.float32)).to(model.runner.device))
        self._mean = torch.from_numpy(head.mean.astype(np.float32)).to(model.runner.device)
        self._scale = torch.from_numpy((1 / head.spread).astype(np.float32)).to(model.runner.device)
        self._lora: list[tuple[str, torch.nn.Parameter]] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._tuned: dict[str, Tensor] | None = None

    @property
    def tokens_per_step(self) -> float:
        """Expected number of tokens per step; each runs through the window only."""
        size = min(self.settings.batch_size, len(self.rows))
        return size * sum(self.states.own(i) for i in self.rows) / len(self.rows) + self.states.length

    def advance(self, *, report: StepReport | None = None, until: Callable[[], bool] | None = None) -> None:
        """Train to the last step, or until ``until``, called after each step, returns True.

        If other weights were active in the model since, training continues from the last checkpoint.

        Raises:
            DivergedError: a loss or a gradient became NaN or infinite.
        """
        return_freed_memory()
        self._enter()
        assert self._optimizer is not None
        while self.step < self.steps:
            factor = _rate(self.step, self.steps, self.settings.warmup)
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            picked = [self.rows[i] for i in rows_of_step(self.step, len(self.rows), self.settings.batch_size, self.seed)]
            loss, used = self._one_step(picked)
            self.step += 1
            self.losses.append(loss)
            self.tokens += used
            if report:
                report(self.step, loss, used)
            if self.step < self.steps and until is not None and until():
                break
            if self.step < self.steps and self.step % _CHECKPOINT_EVERY == 0:
                self._checkpoint()
        self._tuned = self.model.adapters.weights()

    def save(self, parent: Path) -> str:
        """Write the adapter as a PEFT folder named by its content under ``parent``; returns its id.

        Raises:
            CotuneError: nothing was trained yet.
        """
        if self._tuned is None:
            raise CotuneError("there are no tuned weights to save until advance() has ended")
        return self.model.adapters.save(self._tuned, parent)

    def head(self) -> StartHead:
        """The current head."""
        weight, bias = (p.detach().double().cpu().numpy() for p in (self._weight, self._bias))
        return replace(self.start_head, weight=weight, bias=bias)

    def _one_step(self, batch: Sequence[int]) -> tuple[float, int]:
        assert self._optimizer is not None
        self._optimizer.zero_grad(set_to_none=True)
        limit = max(1, self.settings.micro_tokens - self.states.length)
        while True:
            try:
                total, tokens = self._backward([*cut_by_length(batch, self.states.own, limit)])
                break
            except RuntimeError as error:
                if not out_of_memory(error) or limit < max(map(self.states.own, batch)):
                    raise
            self._optimizer.zero_grad(set_to_none=True)
            give_back_memory(self.model.runner.device)
            limit //= 2
        lora, head, mean = [p for _, p in self._lora], [self._weight, self._bias], total / len(batch)
        clipped_step(self._optimizer, lora, head, clip=self.settings.clip, loss=mean, step=self.step + 1)
        return mean, tokens

    def _backward(self, parts: Sequence[Sequence[int]]) -> tuple[float, int]:
        """Accumulate the gradient of a batch in parts; returns the summed loss and the number of tokens, each row's counted
        once.
        """
        rows = [row for part in parts for row in part]
        if len(parts) == 1:
            hidden, tokens = self._hidden(rows)
            loss = self._loss(hidden, rows)
            (loss / len(rows)).backward()  # type: ignore[no-untyped-call]
            return float(loss.detach()), tokens
        # The contrastive term needs the rows of all parts: compute all states first, then the gradient part by part (arXiv
        # 2101.06983).
        with torch.no_grad():
            states = torch.cat([self._hidden(part)[0] for part in parts])
        states.requires_grad_()
        loss = self._loss(states, rows)
        (loss / len(rows)).backward()  # type: ignore[no-untyped-call]
        assert states.grad is not None
        tokens = 0
        for part, gradient in zip(parts, torch.split(states.grad, [len(part) for part in parts]), strict=True):
            hidden, used = self._hidden(part)
            hidden.backward(gradient)  # type: ignore[no-untyped-call]
            tokens += used
        return float(loss.detach()), tokens

    def _hidden(self, rows: Sequence[int]) -> tuple[Tensor, int]:
        """The states ``[rows, width]`` that the head reads, and the number of tokens that ran."""
        states, runner = self.states, self.model.runner
        if not self.model.shared:
            sequences = [states.sequences[i] for i in rows]
            hidden = plain_layer_states(self.model.model, sequences, [self.last], states.skips(rows))[0]
            return hidden, sum(map(states.own, rows))
        suffixes = [states.sequences[i][states.length :] for i in rows]
        plan = plan_pass(suffixes, prefix=states.length, head=states.head, device=runner.device)
        edge = states.of(rows) if states.first else None
        return runner.window(plan, states.first, self.last, edge, states.skips(rows)), plan.tokens

    def _loss(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        """Summed loss of rows, given their states."""
        features = (hidden - self._mean) * self._scale
        targets = torch.tensor([self.labels[i] for i in rows], device=hidden.device)
        logits, share = features @ self._weight.T + self._bias, self.settings.contrast
        loss = cross_entropy(logits, targets, reduction="sum", label_smoothing=self.settings.smoothing)
        if not share:
            return loss
        return (1 - share) * loss + share * contrastive_loss(features, targets, self.settings.contrast_temperature)

    def _enter(self) -> None:
        slot = self.model.adapters
        if self._optimizer is not None and slot.current == self._mark:
            return
        self._lora = slot.start(self.settings.lora, seed=self.seed, adapter_id=self.start)
        slot.current = self._mark
        peak, head = self.settings.learning_rate, self.settings.head_rate
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [p for _, p in self._lora], "lr": peak, "peak": peak, "weight_decay": 0.0},
                {"params": [self._weight, self._bias], "lr": head, "peak": head, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.99),
            fused=True,
        )
        self._rewind()
        self._restore()

    def _rewind(self) -> None:
        self.step, self.losses, self.tokens = 0, [], 0
        with torch.no_grad():
            for parameter, start in ((self._weight, self.start_head.weight), (self._bias, self.start_head.bias)):
                parameter.copy_(torch.from_numpy(start.astype(np.float32)))

    @property
    def _mark(self) -> str:
        return f"window-{self.key}-{id(self)}"

    @property
    def _named(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [*self._lora, ("head.weight", self._weight), ("head.bias", self._bias)]

    def _checkpoint(self) -> None:
        assert self._optimizer is not None
        about = {"key": self.key, "step": self.step, "losses": self.losses, "tokens": self.tokens}
        write_checkpoint(self.folder / _CHECKPOINT, self._named, self._optimizer, about)

    def _restore(self) -> None:
        """Load the checkpoint; one that is unreadable or of another run counts as missing."""
        from safetensors import SafetensorError

        path = self.folder / _CHECKPOINT
        if not path.is_file():
            return
        assert self._optimizer is not None
        try:
            checkpoint = Checkpoint.read(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return
        own = checkpoint.key == self.key and 0 < checkpoint.step == len(checkpoint.losses) <= self.steps
        # Check everything before using anything: half a checkpoint is worse than none.
        if not own or not checkpoint.fits(self._named):
            return
        checkpoint.restore(self._named, self._optimizer)
        self.step, self.losses, self.tokens = checkpoint.step, checkpoint.losses, checkpoint.tokens


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear rise over ``warmup`` of the steps, then a linear fall to zero."""
    rise = max(1.0, warmup * steps)
    return min((step + 1) / rise, (steps - step) / max(1.0, steps - rise + 1), 1.0)
