"""What a backend is: how a run gets the model that its config names."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
from cotune.model.base import ModelBackend
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task
from cotune.tune.settings import PrefixSettings, TuneSettings

if TYPE_CHECKING:
    # Trying a prompt does not wait for what only a run needs.
    from cotune.cycle.context import RunContext


@dataclass(frozen=True)
class Opening:
    """What a run has before its model.

    Attributes:
        config: of the run.
        task: what is asked.
        seed: the seed prompt, with which an endpoint is tried.
        journal: of the run.
        out: the run's folder.
        watcher: is told about progress.
        grader: the judge whose grades are the metric; None where it asks nobody.
        executor: who does the work that can be spread; None where the run does all itself.
    """

    config: RunConfig
    task: Task
    seed: Prompt
    journal: Journal
    out: Path
    watcher: Watcher
    grader: Judge | None = None
    executor: Executor | None = None


class Backend(ABC):
    """A kind of model. Add one to :data:`cotune.cycle.backends.registry.BACKENDS`; what its models can do they say themselves,
    see :class:`cotune.model.base.Capabilities`."""

    @abstractmethod
    def takes(self, config: RunConfig) -> bool:
        """Whether the config names a model of this kind."""

    @abstractmethod
    def open(self, opening: Opening) -> RunContext:
        """Open the model and make the run context; recorded as an ``engine`` step.

        Raises:
            InputError: the model cannot be opened, or does not fit the task.
            EndpointError: it cannot be asked.
        """

    @abstractmethod
    def reopen(
        self, config: RunConfig, folder: Path, events: list[dict[str, Any]], task: Task, permissions: Permissions
    ) -> ModelBackend:
        """The model as a finished run used it.

        Args:
            config: of the run.
            folder: of the run.
            events: of its journal.
            task: what is asked.
            permissions: what the user lets the folder do.

        Raises:
            InputError: it is not here, or not the one that the run was made with, which is found before it is loaded.
        """


def tune_settings(config: RunConfig) -> TuneSettings:
    """The part of the config that training needs."""
    tune = config.tune
    return TuneSettings(
        method=tune.method,
        lora=LoraSettings(tune.rank, alpha_of(tune.alpha), tune.target),
        prefix=PrefixSettings(tune.prefix.init, tune.prefix.tokens),
        learning_rate=tune.prefix.learning_rate if tune.method == "prefix" else tune.learning_rate,
        batch_size=tune.batch_size or TuneSettings.batch_size,
        clip=tune.clip,
        shared_prefix=tune.shared_prefix,
        # A refit gives weights that a head was not fitted to.
        head=tune.head and not config.refit,
    )
