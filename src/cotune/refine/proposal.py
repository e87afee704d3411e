"""A Proposal: a prompt with its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from cotune.errors import InputError
from cotune.prompt.prompt import Prompt

Source = Literal["user", "seed", "bare", "bank", "edit", "demonstrations", "crossover", "rewrite", "previous"]


@dataclass(frozen=True)
class Proposal:
    """A prompt to try, with its provenance. Compared by content.

    Attributes:
        source: the kind of step that made it.
        parents: ids of the prompts that it was made from, the most similar first; none for a first prompt.
        operator: names of the operators that made it, in order, joined by ``+``; empty for a first prompt.
    """

    prompt: Prompt
    source: Source
    parents: tuple[str, ...] = ()
    operator: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` turns back into an equal proposal."""
        facts = {"source": self.source, "parents": list(self.parents), "operator": self.operator}
        return {"prompt": self.prompt.to_json(), **facts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Proposal:
        """Inverse of :meth:`to_json`.

        Raises:
            InputError: a key is missing or unknown, or a value is invalid.
        """
        known = {field.name for field in fields(cls)}
        if wrong := sorted(known ^ set(data)):
            raise InputError(f"a proposal needs the keys {', '.join(sorted(known))}, and {wrong[0]!r} is missing or unknown")
        if data["source"] not in get_args(Source):
            raise InputError(f"unknown source {data['source']!r}", hint=f"Known sources: {', '.join(get_args(Source))}.")
        if not isinstance(data["prompt"], Mapping) or not isinstance(data["parents"], list):
            raise InputError("a proposal's prompt must be an object and its parents a list")
        return cls(
            Prompt.from_json(data["prompt"]), data["source"], tuple(map(str, data["parents"])), operator=str(data["operator"])
        )
