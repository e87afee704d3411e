"""What of the machine and the engine could change a number; part of every cache key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cotune.model.engine.attention import ATTENTION_NAME
from cotune.version import __version__

if TYPE_CHECKING:
    from cotune.model.engine.engine import Engine

ENGINE_VERSION = "11"
"""Raised when a change of the engine can change scores."""


def processor(device: str) -> str:
    """What a device computes with: a GPU's name, or the widest instructions that torch uses on this CPU.

    Other instructions sum in another order, so the same model on the same threads gives other last digits.
    """
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(torch.device(device)))
    return str(torch.backends.cpu.get_cpu_capability())


def engine_facts(model: Engine) -> dict[str, str | int]:
    """Device and what it is, number type, threads, attention, products and versions."""
    return {
        "device": model.settings.device,
        "processor": processor(model.settings.device),
        "dtype": model.settings.dtype,
        "threads": torch.get_num_threads(),
        "kernel": ATTENTION_NAME if model.shared else "plain",
        "products": "prepacked" if model.prepacked else "plain",
        "engine": f"{__version__}/{ENGINE_VERSION}/{torch.__version__}",
    }
