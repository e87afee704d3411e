"""What is compared: a prompt, an adapter and a decision rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cotune.evaluate.decision import RAW, Decision
from cotune.files import content_hash
from cotune.model.adapters.slots import BASE
from cotune.prompt.prompt import Prompt
from cotune.task.values.output import Output


@dataclass(frozen=True)
class Own:
    """What an earlier bundle answers with, unchanged, where that is not what the task asks for.

    Attributes:
        output: its labels, or what its written answers are held to.
        limit: tokens of a written answer at most; 0 for labels.
    """

    output: Output
    limit: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the journal, which sorts the keys of objects: a schema's order counts, so it is a text there."""
        output = self.output
        return {"type": output.type, "labels": list(output.labels), "schema": output.schema_text, "answer_tokens": self.limit}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Own:
        """Inverse of :meth:`to_json`."""
        return cls(Output(data["type"], tuple(map(str, data["labels"])), data["schema"]), int(data["answer_tokens"]))


@dataclass(frozen=True)
class Candidate:
    """Prompt, adapter and decision rule as one.

    Attributes:
        prompt: how it asks.
        adapter: which weights answer; ``base`` or an adapter's content id.
        decision: how scores become an answer.
        steps: optimizer steps behind the adapter, those of the adapters of this run that it started from included.
        own: what it answers with, where that is not the task's: a bundle of an earlier run, unchanged.
    """

    prompt: Prompt
    adapter: str = BASE
    decision: Decision = RAW
    steps: int = 0
    own: Own | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of its own; none where it chooses among the task's."""
        return self.own.output.labels if self.own is not None else ()

    @property
    def id(self) -> str:
        """Content hash of what answers: prompt, adapter and rule, and what it answers with by itself."""
        own = [self.own.to_json()] if self.own is not None else []
        return content_hash([self.prompt.id, self.adapter, self.decision.to_json(), *own])

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "id": self.id,
            "prompt": self.prompt.to_json(),
            "prompt_id": self.prompt.id,
            "adapter_id": self.adapter,
            "decision": self.decision.to_json(),
            "steps": self.steps,
            **({"own": self.own.to_json()} if self.own is not None else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Inverse of :meth:`to_json`."""
        prompt = Prompt.from_json(data["prompt"])
        own = Own.from_json(data["own"]) if "own" in data else None
        return cls(prompt, data["adapter_id"], Decision.from_json(data["decision"]), int(data["steps"]), own)
