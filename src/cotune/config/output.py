"""The section ``output`` of the config: the type of the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic import model_validator as _model_validator
from pydantic_core import PydanticCustomError

from cotune.config.types import Count, Name, Section
from cotune.config.yaml_text import number_as_written
from cotune.errors import InputError
from cotune.files import read_text


def _label_texts(value: Any) -> Any:
    """Convert labels that YAML reads as numbers or truth values to the texts in the data."""
    if not isinstance(value, (list, tuple)):
        return value
    return tuple(
        str(item).lower() if isinstance(item, bool) else number_as_written(item) if isinstance(item, (int, float)) else item
        for item in value
    )


def _schema(value: Any) -> Any:
    if not isinstance(value, dict) and not (isinstance(value, str) and value):
        raise PydanticCustomError("schema", "must be a JSON Schema, such as {type: object}, or the path of a JSON file")
    return value


class OutputConfig(Section):
    """The type of the answers.

    Attributes:
        type: ``label``, ``text``, ``number`` or ``json``; None guesses it from the data.
        labels: all labels, for ``label``; None takes them from the data.
        json_schema: the key ``schema``: JSON Schema of the answers, for ``json``, inline or the path of a file; None infers it.
        max_tokens: longest answer of the other types in tokens; None takes it from the data.
    """

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    # Importing the registry would import numpy; a test compares the two lists.
    type: Literal["label", "text", "number", "json"] | None = None
    labels: Annotated[tuple[Name, ...], BeforeValidator(_label_texts), Field(min_length=2)] | None = None
    json_schema: Annotated[dict[str, Any] | Name, BeforeValidator(_schema)] | None = Field(default=None, alias="schema")
    max_tokens: Count | None = None

    @_model_validator(mode="after")
    def _fits_type(self) -> OutputConfig:
        for key, needed, value in (("labels", "label", self.labels), ("schema", "json", self.json_schema)):
            if value is not None and self.type not in (needed, None):
                raise PydanticCustomError(
                    "output", "{key} can only be given for the type {needed}", {"key": key, "needed": needed}
                )
        if self.labels is not None and self.json_schema is not None:
            raise PydanticCustomError("output", "give labels or schema, not both")
        return self

    def read_schema(self) -> dict[str, Any] | None:
        """The JSON Schema, read from its file if the config names one; None if there is none.

        Raises:
            InputError: the file is missing, is not JSON, or is not a valid schema.
        """
        from cotune.task.values.json_value import parse_json
        from cotune.task.values.schema import checked_schema

        schema: Any = self.json_schema
        where = "output.schema"
        if isinstance(schema, str):
            where = f"{where}, {schema}"
            try:
                schema = parse_json(read_text(Path(schema), "the schema file"))
            except ValueError as error:
                raise InputError(f"the schema file is not valid JSON ({error})", where=where, hint="Correct it.") from error
        checked = checked_schema(schema, where)
        return None if checked is None else dict(checked)

    @_model_validator(mode="after")
    def _labels_differ(self) -> OutputConfig:
        seen = [label.strip() for label in self.labels or ()]
        if doubled := [label for label in seen if seen.count(label) > 1]:
            raise PydanticCustomError("labels", "the label {name} is given twice", {"name": repr(doubled[0])})
        if "" in seen:
            raise PydanticCustomError("labels", "a label is empty")
        return self
