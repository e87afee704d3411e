"""The base class of backends, which open the model that a run's config names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.config import RunConfig
from cotune.cycle.journal import Journal
from cotune.cycle.permissions import Permissions
from cotune.cycle.progress import Watcher
from cotune.evaluate.judge import Judge
from cotune.executor import Executor
from cotune.model.adapters.files import LoraSettings, alpha_of
from cotune.model.base import Capabilities, ModelBackend
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task
from cotune.tune.settings import TuneSettings

if TYPE_CHECKING:
    # Trying a prompt should not wait for imports that only a run needs.
    from cotune.cycle.context import RunContext


@dataclass(frozen=True)
class Opening:
    """The parts of a run that exist before its model.

    Attributes:
        seed: the seed prompt, which an endpoint is tried with.
        resources: closes the model's connections and files when the run ends.
        grader: the judge whose grades are the metric; None without a judge.
        executor: runs work in parallel; None if the run does all work itself.
    """

    config: RunConfig
    task: Task
    seed: Prompt
    journal: Journal
    out: Path
    watcher: Watcher
    resources: ExitStack
    grader: Judge | None = None
    executor: Executor | None = None


class Backend(ABC):
    """A kind of model. Add new ones to :data:`cotune.cycle.backends.registry.BACKENDS`.

    Attributes:
        capabilities: the capabilities of its models, known before one is opened.
        place: where its models answer, such as ``on this machine``, for messages.
        alone: reason why its runs cannot use workers; empty if they can.
    """

    capabilities: Capabilities
    place: str
    alone: str

    @abstractmethod
    def takes(self, config: RunConfig) -> bool:
        """Whether the config names a model of this kind."""

    @abstractmethod
    def check(self, config: RunConfig) -> None:
        """Check that the model exists, before anything is written.

        Raises:
            InputError: it does not.
        """

    @abstractmethod
    def open(self, opening: Opening) -> RunContext:
        """Open the model and create the run context; recorded as an ``engine`` step.

        Raises:
            InputError: the model cannot be opened, or does not fit the task.
            EndpointError: it cannot be asked.
        """

    @abstractmethod
    def reopen(
        self, config: RunConfig, folder: Path, events: list[dict[str, Any]], task: Task, permissions: Permissions
    ) -> ModelBackend:
        """Open the model as a finished run used it.

        Args:
            events: events of its journal.
            permissions: the user's permissions for the folder.

        Raises:
            InputError: the model is missing or is not the one of the run, which is checked before it is loaded.
        """


def tune_settings(config: RunConfig) -> TuneSettings:
    """The settings of training, from the config."""
    tune = config.tune
    return TuneSettings(
        lora=LoraSettings(tune.rank, alpha_of(tune.alpha), tune.target),
        learning_rate=tune.learning_rate,
        batch_size=tune.batch_size or TuneSettings.batch_size,
        clip=tune.clip,
        shared_prefix=tune.shared_prefix,
    )
