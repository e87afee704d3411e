"""Runs ``cotune`` commands in forked children, each a process of its own that can be hit by a signal at a chosen moment.

Loading torch and transformers takes longer than a tiny run; this process loads them once for all test processes and forks
after. It listens on a socket, and forks once for whoever connects, so that none waits for another's command. Whoever has
connected sends one JSON object a line and is answered with one:

    {"arguments": [...], "output": folder, "at": [...], "signal": "KILL", "file_limit": bytes, "environment": {...}}
    {"pid": 1234, "signal": "CONT"}

The first starts a command and waits, the second wakes or ends one that stopped.

The answer holds ``code`` as ``subprocess`` counts it, None where the child only stopped, and its ``pid``. The server ends with
its standard input; those who are connected are served on.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

LOADED = (
    "torch",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "peft",
    "scipy.stats",
    "scipy.optimize",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "safetensors.torch",
    "safetensors.numpy",
    "jsonschema_rs",
    "rich.console",
    "cotune.cli",
    "cotune.cycle.run",
    "cotune.cycle.compare",
    "cotune.cycle.runs.next_folder",
    "cotune.bundle",
    "cotune.report.html",
    "cotune.report.terminal.console",
    "cotune.tracking",
    "cotune.model.local",
    "cotune.model.loading.bundled",
    "cotune.model.hardware.capability",
)
PATIENCE_S = 60
"""Processor seconds of a command: on a machine that does something else, a command that waits for its turn is not stuck."""


def arm(at: list[Any], hit: Callable[[], None]) -> None:
    """Call ``hit`` once, at a moment: its kind, what is met there, and at the how-manieth time."""
    kind, what, count = at
    left = [count]

    def met() -> None:
        left[0] -= 1
        if left[0] == 0:
            hit()

    def after(owner: Any, name: str, wanted: Callable[..., bool] = lambda *a, **k: True) -> None:
        real = getattr(owner, name)

        def patched(*arguments: Any, **named: Any) -> Any:
            found = real(*arguments, **named)
            if wanted(*arguments, **named):
                met()
            return found

        setattr(owner, name, patched)

    def before(owner: Any, name: str, wanted: Callable[..., bool] = lambda *a, **k: True) -> None:
        real = getattr(owner, name)

        def patched(*arguments: Any, **named: Any) -> Any:
            if wanted(*arguments, **named):
                met()
            return real(*arguments, **named)

        setattr(owner, name, patched)

    if kind == "line":
        from cotune.cycle.journal import Journal

        after(Journal, "_append", lambda self, found, *rest: what in ("any", found))
    elif kind == "torn line":
        from cotune.cycle.journal import Journal

        real_append = Journal._append

        def torn(self: Journal, found: str, name: str, value: Any) -> Any:
            size = self.path.stat().st_size if self.path.exists() else 0
            recorded = real_append(self, found, name, value)
            if what in ("any", found):
                left[0] -= 1
                if left[0] == 0:
                    os.truncate(self.path, (size + self.path.stat().st_size) // 2)
                    hit()
            return recorded

        Journal._append = torn  # type: ignore[method-assign]
    elif kind == "optimizer step":
        import torch

        # Weights have moved, nothing has counted the step yet.
        after(torch.optim.AdamW, "step")
    elif kind == "rename":
        before(Path, "replace", lambda self, target: fnmatch(Path(target).name, what))
    elif kind == "folder rename":
        before(Path, "rename", lambda self, target: fnmatch(Path(target).name, what))
    elif kind == "adapter saved":
        from cotune.model.adapters.slots import AdapterSlot

        after(AdapterSlot, "save")
    elif kind == "pass":
        from cotune.cycle.answering.answers import Answers
        from cotune.model.engine import label_scoring

        stage = [""]
        real_scores = Answers.scores

        def scores(self: Answers, prompt: Any, adapter: str, rows: Any, now: str, **note: Any) -> Any:
            stage[0] = now
            return real_scores(self, prompt, adapter, rows, now, **note)

        Answers.scores = scores  # type: ignore[method-assign]
        after(label_scoring, "_compute", lambda *a, **k: stage[0] == what)
    elif kind == "states stored":
        from cotune.model.engine.state_store import StateStore

        after(StateStore, "put")
    elif kind == "job":
        from cotune.executor.slots import SlotExecutor
        from cotune.files import canonical_json

        # A job that is told of something, such as a path.
        before(SlotExecutor, "submit", lambda self, job: what in canonical_json([job.given, job.places]))
    elif kind == "model opened":
        from cotune.model.local import LocalModel

        before(LocalModel, "load")
    elif kind == "answer kept":
        from cotune.endpoint import AnswerCache

        after(AnswerCache, "put")
    elif kind == "bundle":
        import cotune.bundle.save

        before(cotune.bundle.save, "verify")
    elif kind == "appears":
        threading.Thread(target=_once_there, args=(what, met), daemon=True).start()
    elif kind == "clean":
        from cotune.cycle.answer_search.training import Training

        before(Training, "clean")
    else:
        raise ValueError(kind)


def _once_there(pattern: str, met: Callable[[], None]) -> None:
    while not any(Path("/").glob(pattern.lstrip("/"))):
        time.sleep(0.002)
    met()


def fork_workers() -> None:
    """Let the processes that work for this command be forked from a copy of this process made now.

    They would be started anew, and each would load torch and transformers for longer than it works. That happens in the tests
    of the executor, and of runs in the tests' own process. All else is left to multiprocessing: a process that forks others
    belongs to it, and is here given what it has loaded already.
    """
    from multiprocessing import forkserver, get_context

    from cotune.executor import processes

    if sys.version_info >= (3, 14):
        # Its server asks for a key.
        return
    place = Path(tempfile.mkdtemp(prefix="cotune-")) / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        told, alive = os.pipe()
        pid = os.fork()
        if pid == 0:
            # It ends when the last process that holds the other end does.
            os.close(alive)
            try:
                forkserver.main(listening.detach(), told, [])
            finally:
                shutil.rmtree(place.parent)
                os._exit(0)
        os.close(told)
        server: Any = forkserver._forkserver
        server._forkserver_address, server._forkserver_alive_fd = str(place), alive
        server._forkserver_pid = pid
    processes.get_context = lambda method: get_context("forkserver")  # type: ignore[attr-defined]


def kill_worker() -> None:
    """Kill one of the processes that work for this one."""
    victim = min(multiprocessing.active_children(), key=lambda process: process.pid or 0)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)


def child(request: dict[str, Any]) -> None:
    """Run a command and end; never returns."""
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE_S, PATIENCE_S))
        import torch

        # A forked process makes its thread pool anew at the first call, and of two threads that call at once the second finds
        # none ("Invalid thread pool").
        torch.set_num_threads(1)
        output = Path(request["output"])
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            handle = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(output)
        os.environ.clear()
        os.environ.update(request["environment"])
        if "processes" in request["arguments"]:
            # Before anything is armed: workers know nothing of that.
            fork_workers()
        if request.get("at"):
            name = request.get("signal", "KILL")
            hit = kill_worker if name == "WORKER" else lambda: os.kill(os.getpid(), getattr(signal, "SIG" + name))
            arm(request["at"], hit)
        if request.get("file_limit"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], request["file_limit"]))
        from cotune.cli import main

        try:
            main(request["arguments"])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> dict[str, Any]:
    """Until the child ends or stops."""
    _, status = os.waitpid(pid, os.WUNTRACED)
    return {"pid": pid, "code": None if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)}


def answer(connection: socket.socket) -> None:
    """Answer one client's requests until it is gone."""
    with connection, connection.makefile("rw", encoding="utf-8") as stream:
        print(json.dumps({"ready": True}), file=stream, flush=True)
        for line in stream:
            request = json.loads(line)
            if "pid" in request:
                os.kill(request["pid"], getattr(signal, "SIG" + request["signal"]))
                pid = request["pid"]
            else:
                pid = os.fork()
                if pid == 0:
                    child(request)
            print(json.dumps(wait(pid)), file=stream, flush=True)


def load() -> None:
    """Import what commands import; no child looks for garbage among it, which would copy its memory."""
    from cotune.garbage import collection_paused

    with collection_paused():
        for name in LOADED:
            importlib.import_module(name)
        from cotune.cli.entry import command

        command()


def serve(place: str) -> None:
    """Take connections at a path until standard input ends."""
    load()
    import torch

    torch.set_num_threads(1)
    # As in conftest: no test cuts the power.
    os.fsync = lambda handle: None
    # Nobody waits for those who answer.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        # Whoever sees the path connects at once, so it appears when the socket listens.
        listening.bind(place + ".new")
        listening.listen()
        Path(place + ".new").rename(place)
        while True:
            ready, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in ready:
                break
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(connection)
                os._exit(0)
            connection.close()
    Path(place).unlink()
    Path(place).parent.rmdir()


if __name__ == "__main__":
    serve(sys.argv[1])
