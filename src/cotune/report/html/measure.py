"""The measure of candidates on dev that a page shows: the metric's score, or the log-loss where that decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotune.errors import counted
from cotune.evaluate.words import capitalised, metric_words, signed
from cotune.plain import between, decimal, fields, number
from cotune.report.html.intervals import paired_change, share_interval, share_text
from cotune.report.html.markup import esc, percent, signed_points
from cotune.report.html.plot import Point


class DevMeasure:
    """The sections' way of reading measurements on dev from the journal, and their wording; here for the metric's score.

    Args:
        groups: group number of each dev row; empty if rows are not grouped.
    """

    where = "dev"
    """The rows that it is measured on."""
    key, _in_race = "score", "scores"
    """Keys of the measure in events of the journal."""
    name, unit, axis, scale = "score", "", "percent", ""
    """Name in a sentence, unit behind a number, titles of an axis and of a scale; empty if the caption says it."""
    levels = "Scores on dev in percent."
    steps = "Score on dev in percent, step by step; changes in points"
    """Explanation of a chain of levels and their changes, without a full stop."""
    remark = ""
    chosen_late = "the best of all that was measured kept"
    """Name of a last step that leads to the candidate that was kept."""
    panel = "Scores on dev"
    columns = ("score", "95% interval", "rows", "log-loss", "adapter")
    """Title and column heads of a prompt's measurements."""

    title = ""
    """Name in a heading, as trusted markup; the metric's by default."""

    def __init__(self, metric: str, groups: Sequence[int] = ()) -> None:
        self._metric, self._groups = metric, groups
        self.title = self.title or esc(metric_words(metric))

    def of(self, measured: Mapping[str, Any]) -> float | None:
        """Level of a measurement; None if not known."""
        return number(measured.get(self.key))

    def of_cycle(self, cycle: Mapping[str, Any]) -> float | None:
        """Level of a cycle's winner."""
        return number(cycle.get(f"dev_{self.key}"))

    def of_race(self, race: Mapping[str, Any]) -> dict[str, float]:
        """Level of each prompt of a race by prompt id, on the rows that it was scored on."""
        return {i: level for i, value in fields(race.get(self._in_race)).items() if (level := number(value)) is not None}

    def rank(self, level: float) -> float:
        """Sort key of a level; higher is better."""
        return level

    def shown(self, level: float) -> str:
        """A level as a number without its unit."""
        return percent(level)

    def legend(self, best: float) -> str:
        """Text behind a colour scale that ends with its best level, as trusted markup."""
        return f"<span>{percent(best)} percent on {self.where}</span>"

    def tick(self, level: float) -> str:
        """Format a level at an axis."""
        return f"{100 * level:g}"

    def change(self, change: float) -> str:
        """Format a difference of levels with its sign."""
        return signed_points(change)

    def text(self, level: float, rows: int) -> str:
        """Format a level with its unit, interval and number of rows."""
        return share_text(level, rows, self.interval(level, rows))

    def other(self, log_loss: float | None) -> str:
        """The log-loss on a separate line, unless it is the measure."""
        return f"\nlog-loss {decimal(log_loss)}"

    def beside(self, score: float | None, rows: int) -> str:
        """The score in words next to the measure; empty if the measure is the score."""
        return ""

    def interval(self, level: float, rows: int) -> Point | None:
        """95% interval of a level on a number of rows; None if not known."""
        return share_interval(level, rows, self._metric, self._groups)

    def of_highest(self, which: str, level: float, rows: int) -> str:
        """A sentence on the interval of the highest of some levels; the remark if it is not known."""
        ci = self.interval(level, rows)
        return f"The 95% interval of the highest {which} is {between(ci, percent)}." if ci else self.remark

    def change_interval(self, before: str, after: str) -> Point | None:
        """95% interval of a change, from the packed flags of right rows before and after it; None if not known."""
        return paired_change(before, after, self._groups) if self._metric == "accuracy" else None


class HeldOutScore(DevMeasure):
    """Score of probes on rows held out from their fit: accuracy of labels with any metric, else the metric's."""

    where = "held-out rows"
    panel = "On held-out rows"

    def __init__(self, metric: str, groups: Sequence[int] = ()) -> None:
        super().__init__(metric, groups)
        # The metric may be named by a file, or by a journal from elsewhere; sections take these words as trusted markup.
        words = esc(metric_words(metric))
        self.name = f"held-out {words}"
        self.levels = f"{capitalised(words)} in percent on labelled rows that the probe’s fit had not seen."
        self.steps = (
            f"{capitalised(words)} in percent on labelled rows that the fit had not seen, step by step; changes in points"
        )
        self.remark = f"Held-out log-loss decides, so that a step can lower the {words}."

    def interval(self, level: float, rows: int) -> Point | None:
        # The journal does not record the groups of labelled rows.
        return None if self._groups else share_interval(level, rows, self._metric)


class DevLogLoss(DevMeasure):
    """Log-loss of the right answers in nats per token, for a search whose answers are generated only at the end."""

    key, _in_race = "log_loss", "log_losses"
    name, unit, axis, title = "log-loss", "nats", "nats a token, less is better", "log-loss"
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
        if score is None:
            return ""
        return f"{metric_words(self._metric)} {share_text(score, rows, super().interval(score, rows))}"

    def interval(self, level: float, rows: int) -> Point | None:
        return None

    def change_interval(self, before: str, after: str) -> Point | None:
        return None


def dev_measure(
    events: Sequence[Mapping[str, Any]], metric: str, groups: Sequence[int] = (), *, by_probe: bool = False
) -> DevMeasure:
    """The measure on a run's page: the log-loss if the search had no score, else the score.

    With ``by_probe``, which says that probes were scored on held-out rows, it is theirs.
    """
    if by_probe:
        judged = next((fields(event.get("value")).get("metric") for event in events if event.get("kind") == "verdict"), None)
        return HeldOutScore(str(judged or "accuracy"), groups)
    score, log_loss = DevMeasure(metric, groups), DevLogLoss(metric, groups)
    values = {kind: [fields(event.get("value")) for event in events if event.get("kind") == kind] for kind in ("race", "tuned")}

    def known(measure: DevMeasure) -> bool:
        return any(map(measure.of_race, values["race"])) or any(measure.of(value) is not None for value in values["tuned"])

    return log_loss if known(log_loss) and not known(score) else score
