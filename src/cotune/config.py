"""The one typed configuration of a run: read from YAML, from ``key=value`` texts, or made from a bare data file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, ValidationError
from pydantic import model_validator as _model_validator
from pydantic_core import PydanticCustomError

from cotune.config_endpoints import JUDGE, NO_PART_OF_THE_ANSWER, JudgeConfig, ModelEndpoint, ProposerConfig, TeacherConfig
from cotune.config_errors import kind_of, readable_error, shown
from cotune.config_output import OutputConfig
from cotune.config_paths import DATA_KEYS, IN_MEMORY, ROLES, names_file, names_function, resolve_paths
from cotune.config_start import fill_from_bundle
from cotune.config_types import Count, Name, Number, Section
from cotune.endpoint.server import REMOTE
from cotune.errors import InputError
from cotune.yaml_text import YamlText, parse_yaml

_TEXT_KEYS = ("name", "prompt", "metric", "model", "start", "budget", "judge.rubric", "judge.agreement", *DATA_KEYS)


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
    """What is tuned and how. ``rank``, ``alpha``, ``learning_rate`` and ``target`` are LoRA's; ``prefix`` has its own."""

    method: Literal["lora", "prefix"] = "lora"
    rank: Count = 16
    alpha: Annotated[Number, Field(gt=0)] = 32
    learning_rate: Annotated[Number, Field(gt=0)] = 1e-3
    batch_size: Count = 8
    shared_prefix: StrictBool = True
    max_epochs: Count = 8
    target: Name = "all-linear"
    clip: Annotated[Number, Field(gt=0)] = 1.0
    prefix: PrefixConfig = PrefixConfig()


class SearchConfig(Section):
    """How prompts are searched: prompts a cycle, prompts tuned a cycle, demonstrations or none, whether later pools also
    show rows that are like those the winner gets wrong, whether a surrogate thins later pools, whether one prompt of a pool
    shows each row what is nearest to it, cycles at most."""

    pool: Count = 16
    entrants: Count = 4
    demonstrations: StrictBool = True
    hard_demonstrations: StrictBool = False
    surrogate: StrictBool = False
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


class RunConfig(Section):
    """Everything that a run is told. Immutable; :func:`load_config` makes one from a file.

    Attributes:
        name: what people call the task.
        metric: one of ``cotune.task.metrics.METRICS``, ``within 0.5``, ``within 1%`` or ``FILE.py:FUNCTION``; None takes the
            default of the output's type.
        model: ``smollm2-135m`` (bundled), a local folder, a hub id, or ``openai:NAME`` behind ``endpoint.base_url``.
        start: folder of an earlier run's bundle that this one goes on from; None starts afresh.
        prompt: the user's own prompt, inline or the path of a ``.txt`` or ``.md`` file; None drafts one.
        budget: how long the run may go on, such as ``90s``, ``10m``, ``1h``, ``300ktok``, ``2Mtok`` or ``2usd``.
        refit: whether the winner is trained once more on train and dev together.
    """

    name: Name
    data: DataConfig
    output: OutputConfig = OutputConfig()
    metric: Name | None = None
    model: Name = "smollm2-135m"
    start: Name | None = None
    prompt: StrictStr | None = None
    budget: Name = "10m"
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] = 0
    limit: LimitConfig = LimitConfig()
    refit: StrictBool = False
    tune: TuneConfig = TuneConfig()
    search: SearchConfig = SearchConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    endpoint: ModelEndpoint = ModelEndpoint()
    proposer: ProposerConfig = ProposerConfig()
    teacher: TeacherConfig = TeacherConfig()
    judge: JudgeConfig = JudgeConfig()
    engine: EngineConfig = EngineConfig()

    @_model_validator(mode="after")
    def _replay_needs_a_start(self) -> RunConfig:
        if self.data.replay is not None and self.start is None:
            what = "data.replay holds rows of an earlier run, and no bundle is named to go on from; set start"
            raise PydanticCustomError("replay", "{what}", {"what": what})
        return self

    @_model_validator(mode="after")
    def _endpoint_goes_with_model(self) -> RunConfig:
        if self.remote_model is not None and self.endpoint.base_url is None:
            raise PydanticCustomError("endpoint", "a model openai:NAME needs endpoint.base_url, where it answers")
        if (self.data.unlabelled is None) != (self.teacher.base_url is None):
            raise PydanticCustomError("teacher", "data.unlabelled and teacher go together: rows, and who answers them")
        if (self.metric == JUDGE) != (self.judge.base_url is not None):
            what = "metric: judge and the section judge go together: what is measured, and who grades"
            raise PydanticCustomError("judge", "{what}", {"what": what})
        if self.remote_model == "":
            raise PydanticCustomError("endpoint", "the model is called openai: and has no name")
        return self

    @property
    def remote_model(self) -> str | None:
        """Name of the model at ``endpoint``; None where it is one on this machine."""
        return self.model.removeprefix(REMOTE) if self.model.startswith(REMOTE) else None

    def prompt_text(self) -> str | None:
        """The user's prompt as text, read from its file where ``prompt`` names one.

        Raises:
            InputError: the file is missing, is not UTF-8 text or cannot be read.
        """
        if self.prompt is None or not names_file(self.prompt):
            return self.prompt
        return _read_text(Path(self.prompt), "the prompt file")

    def fingerprint_view(self) -> dict[str, Any]:
        """What must be equal for a run folder to be gone on with: all but the name and where files lie.

        Data files count by their names and the prompt by its text; what is in the data is hashed by the task, and what a bundle
        holds by its manifest.
        """
        view: dict[str, Any] = self.model_dump(mode="json", exclude={"name", "start"})
        for role in ROLES:
            view["data"][role] = _base_name(view["data"][role])
        view["model"] = _base_name(view["model"]) if _is_local(view["model"]) else view["model"]
        view["prompt"] = self.prompt_text()
        view["judge"]["agreement"] = _base_name(view["judge"]["agreement"])
        for section in ("endpoint", "proposer", "teacher", "judge"):
            for key in NO_PART_OF_THE_ANSWER:
                view[section].pop(key, None)
        # The task hashes what stands in the files of the schema and the metric.
        if isinstance(self.output.json_schema, str):
            view["output"]["schema"] = _base_name(self.output.json_schema)
        if self.metric is not None and names_function(self.metric):
            view["metric"] = _base_name(self.metric)
        return view

    def differences(self, other: RunConfig) -> list[str]:
        """What keeps ``other`` from going on with this config's run, a line for each key; empty where nothing does."""
        mine, theirs = _flat(self.fingerprint_view()), _flat(other.fingerprint_view())
        return [
            f"{key}: {shown(mine.get(key))} -> {shown(theirs.get(key))}"
            for key in dict.fromkeys((*mine, *theirs))
            if mine.get(key) != theirs.get(key)
        ]


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run's YAML file. Paths in it are relative to its folder, paths in ``overrides`` to the current one.

    Args:
        path: the YAML file.
        overrides: texts such as ``tune.rank=8``, with YAML values; they win over the file.

    Raises:
        InputError: no such file, broken YAML, an unknown key or a value of the wrong kind; names file, line and key.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise InputError("a run's file ends in .yaml or .yml", where=str(path), mend="Rename it, or give the data file.")
    document = parse_yaml(_read_text(path, "the task file"), str(path))
    if not isinstance(document.value, dict):
        found = "empty" if document.value is None else f"a {kind_of(document.value)}"
        raise InputError(
            f"the file is {found} and not a list of keys",
            where=str(path),
            mend="Write at least name:, data: {train:, input:, output:}.",
        )
    values = document.value
    values.setdefault("name", path.stem)
    resolve_paths(values, path.parent)
    keys, values = _overridden(values, overrides)
    return _validated(values, str(path), document, keys)


def config_from_data(
    data_path: str | Path,
    *,
    input: str | Sequence[str] | None = None,
    output: str | None = None,
    overrides: Iterable[str] = (),
    **settings: Any,
) -> RunConfig:
    """A run's config for a bare data file, all else at its default.

    Args:
        data_path: file or ``hf://`` name of the labelled rows.
        input: column or columns that the model reads; None only where a bundle to start from says so.
        output: column of the labels; None likewise.
        overrides: texts such as ``tune.rank=8``.
        settings: further top-level keys of the config, such as ``budget="2m"``.

    Raises:
        InputError: a key is unknown or a value of the wrong kind.
    """
    train = str(data_path)
    named = {"input": input if input is None or isinstance(input, str) else list(input), "output": output}
    values: dict[str, Any] = {"name": _task_name(train), **settings}
    told = {key: value for key, value in named.items() if value is not None}
    values["data"] = {**values.get("data", {}), "train": train, **told}
    resolve_paths(values, Path.cwd())
    keys, values = _overridden(values, overrides)
    return _validated(values, "the settings", YamlText(None, {}), keys)


def config_in_memory(*, name: str, input: Sequence[str], output: str, **settings: Any) -> RunConfig:
    """A run's config for a task made in Python, whose rows lie in no file; arguments as in :func:`config_from_data`."""
    data = {"train": IN_MEMORY, "input": list(input), "output": output}
    return _validated({"name": name, "data": data, **settings}, "the settings", YamlText(None, {}))


def _overridden(values: dict[str, Any], overrides: Iterable[str]) -> tuple[frozenset[str], dict[str, Any]]:
    """The keys that ``overrides`` set, and the values with them in place."""
    keys: set[str] = set()
    for text in overrides:
        key, equals, raw = text.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            raise InputError(
                f"{text!r} is not of the form key=value", where="command line", mend="Write for example tune.rank=8."
            )
        value: Any = raw
        if key not in _TEXT_KEYS:
            value = parse_yaml(raw, f"command line, {key}").value
        elif raw.strip() in ("", "null"):
            value = None
        place = values
        *sections, last = key.split(".")
        for depth, section in enumerate(sections):
            inner = place.setdefault(section, {})
            if inner is None:
                inner = place[section] = {}
            if not isinstance(inner, dict):
                above = ".".join(sections[: depth + 1])
                raise InputError(f"{above!r} has no keys of its own", where=f"command line, {key}", mend=f"Set {above} itself.")
            place = inner
        place[last] = value
        keys.add(key)
        resolve_paths(values, Path.cwd(), {key})
    return frozenset(keys), values


def _validated(values: dict[str, Any], where: str, document: YamlText, overridden: frozenset[str] = frozenset()) -> RunConfig:
    # a section that is written but left empty means its defaults
    for section in ("output", "limit", "tune", "search", "evaluate", "endpoint", "proposer", "teacher", "judge", "engine"):
        if section in values and values[section] is None:
            del values[section]
    fill_from_bundle(values)
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = tuple(map(str, first["loc"]))
        if any(".".join(path[:end]) in overridden for end in range(1, len(path) + 1)):
            where, document = "command line", YamlText(None, {})
        raise readable_error(first, where, document, RunConfig) from None
    if config.metric is not None and not names_function(config.metric):
        from cotune.task.metrics import metric_named

        if "metric" in overridden:
            where, document = "command line", YamlText(None, {})
        line = document.lines.get(("metric",))
        metric_named(config.metric, where=f"{where}{f', line {line}' if line else ''}, metric")
    return config


def _read_text(path: Path, what: str) -> str:
    if not path.exists():
        raise InputError(f"{what} does not exist", where=str(path), mend="Check the path.")
    if path.is_dir():
        raise InputError(f"{what} is a folder", where=str(path), mend="Name the file in it.")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8 text", where=str(path), mend="Save it as UTF-8.") from error
    except OSError as error:
        raise InputError(f"{what} cannot be read ({error.strerror})", where=str(path), mend="Check its permissions.") from error


def _task_name(source: str) -> str:
    """A name after the data: the file's, or its folder's where the file is called after its role."""
    path = Path(source.removeprefix("hf://").split(":")[0])
    plain = path.stem.lower() in ("train", "data", "rows") and path.absolute().parent.name
    return plain or path.stem or "task"


def _is_local(model: str) -> bool:
    return Path(model).is_absolute()


def _base_name(name: str | None) -> str | None:
    return name if name is None or "://" in name else Path(name).name


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: value})
    return flat
