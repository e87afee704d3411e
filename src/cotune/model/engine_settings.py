"""How the engine runs on a machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs.

    Attributes:
        device: torch device.
        dtype: ``float32`` or ``bfloat16``.
        threads: CPU threads; None leaves torch's number.
        batch_tokens: own tokens in a scoring pass.
        max_tokens: longest prompt.
    """

    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    batch_tokens: int = 2048
    max_tokens: int = 1024
