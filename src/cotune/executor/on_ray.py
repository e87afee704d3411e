"""Workers on a Ray cluster: one actor for each slot, restarted elsewhere when its node is lost."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cotune.errors import CotuneError, InputError, counted, not_installed
from cotune.executor.base import LostError, WorkerLost
from cotune.executor.choice import Choice, slots_of
from cotune.executor.job import Done, Job, perform, settle, worker_name
from cotune.executor.slots import SlotExecutor
from cotune.executor.storage import Storage
from cotune.model.hardware.machine import usable_cpus
from cotune.version import __version__

HEAD_PATIENCE_S = 25.0
"""Seconds without the head node after which a command ends with a message; Ray would kill the process after a minute."""
_LOOK_S = 3.0
PATIENCE_S = 300.0
"""Seconds that a slot waits until Ray has placed its actor; after that, the slot is given up."""
_ASK_S = 5.0
_STORE_BYTES = 200 << 20


def connect(address: str) -> Any:
    """Connect to the Ray cluster at an address, as for ``ray.init``; returns the package ``ray``.

    If the address is empty, ``RAY_ADDRESS`` is used, else the cluster that runs on this machine; if there is none, one is
    started here.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    # A cluster that is started here must not send usage statistics.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise not_installed("ray", "--executor ray", error) from error
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    named = address or os.environ.get("RAY_ADDRESS", "")
    try:
        if named:
            ray.init(address=named, **quiet)
            return ray
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            ray.init(
                address="local",
                num_cpus=usable_cpus(),
                object_store_memory=_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        raise InputError(
            f"Ray cannot be reached at {named or 'this machine'} ({_line(error)})",
            where="--executor",
            hint="Check the address with ray status, or omit it to start Ray on this machine.",
        ) from error
    return ray


class RayExecutor(SlotExecutor):
    """Runs jobs on actors, and gives up when the cluster's head node is lost: Ray would kill this process within a minute.

    ``head`` is the host and port of the head node; it counts as lost when no connection can be made.
    """

    def __init__(self, workers: Sequence[RayWorker], storage: Storage, threads: int, head: tuple[str, int]) -> None:
        super().__init__(workers, storage, threads)
        self._head, self._closed = head, threading.Event()
        self._headless = False
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        if not self._headless:
            super().close()

    def _watch(self) -> None:
        heard = time.monotonic()
        while not self._closed.wait(_LOOK_S):
            with contextlib.suppress(OSError), socket.create_connection(self._head, timeout=_LOOK_S):
                heard = time.monotonic()
            if time.monotonic() - heard > HEAD_PATIENCE_S:
                self._headless = True
                told = f"Ray's head node at {self._head[0]}:{self._head[1]} no longer answers"
                self.abandon(LostError(f"{told}. Finished jobs are stored: run the same command again when a cluster is up."))
                return


def _head_of(ray: Any, address: str) -> tuple[str, int]:
    """Host and port of the head node: those that a Ray client is connected to, otherwise those of the GCS server."""
    named = address or os.environ.get("RAY_ADDRESS", "")
    place = named.removeprefix("ray://") if named.startswith("ray://") else str(ray.get_runtime_context().gcs_address)
    host, _, port = place.rpartition(":")
    return host, int(port)


def ray_executor(choice: Choice, storage: Storage, *, gpus: bool = False) -> SlotExecutor:
    """Make an executor with actors as workers; see :func:`cotune.executor.open_executor`."""
    ray = connect(choice.address)
    nodes = _usable([node["Resources"] for node in ray.nodes() if node["Alive"]], gpus=gpus)
    if gpus and not nodes:
        raise InputError(
            "the model runs on a GPU here, and no node of the cluster has one, and processors beside it",
            where="--executor",
            hint="Add nodes with GPUs, or run with engine.device=cpu.",
        )
    count, threads, finding = slots_on(nodes, choice.workers or 0, gpus=gpus)
    if not threads:
        raise InputError(
            f"the cluster has {finding}",
            where="--workers",
            hint="Use fewer --workers, or add nodes; cotune doctor --executor ray lists the nodes.",
        )
    # Ray counts in steps of a ten-thousandth, and rounds.
    cards = sum(int(node["GPU"]) for node in nodes) if gpus else 0
    share = math.floor(10_000 / workers_a_card(count, cards)) / 10_000 if cards else 0.0
    workers = [RayWorker(ray, threads, gpus=share) for _ in range(count)]
    return RayExecutor(workers, storage, threads, _head_of(ray, choice.address))


def slots_on(nodes: Sequence[Mapping[str, float]], workers: int, *, gpus: bool = False) -> tuple[int, int, str]:
    """Number of workers, the CPUs of each, 0 if they do not fit on the nodes, and both as text.

    Args:
        nodes: resources of each node.
        workers: number of workers; 0 gives as many as the memory has room for, or one for each GPU.
        gpus: whether workers need a GPU or a share of one, so that they run only on nodes that have one.
    """
    used = _usable(nodes, gpus=gpus)
    cpus, cards = [int(node["CPU"]) for node in used], [int(node.get("GPU", 0)) for node in used]
    rooms = cards if gpus else [slots_of(each, int(node.get("memory", 0))) for each, node in zip(cpus, used, strict=True)]
    count = workers or sum(rooms)
    if gpus:
        rooms = [workers_a_card(count, sum(cards)) * own for own in cards]
    each = cpus_each(cpus, count, cpus if workers and not gpus else rooms)
    if not each:
        return count, 0, f"{counted(sum(cpus), 'CPU')}, too few for {counted(count or 1, 'worker')}"
    return count, each, f"{counted(count, 'worker')}, {counted(each, 'CPU')} each"


def _usable(nodes: Sequence[Mapping[str, float]], *, gpus: bool) -> list[Mapping[str, float]]:
    """The resources of the nodes on which workers can run."""
    return [node for node in nodes if int(node.get("CPU", 0)) and (not gpus or int(node.get("GPU", 0)))]


def workers_a_card(workers: int, cards: int) -> int:
    """The most workers that share a GPU."""
    return math.ceil(workers / cards)


def cpus_each(nodes: Sequence[int], workers: int, most: Sequence[int] | None = None) -> int:
    """The most CPUs per worker such that all workers fit on nodes with these numbers of CPUs; 0 if they do not fit.

    ``most`` is the largest number of workers on each node.
    """
    bounds = nodes if most is None else most
    fitting = (
        cpus
        for cpus in range(max(nodes, default=0), 0, -1)
        if sum(min(n // cpus, bound) for n, bound in zip(nodes, bounds, strict=True)) >= max(1, workers)
    )
    return next(fitting, 0)


class Slot:
    """The class of the actors, which runs on the nodes."""

    def __init__(self, threads: int) -> None:
        # Ray would set one thread. Torch is imported with the first job and reads this number; the engine sets it again.
        settle(threads)

    def about(self) -> dict[str, str]:
        """Name and versions of this process."""
        return {"name": worker_name(), **versions()}

    def perform(self, job: Job, storage: Storage) -> Done | CotuneError:
        """Run a job. Errors for users are returned, since Ray would wrap them if they were raised."""
        try:
            return perform(job, storage)
        except CotuneError as error:
            return error


class RayWorker:
    """A worker that runs as an actor, which reserves CPUs and GPUs, or a share of one.

    Ray restarts an actor that died, on another node if its node is lost. It does not repeat the actor's job; the executor does.
    """

    def __init__(self, ray: Any, cpus: int, gpus: float = 0.0) -> None:
        self.name, self._ray, self._cpus, self._gpus = "an actor", ray, cpus, gpus
        self._actor: Any = None
        self._ready = self._stopped = False
        raised = ray.exceptions
        self._losses = (
            raised.RayActorError,
            raised.NodeDiedError,
            raised.WorkerCrashedError,
            raised.OutOfMemoryError,
            raised.ObjectLostError,
            raised.LocalRayletDiedError,
        )

    def start(self) -> None:
        deadline, told = time.monotonic() + PATIENCE_S, "it was stopped"
        while not self._ready and not self._stopped:
            if self._actor is None:
                options = {"num_cpus": self._cpus, "max_restarts": -1, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
                options |= {"num_gpus": self._gpus} if self._gpus else {}
                self._actor = self._ray.remote(Slot).options(**options).remote(self._cpus)
            try:
                about = self._ray.get(self._actor.about.remote(), timeout=_ASK_S)
            except self._ray.exceptions.ActorUnavailableError as error:
                told = _line(error)
                time.sleep(0.5)
            except self._losses as error:
                if "creation task" in str(error):
                    raise CotuneError(f"a worker cannot start: {_line(error, -1)}") from error
                # This actor will not restart, so a new one is made.
                told, self._actor = _line(error), None
                time.sleep(0.5)
            except self._ray.exceptions.GetTimeoutError:
                told = f"no node has {counted(self._cpus, 'CPU')} free"
            else:
                for name, here in versions().items():
                    if about[name] != here:
                        raise InputError(
                            f"a node has {name} {about[name]}, and this machine has {here}",
                            where=about["name"],
                            hint="Install the same versions on all nodes; cotune doctor --executor ray shows them.",
                        )
                self.name, self._ready = about["name"], True
            if not self._ready and time.monotonic() > deadline:
                raise WorkerLost(told)
        if self._stopped:
            self.stop()
            raise WorkerLost(told)

    def perform(self, job: Job, storage: Storage) -> Done:
        try:
            answer: Done | CotuneError = self._ray.get(self._actor.perform.remote(job, storage))
        except self._losses as error:
            self._ready = False
            memory = isinstance(error, self._ray.exceptions.OutOfMemoryError) or "low on memory" in str(error)
            raise WorkerLost(_line(error), memory=memory) from error
        except self._ray.exceptions.RayTaskError as error:
            raise RuntimeError(f"a job failed in a worker:\n{error}") from error
        if isinstance(answer, CotuneError):
            raise answer
        return answer

    def stop(self) -> None:
        self._stopped = True
        if self._actor is not None and self._ray.is_initialized():
            self._ray.kill(self._actor)


def versions() -> dict[str, str]:
    """Versions that must be the same on every node."""
    return {"cotune": __version__, "python": ".".join(map(str, sys.version_info[:2]))}


def _line(error: BaseException, number: int = 0) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[number].rstrip(".")
