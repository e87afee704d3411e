"""By what a page tells how good a candidate is on dev: the metric's score, or the log-loss where answers are written late."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from cotune.errors import counted
from cotune.report.html.intervals import paired_change, share_interval, share_text
from cotune.report.html.markup import esc, percent, signed_points
from cotune.report.html.plot import Point
from cotune.report.terminal.plain import decimal, fields, number, signed


class DevMeasure(ABC):
    """What a page's sections show of dev, read from the journal and put into words.

    Attributes:
        where: what the rows are called that it is measured on.
        key: the journal's name of it in a single measurement.
        name: what it is called in a sentence.
        unit: what follows a number that stands alone; empty where the caption says it.
        axis: title of an axis.
        scale: title of a scale that has no room for more; empty where the caption says it.
        levels: what numbers are, for captions.
        steps: the same of a chain of levels and the changes between them, without its full stop.
        remark: what else one should know, for captions; empty where nothing.
        chosen_late: what a last step is called that leads to the candidate that was kept.
        panel: title of a prompt's measurements.
        columns: of the table under that title.
    """

    where: ClassVar[str] = "dev"
    key: ClassVar[str]
    name: ClassVar[str]
    unit: ClassVar[str]
    axis: ClassVar[str]
    scale: ClassVar[str]
    levels: ClassVar[str]
    steps: ClassVar[str]
    remark: ClassVar[str]
    chosen_late: ClassVar[str]
    panel: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    _in_race: ClassVar[str]

    def __init__(self, metric: str, groups: Sequence[int] = ()) -> None:
        self._metric, self._groups = metric, groups

    def of(self, measured: Mapping[str, Any]) -> float | None:
        """Of a measurement; None where it is not known."""
        return number(measured.get(self.key))

    def of_cycle(self, cycle: Mapping[str, Any]) -> float | None:
        """Of a cycle's winner."""
        return number(cycle.get(f"dev_{self.key}"))

    def of_race(self, race: Mapping[str, Any]) -> dict[str, float]:
        """Of each prompt of a race by its id, on the rows that it saw."""
        return {i: found for i, value in fields(race.get(self._in_race)).items() if (found := number(value)) is not None}

    def beside(self, score: float | None, rows: int) -> str:
        """The score of a candidate that has one beside its measure; empty where the measure is the score."""
        return ""

    def change_interval(self, before: str, after: str) -> Point | None:
        """95% interval of a change, from the packed rows that are right before and after it; None where it is not known."""
        return None

    def interval(self, level: float, rows: int) -> Point | None:
        """95% interval of a level on so many rows; None where it is not known."""
        return None

    @property
    @abstractmethod
    def title(self) -> str:
        """Its name in a heading, as trusted markup."""

    @abstractmethod
    def rank(self, level: float) -> float:
        """Higher is better."""

    @abstractmethod
    def shown(self, level: float) -> str:
        """A level as a number without its unit."""

    @abstractmethod
    def legend(self, best: float) -> str:
        """What stands after a scale of colours that ends with its best level, as trusted markup."""

    @abstractmethod
    def tick(self, level: float) -> str:
        """A level at an axis."""

    @abstractmethod
    def change(self, change: float) -> str:
        """A difference of levels with its sign."""

    @abstractmethod
    def text(self, level: float, rows: int) -> str:
        """A level with its unit and what it rests on."""

    @abstractmethod
    def other(self, log_loss: float | None) -> str:
        """The log-loss on a separate line, where it is not the measure itself."""


class DevScore(DevMeasure):
    """The metric's score."""

    key, _in_race = "score", "scores"
    name, unit, axis, scale = "score", "", "percent", ""
    levels = "Scores on dev in percent."
    steps = "Score on dev in percent, step by step; changes in points"
    remark = ""
    chosen_late = "the best of all that was measured kept"
    panel = "Scores on dev"
    columns = ("score", "95% interval", "rows", "log-loss", "adapter")

    @property
    def title(self) -> str:
        return esc(self._metric.replace("_", " "))

    def rank(self, level: float) -> float:
        return level

    def shown(self, level: float) -> str:
        return percent(level)

    def legend(self, best: float) -> str:
        return f"<span>{percent(best)} percent on {self.where}</span>"

    def tick(self, level: float) -> str:
        return f"{100 * level:g}"

    def change(self, change: float) -> str:
        return signed_points(change)

    def text(self, level: float, rows: int) -> str:
        return share_text(level, rows, self._metric, self._groups)

    def other(self, log_loss: float | None) -> str:
        return f"\nlog-loss {decimal(log_loss)}"

    def interval(self, level: float, rows: int) -> Point | None:
        return share_interval(level, rows, self._metric, self._groups)

    def change_interval(self, before: str, after: str) -> Point | None:
        return paired_change(before, after, self._groups) if self._metric == "accuracy" else None


class HeldOutAccuracy(DevScore):
    """Accuracy of probes on labelled rows that their fit had not seen, whatever the metric."""

    where = "held-out rows"
    name = "held-out accuracy"
    levels = "Accuracy in percent on labelled rows that the probe’s fit had not seen."
    steps = "Accuracy in percent on labelled rows that the fit had not seen, step by step; changes in points"
    remark = "Held-out log-loss decides, so that a step can lower the accuracy."
    panel = "On held-out rows"

    @property
    def title(self) -> str:
        return "accuracy"

    def text(self, level: float, rows: int) -> str:
        # Which labelled rows belong together is not recorded.
        return f"{percent(level)}% ({counted(rows, 'row')})" if self._groups else share_text(level, rows, "accuracy")

    def interval(self, level: float, rows: int) -> Point | None:
        return None if self._groups else share_interval(level, rows, "accuracy")

    def change_interval(self, before: str, after: str) -> Point | None:
        return None


class DevLogLoss(DevMeasure):
    """The right answers' log-loss, in nats a token: what a search goes by whose answers are written at its end alone."""

    key, _in_race = "log_loss", "log_losses"
    name, unit, axis = "log-loss", "nats", "nats a token, less is better"
    scale = f"log-loss on dev in {axis}"
    remark = (
        "Only finalists write answers to dev, so the search goes by the log-loss of the right ones. Single rows’ losses are "
        "not recorded, so there are no intervals."
    )
    levels = (
        "Log-loss of the right answers on dev in nats a token: less is better, further left; beneath it the score of answers "
        f"that were written. {remark}"
    )
    steps = (
        "Log-loss of the right answers on dev in nats a token, step by step: less is better, so that a good step is below 0 "
        "and leads to the left. Without intervals, for single rows’ losses are not recorded"
    )
    chosen_late = "the best score among the finalists’ answers kept"
    panel = "Log-loss on dev in nats a token, less is better"
    columns = ("log-loss", "rows", "score", "95% interval", "adapter")

    @property
    def title(self) -> str:
        return self.name

    def rank(self, level: float) -> float:
        return -level

    def shown(self, level: float) -> str:
        return decimal(level)

    def legend(self, best: float) -> str:
        return f"<span>{decimal(best)}</span><span>{self.scale}</span>"

    def tick(self, level: float) -> str:
        return f"{level:g}"

    def change(self, change: float) -> str:
        return signed(change, 3).replace("-", "−")

    def text(self, level: float, rows: int) -> str:
        return f"log-loss {decimal(level)} nats a token ({counted(rows, 'row')})"

    def other(self, log_loss: float | None) -> str:
        return ""

    def beside(self, score: float | None, rows: int) -> str:
        return (
            "" if score is None else f"{self._metric.replace('_', ' ')} {share_text(score, rows, self._metric, self._groups)}"
        )


def dev_measure(
    events: Iterable[Mapping[str, Any]], metric: str, groups: Sequence[int] = (), *, by_probe: bool = False
) -> DevMeasure:
    """The measure that a run's page shows throughout: the log-loss where the search knew it alone, else the score.

    Args:
        events: of the journal.
        metric: the metric's name.
        groups: number of the group of each dev row; empty where rows are not grouped.
        by_probe: whether probes were judged on held-out rows.
    """
    if by_probe:
        return HeldOutAccuracy(metric, groups)
    score, log_loss = DevScore(metric, groups), DevLogLoss(metric, groups)
    searched = [(event.get("kind"), fields(event.get("value"))) for event in events]

    def known(measure: DevMeasure) -> bool:
        return any(
            bool(measure.of_race(value)) if kind == "race" else measure.of(value) is not None
            for kind, value in searched
            if kind in ("race", "tuned")
        )

    return log_loss if known(log_loss) and not known(score) else score
