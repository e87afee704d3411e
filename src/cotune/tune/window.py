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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cotune.errors import CotuneError
from cotune.files import content_hash
from cotune.model.adapters.slots import BASE
from cotune.model.engine.fallback import plain_layer_states
from cotune.model.engine.plan import cut_by_length, plan_pass
from cotune.model.engine.prefix_cache import NO_PREFIX
from cotune.model.local import LocalModel
from cotune.probe.fields import spans
from cotune.prompt.reads import Read, first_read, moved
from cotune.prompt.render import shared_prefix
from cotune.tune.base import AdapterRun, StepReport
from cotune.tune.batches import rows_of_step
from cotune.tune.settings import WindowSettings
from cotune.tune.trainable import LoraWeights, Named

MOST_STATE_BYTES = 2 * 10**9
"""Upper bound on the stored states at the window's edge, in bytes; states of further rows are recomputed in each step."""
_CHECKPOINT, _CHECKPOINT_EVERY = "window.safetensors", 10
_NOT_READ = -100


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
        reads: what the head reads of each row, see :mod:`cotune.prompt.reads`; None if it reads only the last token.
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
        reads: Sequence[Read] | None = None,
        adapter: str = BASE,
        progress: Callable[[int], None] | None = None,
        most_bytes: int = MOST_STATE_BYTES,
    ) -> None:
        self.first = first
        self.sequences = [tuple(ids) for ids in sequences]
        self.reads = None if reads is None else list(reads)
        before = len(self.sequences[0]) if reads is None else first_read(reads)
        self.length = min(shared_prefix(self.sequences), before) if model.shared else 0
        self.head = self.sequences[0][: self.length]
        self.tokens = 0
        self._runner, self._frozen = model.runner, model.adapters.frozen_layers(adapter)
        self._before = NO_PREFIX
        self._prefix: Tensor | None = None
        self._rows: dict[int, Tensor] = {}
        if first > 0 and model.shared:
            self._compute(model, adapter, progress, most_bytes)

    def own(self, row: int) -> int:
        """Number of a row's tokens after the shared prefix."""
        return len(self.sequences[row]) - self.length

    def own_reads(self, rows: Sequence[int]) -> list[Read] | None:
        """What is read of rows, at positions after the shared prefix; None for the last token."""
        return None if self.reads is None else [moved(self.reads[row], self.length) for row in rows]

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
            states = self._runner.edge(plan, self._before, self.first, frozen=self._frozen)
        return {row: states[torch.from_numpy(at).to(device)] for row, at in zip(rows, plan.own_places, strict=True)}

    def _compute(self, model: LocalModel, adapter: str, progress: Callable[[int], None] | None, most_bytes: int) -> None:
        model.adapters.use(adapter)
        runner, kept = model.runner, 0
        with torch.no_grad():
            if self.length:
                shortest = min(self.sequences, key=len)[self.length :]
                plan = plan_pass([shortest], prefix=self.length, head=self.head, device=runner.device)
                self._prefix = runner.edge(plan, NO_PREFIX, self.first)[: self.length].clone()
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

    ``features`` are ``[rows, width]``, ``targets`` the rows' labels as numbers; ``temperature`` divides the cosines.
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


class WindowRun(AdapterRun):
    """Tunes LoRA weights in a window of layers, and the head that reads the window's output.

    A killed run resumes from its last checkpoint by itself.

    Other arguments are those of :class:`AdapterRun`.

    Args:
        states: states at the window's lower edge.
        rows: indices of the training rows in ``states``.
        labels: label of each row of ``states``, as a number; with several fields the place of each field's class, and if words
            are read those of each word.
        last: last layer of the window, whose output is read.
        head: initial head.
        sizes: number of classes of each of several fields; empty for one.
        steps: total number of optimizer steps; the learning rates are zero after them.
        start: adapter to start from; :data:`BASE` draws a new one.

    Attributes:
        losses: mean loss per row of each step.
    """

    settings: WindowSettings

    def __init__(
        self,
        model: LocalModel,
        states: WindowStates,
        rows: Sequence[int],
        labels: Sequence[int] | Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]],
        last: int,
        head: StartHead,
        settings: WindowSettings,
        *,
        sizes: Sequence[int] = (),
        steps: int,
        seed: int,
        folder: Path,
        start: str = BASE,
    ) -> None:
        settings = replace(settings, lora=replace(settings.lora, layers=tuple(range(states.first, last))))
        identity = {
            "rows": [[states.sequences[i], labels[i]] for i in rows],
            **({"sizes": list(sizes)} if sizes else {}),
            "reads": None if states.reads is None else [states.reads[i] for i in rows],
            "steps": steps,
            "head": content_hash(b"".join(part.astype(np.float32).tobytes() for part in head.folded()), 20),
        }
        trainable = LoraWeights(model, settings.lora, seed=seed, start=start)
        own = [states.own(i) for i in rows]
        super().__init__(model, trainable, own, states.length, settings, identity, seed=seed, folder=folder, start=start)
        self.states, self.rows, self.last, self.steps = states, list(rows), last, steps
        self.start_head, self._spans = head, spans(sizes, len(head.bias))
        # A line for each state that is read of the row, and a column for each field.
        self._targets = [np.asarray(own, dtype=np.int64).reshape(-1, len(self._spans)) for own in labels]
        self._paired = tuple(int(self._targets[row][0, 0]) for row in rows) if settings.pairs else None
        self._last = self._file = self.folder / _CHECKPOINT
        self._weight, self._bias = (torch.nn.Parameter(self._on_device(value)) for value in (head.weight, head.bias))
        self._mean, self._scale = self._on_device(head.mean), self._on_device(1 / head.spread)
        self._tuned: dict[str, Tensor] | None = None

    def advance(self, *, report: StepReport | None = None, until: Callable[[], bool] | None = None) -> None:
        """Train to the last step, or until ``until``, called after each step, returns True.

        If other weights were active in the model since, training continues from the last checkpoint.

        Raises:
            DivergedError: a loss or a gradient became NaN or infinite.
        """
        rise = self.settings.rise(self.steps)
        self._train(self.steps, lambda step: _rate(step, self.steps, rise), self._file, _CHECKPOINT_EVERY, report, until)
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

    def _backward(self, parts: Sequence[Sequence[int]]) -> tuple[float, float, int]:
        passes = [[self.rows[i] for i in part] for part in parts]
        rows = [row for part in passes for row in part]
        if len(passes) == 1:
            hidden, tokens = self._hidden(rows)
            loss = self._loss(hidden, rows)
            (loss / len(hidden)).backward()  # type: ignore[no-untyped-call]
            return float(loss.detach()) * len(rows) / len(hidden), len(rows), tokens
        # The contrastive term needs the rows of all parts: compute all states first, then the gradient part by part (arXiv
        # 2101.06983). Tokens count once.
        with torch.no_grad():
            parts_read = [self._hidden(part)[0] for part in passes]
        states = torch.cat(parts_read).requires_grad_()
        loss = self._loss(states, rows)
        (loss / len(states)).backward()  # type: ignore[no-untyped-call]
        assert states.grad is not None
        tokens = 0
        for part, gradient in zip(passes, torch.split(states.grad, [len(own) for own in parts_read]), strict=True):
            hidden, used = self._hidden(part)
            hidden.backward(gradient)  # type: ignore[no-untyped-call]
            tokens += used
        return float(loss.detach()) * len(rows) / len(states), len(rows), tokens

    def _rows(self) -> list[int]:
        return rows_of_step(self.step, len(self.rows), self.batch_size, self.seed, self._paired)

    def _hidden(self, rows: Sequence[int]) -> tuple[Tensor, int]:
        """The states ``[states, width]`` that the head reads of rows, and the number of tokens that ran."""
        states, runner = self.states, self.model.runner
        if not self.model.shared:
            sequences = [states.sequences[i] for i in rows]
            hidden = plain_layer_states(self.model.model, sequences, [self.last], states.own_reads(rows))[0]
            return hidden, sum(map(states.own, rows))
        suffixes = [states.sequences[i][states.length :] for i in rows]
        plan = plan_pass(suffixes, prefix=states.length, head=states.head, device=runner.device)
        edge = states.of(rows) if states.first else None
        return runner.window(plan, states.first, self.last, edge, states.own_reads(rows)), plan.tokens

    def _loss(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        """Summed loss of all states of rows; the mean over fields."""
        features = (hidden - self._mean) * self._scale
        targets = torch.from_numpy(np.concatenate([self._targets[row] for row in rows])).to(hidden.device)
        logits, share = features @ self._weight.T + self._bias, self.settings.contrast
        losses = []
        for column, span in enumerate(self._spans):
            # A field that is not read off a state has a negative target there.
            right = torch.where(targets[:, column] < 0, _NOT_READ, targets[:, column] - span.start)
            smoothing = self.settings.smoothing
            loss = cross_entropy(logits[:, span], right, reduction="sum", label_smoothing=smoothing, ignore_index=_NOT_READ)
            if share:
                loss = (1 - share) * loss + share * contrastive_loss(features, right, self.settings.contrast_temperature)
            losses.append(loss)
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _enter_head(self) -> tuple[Named, float]:
        with torch.no_grad():
            for parameter, start in ((self._weight, self.start_head.weight), (self._bias, self.start_head.bias)):
                parameter.copy_(self._on_device(start))
        return [("head.weight", self._weight), ("head.bias", self._bias)], self.settings.head_rate

    def _on_device(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.model.runner.device)


def _rate(step: int, steps: int, rise: float) -> float:
    """Share of the peak learning rate: a linear rise over ``rise`` steps, then a linear fall to zero."""
    return min((step + 1) / rise, (steps - step) / max(1.0, steps - rise + 1), 1.0)
