"""Sections of the config for data, limits, tuning, search, evaluation and engine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt
from pydantic import model_validator as _model_validator
from pydantic_core import PydanticCustomError

from cotune.config.types import Count, Name, Number, Section
from cotune.errors import InputError


def _one_or_more(value: Any) -> Any:
    """Convert a single column name to a tuple."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _one_name(value: Any) -> Any:
    """Convert a list of output columns to the name of the column that joins them."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) and name for name in value):
        return value
    from cotune.task.output_columns import joined_name

    try:
        return joined_name(value)
    except InputError as error:
        raise PydanticCustomError("columns", "{what}", {"what": error.what}) from None


class DataConfig(Section):
    """Files and columns of the rows.

    Attributes:
        train: labelled rows: a file (CSV, TSV, JSONL, Parquet) or ``hf://dataset[/config][:split]``.
        dev: rows to choose on; None cuts them from ``train``.
        test: rows for the final test; None cuts them from ``train``.
        input: names of the input columns.
        output: name of the output column: labels, texts, numbers or JSON; of several columns their names, joined by commas.
        group: column whose equal values mark rows that must stay in one split.
        on_blank: rows with a blank input or output: an error (``error``), or left out and counted (``skip``).
        replay: rows of the run that made the bundle in ``start``, to learn from again.
        replay_ratio: maximum number of replayed rows per label, as a multiple of the mean number of new rows per label.
        unlabelled: rows without labels that ``teacher`` answers; used for learning only.
    """

    train: Name
    dev: Name | None = None
    test: Name | None = None
    replay: Name | None = None
    replay_ratio: Annotated[Number, Field(gt=0)] = 1.0
    input: Annotated[tuple[Name, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
    output: Annotated[Name, BeforeValidator(_one_name)]
    group: Name | None = None
    on_blank: Literal["error", "skip"] = "error"
    unlabelled: Name | None = None

    @_model_validator(mode="after")
    def _columns_differ(self) -> DataConfig:
        names = [*self.input, self.output]
        if doubled := [name for name in names if names.count(name) > 1]:
            raise PydanticCustomError("columns", "the column {name} is named twice", {"name": repr(doubled[0])})
        return self


class LimitConfig(Section):
    """Seeded, stratified subsamples, in rows; ``train`` counts all labelled rows, including those that become dev."""

    train: Count | None = None
    dev: Count | None = None
    test: Count | None = None


class TuneConfig(Section):
    """Settings of tuning. ``rank``, ``alpha`` and ``target`` are those of the LoRA weights.

    ``readout`` says how label tasks on a local model are read: from hidden states (``probe``), from label words (``words``), or
    by probes if the model supports them (``auto``). ``layers`` are the first and last layer of the window below a probe,
    counted from 1; None takes the probe's layer and a third of the depth below it. ``batch_size`` None takes 16 rows for a
    window and 8 otherwise. ``smoothing`` is the label smoothing of a window.
    """

    rank: Count = 16
    alpha: Annotated[Number, Field(gt=0)] = 32
    learning_rate: Annotated[Number, Field(gt=0)] = 1e-3
    batch_size: Count | None = None
    shared_prefix: StrictBool = True
    readout: Literal["auto", "probe", "words"] = "auto"
    layers: tuple[Count, Count] | None = None
    smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    max_epochs: Count = 8
    target: Name = "all-linear"
    clip: Annotated[Number, Field(gt=0)] = 1.0


class SearchConfig(Section):
    """Settings of the search: prompts per race, demonstrations, what may be learnt from besides, cycles."""

    pool: Count = 16
    demonstrations: StrictBool = True
    nearest_demonstrations: StrictBool = False
    label_names: StrictBool = True
    tfidf: StrictBool = True
    max_cycles: Count = 8


class EvaluateConfig(Section):
    """Measurements in addition to scores: rows with similar meaning, prompt formats, clusters of failures."""

    neighbours: StrictBool = True
    robustness: StrictBool = True
    slices: StrictBool = True


class EngineConfig(Section):
    """Settings of the engine; None and ``auto`` are resolved by a short measurement. Lengths are in tokens."""

    device: Name = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: Count | None = None
    batch_tokens: Count | None = None
    max_tokens: Annotated[StrictInt, Field(ge=16)] | None = None
    truncate: Literal["middle", "end"] = "middle"
