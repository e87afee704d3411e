"""Settings of generated answers of a task: grammar and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotune.errors import InputError
from cotune.model.base import GREEDY, Generations, Progress, Sampling, Writer
from cotune.prompt.prompt import Prompt
from cotune.task.values.output import Output

if TYPE_CHECKING:
    from cotune.model.structured.grammar import Grammar


def most_tokens(longest: int) -> int:
    """Maximum number of tokens of an answer: a quarter more than the longest right answer, plus a few."""
    return longest + longest // 4 + 8


def json_schema(output: Output) -> Mapping[str, Any] | None:
    """The JSON Schema of JSON answers; None for other types."""
    return None if output.constraint is None else output.constraint.schema


def grammar_of(output: Output, where: str = "schema") -> Grammar | None:
    """The grammar of answers; None for free text and labels. Needs no model.

    Raises:
        InputError: the schema, from ``where``, cannot be enforced during generation; the message names the keyword and its
            place.
    """
    from cotune.model.structured.grammar import Grammar

    held = output.constraint
    if held is None:
        return None
    if held.schema is None:
        return Grammar.number(integer=held.integer)
    try:
        return Grammar.json(held.schema)
    except InputError as error:
        raise InputError(error.what, where=where + error.where.removeprefix("schema"), hint=error.hint) from error


@dataclass(frozen=True)
class Writing:
    """Generates answers of one type.

    Attributes:
        limit: maximum number of tokens of an answer, including the stop token.
        grammar: grammar of answers; None for free text.
    """

    output: Output
    limit: int
    grammar: Grammar | None

    @classmethod
    def of(cls, output: Output, limit: int) -> Writing:
        """Create the generator of an output.

        Raises:
            InputError: the schema cannot be enforced during generation.
        """
        return cls(output, limit, grammar_of(output))

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
        """Generate answers to rows; arguments and errors as in :meth:`cotune.model.local.LocalModel.generate`."""
        return model.generate(
            prompt, rows, adapter=adapter, limit=self.limit, grammar=self.grammar, sampling=sampling, progress=progress
        )
