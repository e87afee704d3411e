"""The Task: labelled rows in splits, with fields, labels, metric and data checks."""

from __future__ import annotations

from dataclasses import dataclass

from cotune.task.assemble import Parts
from cotune.task.metrics.user import UserMetric


@dataclass(frozen=True, repr=False)
class Task(Parts):
    """A task that is ready to run.

    Its subclass :class:`cotune.config.task.Task`, which users import, makes tasks from frames, rows and configs, and documents
    the attributes.
    """

    name: str
    start: str | None = None

    def __repr__(self) -> str:
        return (
            f"Task({self.name!r}, {', '.join(self.input_fields)} -> {self.output_field} ({self.output.summary}), "
            f"train={len(self.train)}, dev={len(self.dev)}, test={self.test.n})"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, sorted; empty for other outputs."""
        return self.output.labels

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self.measure.name

    def run_metric(self) -> None:
        """Execute the metric's file if it was only read, as for a run's folder that may come from elsewhere."""
        if isinstance(self.measure.rows, UserMetric):
            self.measure.rows.run()
