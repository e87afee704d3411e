"""The tracker for MLflow. Server, registry and experiment are set by MLflow's own environment variables and functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import mlflow
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from cotune.bundle.export.mlflow_folder import pyfunc_model, quiet_mlflow
from cotune.bundle.load import OpenedBundle
from cotune.errors import InputError
from cotune.files import slug
from cotune.prompt.messages import turns_of
from cotune.run_files import BUNDLE, CONFIG, REPORT, SUMMARY
from cotune.tracking.facts import TABLE, flat_estimates
from cotune.tracking.tracker import Estimate, Moment, Status, Tracked, problem_of, public

_STATUS: Mapping[Status, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""Default for an unset variable: MLflow itself retries for minutes before it reports a missing server."""
_LONGEST_PARAM = 500


class MlflowTracker:
    """Logs parameters, metrics over seconds, a table of the arms and files, and registers prompt and model.

    Raises:
        InputError: if the tracking server cannot be reached, or the experiment does not exist.
    """

    where: str

    def __init__(self) -> None:
        with quiet_mlflow(**_PATIENCE):
            try:
                mlflow.MlflowClient().search_experiments(max_results=1)
            except (MlflowException, OSError) as error:
                raise InputError(
                    f"MLflow cannot be reached ({problem_of(error)})",
                    where="tracking",
                    hint="Check MLFLOW_TRACKING_URI, or run without tracking: once the server is there, the same command with "
                    "tracking=mlflow tells it the whole run.",
                ) from error

    def start(self, run: Tracked, resume: str | None) -> str:
        """Start a run in the experiment that MLflow's variables name, or resume the run with this id."""
        with quiet_mlflow(**_PATIENCE):
            resumed = self._resumed(resume) if resume else None
            if resumed is None:
                resumed = mlflow.start_run(run_name=run.name, tags={"cotune.task": run.task})
                # config.json holds the full values.
                mlflow.log_params({key: value for key, value in run.config.items() if len(str(value)) <= _LONGEST_PARAM})
        info, server = resumed.info, public(mlflow.get_tracking_uri())
        path = f"/#/experiments/{info.experiment_id}/runs/{info.run_id}" if server.startswith("http") else ""
        self.where = f"{server.rstrip('/')}{path}" if path else f"run {info.run_id} in {server}"
        return str(info.run_id)

    def _resumed(self, run_id: str) -> Any:
        """The run with this id, started; None if it was deleted or belongs to another server."""
        try:
            # MLflow keeps deleted runs for a while and fails to start them.
            deleted = mlflow.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return None if deleted else mlflow.start_run(run_id=run_id)

    def metrics(self, values: Mapping[str, float], at: Moment) -> None:
        """Log one point of each metric, with the run's whole seconds as step."""
        with quiet_mlflow(**_PATIENCE):
            mlflow.log_metrics({**values, "seconds": at.seconds, "tokens": float(at.tokens)}, step=round(at.seconds))

    def arms(self, found: Sequence[Estimate], at: Moment) -> None:
        self.metrics(flat_estimates(found), at)
        columns = zip(TABLE, zip(*map(astuple, found), strict=True), strict=True)
        with quiet_mlflow(**_PATIENCE):
            mlflow.log_table({name: list(values) for name, values in columns}, "test.json")

    def files(self, run: Tracked) -> None:
        """Log report, summary, config and bundle as artifacts, then register prompt and model under the task's name."""
        bundle, name = run.folder / BUNDLE, slug(run.task)
        with quiet_mlflow(**_PATIENCE):
            for file in (CONFIG, SUMMARY, REPORT):
                if (run.folder / file).is_file():
                    mlflow.log_artifact(str(run.folder / file))
            mlflow.log_artifacts(str(bundle), "bundle")
            # The registry has one namespace for prompts and models.
            prompt = mlflow.genai.register_prompt(
                f"{name}-prompt", _template(OpenedBundle.read(bundle)), commit_message=f"cotune run {run.name}"
            )
            mlflow.set_tag("cotune.prompt", prompt.uri)
            run_id = mlflow.active_run().info.run_id
            with pyfunc_model(bundle) as parts:
                model = mlflow.pyfunc.log_model(name="model", **parts)
            # Does what registered_model_name does, without printing.
            client = mlflow.MlflowClient()
            if not client.search_registered_models(f"name='{name}'", max_results=1):
                client.create_registered_model(name)
            client.create_model_version(name, model.model_uri, run_id=run_id, model_id=model.model_id)

    def end(self, status: Status) -> None:
        with quiet_mlflow(**_PATIENCE):
            mlflow.end_run(_STATUS[status])


def _template(bundle: OpenedBundle) -> str | list[dict[str, Any]]:
    """The bundle's prompt with ``{{field}}`` for each input field: a text, or chat messages if it has several."""
    prompt = bundle.prompt
    if prompt.nearest:
        # Demonstrations are chosen for each row, so they are not part of the template.
        prompt = prompt.edit(nearest=0, demonstrations=())
    manifest = bundle.manifest
    messages: list[dict[str, Any]] = list(
        turns_of(prompt, {name: f"{{{{{name}}}}}" for name in manifest.input_fields}, manifest.labels).messages
    )
    return str(messages[0]["content"]) if len(messages) == 1 else messages
