"""The type of a task's answers: labels, numbers, JSON with a schema, or free text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cotune.errors import InputError
from cotune.task.values.json_value import json_text
from cotune.task.values.kinds.base import Constraint, OutputKind
from cotune.task.values.kinds.registry import KINDS, OUTPUT_TYPES, WRITTEN_TYPES, OutputType
from cotune.task.values.label_type import LABEL_TYPES, Label, LabelType, label_value
from cotune.task.values.number_style import NumberStyle
from cotune.task.values.output_fields import AnswerFields, CopiedField
from cotune.task.values.scale import Scale
from cotune.task.values.schema import Validator, schema_problem
from cotune.task.values.spelling import SPELLINGS
from cotune.task.values.tags import answer_fields

__all__ = ["OUTPUT_TYPES", "WRITTEN_TYPES", "Output", "OutputType", "label_output"]


@dataclass(frozen=True)
class Output:
    """The type of a task's answers, with labels or schema.

    Attributes:
        type: ``label``, ``text``, ``number`` or ``json``.
        labels: all labels, sorted; empty for the other types.
        schema_text: the JSON Schema of JSON and numbers as JSON text; empty for the other types.
        label_type: type of the labels in the data: texts, numbers or truth values.
        copied: the parts of JSON that are copied from the row's text, if all others are closed.
        read_text: the JSON Schema of the answers that can be read off hidden states, if it is narrower than that of JSON which
            is generated; otherwise empty.
        style: how numbers are written in the data; None if they are plain, and for the other types.
    """

    type: OutputType = "label"
    labels: tuple[str, ...] = ()
    schema_text: str = ""
    label_type: LabelType = "text"
    copied: tuple[CopiedField, ...] = ()
    read_text: str = ""
    style: NumberStyle | None = None

    @property
    def kind(self) -> OutputKind:
        """The output kind."""
        return KINDS[self.type]

    @cached_property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema of JSON and numbers; None for the other types."""
        if not self.schema_text:
            return None
        schema: Mapping[str, Any] = json.loads(self.schema_text)
        return schema

    @cached_property
    def reading(self) -> Mapping[str, Any] | None:
        """The JSON Schema of the answers that can be read off hidden states; None without a schema."""
        if not self.read_text:
            return self.schema
        schema: Mapping[str, Any] = json.loads(self.read_text)
        return schema

    @cached_property
    def fields(self) -> AnswerFields | None:
        """The fields that a probe can read: closed ones of JSON, tags of copied ones, or a number's thresholds; None without.

        Raises:
            ValueError: a number's scale is invalid.
        """
        if self.kind.nested_cells:
            return answer_fields(self.reading, self.copied)
        return Scale.from_json(self.schema) if self.schema is not None else None

    @property
    def summary(self) -> str:
        """The output in a word or two, such as ``3 labels`` or ``json``."""
        return self.kind.summary(self)

    @property
    def form(self) -> str:
        """Description of the answer's form in an instruction, see :meth:`OutputKind.form`."""
        return self.kind.form(self)

    @property
    def constraint(self) -> Constraint | None:
        """Constraint on generated answers; None for free text and labels."""
        return self.kind.constraint(self)

    def canonical(self, text: str) -> str:
        """The normal form of an answer, used in training and comparison.

        Numbers in shortest plain form, JSON with the schema's order of keys; other texts stay unchanged.
        """
        return self.kind.canonical(text, self)

    def value(self, text: str) -> Any:
        """The value of an answer: a text, a :class:`decimal.Decimal`, or a JSON value; None if it is invalid."""
        return self.kind.value(text)

    def own(self, text: str) -> Label:
        """An answer in the type of the data: a label in its own type, anything else as text."""
        return text if self.kind.written else label_value(text, self.label_type)

    def told(self, text: str) -> Any:
        """An answer for JSON output: a label in its own type, JSON as its value, anything else as text."""
        if not self.kind.nested_cells:
            return self.own(text)
        value = self.value(text)
        return text if value is None else value

    def fits(self, text: str) -> bool:
        """Whether an answer is a value of this type; of JSON, one that fits the schema."""
        return self.kind.fits(text, self)

    def as_scored(self, texts: Sequence[str]) -> list[str]:
        """Answers as a metric reads them: one that is not a value of this type is empty, and so counts as wrong."""
        return [text if self.fits(text) else "" for text in texts] if self.kind.misfit else list(texts)

    def valid(self, value: Any) -> bool:
        """Whether a JSON value is valid under the schema; without one every value is."""
        return self._check(value)

    @cached_property
    def _check(self) -> Validator:
        return Validator(self.schema or {})

    def to_json(self) -> dict[str, Any]:
        """For bundles, journals and summaries."""
        record: dict[str, Any] = {"type": self.type}
        if self.labels:
            record["labels"] = list(self.labels)
        if self.schema is not None:
            record["schema"] = dict(self.schema)
        if self.label_type != "text":
            record["label_type"] = self.label_type
        if self.copied:
            record["copied"] = [one.to_json() for one in self.copied]
        if self.read_text:
            record["read_schema"] = json.loads(self.read_text)
        if self.style is not None:
            record["style"] = self.style.to_json()
        return record

    @classmethod
    def from_json(cls, data: Any) -> Output:
        """Inverse of :meth:`to_json`.

        Raises:
            InputError: it is not a valid description.
        """
        keys = {"type", "labels", "schema", "label_type", "copied", "read_schema", "style"}
        if not isinstance(data, Mapping) or data.get("type") not in OUTPUT_TYPES or set(data) - keys:
            raise InputError("the output has no type", where="output", hint="It needs a type.")
        name, labels, schema = data["type"], data.get("labels", []), data.get("schema")
        if not isinstance(labels, Sequence) or not all(isinstance(label, str) for label in labels):
            raise InputError("the labels are not a list of texts", where="output")
        kind = KINDS[name]
        if kind.written == bool(labels) or kind.has_schema != isinstance(schema, Mapping):
            raise InputError(f"an output of type {name} does not have these labels or this schema", where="output")
        read = data.get("read_schema")
        if read is not None and not (isinstance(read, Mapping) and kind.nested_cells):
            raise InputError(f"an output of type {name} does not have this read_schema", where="output")
        for one in (schema, read):
            if one is not None and (problem := schema_problem(one)):
                raise InputError(f"the schema is not a valid JSON Schema ({problem})", where="output")
        if schema is not None and not kind.nested_cells:
            try:
                Scale.from_json(schema)
            except ValueError as error:
                raise InputError(str(error), where="output") from error
        if (label_type := data.get("label_type", "text")) not in LABEL_TYPES or (kind.written and label_type != "text"):
            raise InputError(f"labels are not of the type {label_type!r}", where="output")
        schema_text, read_text = ("" if one is None else json_text(one) for one in (schema, read))
        found = cls(name, tuple(labels), schema_text, label_type, _copied(data), read_text, _style(data))
        if (found.copied or read_text) and found.fields is None:
            raise InputError(
                "the copied parts do not fit the schema, or read_schema has parts that cannot be read", where="output"
            )
        return found


def _copied(data: Mapping[str, Any]) -> tuple[CopiedField, ...]:
    """The copied parts in a description.

    Raises:
        InputError: they are invalid.
    """
    try:
        found = tuple(map(CopiedField.from_json, data.get("copied", [])))
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError("the copied parts are invalid", where="output") from error
    sound = all(
        isinstance(one.path, str)
        and one.type in ("string", "integer", "number")
        and one.blank in ("absent", "null", "empty", "never")
        and type(one.most) is int
        and one.most > 0
        and (one.spelling == "same" or (one.spelling in tuple(SPELLINGS) and one.type == "string"))
        and all(isinstance(name, str) and not isinstance(value, (dict, list)) for name, value in one.given)
        for one in found
    )
    if not sound or (found and not KINDS[data["type"]].nested_cells):
        raise InputError("the copied parts are invalid", where="output")
    return found


def _style(data: Mapping[str, Any]) -> NumberStyle | None:
    """The number format in a description.

    Raises:
        InputError: it is invalid.
    """
    if "style" not in data:
        return None
    if not KINDS[data["type"]].styled:
        raise InputError(f"an output of type {data['type']} has no number format", where="output")
    try:
        return NumberStyle.from_json(data["style"])
    except ValueError as error:
        raise InputError(f"the number format is invalid: {error}", where="output") from error


def label_output(labels: Sequence[str], label_type: LabelType = "text") -> Output:
    """The output of a task that chooses among labels."""
    return Output("label", tuple(labels), label_type=label_type)
