"""The config of a run as one typed value, and the part of it that must stay the same to resume the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, StrictStr
from pydantic import model_validator as _model_validator
from pydantic_core import PydanticCustomError

from cotune.config.endpoints import (
    JUDGE,
    NO_PART_OF_THE_ANSWER,
    EndpointSection,
    JudgeConfig,
    ModelEndpoint,
    ProposerConfig,
    TeacherConfig,
)
from cotune.config.errors import shown
from cotune.config.output import OutputConfig
from cotune.config.paths import ROLES, base_name, names_file, names_function
from cotune.config.sections import DataConfig, EngineConfig, EvaluateConfig, LimitConfig, SearchConfig, TuneConfig
from cotune.config.types import Name, Section
from cotune.endpoint.server import REMOTE
from cotune.files import read_text


class RunConfig(Section):
    """The settings of a run. Immutable; use :func:`load_config` to read one from a file.

    Attributes:
        name: name of the task.
        metric: one of ``cotune.task.metrics.metric.METRICS``, ``within 0.5``, ``within 1%`` or ``FILE.py:FUNCTION``; None takes
            the default of the output's type.
        model: ``smollm2-135m`` (bundled), a local folder, a hub id, or ``openai:NAME`` behind ``endpoint.base_url``.
        start: folder of an earlier run's bundle to start from; None starts from the base model.
        prompt: the user's own prompt, inline or the path of a ``.txt`` or ``.md`` file; None drafts one.
        budget: how much the run may spend, such as ``90s``, ``10m``, ``1h``, ``300ktok``, ``2Mtok`` or ``2usd``.
        tracking: the experiment tracker to use; None uses none.
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
    tracking: Literal["mlflow", "wandb", "tensorboard"] | None = None
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
            what = "data.replay holds rows of an earlier run, but there is no bundle to start from; set start"
            raise PydanticCustomError("replay", "{what}", {"what": what})
        return self

    @_model_validator(mode="after")
    def _endpoint_goes_with_model(self) -> RunConfig:
        if self.remote_model is not None and self.endpoint.base_url is None:
            raise PydanticCustomError(
                "endpoint",
                "the model {name} needs endpoint.base_url, the URL of its API, as in "
                "endpoint.base_url=https://api.openai.com/v1; where that asks for a key, name the environment variable that "
                "holds it: endpoint.key_env=OPENAI_API_KEY",
                {"name": self.model},
            )
        if (self.data.unlabelled is None) != (self.teacher.base_url is None):
            raise PydanticCustomError(
                "teacher", "data.unlabelled and teacher.base_url must be given together: the teacher answers these rows"
            )
        if (self.metric == JUDGE) != (self.judge.base_url is not None):
            what = "metric: judge and judge.base_url must be given together: the model there grades the answers"
            raise PydanticCustomError("judge", "{what}", {"what": what})
        if self.remote_model == "":
            raise PydanticCustomError("endpoint", "the model openai: has no name; write openai:NAME")
        return self

    @property
    def remote_model(self) -> str | None:
        """Name of the model at ``endpoint``; None for a local model."""
        return self.model.removeprefix(REMOTE) if self.model.startswith(REMOTE) else None

    @property
    def asked(self) -> dict[str, EndpointSection]:
        """The sections with an endpoint that a run may ask, by name; ``endpoint`` only for a model there."""
        named = {"endpoint": self.endpoint, "proposer": self.proposer, "teacher": self.teacher, "judge": self.judge}
        remote = self.remote_model is not None
        return {name: each for name, each in named.items() if each.base_url is not None and (remote or name != "endpoint")}

    def prompt_text(self) -> str | None:
        """The user's prompt as text, read from its file if ``prompt`` names one.

        Raises:
            InputError: the file is missing, is not UTF-8 text or cannot be read.
        """
        if self.prompt is None or not names_file(self.prompt):
            return self.prompt
        return read_text(Path(self.prompt), "the prompt file")

    @property
    def model_identity(self) -> str:
        """The model's name, of a folder its last part, so that a run may go on after folders were moved."""
        return str(base_name(self.model)) if Path(self.model).is_absolute() else self.model

    def fingerprint_view(self) -> dict[str, Any]:
        """The settings that must be equal to resume a run: all but the name, the tracker and the folders of files.

        Data files are compared by name and the prompt by its text. The task hashes the content of the data, and the manifest
        that of a bundle.
        """
        view: dict[str, Any] = self.model_dump(mode="json", exclude={"name", "start", "tracking"})
        for role in ROLES:
            view["data"][role] = base_name(view["data"][role])
        view["model"] = self.model_identity
        view["prompt"] = self.prompt_text()
        view["judge"]["agreement"] = base_name(view["judge"]["agreement"])
        for section in ("endpoint", "proposer", "teacher", "judge"):
            for key in NO_PART_OF_THE_ANSWER:
                view[section].pop(key, None)
        # The task hashes the content of the files of the schema and the metric.
        if isinstance(self.output.json_schema, str):
            view["output"]["schema"] = base_name(self.output.json_schema)
        if self.metric is not None and names_function(self.metric):
            view["metric"] = base_name(self.metric)
        return view

    def differences(self, other: RunConfig) -> list[str]:
        """The differences that keep ``other`` from resuming this config's run, one line per key."""
        mine, theirs = dotted(self.fingerprint_view()), dotted(other.fingerprint_view())
        return [
            f"{key}: {shown(mine.get(key))} -> {shown(theirs.get(key))}"
            for key in dict.fromkeys((*mine, *theirs))
            if mine.get(key) != theirs.get(key)
        ]


def dotted(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested mappings by their keys in dotted form."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(dotted(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: value})
    return flat
