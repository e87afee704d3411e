"""The tracker for Weights & Biases. Project, entity, mode and key are set by its own environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import wandb

from cotune.errors import InputError
from cotune.files import slug
from cotune.run_files import BUNDLE, CONFIG, REPORT, SUMMARY
from cotune.tracking.facts import TABLE, flat_estimates
from cotune.tracking.tracker import Estimate, Moment, Status, Tracked, problem_of

_PROJECT = "cotune"
"""Project if ``WANDB_PROJECT`` is not set."""


class WandbTracker:
    """Logs metrics over seconds, a table of the arms, the report as a page, and the bundle as an artifact.

    Raises:
        InputError: if there is no key, the server rejects it, or the server cannot be reached; with ``WANDB_MODE=offline``
            neither is needed.
    """

    where: str
    _run: wandb.Run

    def __init__(self) -> None:
        if wandb.setup().settings.mode not in ("online", "run", "shared"):
            return
        try:
            logged_in = wandb.login(prompt=False)
        except (wandb.Error, OSError) as error:
            raise InputError(
                f"wandb cannot be reached ({problem_of(error)})",
                where="tracking",
                hint=f"Check the key and the network. {_HINT}",
            ) from error
        if not logged_in:
            raise InputError(
                "there is no key for wandb", where="tracking", hint=f"Set WANDB_API_KEY, or run `wandb login`. {_HINT}"
            )

    def start(self, run: Tracked, resume: str | None) -> str:
        """Start a run, or resume the run with this id."""
        self._run = wandb.init(
            project=None if os.environ.get("WANDB_PROJECT") else _PROJECT,
            name=run.name,
            group=run.task,
            job_type="cotune",
            config=dict(run.config),
            id=resume,
            resume="allow" if resume else None,
            # cotune's view writes to the terminal, so wandb must not.
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("seconds", hidden=True)
        self._run.define_metric("*", step_metric="seconds")
        self.where = self._run.url or self._run.dir.removesuffix("/files")
        return str(self._run.id)

    def metrics(self, values: Mapping[str, float], at: Moment) -> None:
        self._run.log({**values, "seconds": at.seconds, "tokens": at.tokens}, step=at.place)

    def arms(self, found: Sequence[Estimate], at: Moment) -> None:
        self._run.summary.update(flat_estimates(found))
        rows = [list(astuple(one)) for one in found]
        self._run.log({"test": wandb.Table(columns=list(TABLE), data=rows), "seconds": at.seconds}, step=at.place)

    def files(self, run: Tracked) -> None:
        """Log the bundle as one artifact; report, summary and config as another; and the report also as a panel."""
        report = run.folder / REPORT
        if report.is_file():
            self._run.log({"report": wandb.Html(str(report), inject=False)})
        bundle = sorted(path for path in (run.folder / BUNDLE).rglob("*") if path.is_file())
        self._log("model", slug(run.task), run.folder / BUNDLE, bundle)
        about = [path for name in (CONFIG, SUMMARY, REPORT) if (path := run.folder / name).is_file()]
        self._log("run", f"{slug(run.task)}-run", run.folder, about)

    def _log(self, kind: str, name: str, folder: Path, files: Sequence[Path]) -> None:
        # wandb prints a line for each folder that is added, which would disturb cotune's view.
        artifact = wandb.Artifact(name, type=kind)
        for path in files:
            artifact.add_file(str(path), path.relative_to(folder).as_posix())
        self._run.log_artifact(artifact)

    def end(self, status: Status) -> None:
        """Finish the run, which uploads what is left."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


_HINT = "WANDB_MODE=offline needs no key and no network."
