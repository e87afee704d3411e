"""Workers that are processes on this machine."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from cotune.errors import CotuneError
from cotune.executor.base import WorkerLost
from cotune.executor.job import Done, Job, perform, settle
from cotune.executor.storage import Storage

_END_S = 5.0
"""Seconds that an idle worker may take to end by itself."""


class ProcessWorker:
    """A spawned, not forked, process that receives jobs over a pipe.

    ``concurrent.futures.ProcessPoolExecutor`` gives up all jobs when one of its processes is killed. Here only the job of the
    killed process is lost. A worker ends by itself when the driver is killed, because only the driver holds the other end of
    the pipe. ``gpu`` is the number of the only GPU that the worker sees; None shows it all GPUs.
    """

    def __init__(self, threads: int, gpu: int | None = None) -> None:
        self.threads, self.gpu, self.name = threads, gpu, f"{socket.gethostname()}:"
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._stopped = self._busy = False

    def start(self) -> None:
        if self._process is not None:
            # If it died between two jobs, the next job finds out.
            return
        if self._stopped:
            raise WorkerLost("it was stopped")
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.threads, self.gpu), daemon=True)
        process.start()
        theirs.close()
        self.name, self._process = f"{socket.gethostname()}:{process.pid}", process
        if self._stopped:
            process.kill()

    def perform(self, job: Job, storage: Storage) -> Done:
        process, connection = self._process, self._connection
        assert process is not None and connection is not None
        self._busy = True
        try:
            connection.send((job, storage))
            answer: Done | Exception = connection.recv()
        except (EOFError, OSError) as error:
            process.kill()
            process.join(5.0)
            connection.close()
            self._process = None
            raise WorkerLost(_how(process.exitcode)) from error
        finally:
            self._busy = False
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self) -> None:
        self._stopped = True
        process, connection = self._process, self._connection
        if process is None or connection is None:
            return
        if not self._busy:
            # An idle worker ends when its pipe closes, and releases system resources such as semaphores.
            connection.close()
            process.join(_END_S)
        process.kill()


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"it ended with exit status {code}"
    return f"it was ended by signal {-code}" + (", as happens when memory runs out" if code == -signal.SIGKILL else "")


def _serve(connection: Connection, threads: int, gpu: int | None) -> None:
    """Perform jobs from the pipe until it closes."""
    # Ctrl-C reaches all processes of a terminal; only the driver may stop its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settle(threads)
    if gpu is not None:
        # This must be set before torch looks for GPUs.
        seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[gpu] if seen else str(gpu)
    while True:
        try:
            job, storage = connection.recv()
        except (EOFError, OSError):
            return
        answer: Done | Exception
        try:
            answer = perform(job, storage)
        except CotuneError as error:
            answer = error
        except Exception as error:
            # An exception of another package may not survive pickling, so its traceback is sent as text.
            told = "".join(traceback.format_exception(error))
            answer = RuntimeError(f"a job failed in a worker:\n{told}")
        try:
            connection.send(answer)
        except OSError:
            # The driver is gone.
            sys.exit(0)
