"""How answers of a task are written: what they are held to, and how long they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotune.model.generations import GREEDY, Sampling
from cotune.prompt.prompt import Prompt
from cotune.task.output import Output

if TYPE_CHECKING:
    from cotune.model.generations import Generations
    from cotune.model.grammar import Grammar
    from cotune.model.protocol import Progress, Writer


def most_tokens(longest: int) -> int:
    """Tokens that an answer may have where the longest right one has so many: a quarter more, and a few."""
    return longest + longest // 4 + 8


def json_schema(output: Output) -> Mapping[str, Any] | None:
    """The schema that answers which are JSON must fit; None for other types."""
    return output.schema if output.type == "json" else None


@dataclass(frozen=True)
class Writing:
    """Writes answers of one type.

    Attributes:
        output: the task's output.
        limit: tokens of an answer at most, its stop token counted.
        grammar: what answers are held to; None for free text.
    """

    output: Output
    limit: int
    grammar: Grammar | None

    @classmethod
    def of(cls, output: Output, limit: int) -> Writing:
        """The writing of an output.

        Raises:
            InputError: its schema cannot be kept while writing; names the place.
        """
        from cotune.model.grammar import Grammar

        grammar = None
        if output.type == "number":
            grammar = Grammar.number(integer=output.schema == {"type": "integer"})
        elif output.schema is not None:
            grammar = Grammar.json(output.schema)
        return cls(output, limit, grammar)

    def write(
        self,
        model: Writer,
        prompt: Prompt,
        rows: Sequence[Mapping[str, str]],
        *,
        adapter: str,
        sampling: Sampling = GREEDY,
        progress: Progress | None = None,
    ) -> Generations:
        """Answers to rows; arguments and errors as in :meth:`cotune.model.local.LocalModel.generate`."""
        return model.generate(
            prompt, rows, adapter=adapter, limit=self.limit, grammar=self.grammar, sampling=sampling, progress=progress
        )
