"""Tasks: reading labelled rows, splitting them, detecting leaks, computing metrics."""

from __future__ import annotations

from cotune.task.checks import DataChecks, Finding
from cotune.task.example import Example
from cotune.task.metrics.metric import METRICS, Metric, metric_for, metric_named
from cotune.task.reading.read import read_table
from cotune.task.reading.table import Table
from cotune.task.sealed import OpenedTest, SealedTest
from cotune.task.task import Task
from cotune.task.values.output import Output

__all__ = [
    "METRICS",
    "DataChecks",
    "Example",
    "Finding",
    "Metric",
    "OpenedTest",
    "Output",
    "SealedTest",
    "Table",
    "Task",
    "metric_for",
    "metric_named",
    "read_table",
]
