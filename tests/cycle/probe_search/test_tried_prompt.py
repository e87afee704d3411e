"""A prompt of the user's own, judged by a probe on a sample of many rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cotune.config.task import Task
from cotune.cycle.compare import MOST_LEARNT, judged_by_probe
from cotune.model.adapters.slots import BASE
from cotune.model.engine.state_store import StateStore
from cotune.probe.readout import Probe
from cotune.prompt.bank import seed_prompt
from tiny import tiny_local


def test_rows_of_a_rare_label_are_learnt_from_however_many_there_are(tmp_path: Path) -> None:
    made = [{"text": f"w{i}", "label": "no" if i > 2 else "yes"} for i in range(4 * MOST_LEARNT)]
    task = Task.from_rows(made, dev=made[:2] + made[-6:], test=made[-9:-6], input="text", output="label")
    model = tiny_local()
    probe = Probe(task.labels, np.zeros((2, 8), np.float32), np.zeros(2, np.float32), 1)
    for seed in range(2):
        store = StateStore(tmp_path / str(seed))
        found, cut = judged_by_probe(model, task, task.dev, seed_prompt(task), BASE, probe, seed, store)
        assert found.n == len(task.dev) and not cut
