"""Saving a candidate as a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.model.adapters.slots import BASE


def save_candidate(
    context: RunContext, candidate: Candidate, bundle: Path, metrics: Mapping[str, Any], model_name: str
) -> None:
    """Save a candidate as a bundle, with ``metrics`` of the run's results and the user's name of the model."""
    from cotune.bundle import save_bundle

    task, own = context.task, candidate.own
    save_bundle(
        bundle,
        task_name=task.name,
        input_fields=task.input_fields,
        output_field=task.output_field,
        output=task.output if own is None else own.output,
        answer_tokens=context.answering.limit if own is None else own.limit,
        metric=task.metric,
        prompt=candidate.prompt,
        decision=candidate.decision,
        adapter_folder=None if candidate.adapter == BASE else context.folder / "adapters" / candidate.adapter,
        model=context.scorer,
        metrics=metrics,
        model_name=model_name,
    )
