"""Output kinds: one class for everything that differs between labels, text, numbers and JSON."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from cotune.errors import InputError, shortened
from cotune.task.values.number_style import NumberStyle
from cotune.task.values.output_fields import CopiedField

CellReader = Callable[[str, str], str]
"""``reader(cell text, where)``: the canonical output. Raises InputError if the cell is not of the kind."""

Mode = Literal["choose", "write"]
"""How a model answers: by choosing among labels or by generating. Packages that treat the two differently use a table by mode,
so that a new kind needs no entry.
"""


class Bounds(Protocol):
    """Bounds on the answers of a task, see :class:`cotune.task.values.output.Output`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels; empty for kinds without."""
        ...

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema; None for kinds without."""
        ...

    def valid(self, value: Any) -> bool:
        """Whether a value is valid under the schema."""
        ...


@dataclass(frozen=True)
class Constraint:
    """Constraint on generated answers.

    Attributes:
        schema: JSON Schema of the answer; None for a plain number.
        integer: whether a plain number must be whole.
    """

    schema: Mapping[str, Any] | None = None
    integer: bool = False


class OutputKind:
    """An output kind. To add one, subclass it, set a name, override what differs, and add an instance to the registry.

    The defaults are those of free text, which is generated and where every text is an answer.

    Attributes:
        name: its name in ``output.type``.
        samples: a few different outputs of a task of this kind, for contract tests.
        about: description of an answer, for messages.
        mode: how a model answers.
        default_metric: metric of a task that names none, if its outputs do not suggest another.
        has_schema: whether every output of the kind has a JSON Schema.
        by_field: whether answers have fields that are scored one by one.
        nested_cells: whether a cell of a table may hold a list or an object.
        styled: whether outputs may be written with decimal commas, a unit or a currency.
        guess_told: whether to report that the kind was guessed.
        output_noun: noun for an output in messages about the data.
        fill_hint: what to do about a row without an output.
        noun: noun for the answer in prompts if the column's name is generic.
        prompt_noun: noun for the prompt in questions to a language model that rewrites it.
        answers_questions: whether prompts may ask for an answer to a question.
        cues: answer cues for prompts of this kind, in addition to the general ones.
        systems: system texts for prompts of this kind; ``<kind>`` is replaced by the noun.
        placeholders: description of further placeholders for a language model that rewrites prompts.
        advice: what rewritten instructions should explain, for the same model.
        misfit: verb phrase for an answer that is not a value of the kind; empty if every text is one.
        why_no_fields: why answers of an output without fields, see :mod:`cotune.task.values.closed`, have to be generated.
        sampled: whether a served answer may be sampled.
        response_formats: allowed ``response_format`` of chat requests.
        reply: description of a served answer, for errors about other formats.
    """

    name: ClassVar[str] = ""
    samples: ClassVar[tuple[str, ...]] = ()
    about: ClassVar[str] = ""
    mode: ClassVar[Mode] = "write"
    default_metric: ClassVar[str] = "accuracy"
    has_schema: ClassVar[bool] = False
    by_field: ClassVar[bool] = False
    nested_cells: ClassVar[bool] = False
    styled: ClassVar[bool] = False
    guess_told: ClassVar[bool] = True
    output_noun: ClassVar[str] = "output"
    fill_hint: ClassVar[str] = "Fill it"
    noun: ClassVar[str] = "answer"
    prompt_noun: ClassVar[str] = "prompt"
    answers_questions: ClassVar[bool] = True
    cues: ClassVar[tuple[str, ...]] = ()
    systems: ClassVar[tuple[str, ...]] = ()
    placeholders: ClassVar[str] = ""
    advice: ClassVar[str] = "Explain what is asked for."
    misfit: ClassVar[str] = ""
    why_no_fields: ClassVar[str] = "the output is free text"
    sampled: ClassVar[bool] = False
    response_formats: ClassVar[frozenset[str]] = frozenset({"text"})
    reply: ClassVar[str] = "plain text"

    def __repr__(self) -> str:
        return f"<output kind {self.name}>"

    @property
    def written(self) -> bool:
        """Whether answers are generated rather than chosen among labels."""
        return self.mode == "write"

    def summary(self, bounds: Bounds) -> str:
        """The output in a word or two, for representations."""
        return self.name

    # Reading data -------------------------------------------------------------------------------------------------

    def recognise(self, cells: Sequence[str]) -> str:
        """Why the non-blank cells of a column look like outputs of this kind, in a few words; empty if they do not."""
        return ""

    def alike(self, cell: str) -> bool:
        """Whether a cell has the form of this kind; False if every text has it."""
        return False

    def broken(self, cell: str) -> bool:
        """Whether a cell that is not :meth:`alike` was clearly meant to be."""
        return False

    def may_name_rows(self, cells: Sequence[str]) -> bool:
        """Whether recognised cells may be row numbers or names instead of answers."""
        return False

    def cell_reader(
        self, *, labels: Sequence[str] = (), schema: Mapping[str, Any] | None = None, style: NumberStyle | None = None
    ) -> CellReader:
        """Make the reader of output cells.

        Args:
            labels: the allowed texts; empty allows all.
            schema: JSON Schema of the values; None allows all.
            style: number format; None allows only plain numbers.
        """
        allowed = {label.strip() for label in labels}
        return lambda cell, where: _text(cell, where, allowed)

    def schema_of(
        self, outputs: Sequence[str], given: Mapping[str, Any] | None, texts: Sequence[str] = ()
    ) -> Mapping[str, Any] | None:
        """The JSON Schema of outputs, whose rows have these ``texts``; None for kinds without a schema.

        ``given`` comes from the user or an earlier bundle.
        """
        return None

    def read_schema(
        self, schema: Mapping[str, Any] | None, outputs: Sequence[str], texts: Sequence[str]
    ) -> Mapping[str, Any] | None:
        """A narrower schema than an inferred one, by which outputs can be read off hidden states.

        None if the schema itself is one, or outputs cannot be read.
        """
        return None

    def copied(
        self,
        schema: Mapping[str, Any] | None,
        outputs: Sequence[str],
        texts: Sequence[str],
        known: Sequence[CopiedField] = (),
    ) -> tuple[CopiedField, ...]:
        """The parts of outputs that are copied from the rows' texts, if all others are closed.

        ``known`` are those of an earlier bundle.
        """
        return ()

    def kept_schema(self, schema: Mapping[str, Any] | None, outputs: Sequence[str]) -> Mapping[str, Any] | None:
        """An earlier bundle's schema if it fits these outputs, otherwise None."""
        return None

    def in_one_form(self, output: str, schema: Mapping[str, Any] | None) -> str:
        """The normal form of an output under the schema: JSON gets the schema's order of keys."""
        return output

    def usual_metric(self, outputs: Sequence[str]) -> str:
        """Metric of a task with these outputs that names none."""
        return self.default_metric

    def stratum(self, output: str) -> str:
        """Stratum for splits and demonstrations: the label, or a constant if outputs hardly recur."""
        return ""

    # Answers ------------------------------------------------------------------------------------------------------

    def canonical(self, text: str, bounds: Bounds) -> str:
        """The normal form of an answer, used in training and comparison.

        A text that is not a value only loses surrounding white space.
        """
        return text.strip()

    def value(self, text: str) -> Any:
        """The value of an answer; None if it is not a value of the kind."""
        return text.strip()

    def fits(self, text: str, bounds: Bounds) -> bool:
        """Whether an answer is a value of the kind, within the bounds."""
        return self.value(text) is not None

    def same(self, reference: str, answer: str) -> bool:
        """Whether an answer is right, as defined by accuracy."""
        return reference.strip() == answer.strip()

    def errors(self, references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
        """Measures of the errors in the answers' own unit, by name, beside the metric; none for kinds without a unit."""
        return {}

    def plain_value(self, text: str) -> Any:
        """An answer as a JSON value for serving: None, a text, a number, a list or an object."""
        return text

    # Writing ------------------------------------------------------------------------------------------------------

    def form(self, bounds: Bounds) -> str:
        """Description of the answer's form in an instruction: a sentence, or the placeholder of labels; empty for free text."""
        return ""

    def constraint(self, bounds: Bounds) -> Constraint | None:
        """Constraint on generated answers; None without one."""
        return None

    def unwritable_hint(self, *, schema_given: bool) -> str:
        """Advice about outputs that can never be generated."""
        return "Correct the rows."


def _text(cell: str, where: str, known: set[str]) -> str:
    output = cell.strip()
    if known and output not in known:
        near = difflib.get_close_matches(output, known, n=1, cutoff=0.5)
        raise InputError(
            f"the label {shortened(output)!r} is not among output.labels" + (f", did you mean {near[0]!r}?" if near else ""),
            where=where,
            hint="Correct the row, or add the label to output.labels.",
        )
    return output
