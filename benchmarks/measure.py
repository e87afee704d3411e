"""Clocks and counts for benchmarks: interleaved timing, the machine's matrix-product rate, floating-point operations."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import Linear

from cotune.model.hardware.machine import processor_name, usable_cpus
from cotune.model.local import LocalModel

Work = Callable[[], object]


def say(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


def seconds_of(work: Work, device: torch.device) -> float:
    """Wall-clock seconds of one call, the device's queue included."""
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start


def interleaved(works: Mapping[str, Work], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every call, in rounds A B C A B C, so that a slow moment of the machine does not strike one of them alone."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name].append(seconds_of(work, device))
    return seconds


def best_of(variants: Mapping[str, Work], device: torch.device) -> tuple[str, dict[str, float]]:
    """The fastest of several ways to do the same, each timed once, and the seconds of all."""
    seconds = {name: seconds_of(work, device) for name, work in variants.items()}
    return min(seconds, key=lambda name: seconds[name]), {name: round(value, 4) for name, value in seconds.items()}


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, minimum and all runs, in seconds."""
    return {
        "median": round(statistics.median(seconds), 5),
        "min": round(min(seconds), 5),
        "runs": [round(value, 5) for value in seconds],
    }


class Gemm:
    """Matrix products at the shapes of one decoder layer, in the model's own number type, over rows of random states.

    Several copies of the weights take turns, as a model's layers do, so that they do not all sit in the nearest cache.

    Args:
        local: the model whose shapes, device and type are taken.
        tokens: rows of states.
        layers: copies of the weights in one call.

    Attributes:
        flops: of one call; a multiply and an add are two.
        rates: what :meth:`rate` was told so far, in flops a second.
    """

    def __init__(self, local: LocalModel, tokens: int, layers: int = 4) -> None:
        device, dtype = local.runner.device, getattr(torch, local.settings.dtype)
        shapes = [tuple(linear.weight.shape) for linear in _layer_linears(local)]
        self._layers, copies = layers, min(4, layers)
        self._weights = [[torch.randn(shape, device=device).to(dtype) for shape in shapes] for _ in range(copies)]
        self._states = {width: torch.randn(tokens, width, device=device).to(dtype) for width in {shape[1] for shape in shapes}}
        self.flops = 2 * tokens * layers * sum(out * width for out, width in shapes)
        self.rates: list[float] = []

    def __call__(self) -> None:
        with torch.inference_mode():
            for layer in range(self._layers):
                for weight in self._weights[layer % len(self._weights)]:
                    torch.nn.functional.linear(self._states[weight.shape[1]], weight)

    def free(self) -> None:
        """Give the memory back; no further call."""
        self._weights, self._states = [], {}

    def shares(self, flops: float, seconds: Mapping[str, Sequence[float]], name: str) -> list[float]:
        """Share of the rate measured right before and after, for each run of ``name`` that did ``flops`` operations.

        Args:
            flops: operations of one run.
            seconds: of :func:`interleaved`, with the keys ``gemm``, ``name`` and ``gemm_after`` in this order.
            name: whose share.
        """
        found = []
        for before, run, after in zip(seconds["gemm"], seconds[name], seconds["gemm_after"], strict=True):
            self.rates += [self.flops / before, self.flops / after]
            found.append(flops / run / (2 * self.flops / (before + after)))
        return found


def _layer_linears(local: LocalModel) -> list[Linear]:
    layers = local.model.get_decoder().layers
    return [m for name, m in layers[0].named_modules() if isinstance(m, Linear) and ".lora_" not in f".{name}"]


def scoring_flops(local: LocalModel, tokens: int, positions: int) -> float:
    """Of the linear layers for ``tokens`` and of the output layer for ``positions``; attention is left out.

    The last layer's feed-forward part is needed at ``positions`` alone.

    A LoRA adapter that is in the model is not counted: scoring is measured on the base model.
    """
    base = _parameters(local)[0]
    last = _parameters(local, local.model.get_decoder().layers[-1].mlp)[0]
    return 2.0 * (tokens * (base - last) + positions * (last + _head(local)))


def tuning_flops(local: LocalModel, tokens: int, positions: int) -> float:
    """The same for an optimizer step on a frozen base with LoRA layers.

    Frozen layers are multiplied twice, forward and for the gradient of their inputs; LoRA layers a third time for their own.
    Nothing asks for the gradient of the embeddings, so what reads the first layer's input has no backward product.
    """
    base, adapter, first = _parameters(local)
    last_base, last_adapter, _ = _parameters(local, local.model.get_decoder().layers[-1].mlp)
    last = 2 * last_base + 3 * last_adapter
    return 2.0 * (tokens * (2 * base - first + 3 * adapter - last) + positions * (last + 2 * _head(local)))


def _parameters(local: LocalModel, part: Any = None) -> tuple[int, int, int]:
    """Weights of the linear layers in the decoder or a part of it, of the LoRA layers there, and of those linear layers that
    read the decoder's first input."""
    base = adapter = first = 0
    for name, module in (part or local.model.get_decoder()).named_modules():
        if not isinstance(module, Linear):
            continue
        if ".lora_" in name:
            adapter += module.weight.numel()
            continue
        base += module.weight.numel()
        if name.startswith("layers.0.") and name.removesuffix(".base_layer").endswith(("q_proj", "k_proj", "v_proj")):
            first += module.weight.numel()
    return base, adapter, first


def _head(local: LocalModel) -> int:
    return int(local.model.get_output_embeddings().weight.numel())


def machine_facts(local: LocalModel) -> dict[str, Any]:
    """What the numbers were measured on."""
    import peft
    import transformers

    on_gpu = local.runner.device.type == "cuda"
    return {
        "cpu": processor_name(),
        "accelerator": torch.cuda.get_device_name(local.runner.device) if on_gpu else None,
        "device": local.settings.device,
        "dtype": local.settings.dtype,
        "threads": torch.get_num_threads(),
        "usable_cpus": usable_cpus(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
