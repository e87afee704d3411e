"""A store of hidden states on disk in half precision, for resumed runs, probes and reports."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cotune.files import atomic_path

Half = NDArray[np.float16]

MOST_BYTES = 512 * 2**20
"""Most bytes of a run's store; the least recently used files are removed first."""
_LARGEST_HALF = 60_000.0
_NAME = "states"
_MOST_LAYERS = 11
"""Of SmolLM2-135M's thirty layers every second one, which halves the number of fits; those in between were not measured."""


class StateStore:
    """Hidden states by content hash, in one file each.

    States must be divided by their root mean square, so that half precision is accurate to one part in 2,000 and does not
    overflow. If a file is missing or damaged, the states are computed again.

    Args:
        folder: folder of the files; created with the first one.
        most_bytes: most bytes of all files together.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self.most_bytes = folder, most_bytes

    def get(self, key: str) -> Half | None:
        """``[layers, rows, width]`` stored under a key; None if there are none."""
        from safetensors.numpy import load_file

        path = self.path(key)

        def load() -> Half:
            states: Half = load_file(path)[_NAME]
            # A folder that may only be read has states too.
            with suppress(OSError):
                path.touch()
            return states

        return _readable(load)

    def has(self, key: str) -> bool:
        """Whether there is a file of states under a key."""
        return self.path(key).is_file()

    def put(self, key: str, states: NDArray[np.float32] | Half) -> Half:
        """Store states ``[layers, rows, width]``; returns them rounded, as :meth:`get` will."""
        from safetensors.numpy import save

        half = as_half(states)
        if half.nbytes > self.most_bytes:
            return half
        self._make_room(half.nbytes)
        with atomic_path(self.path(key)) as temporary:
            temporary.write_bytes(save({_NAME: np.ascontiguousarray(half)}))
        return half

    def path(self, key: str) -> Path:
        """The file of states under a key, whether or not it is there."""
        return self.folder / f"{key}.safetensors"

    def _make_room(self, needed: int) -> None:
        files = [(path, path.stat()) for path in self.folder.glob("*.safetensors")] if self.folder.is_dir() else []
        held = sum(status.st_size for _, status in files)
        for path, status in sorted(files, key=lambda file: (file[1].st_mtime_ns, file[0].name)):
            if held + needed <= self.most_bytes:
                return
            path.unlink(missing_ok=True)
            held -= status.st_size


def states_of(data: bytes) -> Half | None:
    """``[layers, rows, width]`` from the bytes of a store's file; None if it is damaged."""
    from safetensors.numpy import load

    return _readable(lambda: load(data)[_NAME])


def _readable(load: Callable[[], Half]) -> Half | None:
    from safetensors import SafetensorError

    try:
        states = load()
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    return states if states.dtype == np.float16 and states.ndim == 3 else None


def as_half(states: NDArray[np.float32] | Half) -> Half:
    """States in half precision; those that are out of its range are cut."""
    half: Half = np.clip(states, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
    return half


def layers_of_interest(depth: int) -> tuple[int, ...]:
    """Candidate layers of a probe: evenly spaced from a third of the depth to the end, including the last one."""
    first = max(1, -(-depth // 3))
    step = max(1, -(-(depth - first) // (_MOST_LAYERS - 1)))
    return tuple(sorted(range(depth, first - 1, -step)))
