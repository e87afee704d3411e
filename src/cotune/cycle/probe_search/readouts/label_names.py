"""Names of labels as rows: ``book hotel`` reads like a text with that label, so it is a further row to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.readouts.tfidf import compared_losses
from cotune.cycle.probe_search.state import Evidence
from cotune.errors import counted
from cotune.prompt.words import humanise
from cotune.task.example import Example
from cotune.task.task import Task

PREFIX = "name:"
"""How ids of these rows begin."""
COST_SHARE = 0.02
"""Of what is left of the budget, what embedding the names may cost."""


def label_name_rows(task: Task) -> tuple[Example, ...]:
    """A row for each label: its name as the text of the longest input field, the other fields empty.

    Empty if a label has no letters in its name, such as ``3``: that says nothing about its rows.
    """
    names = {label: humanise(label) for label in task.labels}
    if not all(any(character.isalpha() for character in name) for name in names.values()):
        return ()
    lengths = {field: sum(len(row.fields[field]) for row in task.train) for field in task.input_fields}
    field = max(lengths, key=lambda name: lengths[name])
    empty = dict.fromkeys(task.input_fields, "")
    return tuple(Example(f"{PREFIX}{label}", {**empty, field: name}, label) for label, name in names.items())


def judge_names(context: RunContext, names: Sequence[Example], without: Evidence, having: Evidence) -> bool:
    """Whether names are used: the best frozen probe's held-out log-loss is lower with them; a ``label_names`` step.

    Names mostly help, so no significance is asked for: of prompts whose held-out gain was between zero and one standard error,
    four fifths gained on unseen rows. Names of other labels were found to be worse in 21 of 25 cases
    (docs/probe-measurements.md).
    """

    def effect() -> dict[str, Any]:
        used = bool(having.gap(without).mean() < 0)
        log_loss, before = round(having.mean, 6), round(without.mean, 6)
        text = f"the names of {counted(len(names), 'label')} {'are' if used else 'are not'} used as rows"
        text += f": {compared_losses('held-out', log_loss, before)}"
        return {"rows": len(names), "log_loss": log_loss, "without": before, "used": used, "text": text}

    return bool(context.journal.step("label_names", [row.id for row in names], effect)["used"])
