"""The earlier bundle of a warm start: unchanged, and as the first candidate of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cotune.bundle.load import OpenedBundle, check_probe, check_rendering
from cotune.bundle.manifest import PROMPT
from cotune.cycle.candidate import Candidate, Own
from cotune.cycle.context import RunContext
from cotune.cycle.kept import register_kept
from cotune.model.adapters.files import bare_content_id, copy_adapter
from cotune.model.adapters.slots import BASE
from cotune.prompt.growing import names_all, with_labels
from cotune.prompt.prompt import Prompt
from cotune.refine import Proposal
from cotune.refine.demonstrations import in_order
from cotune.task.example import Example


@dataclass(frozen=True)
class Previous:
    """The parts of a bundle that a run starts from.

    Attributes:
        candidate: the unchanged bundle: its prompt, adapter and decision rule, and its output if the task has other labels,
            another schema or longer answers.
        prompt: its prompt, adapted to the task's labels, which the run starts from.
        facts: value of the ``previous`` step.
    """

    candidate: Candidate
    prompt: Prompt
    facts: Mapping[str, Any]

    @property
    def ground(self) -> str:
        """The weights that the run starts from: those of the bundle's adapter, without its probe."""
        return str(self.facts["ground"])

    @property
    def proposal(self) -> Proposal:
        """The prompt with its origin."""
        was = self.candidate.prompt.id
        return Proposal(self.prompt, "previous", *(((was,), "labels") if was != self.prompt.id else ()))


def enter(context: RunContext, bundle: OpenedBundle) -> Previous:
    """Copy a bundle's adapter into the run's folder and adapt its prompt to the task's labels; a ``previous`` step.

    Raises:
        InputError: the model renders prompts differently from the bundle's, or the adapter does not fit it.
    """
    task, manifest, adapter_folder = context.task, bundle.manifest, bundle.adapter_folder
    check_rendering(bundle.saved, context.model, str(bundle.folder / PROMPT), shorter=task.output.kind.written)
    unchanged = in_order(bundle.prompt, task.input_fields)
    shown = [Example(f"shown:{i}", dict(d.fields), d.output) for i, d in enumerate(unchanged.demonstrations)]
    leaking = {int(name.partition(":")[2]) for name in task.test.leaking_train_ids(shown)}
    kept = tuple(d for i, d in enumerate(unchanged.demonstrations) if i not in leaking)
    prompt = unchanged.edit(demonstrations=kept, nearest=min(unchanged.nearest, len(kept)))
    prompt = with_labels(prompt, manifest.labels, task.labels)
    same = manifest.output == task.output and manifest.answer_tokens == context.answering.limit
    own = None if same else Own(manifest.output, manifest.answer_tokens)
    candidate = Candidate(unchanged, manifest.adapter_id, manifest.decision, own=own)
    trained = {row.output for row in task.train}
    unseen = [label for label in manifest.labels if label in task.labels and label not in trained]
    # The bias makes predictions as frequent as the labels of train, which would suppress labels without a row there.
    if unseen:
        context.answers.leave_out_rules()

    ground = BASE if adapter_folder is None else bare_content_id(adapter_folder)

    def effect() -> dict[str, Any]:
        if adapter_folder is not None:
            # The unchanged adapter, and its weights without a probe, which are tuned further and may win.
            copy_adapter(adapter_folder, context.folder / "adapters" / manifest.adapter_id)
            if ground != BASE:
                copy_adapter(adapter_folder, context.folder / "adapters" / ground, probe=False)
        remarks = []
        if leaking:
            remarks.append(f"{len(leaking)} of its worked examples are in the new test, so they were removed from its prompt")
        if not names_all(prompt, task.labels):
            remarks.append("its text names some labels and not the new ones; it stays unchanged")
        if unseen:
            remarks.append(f"{len(unseen)} of its labels have no row here, so it may forget them: replay old rows")
        if manifest.output.schema_text != task.output.schema_text:
            remarks.append("its answers had another schema than the new ones, and the unchanged bundle keeps its schema")
        return {
            "bundle": manifest.id,
            "task": manifest.task,
            "labels": list(manifest.labels),
            "answers": Own(manifest.output, manifest.answer_tokens).to_json(),
            "new_labels": [label for label in task.labels if label not in manifest.labels],
            "gone_labels": [label for label in manifest.labels if label not in task.labels],
            "unseen_labels": unseen,
            "replay": {name: n for name, n in task.checks.counts.items() if "replay" in name},
            "was": candidate.to_json(),
            "ground": ground,
            "prompt": prompt.to_json(),
            "remarks": remarks,
        }

    facts = context.journal.step("previous", [manifest.id, task.fingerprint], effect)
    if adapter_folder is not None:
        for adapter in {manifest.adapter_id, ground} - {BASE}:
            register_kept(context.model.adapters, context.folder, adapter)
        check_probe(context.model, manifest, adapter_folder)
    return Previous(candidate, prompt, facts)
