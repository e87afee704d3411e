"""Candidates: a prompt, an adapter and a decision rule."""

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
    """Output of an unchanged earlier bundle that differs from the task's.

    Attributes:
        output: its labels, or the output that its written answers must fit.
        limit: maximum tokens of a written answer; 0 for labels.
    """

    output: Output
    limit: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON value for the journal. The schema is a text, because the journal sorts keys and a schema's order matters."""
        output = self.output
        return {"type": output.type, "labels": list(output.labels), "schema": output.schema_text, "answer_tokens": self.limit}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Own:
        """Inverse of :meth:`to_json`."""
        return cls(Output(data["type"], tuple(map(str, data["labels"])), data["schema"]), int(data["answer_tokens"]))


@dataclass(frozen=True)
class Candidate:
    """A prompt, an adapter and a decision rule.

    Attributes:
        adapter: the weights: ``base`` or an adapter's content id.
        decision: rule that turns scores into an answer.
        steps: optimizer steps of the adapter, including those of this run's adapters that it started from.
        own: output of an unchanged earlier bundle, if it differs from the task's.
    """

    prompt: Prompt
    adapter: str = BASE
    decision: Decision = RAW
    steps: int = 0
    own: Own | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Its own labels; empty if it uses the task's."""
        return self.own.output.labels if self.own is not None else ()

    @property
    def id(self) -> str:
        """Content hash of prompt, adapter, rule and own output."""
        own = [self.own.to_json()] if self.own is not None else []
        return content_hash([self.prompt.id, self.adapter, self.decision.to_json(), *own])

    def to_json(self) -> dict[str, Any]:
        """JSON value for the journal."""
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
