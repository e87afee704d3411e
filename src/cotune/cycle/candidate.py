"""What is compared: a prompt, an adapter and a decision rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cotune.evaluate.decision import RAW, Decision
from cotune.files import content_hash
from cotune.model.adapters import BASE
from cotune.prompt.prompt import Prompt


@dataclass(frozen=True)
class Candidate:
    """Prompt, adapter and decision rule as one.

    Attributes:
        prompt: how it asks.
        adapter: which weights answer; ``base`` or an adapter's content id.
        decision: how scores become an answer.
        steps: optimizer steps behind the adapter, those of the adapters of this run that it started from included.
        labels: the answers that it chooses from, where they are not those of the task: a bundle of an earlier run, as it was.
    """

    prompt: Prompt
    adapter: str = BASE
    decision: Decision = RAW
    steps: int = 0
    labels: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Content hash of what answers: prompt, adapter and rule, and labels of its own."""
        own = [list(self.labels)] if self.labels else []
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
            **({"labels": list(self.labels)} if self.labels else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Inverse of :meth:`to_json`."""
        prompt = Prompt.from_json(data["prompt"])
        labels = tuple(map(str, data.get("labels", ())))
        return cls(prompt, data["adapter_id"], Decision.from_json(data["decision"]), int(data["steps"]), labels)
