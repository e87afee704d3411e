"""Checks of an executor and its storage for ``cotune doctor --executor``, with a hint for every problem."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from cotune.errors import CotuneError, InputError, counted
from cotune.executor.choice import Choice
from cotune.executor.on_ray import connect, slots_on, versions
from cotune.executor.opening import processes_of
from cotune.executor.storage import UrlStorage
from cotune.model.hardware.capability import default_threads
from cotune.model.hardware.doctor import Check
from cotune.model.hardware.machine import usable_cpus

_ANSWER_S = 60.0
_GIB = 1 << 30


def diagnose_executor(choice: Choice) -> list[Check]:
    """Check an executor and its storage, if it has a URL, as a command that is started in the current folder would use them."""
    if choice.kind == "ray":
        return _ray(choice)
    if choice.kind == "local":
        return [Check("executor", "ok", f"this process, {counted(default_threads(), 'thread')}")]
    (count, each), cpus = processes_of(choice), usable_cpus()
    finding = f"{counted(count, 'worker')}, {counted(each, 'thread')} each"
    if count > cpus:
        workers = Check("executor", "warn", f"{finding}; {counted(cpus, 'processor')} may be used", "Use fewer --workers.")
    else:
        workers = Check("executor", "ok", finding)
    return [workers, *([_storage(UrlStorage(choice.storage), lambda name: [])] if choice.storage else [])]


def _ray(choice: Choice) -> list[Check]:
    try:
        ray = connect(choice.address)
    except InputError as error:
        return [Check("ray", "fail", error.what, error.hint)]
    nodes = [node for node in ray.nodes() if node["Alive"]]
    checks = [Check("ray", "ok", f"{metadata.version('ray')}, {counted(len(nodes), 'node')}")]
    # A new file with a random name shows which nodes can access the folder.
    place = Path.cwd() / f".cotune-{secrets.token_hex(6)}"
    with contextlib.suppress(OSError):
        place.touch()
    try:
        answers = [_asked(ray, node, look, str(place)) for node in nodes]
    finally:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
    checks += [_node(node, answer) for node, answer in zip(nodes, answers, strict=True)]
    checks.append(_slots(choice, nodes))
    if not choice.storage:
        return [*checks, _folder(nodes, answers)]
    storage = UrlStorage(choice.storage)

    def from_nodes(name: str) -> list[str]:
        found = ((node, _asked(ray, node, read_from, storage.url, name)) for node in nodes if node["Resources"].get("CPU"))
        return [f"{node['NodeManagerAddress']}: {answer}" for node, answer in found if answer]

    return [*checks, _storage(storage, from_nodes)]


def _storage(storage: UrlStorage, from_nodes: Callable[[str], list[str]]) -> Check:
    """Write, read and remove an object here; ``from_nodes`` lets nodes read it and says which of them could not."""
    started = time.monotonic()
    try:
        with storage.trial() as name:
            seconds = time.monotonic() - started
            failed = from_nodes(name)
    except InputError as error:
        return Check("storage", "fail", error.what, error.hint)
    if failed:
        hint = "The URL and its credentials must be valid on every node, and the package of its protocol installed there."
        return Check("storage", "fail", f"{storage.url} is read here, but not on {'; '.join(failed)}", hint)
    return Check("storage", "ok", f"{storage.url}, {seconds:.2f} s to write and read an object")


def read_from(url: str, name: str) -> str:
    """Read an object of a storage; runs on a node, and returns why it fails, or an empty string."""
    try:
        UrlStorage(url).read(name)
    except FileNotFoundError:
        return "the object is not there"
    except CotuneError as error:
        return error.what if isinstance(error, InputError) else str(error)
    return ""


def look(place: str) -> dict[str, Any]:
    """Versions on a node, and whether the node can access a file; runs on that node."""
    return {**versions(), "torch": metadata.version("torch"), "sees": Path(place).exists()}


def _asked(ray: Any, node: dict[str, Any], function: Callable[..., Any], *arguments: str) -> Any:
    """The result of a function on a node, or as text the reason why there is none."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
    task = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    try:
        return ray.get(task.remote(*arguments), timeout=_ANSWER_S)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return "cotune is not installed there" if "No module named 'cotune" in str(error) else lines[-1]


def _node(node: dict[str, Any], answer: dict[str, Any] | str) -> Check:
    has = node["Resources"]
    parts = [
        counted(int(has.get("CPU", 0)), "CPU"),
        *([counted(int(has["GPU"]), "GPU")] if has.get("GPU") else []),
        f"{has.get('memory', 0) / _GIB:.1f} GiB for workers",
    ]
    finding = f"{node['NodeManagerAddress']}: {', '.join(parts)}"
    if isinstance(answer, str):
        return Check("node", "fail", f"{finding}; {answer}", "Install cotune[ray] there in the same version as here.")
    finding += "; " + ", ".join(f"{name} {answer[name]}" for name in ("cotune", "python", "torch"))
    if wrong := [f"{name} {here}" for name, here in versions().items() if answer[name] != here]:
        return Check("node", "fail", finding, f"This machine has {' and '.join(wrong)}: install the same there.")
    if not has.get("CPU"):
        return Check("node", "ok", f"{finding}; no worker will run there")
    return Check("node", "ok", finding)


def _slots(choice: Choice, nodes: list[dict[str, Any]]) -> Check:
    _, fitting, finding = slots_on([node["Resources"] for node in nodes], choice.workers or 0)
    if not fitting:
        return Check("workers", "fail", finding, "Use fewer --workers, or add nodes.")
    if any(node["Resources"].get("GPU") for node in nodes):
        told = "Workers of cotune run use GPUs if the command itself does; workers of other commands use CPUs."
        return Check("workers", "warn", f"{finding}; GPUs are not used", told)
    return Check("workers", "ok", finding)


def _folder(nodes: list[dict[str, Any]], answers: list[dict[str, Any] | str]) -> Check:
    blind = [
        str(node["NodeManagerAddress"])
        for node, answer in zip(nodes, answers, strict=True)
        if isinstance(answer, dict) and not answer["sees"]
    ]
    if blind:
        return Check(
            "folder",
            "warn",
            f"{Path.cwd()} cannot be accessed by {', '.join(dict.fromkeys(blind))}",
            "Bundle and output must be in a folder that every node can access under the same path.",
        )
    return Check("folder", "ok", f"{Path.cwd()} can be accessed by all nodes")
