"""Tuning benchmarks: optimizer steps with a shared prefix against plain batches, exactness of the gradient, rate."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from baselines import unmasked_loss
from cotune.model.engine import plan
from cotune.model.engine.plan import cut_by_length
from cotune.model.local import LocalModel
from cotune.tune.batches import TrainingRow
from cotune.tune.loss import plain_loss, shared_prefix_loss
from cotune.tune.settings import TuneSettings, WindowSettings
from cotune.tune.window import StartHead, WindowRun, WindowStates
from measure import Gemm, best_of, interleaved, seconds_of, summary, tuning_flops
from workloads import TuningWork, tuning_work

_STEPS = 4
"""Timed steps of one turn, of which the median counts."""
_LABELS = 6
_NEW_STEPS, _QUICK_NEW_STEPS = 40, 3
"""Steps of batches that have not run before."""

Loss = Callable[[LocalModel, Sequence[TrainingRow]], tuple[Tensor, int]]


class Stepper:
    """One optimizer on fresh LoRA weights; engine and baseline both step through it, so they differ in the passes alone.

    Args:
        local: the model.
        settings: of tuning, as cotune runs it.
    """

    def __init__(self, local: LocalModel, settings: TuneSettings | None = None) -> None:
        self.local, self.settings = local, settings or TuneSettings()
        self.parameters = [p for _, p in local.adapters.start(self.settings.lora, seed=0)]
        self._optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )
        self.tokens = 0

    def step(self, rows: Sequence[TrainingRow], loss: Loss, micro_rows: int | None = None) -> float:
        """One optimizer step on all rows; returns the loss per answer token.

        Args:
            rows: of the step.
            loss: summed over answers' tokens.
            micro_rows: rows that run at once, sorted by length; None cuts as cotune does.
        """
        self._optimizer.zero_grad(set_to_none=True)
        answers = sum(len(row.answer_ids) for row in rows)
        total, self.tokens = 0.0, 0
        for part in self._parts(rows, micro_rows):
            part_loss, tokens = loss(self.local, part)
            (part_loss / answers).backward()
            total += float(part_loss.detach())
            self.tokens += tokens
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self._optimizer.step()
        return total / answers

    def _parts(self, rows: Sequence[TrainingRow], micro_rows: int | None) -> list[list[TrainingRow]]:
        if micro_rows is None:
            lengths = [len(row.prompt_ids) + len(row.answer_ids) for row in rows]
            parts = cut_by_length(range(len(rows)), lengths.__getitem__, self.settings.micro_tokens)
            return [[rows[i] for i in part] for part in parts]
        ordered = sorted(rows, key=lambda row: len(row.prompt_ids))
        return [ordered[start : start + micro_rows] for start in range(0, len(ordered), micro_rows)]


def shared(work: TuningWork) -> Loss:
    """The engine's loss for rows of ``work``."""
    return lambda local, rows: shared_prefix_loss(local, rows, work.prefix)


def batch_of(local: LocalModel, prefix: int, own: int) -> TuningWork:
    """The 16 rows that are stepped on."""
    return tuning_work(int(local.model.get_input_embeddings().weight.shape[0]), prefix, own)


def compare(local: LocalModel, prefix: int, own: int, gemm: Gemm, repeats: int) -> tuple[float, float, dict[str, Any]]:
    """How many times as long a plain step takes, the engine's share of the machine's rate, and the facts behind both.

    The plain step is the fastest of these: without a padding mask, the same in two halves by length, and with the mask. The
    mask can only cost more where rows are long; there it is not tried.
    """
    work, stepper = batch_of(local, prefix, own), Stepper(local)
    rows = len(work.rows)
    variants: dict[str, tuple[Loss, int]] = {
        f"unmasked, {rows} rows at once": (unmasked_loss, rows),
        f"unmasked, {rows // 2} rows at once": (unmasked_loss, rows // 2),
    }
    if prefix < 100:
        variants[f"masked, {rows} rows at once"] = (plain_loss, rows)
    stepper.step(work.rows[:2], unmasked_loss)
    name, trials = best_of({n: _bind(stepper, work, *variant) for n, variant in variants.items()}, local.runner.device)
    plain_tokens = stepper.tokens
    stepper.step(work.rows, shared(work))
    tokens = stepper.tokens

    def engine() -> None:
        stepper.step(work.rows, shared(work))

    baseline = _bind(stepper, work, *variants[name])

    works = {"gemm": gemm, "engine": engine, "gemm_after": gemm, "baseline": baseline}
    seconds = interleaved(works, repeats, local.runner.device)
    ratio = statistics.median(seconds["baseline"]) / statistics.median(seconds["engine"])
    flops = tuning_flops(local, tokens, sum(len(row.answer_ids) for row in work.rows))
    shares = gemm.shares(flops, seconds, "engine")
    facts = {
        "prefix": work.prefix,
        "own_tokens_mean": work.own,
        "rows": rows,
        "engine_tokens_a_step": tokens,
        "baseline_tokens_a_step": plain_tokens,
        "baseline_variant": name,
        "baseline_trials": trials,
        "engine": summary(seconds["engine"]),
        "baseline": summary(seconds["baseline"]),
        "gemm": summary(seconds["gemm"] + seconds["gemm_after"]),
        "ratio_of_minima": round(min(seconds["baseline"]) / min(seconds["engine"]), 3),
        "gemm_share": round(statistics.median(shares), 4),
        "shares": [round(share, 4) for share in shares],
        "gflop_a_step": round(flops / 1e9, 3),
    }
    return ratio, statistics.median(shares), facts


def compare_window(local: LocalModel, prefix: int, own: int, repeats: int) -> tuple[float, dict[str, Any]]:
    """How many times as long a step of the words' trainer on all layers takes as one of a window, of equally many tokens.

    The window is the second third of the layers, from states kept at its lower edge. Both take turns, each with LoRA layers of
    its own and a first step that is not timed.
    """
    work = batch_of(local, prefix, own)
    first, last = local.depth // 3, max(1, 2 * local.depth // 3)
    # The trainer runs an answer's first token too.
    sequences = [(*row.prompt_ids, row.answer_ids[0]) for row in work.rows]
    states = WindowStates(local, sequences, first)
    head = _head(local)
    settings = WindowSettings(batch_size=len(sequences))
    labels = [i % _LABELS for i in range(len(sequences))]
    full, window, tokens = [], [], 0
    for _ in range(repeats):
        stepper = Stepper(local)
        stepper.step(work.rows, shared(work))
        full.append(
            statistics.median(
                seconds_of(lambda s=stepper: s.step(work.rows, shared(work)), local.runner.device)  # type: ignore[misc]
                for _ in range(_STEPS)
            )
        )
        with tempfile.TemporaryDirectory() as folder:
            run = WindowRun(
                local,
                states,
                range(len(sequences)),
                labels,
                last,
                head,
                settings,
                steps=_STEPS + 1,
                seed=0,
                folder=Path(folder),
            )
            ends: list[float] = []
            # A step ends with its loss read from the device.
            run.advance(report=lambda *_, ends=ends: ends.append(time.perf_counter()))  # type: ignore[misc]
        window.append(statistics.median(np.diff(ends).tolist()))
        tokens = run.tokens // run.step
    facts = {
        "prefix": prefix,
        "own_tokens_mean": work.own,
        "rows": len(sequences),
        "window": [first, last],
        "layers": local.depth,
        "engine_tokens_a_step": tokens,
        "baseline_tokens_a_step": stepper.tokens,
        "engine": summary(window),
        "baseline": summary(full),
    }
    return statistics.median(full) / statistics.median(window), facts


def compare_new_batches(local: LocalModel, prefix: int, own: int, repeats: int, *, quick: bool) -> tuple[float, dict[str, Any]]:
    """How many times as long steps of a window take if no pass is padded to a number of tokens that occurs more often.

    Each step has other rows, whose lengths differ as those of texts do, so most steps have a new number of tokens. Both take
    turns, every turn with longer rows.
    """
    first, last = local.depth // 3, max(1, 2 * local.depth // 3)
    steps, rows = _QUICK_NEW_STEPS if quick else _NEW_STEPS, 16
    vocabulary = int(local.model.get_input_embeddings().weight.shape[0])
    seconds: dict[str, list[float]] = {"engine": [], "baseline": []}
    draw = np.random.default_rng(0)
    prompt = draw.integers(8, vocabulary, prefix).tolist()
    for turn in range(repeats):
        lengths = np.maximum(2, draw.gamma(4, (own + own // 2 * turn) / 4, steps * rows)).astype(int)
        sequences = [
            (*prompt, 8 + i % 200, *draw.integers(8, vocabulary, length - 1).tolist()) for i, length in enumerate(lengths)
        ]
        labels = [i % _LABELS for i in range(len(sequences))]
        states = WindowStates(local, sequences, first)
        for name in ("engine", "baseline") if turn % 2 else ("baseline", "engine"):
            unpadded = patch.object(plan, "padded_count", lambda tokens, device: tokens)
            with nullcontext() if name == "engine" else unpadded, tempfile.TemporaryDirectory() as folder:
                run = WindowRun(
                    local, states, range(len(sequences)), labels, last, _head(local), WindowSettings(batch_size=rows),
                    steps=steps, seed=turn, folder=Path(folder),
                )  # fmt: skip
                seconds[name].append(seconds_of(run.advance, local.runner.device))
    ratio = statistics.median(seconds["baseline"]) / statistics.median(seconds["engine"])
    facts: dict[str, Any] = {"prefix": prefix, "steps": steps, "rows": rows, "window": [first, last]}
    return ratio, facts | {name: summary(one) for name, one in seconds.items()}


def _head(local: LocalModel) -> StartHead:
    width = local.width
    weight = np.random.default_rng(0).normal(size=(_LABELS, width)) * 0.01
    return StartHead(weight, np.zeros(_LABELS), np.zeros(width), np.ones(width))


def compare_early_exit(local: LocalModel, prefix: int, own: int, repeats: int, rows: int = 64) -> tuple[float, dict[str, Any]]:
    """How many times as long states after all layers take as those after two thirds of them."""
    vocabulary = int(local.model.get_input_embeddings().weight.shape[0])
    work = tuning_work(vocabulary, prefix, own, rows)
    sequences = [row.prompt_ids for row in work.rows]
    layer = max(1, 2 * local.depth // 3)
    works: dict[str, Callable[[], object]] = {
        "engine": lambda: local.layer_states(sequences, [layer]),
        "baseline": lambda: local.layer_states(sequences, [local.depth]),
    }
    for one in works.values():
        one()
    seconds = interleaved(works, repeats, local.runner.device)
    ratio = statistics.median(seconds["baseline"]) / statistics.median(seconds["engine"])
    facts = {"prefix": prefix, "own_tokens_mean": own, "rows": rows, "layer": layer, "layers": local.depth}
    return ratio, facts | {name: summary(one) for name, one in seconds.items()}


def _bind(stepper: Stepper, work: TuningWork, loss: Loss, micro_rows: int) -> Callable[[], object]:
    """A plain step, through peft's own layers."""

    def step() -> None:
        with stepper.local.adapters.unfused():
            stepper.step(work.rows, loss, micro_rows)

    return step


def loss_difference(local: LocalModel, prefix: int, own: int) -> float:
    """Largest difference of the loss per answer token between the engine and both plain ways; for a model in fp32."""
    work = batch_of(local, prefix, own)
    rows = work.rows[:4]
    _widened(local)
    answers = sum(len(row.answer_ids) for row in rows)
    with torch.no_grad():
        engine = float(shared(work)(local, rows)[0]) / answers
        with local.adapters.unfused():
            masked, unmasked = (float(loss(local, rows)[0]) / answers for loss in (plain_loss, unmasked_loss))
    return max(abs(engine - masked), abs(engine - unmasked))


def gradient_difference(local: LocalModel, prefix: int = 60, own: int = 20, rows: int = 4) -> tuple[float, dict[str, Any]]:
    """Norm of the difference between the engine's LoRA gradient and the plain one's, over the norm; for a model in fp32."""
    work = batch_of(local, prefix, own)
    parameters = _widened(local)

    def gradient(loss: Loss) -> Tensor:
        for parameter in parameters:
            parameter.grad = None
        loss(local, work.rows[:rows])[0].backward()
        parts = [p.grad.double().flatten() for p in parameters if p.grad is not None]
        if len(parts) != len(parameters):
            raise RuntimeError("some LoRA weights got no gradient")
        return torch.cat(parts)

    with local.adapters.unfused():
        plain = gradient(plain_loss)
    found = float((gradient(shared(work)) - plain).norm() / plain.norm())
    for parameter in parameters:
        parameter.grad = None
    return found, {"prefix": prefix, "own_tokens": own, "rows": rows, "gradient_norm": float(plain.norm())}


def _widened(local: LocalModel) -> list[torch.nn.Parameter]:
    """Fresh LoRA weights with both factors drawn: with the usual zero start half of the gradient would vanish."""
    named = local.adapters.start(TuneSettings().lora, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in named:
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return [parameter for _, parameter in named]
