"""What this process may use of the machine: processors, and memory, container limits included."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT) -> int:
    """Processors that this process may run on: its affinity, cut by the container's quota; at least 1.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, count if quota is None else min(count, math.floor(quota)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The smallest processor quota of the control groups around this process, in processors; None without one."""
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
    """Bytes that can still be taken without swapping: the machine's, or less where a container's limit is nearer."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for folder in _groups(root, "memory"):
        limit = _number(_read(folder / "memory.max")) or _number(_read(folder / "memory.limit_in_bytes"))
        if limit is None:
            continue
        used = _number(_read(folder / "memory.current")) or _number(_read(folder / "memory.usage_in_bytes")) or 0
        free = min(free, max(0, limit - max(0, used - _reclaimable(folder))))
    return free


def device_memory(device: torch.device | str, root: Path = _ROOT) -> int:
    """Bytes that a device has in all, in use or not: the same number on every call, so that what it decides is decided alike.

    Args:
        device: torch device; for ``cpu``, and for ``mps``, which shares it, the machine's memory, or less where a container's
            limit is below.
        root: where ``proc`` and ``sys`` lie.
    """
    import psutil
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)

    limits = [
        _number(_read(folder / "memory.max")) or _number(_read(folder / "memory.limit_in_bytes"))
        for folder in _groups(root, "memory")
    ]
    return min([int(psutil.virtual_memory().total), *(limit for limit in limits if limit is not None)])


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch means that memory ran out, on any device."""
    import torch

    told = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in told or "out of memory" in told


def give_back_memory(device: torch.device) -> None:
    """Have torch give blocks that it keeps for later back to a device, after its memory ran out; on the CPU it keeps none."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def processor_name(root: Path = _ROOT) -> str:
    """What the processor calls itself."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, innermost first, of both versions."""
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
        # Inside a container the path may be one that only the host can see; the parents that exist still bind.
        place = Path(name.strip("/"))
        for part in (place, *place.parents):
            if (top / part).is_dir():
                yield top / part


def _reclaimable(folder: Path) -> int:
    """Bytes of file cache that count as used, but are given back when memory is short."""
    rows = (line.split() for line in _read(folder / "memory.stat").splitlines())
    values = {row[0]: _number(row[1]) or 0 for row in rows if len(row) == 2}
    # Version 1 counts a group's children apart, in the total; version 2 has no such line.
    return values.get("total_inactive_file", values.get("inactive_file", 0))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    """A limit; None for ``max``, ``-1``, nothing, and the huge number by which version 1 says "none"."""
    text = text.strip()
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None
