"""Makes the table of ``search_data`` with a real model, in pieces: what is done stays done, whenever it is stopped.

The prompts are made as a run makes them: an opening pool, then children of the three best on the first block of dev rows under
the base model, until there are enough. The adapter is trained on the seed prompt, as a run's later races are held under the
adapter of one prompt.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Quiet
from cotune.cycle.search.pool import next_pool, opening_pool
from cotune.evaluate.responses import LabelOutputs
from cotune.files import atomic_path, write_json
from cotune.model.adapters.slots import BASE
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.loading.by_name import open_model
from cotune.model.local import LocalModel
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal, not_shown
from cotune.tune.settings import TuneSettings
from cotune.tune.trainer import TuningRun
from measure import say
from search_data import WEIGHTS, TaskTable, read_table, write_table

OUT_OF_TIME = 75
"""Exit status when there is more to do (``EX_TEMPFAIL``)."""
_PARENTS = 3
_LABELS_OF_CLINC = 20


class OutOfTime(Exception):
    """The session's seconds are used up."""


class Maker:
    """Makes one task's part of the table.

    Args:
        model: who answers.
        name: of the task, a folder in ``data``.
        data: folder of the data sets.
        work: where everything that was computed is kept.
        sizes: ``prompts``, ``first`` pool, ``train`` rows, ``dev`` rows, ``block`` of rows, tuning ``steps``.
        deadline: ``time.monotonic()`` after which no new piece is begun.
    """

    def __init__(self, model: LocalModel, name: str, data: Path, work: Path, sizes: dict[str, int], deadline: float) -> None:
        self.model, self.name, self.sizes, self.deadline = model, name, sizes, deadline
        self.folder = work / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.task = read_task(data / name, name, sizes["train"], sizes["dev"])
        model.cache = ScoreCache(self.folder / "scores.sqlite")
        costs = CostModel(parse_budget("1000Mtok"), 200.0, 70.0)
        tune = TuneSettings(batch_size=8)
        self.context = RunContext(self.task, model, Journal(self.folder / "journal"), costs, self.folder, tune, 0, Quiet())
        self.proposals: list[Proposal] = []
        # At random and no other way: whoever searches may put the rows in an order of its own.
        self.dev = [self.task.dev[i] for i in np.random.default_rng([0, 1]).permutation(len(self.task.dev))]
        self.adapters = {"base": BASE}

    # Prompts ------------------------------------------------------------------------------------------------------

    def mutate(self) -> None:
        """The prompts, mutated once; later sessions read them."""
        path = self.folder / "prompts.json"
        if not path.is_file():
            (self.folder / "journal").mkdir(exist_ok=True)
            proposals = opening_pool(self.context, [seed_prompt(self.task)], self.sizes["first"], demonstrations=True)
            for generation in range(2, 10):
                missing = self.sizes["prompts"] - len(proposals)
                if missing <= 0:
                    break
                found = {p.prompt.id: self._first_loss(p.prompt) for p in proposals}
                parents = [p.prompt for p in sorted(proposals, key=lambda p: found[p.prompt.id])[:_PARENTS]]
                count = min(missing, max(4, self.sizes["prompts"] * 5 // 16))
                seen = {p.prompt.id for p in proposals}
                proposals += next_pool(self.context, generation, parents, count, seen, demonstrations=True)
            write_json(path, [p.to_json() for p in proposals[: self.sizes["prompts"]]])
        self.proposals = [Proposal.from_json(item) for item in json.loads(path.read_text(encoding="utf-8"))]

    def _first_loss(self, prompt: Prompt) -> float:
        return float(self._judged(self._scored(prompt, BASE, 0))[0].mean())

    # Scores -------------------------------------------------------------------------------------------------------

    def _scored(self, prompt: Prompt, adapter: str, block: int) -> NDArray[np.float64]:
        """Label scores of a block of dev rows; the score cache keeps them."""
        self._in_time()
        rows = self.dev[block * self.sizes["block"] : (block + 1) * self.sizes["block"]]
        return self.model.score(prompt, [row.fields for row in rows], self.task.labels, adapter=adapter).log_probs

    def score(self, weights: str, block: int) -> None:
        """All prompts on a block of rows."""
        path = self.folder / f"scores-{weights}-{block}.npy"
        if not path.is_file():
            adapter = self._adapter(weights)
            _save(path, np.stack([self._scored(p.prompt, adapter, block) for p in self.proposals]))
            say(f"{self.name}: {weights}, block {block} done")

    # Tuning -------------------------------------------------------------------------------------------------------

    def _adapter(self, weights: str) -> str:
        """``base``, or the adapter tuned on the seed prompt."""
        if weights not in self.adapters:
            self.adapters[weights] = self._tuned(self.proposals[0].prompt, self.sizes["steps"])
        return self.adapters[weights]

    def _tuned(self, prompt: Prompt, steps: int) -> str:
        rows = not_shown(prompt, self.task.train)
        training = self.context.answering.training_rows(prompt, rows)
        # Runs of another length have checkpoints of their own, which may be further than this one is to go.
        checkpoints = self.folder / f"checkpoints-{steps}"
        run = TuningRun(self.model, training, self.context.tune, seed=0, folder=checkpoints)
        path = self.folder / f"tuned-{run.key}-{steps}.json"
        if not path.is_file():
            run.resume()
            while run.step < steps:
                self._in_time()
                run.advance(min(steps, run.step + 4))
            write_json(path, run.save(self.folder / "adapters"))
        adapter = str(json.loads(path.read_text(encoding="utf-8")))
        self.model.adapters.register(self.folder / "adapters" / adapter)
        return adapter

    # Output -------------------------------------------------------------------------------------------------------

    def table(self) -> TaskTable | None:
        """What is complete so far; None before the first block is."""
        arrays: dict[str, NDArray[Any]] = {}
        for weights in WEIGHTS:
            blocks = []
            for block in range(-(-self.sizes["dev"] // self.sizes["block"])):
                path = self.folder / f"scores-{weights}-{block}.npy"
                if not path.is_file():
                    break
                blocks.append(np.load(path, allow_pickle=False))
            if blocks:
                judged = [self._judged(scores) for scores in np.concatenate(blocks, axis=1)]
                arrays[f"{weights}/losses"] = np.stack([losses for losses, _ in judged]).astype(np.float16)
                arrays[f"{weights}/correct"] = np.stack([correct for _, correct in judged])
        if "base/losses" not in arrays:
            return None
        numbers = {label: number for number, label in enumerate(self.task.labels)}
        arrays["labels"] = np.array([numbers[row.output] for row in self.dev], dtype=np.int16)
        told = [
            {**{k: v for k, v in p.to_json().items() if k != "prompt"}, "prompt": _without_rows(p.prompt)}
            for p in self.proposals
        ]
        facts = {
            "prompts": told,
            "labels": len(self.task.labels),
            "sizes": self.sizes,
            "model": self.model.name,
            "device": self.model.settings.device,
            "dtype": self.model.settings.dtype,
        }
        return TaskTable(self.name, facts, arrays)

    def _judged(self, scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Log-loss and correctness of each row after the bias that the inputs suggest."""
        rows = self.dev[: len(scores)]
        judged = LabelOutputs(scores).judge(rows, LabelOutputs(scores).calibrated(self.task), self.task)
        return judged.log_losses, judged.correct.astype(np.uint8)

    def _in_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime


def _without_rows(prompt: Prompt) -> dict[str, Any]:
    """A prompt as JSON, its demonstrations as a number: rows of a data set do not belong into the table."""
    return {**prompt.to_json(), "demonstrations": len(prompt.demonstrations)}


def _save(path: Path, array: NDArray[Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def read_task(folder: Path, name: str, train: int, dev: int) -> Task:
    """Rows of the data set's train split: some to train on, others to choose on; long texts are cut, repeated ones left out."""
    rng = np.random.default_rng(0)
    rows: dict[str, str] = {}
    with (folder / "train.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            rows.setdefault(_cut(str(row["input"])), str(row.get("intent", row["output"])))
    if name == "clinc150":
        known = sorted({label for label in rows.values() if label != "oos"})
        kept = {known[i] for i in rng.permutation(len(known))[:_LABELS_OF_CLINC]}
        rows = {text: label for text, label in rows.items() if label in kept}
    items = [{"input": text, "output": label} for text, label in rows.items()]
    order = rng.permutation(len(items))
    drawn = [items[i] for i in order]
    # A task needs a test split; nothing here reads it.
    tested = drawn[train + dev : train + dev + 40]
    labels = sorted(set(rows.values()))
    return Task.from_rows(drawn[:train], dev=drawn[train : train + dev], test=tested, labels=labels, name=name, seed=0)


def _cut(text: str, length: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0]


def make_table(
    names: Sequence[str],
    parts: Sequence[str],
    *,
    data: Path,
    work: Path,
    out: Path,
    model: str,
    device: str,
    seconds: float,
    sizes: dict[str, int],
) -> bool:
    """Do the named parts of the named tasks within some seconds, then write what is complete; False where more is to do.

    Parts are such as ``base:0`` (losses under the base model, first block of rows) and ``tuned:1``.
    """
    deadline = time.monotonic() + seconds
    opened = open_model(model, device=device)
    tables, complete = read_table(out), True
    for name in names:
        maker = Maker(opened, name, data, work, sizes, deadline)
        try:
            maker.mutate()
            for part in parts:
                weights, _, block = part.partition(":")
                if weights not in WEIGHTS or not block.isdigit():
                    raise SystemExit(f"unknown part {part!r}")
                maker.score(weights, int(block))
        except OutOfTime:
            complete = False
        if maker.proposals and (table := maker.table()) is not None:
            tables[name] = table
            write_table(tables, out)
    return complete
