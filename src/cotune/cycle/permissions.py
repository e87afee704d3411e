"""The user's permissions for a run's folder, which may come from anywhere, so that its own entries are not trusted."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cotune.errors import InputError
from cotune.model.loading.folder import FROM_HUB, NotFetchedError
from cotune.run_files import CONFIG

if TYPE_CHECKING:
    # This module is imported while a user types.
    from cotune.config import RunConfig
    from cotune.config.endpoints import EndpointSection

_DATA_SET = "hf://"


@dataclass(frozen=True)
class Permissions:
    """The user's permissions on the command line.

    Attributes:
        metric: ``FILE.py:FUNCTION``, which is executed if it is the run's metric, byte for byte.
        endpoint: URL of the model that rows may be sent to; one on this machine needs no permission.
        key_env: environment variable with the model's key.
        judge_endpoint: URL of the judge that rows and answers may be sent to.
        judge_key_env: environment variable with the judge's key.
        base: folder of the base model if it has moved; ``hub`` allows fetching the run's model and rows from the hub.
    """

    metric: str | None = None
    endpoint: str | None = None
    key_env: str | None = None
    judge_endpoint: str | None = None
    judge_key_env: str | None = None
    base: str | Path | None = None

    @property
    def fetch(self) -> bool:
        """Whether the hub may be used."""
        return str(self.base) == FROM_HUB

    def applied(self, config: RunConfig, folder: Path, *, judged: bool, rows_known: bool) -> RunConfig:
        """A run's config with the user's entries in place of the folder's, but for the model, see :meth:`model_name`.

        ``judged`` is whether the run asks a judge, ``rows_known`` whether the rows and their metric come from the caller and
        not from the folder.

        Raises:
            InputError: the folder names a file to execute, a server or a secret that the user did not name.
        """
        from cotune.config.paths import names_function

        where = str(folder / CONFIG)
        changes: dict[str, object] = {}
        if not rows_known:
            if config.metric is not None and names_function(config.metric):
                changes["metric"] = self.metric if self.metric is not None else _known_metric(config.metric, where)
            self._check_rows(config, where)
        if judged:
            options = ("judge_endpoint", "judge_key_env")
            changes["judge"] = _allowed(config.judge, self.judge_endpoint, self.judge_key_env, "run's judge", options, where)
        return config.model_copy(update=changes)

    def model_endpoint(self, config: RunConfig, folder: Path) -> EndpointSection:
        """Section of the endpoint of a config's model, with the user's key in place of the folder's.

        Raises:
            InputError: the folder names a server or a secret that the user did not name.
        """
        options = ("endpoint", "key_env")
        return _allowed(config.endpoint, self.endpoint, self.key_env, "run", options, str(folder / CONFIG))

    def model_name(self, config: RunConfig) -> str:
        """Name or folder of a config's model, the user's if it has moved."""
        return config.model if self.base is None or self.fetch else str(self.base)

    def model_folder(self, config: RunConfig, folder: Path) -> Path:
        """Folder of a config's model.

        Raises:
            InputError: it is missing, or would have to be fetched from the hub without the user's permission.
        """
        from cotune.model.loading.bundled import resolve_model

        try:
            return resolve_model(self.model_name(config), fetch=self.base is not None)
        except NotFetchedError as error:
            raise InputError(
                f"the run's model: {error.what}",
                where=str(folder / CONFIG),
                hint="If you want that, add --base hub (in Python, base='hub'); or name its folder as the base.",
            ) from error

    def _check_rows(self, config: RunConfig, where: str) -> None:
        data = config.data
        # A name with a third slash is a local folder, whose README may name addresses to fetch rows from.
        named = [name for name in (data.train, data.dev, data.test, data.replay) if (name or "").startswith(_DATA_SET)]
        if named and not self.fetch:
            raise InputError(
                f"the run's rows are a data set ({named[0]}) that is fetched from the hub or may name addresses to fetch"
                " from, which needs your permission",
                where=where,
                hint="If you want that, add --base hub (in Python, base='hub').",
            )


def _known_metric(name: str, where: str) -> str:
    """The metric that the folder names, if this user has run the same file before."""
    from cotune.task.metrics.user import UserMetric

    if not UserMetric(name, f"{where}, metric", run=False).known:
        raise InputError(
            f"the run's metric is a Python file, {name}, which is executed only if you allow it",
            where=where,
            hint=f"Read it first; if you trust it, add --metric {shlex.quote(name)} (in Python, metric={name!r}).",
        )
    return name


def _allowed(
    section: EndpointSection, endpoint: str | None, key_env: str | None, who: str, options: tuple[str, str], where: str
) -> EndpointSection:
    """The section of an endpoint, with the user's key in place of the folder's."""
    from cotune.bundle.remote import check_allowed

    if section.base_url is None:
        raise InputError(f"the {who} asks an endpoint and names none", where=where, hint="Copy the run's folder again.")
    check_allowed(section.base_url, section.key_env, endpoint, key_env, who=who, options=options, where=where)
    return section.model_copy(update={"key_env": key_env})
