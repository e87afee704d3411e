"""Executors: run jobs in this process, in other processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from cotune.executor.base import Executor, LostError
from cotune.executor.choice import Choice
from cotune.executor.job import Done, Job
from cotune.executor.opening import open_executor
from cotune.executor.parts import part_folder
from cotune.executor.run import engine_of, run_all, unlike
from cotune.executor.storage import Storage

__all__ = [
    "Choice",
    "Done",
    "Executor",
    "Job",
    "LostError",
    "Storage",
    "engine_of",
    "open_executor",
    "part_folder",
    "run_all",
    "unlike",
]
