"""Inputs of a run, which are read and checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cotune.bundle.load import OpenedBundle
from cotune.config import RunConfig
from cotune.cycle.answering.judging import ByHand, read_by_hand
from cotune.cycle.backends.registry import backend_of
from cotune.cycle.budget.budget import Budget, parse_budget
from cotune.cycle.budget.reserve import check_time, check_tokens
from cotune.cycle.diagnostics.unwritable import check_references
from cotune.cycle.endpoints import check_keys, check_prices
from cotune.cycle.kept import read_config, with_spelling_of
from cotune.cycle.policies import check_probes
from cotune.cycle.teaching.teach import read_unlabelled, unlabelled_hash
from cotune.cycle.warm_start import adopt, open_start, start_task
from cotune.errors import BudgetError
from cotune.files import content_hash
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Prompt, parse_prompt
from cotune.run_files import CONFIG, ORDER, SUMMARY
from cotune.task.example import Example
from cotune.task.sealed import order_hash
from cotune.task.task import Task
from cotune.version import __version__


@dataclass(frozen=True)
class Inputs:
    """Inputs of a run.

    Attributes:
        config: config of the run, with the settings of the bundle that it starts from.
        budget: the parsed budget.
        task: the labelled rows.
        own: the seed prompt first, then the user's further prompts.
        start: the bundle that the run starts from, if any.
        unlabelled: rows for a teacher to label; empty without a teacher.
        by_hand: graded answers that a judge is compared with.
    """

    config: RunConfig
    budget: Budget
    task: Task
    own: tuple[Prompt, ...]
    start: OpenedBundle | None
    unlabelled: tuple[Example, ...]
    by_hand: ByHand

    @property
    def identity(self) -> Mapping[str, object]:
        """Content hashes that, with the config, identify the run independently of file names."""
        task = self.task
        found: dict[str, object] = {"data": task.fingerprint, "prompts": [p.id for p in self.own], "cotune": __version__}
        # The journal names rows by their ids, which are numbers of lines.
        found[ORDER] = content_hash([order_hash(task.train), order_hash(task.dev), task.test.order_hash])
        more = {
            # A bundle counts by its content, not by its path.
            "start": self.start.manifest.id if self.start else None,
            "unlabelled": unlabelled_hash(self.unlabelled),
            "judge": self.by_hand.content_hash if self.by_hand.asked else None,
        }
        return found | {name: known for name, known in more.items() if known}


def read_inputs(config: RunConfig, out: Path, task: Task | None, prompts: Sequence[str]) -> Inputs:
    """Read and check the inputs of a run, see :func:`cotune.cycle.run.run`; some checks are skipped if the run exists.

    Raises:
        InputError: config, data, model, keys or prices are wrong or missing.
    """
    budget, new = parse_budget(config.budget), not (out / CONFIG).is_file()
    if new:
        check_time(budget)
    else:
        # What cannot be read is told when the folder is opened.
        with suppress(OSError, ValueError, BudgetError):
            config = with_spelling_of(read_config(out / CONFIG)[0], config)
    start = open_start(config)
    config = adopt(config, start)
    backend = backend_of(config)
    task = check_references(config, start_task(config, start, task), backend.capabilities)
    check_probes(config, task, backend)
    own = _own_prompts(config, task, prompts)
    found = Inputs(config, budget, task, own, start, read_unlabelled(config, task), read_by_hand(config, task))
    if new:
        check_tokens(budget, task)
        backend.check(config)
    if not (out / SUMMARY).is_file():
        check_keys(config)
    check_prices(config, budget)
    return found


def _own_prompts(config: RunConfig, task: Task, texts: Sequence[str]) -> tuple[Prompt, ...]:
    given = config.prompt_text()
    label_words = seed_prompt(task).label_words

    def parsed(text: str, where: str) -> Prompt:
        return parse_prompt(text, task.input_fields, where=where).edit(label_words=label_words)

    first = seed_prompt(task) if given is None else parsed(given, "prompt")
    others = [parsed(text, f"prompt {i + 1}") for i, text in enumerate(texts)]
    return tuple({prompt.id: prompt for prompt in (first, *others)}.values())
