"""Choosing device, number type and threads by a short, cached measurement."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.cache import cache_folder
from cotune.errors import CotuneError, InputError
from cotune.files import content_hash, load_json, write_json
from cotune.model.engine.settings import DTYPES
from cotune.model.hardware.allocator import settle_memory
from cotune.model.hardware.machine import available_memory, processor_name, usable_cpus

if TYPE_CHECKING:
    import torch

_MEASURED = ("float32", "bfloat16")
_VERSION = 2
_HIDDEN, _INNER = 576, 1536
_SECONDS = 0.15
_ROUNDS = 2
_CLEARLY = 1.2


@dataclass(frozen=True)
class Capability:
    """Device, number type and threads of the engine.

    Attributes:
        dtype: ``float32``, ``bfloat16`` or ``float16``: the type of the base weights and of the matrix products.
        gemm_gflops: measured rate of matrix products at the bundled model's shapes by dtype, in 1e9 operations per second (a
            multiply and an add are two); 0 if the device does not support it.
        memory_bytes: free memory on the device.
        cpu_capability: the widest instruction set that torch uses on this CPU.
        processor: name of the CPU or GPU that was measured.
    """

    device: str
    dtype: str
    threads: int
    gemm_gflops: Mapping[str, float]
    memory_bytes: int
    torch_version: str
    cpu_capability: str
    processor: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_capability(device: str = "auto", dtype: str = "auto", threads: int | None = None) -> Capability:
    """Choose device, dtype and threads, except those that are given.

    A GPU is used if there is one, with bfloat16 if its hardware supports it. Otherwise bfloat16 is used only if its matrix
    products are measured to be at least 1.2 times as fast as float32's: on many CPUs they are several times slower. The
    measurement takes under a second and is cached by processor, threads and torch version; free memory is queried every time.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto`` or one of :data:`DTYPES`.
        threads: CPU threads; None takes what affinity, container quota and ``OMP_NUM_THREADS`` leave.

    Raises:
        InputError: an unknown device or dtype, or a missing device.
        CotuneError: the device does not work.
    """
    import torch

    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}", where="dtype", hint=f"Use auto, {', '.join(DTYPES)}.")
    if threads is not None and threads < 1:
        raise InputError(f"threads must be positive, not {threads}", where="threads", hint="Give 1 or more, or leave it out.")
    settle_memory()
    place = check_device(device)
    count = threads or default_threads()
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else processor_name()
    capability = torch.backends.cpu.get_cpu_capability()
    key = [_VERSION, str(place), count, usable_cpus(), name, capability, torch.__version__]
    rates = _remembered(key) or _measure_and_remember(place, count, key)
    return Capability(
        device=str(place),
        dtype=_choose(rates, place) if dtype == "auto" else dtype,
        threads=count,
        gemm_gflops=rates,
        memory_bytes=free_memory(str(place)),
        torch_version=torch.__version__,
        cpu_capability=capability,
        processor=name,
    )


def default_threads() -> int:
    """Number of CPU threads to use: processors of this process, limited by ``OMP_NUM_THREADS``."""
    wish = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    count = usable_cpus()
    return min(count, int(wish)) if wish.isdigit() and int(wish) > 0 else count


def free_memory(device: str) -> int:
    """Free bytes on a device."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    return available_memory()


def measure_gemm(device: str, dtype: str) -> float:
    """Rate of the bundled model's feed-forward products, in GFLOP/s: the best of repeated calls; 0 if it cannot.

    Takes a fraction of a second, or one call if calls are slower.
    """
    import torch

    place = torch.device(device)
    repeats, rows = (1, 512) if place.type == "cpu" else (20, 8192)
    kind = getattr(torch, dtype)
    try:
        wide = torch.randn(_INNER, _HIDDEN, device=place).to(kind)
        narrow = torch.randn(_HIDDEN, _INNER, device=place).to(kind)
        rows_given = torch.randn(rows, _HIDDEN, device=place).to(kind)

        def run(count: int, times: int) -> float:
            part = rows_given[:count]
            start = time.perf_counter()
            for _ in range(times):
                last = torch.nn.functional.linear(torch.nn.functional.linear(part, wide), narrow)
            # Reading a number synchronises with the device.
            float(last[0, 0])
            return 4e-9 * count * _HIDDEN * _INNER * times / (time.perf_counter() - start)

        with torch.inference_mode():
            run(16, 1)
            best, count, end = 0.0, 16, time.perf_counter() + _SECONDS
            # Calls of growing size: a small one detects a very slow device, and a single delay has no effect.
            while time.perf_counter() < end:
                best = max(best, run(count, repeats))
                count = min(rows, 4 * count)
    except (RuntimeError, TypeError):
        return 0.0
    return best


def check_device(wish: str) -> torch.device:
    """The device of this machine under a name, such as a recorded one; ``auto`` takes the best.

    Raises:
        InputError: it does not exist, or torch cannot use it.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wish == "auto":
        wish = "cuda" if cuda else "mps" if mps else "cpu"
    kind, _, index = wish.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise InputError(f"unknown device {wish!r}", where="device", hint="Use auto, cpu, cuda, cuda:1 or mps.")
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise InputError(
            f"there is no {kind} device that torch {torch.__version__} can use",
            where="device",
            hint="Use auto or cpu, or install a build of torch for that device.",
        )
    if kind != "cuda":
        return torch.device(kind)
    if int(index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"there is no device {wish}; there are {torch.cuda.device_count()}",
            where="device",
            hint="Count from cuda:0.",
        )
    return torch.device("cuda", int(index) if index else torch.cuda.current_device())


def _choose(rates: Mapping[str, float], place: torch.device) -> str:
    if place.type == "cuda":
        import torch

        # Emulated bfloat16 of older GPUs is slower than float32 and is measured so.
        return "bfloat16" if torch.cuda.is_bf16_supported() and rates["bfloat16"] >= rates["float32"] else "float32"
    return "bfloat16" if rates["bfloat16"] >= _CLEARLY * rates["float32"] else "float32"


def _memory_of(key: list[Any]) -> Path:
    return cache_folder("probe") / f"{content_hash(key, 24)}.json"


def _remembered(key: list[Any]) -> dict[str, float] | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, CotuneError):
        stored = load_json(_memory_of(key))
        rates = {name: float(stored["gemm_gflops"][name]) for name in _MEASURED}
        if stored["key"] == key and all(0 <= rate < 1e9 for rate in rates.values()) and rates["float32"] > 0:
            return rates
    return None


def _measure_and_remember(place: torch.device, threads: int, key: list[Any]) -> dict[str, float]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Alternate, so that other load does not affect only one of them.
        rounds = [{name: measure_gemm(str(place), name) for name in _MEASURED} for _ in range(_ROUNDS)]
        rates = {name: round(max(rates[name] for rates in rounds), 2) for name in _MEASURED}
    finally:
        torch.set_num_threads(before)
    if rates["float32"] <= 0:
        raise CotuneError(f"the device {place} does not work: a matrix product failed on it. Try device=cpu.")
    # If the cache cannot be written, the next start measures again.
    with contextlib.suppress(CotuneError, OSError):
        write_json(_memory_of(key), {"key": key, "gemm_gflops": rates})
    return rates
