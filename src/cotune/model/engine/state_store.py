"""Hidden states on disk by content, in half precision: what a run embedded once, resume, probes and reports read again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cotune.files import atomic_path

Half = NDArray[np.float16]

MOST_BYTES = 512 * 2**20
"""Of a run's store; the files that were written or read longest ago make room for new ones."""
_LARGEST_HALF = 60_000.0
_NAME = "states"


class StateStore:
    """States by a content key, one file each.

    States are divided by their root mean square before they come here, so half precision rounds them by one part in 2,000 and
    none of them is out of its range. A file that is missing or damaged is as good as none: the states are computed again.

    Args:
        folder: where the files lie; made with the first one.
        most_bytes: of all files together.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self.most_bytes = folder, most_bytes

    def get(self, key: str) -> Half | None:
        """``[layers, rows, width]`` that were stored under a key; None where there are none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self._path(key)
        try:
            found: Half = load_file(path)[_NAME]
            path.touch()
        except (SafetensorError, OSError, KeyError, ValueError):
            return None
        return found if found.dtype == np.float16 and found.ndim == 3 else None

    def put(self, key: str, states: NDArray[np.float32]) -> Half:
        """Store states ``[layers, rows, width]``; returns them as :meth:`get` will."""
        from safetensors.numpy import save

        half: Half = np.clip(states, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
        if half.nbytes > self.most_bytes:
            return half
        self._make_room(half.nbytes)
        with atomic_path(self._path(key)) as temporary:
            temporary.write_bytes(save({_NAME: np.ascontiguousarray(half)}))
        return half

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _make_room(self, needed: int) -> None:
        files = [(path, path.stat()) for path in self.folder.glob("*.safetensors")] if self.folder.is_dir() else []
        held = sum(found.st_size for _, found in files)
        for path, found in sorted(files, key=lambda file: (file[1].st_mtime_ns, file[0].name)):
            if held + needed <= self.most_bytes:
                return
            path.unlink(missing_ok=True)
            held -= found.st_size


def layers_of_interest(depth: int, most: int = 11) -> tuple[int, ...]:
    """Layers whose states a probe may read: from a third of the depth to the end, evenly spaced, the last one among them.

    Args:
        depth: number of the model's layers.
        most: layers at most. With eleven of SmolLM2-135M's thirty, every second layer is looked at, which halves the
            number of fits; what the layers between would add was not measured.
    """
    if most < 2:
        return (depth,)
    first = max(1, -(-depth // 3))
    step = max(1, -(-(depth - first) // (most - 1)))
    chosen: Sequence[int] = range(depth, first - 1, -step)
    return tuple(sorted(chosen))
