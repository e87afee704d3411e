"""What an answer is: one of some labels, a number, JSON of a schema, or free text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from cotune.errors import InputError
from cotune.task.values.json_value import NO_JSON, json_in, json_text
from cotune.task.values.label_type import LABEL_TYPES, Label, LabelType, label_value
from cotune.task.values.number import number_in, number_text
from cotune.task.values.schema import Validator
from cotune.task.values.schema_order import in_schema_order

OutputType = Literal["label", "text", "number", "json"]
OUTPUT_TYPES: tuple[OutputType, ...] = get_args(OutputType)


@dataclass(frozen=True)
class Output:
    """The type of a task's answers, and what bounds them.

    Attributes:
        type: ``label``, ``text``, ``number`` or ``json``.
        labels: all labels, sorted; empty for the other types.
        schema_text: the JSON Schema of JSON and numbers as JSON text; empty for the other types.
        label_type: what labels are in the data, which knew them as numbers or truth values before they became texts.
    """

    type: OutputType = "label"
    labels: tuple[str, ...] = ()
    schema_text: str = ""
    label_type: LabelType = "text"

    @property
    def free(self) -> bool:
        """Whether answers are written token by token, not chosen among labels."""
        return self.type != "label"

    @cached_property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema of JSON and numbers; None for the other types."""
        if not self.schema_text:
            return None
        schema: Mapping[str, Any] = json.loads(self.schema_text)
        return schema

    def canonical(self, text: str) -> str:
        """The one way in which an answer that means this is written: what is learnt and what is compared.

        Numbers are written plainly and shortest, JSON with the schema's order of keys; a text that is no such value stays.
        """
        if self.type == "number":
            number = number_in(text)
            return text.strip() if number is None else number_text(number)
        if self.type == "json":
            value = json_in(text)
            return text.strip() if value is NO_JSON else json_text(in_schema_order(value, self.schema or {}))
        return text.strip()

    def value(self, text: str) -> Any:
        """What an answer means: a text, a :class:`decimal.Decimal`, or a JSON value; None where it is no such value."""
        if self.type == "number":
            return number_in(text)
        if self.type == "json":
            found = json_in(text)
            return None if found is NO_JSON else found
        return text.strip()

    def own(self, text: str) -> Label:
        """An answer as the data knew it: a label in its own type; whatever else as its text."""
        return label_value(text, self.label_type) if self.type == "label" else text

    def told(self, text: str) -> Any:
        """An answer for JSON: a label in its own type, JSON as its value, whatever else as its text."""
        if self.type != "json":
            return self.own(text)
        value = self.value(text)
        return text if value is None else value

    def fits(self, text: str) -> bool:
        """Whether an answer is a value of this type; of JSON, one that fits the schema."""
        if self.type == "json":
            value = json_in(text)
            return value is not NO_JSON and self._check(value)
        return self.value(text) is not None

    @cached_property
    def _check(self) -> Validator:
        return Validator(self.schema or {})

    def to_json(self) -> dict[str, Any]:
        """For bundles, journals and summaries."""
        told: dict[str, Any] = {"type": self.type}
        if self.labels:
            told["labels"] = list(self.labels)
        if self.schema is not None:
            told["schema"] = dict(self.schema)
        if self.label_type != "text":
            told["label_type"] = self.label_type
        return told

    @classmethod
    def from_json(cls, data: Any) -> Output:
        """Inverse of :meth:`to_json`.

        Raises:
            InputError: it is no description of an output.
        """
        known = {"type", "labels", "schema", "label_type"}
        if not isinstance(data, Mapping) or data.get("type") not in OUTPUT_TYPES or set(data) - known:
            raise InputError("this does not say what an answer is", where="output", mend="It needs a type.")
        kind, labels, schema = data["type"], data.get("labels", []), data.get("schema")
        if not isinstance(labels, Sequence) or not all(isinstance(label, str) for label in labels):
            raise InputError("the labels are no list of texts", where="output")
        if (kind == "label") != bool(labels) or (kind in ("json", "number")) != isinstance(schema, Mapping):
            raise InputError(f"an output of type {kind} does not have these labels or this schema", where="output")
        if (label_type := data.get("label_type", "text")) not in LABEL_TYPES or (kind != "label" and label_type != "text"):
            raise InputError(f"labels are not of the type {label_type!r}", where="output")
        return cls(kind, tuple(labels), "" if schema is None else json_text(schema), label_type)


def label_output(labels: Sequence[str], label_type: LabelType = "text") -> Output:
    """The output of a task that chooses among labels."""
    return Output("label", tuple(labels), label_type=label_type)
