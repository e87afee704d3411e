"""The parts of the config that say where the rows are, how much of them counts, and how a run tunes, searches and measures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt
from pydantic import model_validator as _model_validator
from pydantic_core import PydanticCustomError

from cotune.config.types import Count, Name, Number, Section


def _one_or_more(value: Any) -> Any:
    """A single column name becomes a tuple of one."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class DataConfig(Section):
    """Where the rows are and which columns count.

    Attributes:
        train: labelled rows: a file (CSV, TSV, JSONL, Parquet) or ``hf://dataset[/config][:split]``.
        dev: rows to choose on; None cuts them from ``train``.
        test: rows for the one test at the end; None cuts them from ``train``.
        input: names of the input columns.
        output: name of the label column.
        group: column whose equal values mark rows that must stay in one split.
        on_blank: what is done with rows whose input or output is blank: refused (``error``), or left out and told (``skip``).
        replay: rows of the run whose bundle this one goes on from, to be learnt from again.
        replay_ratio: replayed rows a label at most, as a multiple of what the labels of the new rows have on average.
        unlabelled: rows without labels that ``teacher`` answers; they are learnt from alone.
    """

    train: Name
    dev: Name | None = None
    test: Name | None = None
    replay: Name | None = None
    replay_ratio: Annotated[Number, Field(gt=0)] = 1.0
    input: Annotated[tuple[Name, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
    output: Name
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
    """Seeded, stratified subsamples, in rows; ``train`` counts all labelled rows, those that become dev included."""

    train: Count | None = None
    dev: Count | None = None
    test: Count | None = None


class PrefixConfig(Section):
    """What a trained prefix starts from, how many tokens it has at most, and how fast it moves; see
    ``cotune.tune.settings.PrefixSettings``."""

    init: Literal["text", "random"] = "text"
    tokens: Count | None = None
    learning_rate: Annotated[Number, Field(gt=0)] = 0.03


class TuneConfig(Section):
    """What is tuned and how. ``rank``, ``alpha``, ``learning_rate`` and ``target`` are LoRA's; ``prefix`` has its own.

    ``readout`` says what label tasks on a local model are read off: hidden states (``probe``), label words (``words``), or what
    fits the run (``auto``). ``layers`` are the first and the last layer of the window below a probe, counted from 1; None takes
    the probe's layer and those below it. ``batch_size`` None takes 16 rows for a window and 8 otherwise. ``smoothing`` is the
    probability that a probe's target spreads over all labels.
    """

    method: Literal["lora", "prefix"] = "lora"
    rank: Count = 16
    alpha: Annotated[Number, Field(gt=0)] = 32
    learning_rate: Annotated[Number, Field(gt=0)] = 1e-3
    batch_size: Count | None = None
    shared_prefix: StrictBool = True
    head: StrictBool = True
    readout: Literal["auto", "probe", "words"] = "auto"
    layers: tuple[Count, Count] | None = None
    smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    max_epochs: Count = 8
    target: Name = "all-linear"
    clip: Annotated[Number, Field(gt=0)] = 1.0
    prefix: PrefixConfig = PrefixConfig()


class SearchConfig(Section):
    """How prompts are searched: prompts a cycle, prompts tuned a cycle, demonstrations or none, whether later pools also
    show rows that are like those the winner gets wrong, whether one prompt of a pool shows each row what is nearest to it,
    cycles at most."""

    pool: Count = 16
    entrants: Count = 4
    demonstrations: StrictBool = True
    hard_demonstrations: StrictBool = False
    nearest_demonstrations: StrictBool = False
    max_cycles: Count = 8


class EvaluateConfig(Section):
    """What is measured beside scores: whether rows that are alike in meaning are looked for, whether formats of the winning
    prompt are compared before and after tuning, and whether its failures on dev are clustered."""

    neighbours: StrictBool = True
    robustness: StrictBool = True
    slices: StrictBool = True


class EngineConfig(Section):
    """What the model runs on; None and ``auto`` leave the choice to a short probe. Lengths are in tokens."""

    device: Name = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: Count | None = None
    batch_tokens: Count | None = None
    max_tokens: Annotated[StrictInt, Field(ge=16)] = 1024
