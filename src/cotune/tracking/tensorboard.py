"""The tracker for TensorBoard: event files in the run's folder."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import astuple

from torch.utils.tensorboard import SummaryWriter

from cotune.run_files import BUNDLE, REPORT, SUMMARY
from cotune.tracking.facts import TABLE, flat_estimates
from cotune.tracking.tracker import Estimate, Moment, Status, Tracked

FOLDER = "tensorboard"
"""Folder of the event files inside a run's folder; ``tensorboard --logdir runs`` shows all runs."""


class TensorboardTracker:
    """Writes scalars with the run's seconds as steps, and texts. The run's files are not copied."""

    where: str
    _writer: SummaryWriter

    def start(self, run: Tracked, resume: str | None) -> str:
        """Open a further event file in the run's folder; TensorBoard shows all files of a folder as one run."""
        kept = (run.folder / FOLDER).is_dir()
        self._writer = SummaryWriter(str(run.folder / FOLDER))
        self.where = f"tensorboard --logdir {shlex.quote(str(run.folder))}"
        if resume is not None and kept:
            return resume
        self._writer.add_text("config", _markdown(("setting", "value"), list(run.config.items())), 0)
        # Another id if an earlier session's files were deleted, so that everything is sent again.
        return FOLDER if resume is None else f"{FOLDER}-{secrets.token_hex(4)}"

    def metrics(self, values: Mapping[str, float], at: Moment) -> None:
        """Write scalars and the number of tokens."""
        for name, value in {**values, "tokens": at.tokens}.items():
            self._writer.add_scalar(name, value, round(at.seconds))
        self._writer.flush()

    def arms(self, found: Sequence[Estimate], at: Moment) -> None:
        self.metrics(flat_estimates(found), at)
        self._writer.add_text("test", _markdown(TABLE, [astuple(one) for one in found]), round(at.seconds))

    def files(self, run: Tracked) -> None:
        """Write the paths of the run's files, since event files cannot hold files."""
        rows = [(what, str(run.folder.absolute() / name)) for what, name in _FILES]
        self._writer.add_text("files", _markdown(("what", "where"), rows), 0)

    def end(self, status: Status) -> None:
        self._writer.close()


_FILES = (("report", REPORT), ("summary", SUMMARY), ("bundle", BUNDLE))


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
