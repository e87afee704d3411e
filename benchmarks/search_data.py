"""The table that prompt searches are compared on: one safetensors file of numbers, with the prompts in its header.

Of each task it holds ``[prompts, rows]`` log-losses and correctness under the base model and under an adapter, and the
number of each row's label. Texts of the data sets are not in it: prompts stand without their demonstrations.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from cotune.files import atomic_path

TABLE = Path(__file__).resolve().parent / "data" / "search.safetensors"
TASKS = ("trec6", "sms_spam", "snips", "clinc150")
WEIGHTS = ("base", "tuned")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TaskTable:
    """One task of the table.

    Attributes:
        name: of the task.
        facts: prompts, labels, costs and how it was made, as JSON.
        arrays: by name, such as ``base/losses`` or ``tuned/correct``.
    """

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def losses(self, weights: str) -> Floats:
        """``[prompts, rows]`` calibrated log-losses in nats, the rows in random order."""
        return self.arrays[f"{weights}/losses"].astype(np.float64)

    def has(self, weights: str, *parts: str) -> bool:
        """Whether the losses and further parts under these weights are there."""
        return all(f"{weights}/{part}" in self.arrays for part in ("losses", *parts))


def read_table(path: Path = TABLE) -> dict[str, TaskTable]:
    """All tasks in the file, by name; none where there is no file."""
    if not path.is_file():
        return {}
    with safe_open(path, framework="numpy") as stored:
        facts = {name: json.loads(text) for name, text in (stored.metadata() or {}).items()}
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no mapping
    return {
        name: TaskTable(name, told, {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{name}/")})
        for name, told in facts.items()
    }


def write_table(tasks: dict[str, TaskTable], path: Path = TABLE) -> None:
    """Replace the file."""
    arrays = {f"{name}/{key}": np.ascontiguousarray(v) for name, task in tasks.items() for key, v in task.arrays.items()}
    facts = {name: json.dumps(task.facts, ensure_ascii=False, sort_keys=True) for name, task in tasks.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(arrays, metadata=facts))


def regret(losses: Floats, chosen: int) -> float:
    """Of a choice among the rows of ``[prompts, rows]`` losses: 0 is the prompt of the least mean loss, 1 the mean prompt's."""
    worth = losses.mean(axis=1)
    return float((worth[chosen] - worth.min()) / (worth.mean() - worth.min()))
