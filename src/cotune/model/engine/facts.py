"""Facts about machine and engine that can change results; part of every cache key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cotune.model.engine.attention import ATTENTION_NAME
from cotune.version import __version__

if TYPE_CHECKING:
    from cotune.model.engine.engine import Engine

ENGINE_VERSION = "13"
"""Version of the engine; increase it when a change can alter scores."""


def processor(device: str) -> str:
    """A GPU's name, or the widest instruction set that torch uses on this CPU.

    Instruction sets differ in the order of sums, so the same model with the same threads gives slightly different numbers.
    """
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(torch.device(device)))
    return str(torch.backends.cpu.get_cpu_capability())


def engine_facts(model: Engine) -> dict[str, str | int]:
    """Device, dtype, threads, attention, matrix products and versions."""
    return {
        "device": model.settings.device,
        "processor": processor(model.settings.device),
        "dtype": model.settings.dtype,
        "threads": torch.get_num_threads(),
        "kernel": ATTENTION_NAME if model.shared else "plain",
        "products": "prepacked" if model.prepacked else "plain",
        "engine": f"{__version__}/{ENGINE_VERSION}/{torch.__version__}",
    }
