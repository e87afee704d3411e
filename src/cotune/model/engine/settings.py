"""Settings of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.errors import InputError
from cotune.prompt.truncate import Truncation

ENGINE_VERSION = "15"
"""Version of the engine; increase it when a change can alter scores."""
_LEAST_TOKENS, _MOST_TOKENS = 256, 2048
DTYPES = ("float32", "bfloat16", "float16")
MOST_TOKENS = 1024
"""Most tokens of a prompt unless something else is set."""


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the engine.

    Attributes:
        dtype: one of :data:`DTYPES`; in ``float16`` a model answers, but cannot be tuned.
        threads: number of CPU threads; None for torch's default.
        batch_tokens: most own tokens in a scoring pass.
        max_tokens: most tokens of a prompt.
        memory_bytes: free bytes before the model is loaded, which decide whether weights are prepacked
            (:func:`cotune.model.layers.packed_weights.prepack`); None to measure. A resumed run gives the value from its start,
            so that numbers stay the same.
        truncate: what a longer prompt loses of the row's text.
    """

    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    batch_tokens: int = 2048
    max_tokens: int = MOST_TOKENS
    memory_bytes: int | None = None
    truncate: Truncation = "middle"

    @staticmethod
    def recorded(engine: Mapping[str, Any], max_tokens: int, truncate: Truncation = "middle") -> EngineSettings:
        """Read the settings of a run from its journal's ``engine`` event.

        Raises:
            InputError: if the event is malformed.
        """
        names = ("device", "dtype", "threads", "batch_tokens")
        try:
            memory = int(engine["probe"]["memory_bytes"])
            device, dtype, threads, tokens = (engine[name] for name in names)
            counts = (tokens, *([] if threads is None else [threads]))
            if not (isinstance(device, str) and dtype in DTYPES and all(isinstance(n, int) and n > 0 for n in counts)):
                raise ValueError("the recorded engine settings are invalid")
            return EngineSettings(device, dtype, threads, tokens, max_tokens, memory, truncate)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "the journal has no valid engine settings",
                where="step 'engine'",
                hint="Copy the run's folder again from its source.",
            ) from error


def batch_tokens(free: int, weights: int) -> int:
    """Number of own tokens of a scoring pass that fits into memory, 256 to 2048.

    A pass of 2,048 tokens of a small model takes a few hundred MB; memory grows with the model, so large models get shorter
    passes. ``free`` bytes are free before the model is loaded; its ``weights`` bytes count twice, since bfloat16 files may be
    run in float32.
    """
    spare = max(0, free - 2 * weights)
    return int(max(_LEAST_TOKENS, min(_MOST_TOKENS, spare / max(weights, 1) * 512)))


def weight_bytes(folder: Path) -> int:
    """Total bytes of a model folder's weight files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
