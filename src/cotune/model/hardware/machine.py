"""Processors and memory that are available to this process, container limits included."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

_Found = TypeVar("_Found")
_ROOT = Path("/")
_FULL = ("out of memory", "not enough memory", "can't allocate memory", "Cannot allocate memory")
"""Texts of errors that report a lack of memory: of accelerators, and of the CPU on Windows and Linux."""


def usable_cpus(root: Path = _ROOT) -> int:
    """Number of processors that this process may use, by its affinity and the container's quota; at least 1.

    ``root`` contains ``proc`` and ``sys``, here and below.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, count if quota is None else min(count, math.floor(quota)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The smallest CPU quota of this process's control groups, in processors; None if there is none."""
    quotas = []
    for folder in _groups(root, "cpu"):
        fields = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"),
            _read(folder / "cpu.cfs_period_us"),
        ]
        numbers = [_number(field) for field in fields]
        if len(numbers) == 2 and numbers[0] and numbers[1]:
            quotas.append(numbers[0] / numbers[1])
    return min(quotas, default=None)


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that can be allocated without swapping, on the machine or within the container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for folder, limit in _memory_limits(root):
        used = _number(_read(folder / "memory.current")) or _number(_read(folder / "memory.usage_in_bytes")) or 0
        free = min(free, max(0, limit - max(0, used - _reclaimable(folder))))
    return free


def device_memory(device: torch.device | str, root: Path = _ROOT) -> int:
    """Total bytes of a device, in use or not; the same on every call, so that decisions based on it are reproducible.

    For ``cpu`` and ``mps`` this is the machine's memory, or the container's limit if it is lower.
    """
    import psutil
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)

    return min([int(psutil.virtual_memory().total), *(limit for _, limit in _memory_limits(root))])


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch reports that a device is out of memory."""
    import torch

    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(text in message for text in _FULL)


def give_back_memory(device: torch.device) -> None:
    """Release the blocks that torch caches on a device, after it ran out of memory. Does nothing on a CPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def halve_until_it_fits(run: Callable[[int], _Found], size: int, device: torch.device, least: int = 1) -> _Found:
    """Call ``run(size)``, and again with half the size each time the device is out of memory, down to ``least``.

    Raises:
        RuntimeError: memory is too small for ``least``; or another error of ``run``.
    """
    while True:
        try:
            return run(size)
        except RuntimeError as error:
            if not out_of_memory(error) or size <= least:
                raise
        # Outside the handler, whose traceback holds the tensors of the failed pass.
        give_back_memory(device)
        size = max(least, size // 2)


def processor_name(root: Path = _ROOT) -> str:
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control groups (version 1 or 2), innermost first."""
    base = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controller in controllers.split(","):
            top = base / controller if (base / controller).is_dir() else base / controllers
        elif number == "0" and not controllers:
            top = base
        else:
            continue
        # Inside a container the path may exist on the host only; the limits of existing parents still apply.
        place = Path(name.strip("/"))
        for part in (place, *place.parents):
            if (top / part).is_dir():
                yield top / part


def _memory_limits(root: Path) -> Iterator[tuple[Path, int]]:
    """Folders of the control groups that limit memory, and their limits in bytes."""
    for folder in _groups(root, "memory"):
        limit = _number(_read(folder / "memory.max")) or _number(_read(folder / "memory.limit_in_bytes"))
        if limit is not None:
            yield folder, limit


def _reclaimable(folder: Path) -> int:
    """Bytes of file cache that count as used but are freed when memory is short."""
    rows = (line.split() for line in _read(folder / "memory.stat").splitlines())
    values = {row[0]: _number(row[1]) or 0 for row in rows if len(row) == 2}
    # Version 1 includes a group's children only in the total; version 2 has no such line.
    return values.get("total_inactive_file", values.get("inactive_file", 0))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    """A limit; None for ``max``, ``-1``, an empty text, and the huge number that version 1 uses for "no limit"."""
    text = text.strip()
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None
