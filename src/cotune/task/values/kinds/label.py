"""Labels: one of several texts, chosen by probability."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.errors import counted
from cotune.task.values.kinds.base import Bounds, OutputKind


class LabelKind(OutputKind):
    """The kind of labels."""

    name = "label"
    samples = ("card arrival", "card_lost", "Refund", "other")
    about = "a label"
    mode = "choose"
    guess_told = False
    output_noun = "label"
    fill_hint = "Label the row"
    noun = "category"
    prompt_noun = "classification prompt"
    cues = ("Label:", "It is")
    systems = ("You know all about sorting texts by <kind>.", "You are a classifier.")
    placeholders = ", {labels} for the list of labels"
    advice = "Explain how labels are told apart."

    def summary(self, bounds: Bounds) -> str:
        return counted(len(bounds.labels), "label")

    def recognise(self, cells: Sequence[str]) -> str:
        """Recognized if values repeat: at most half as many different ones as rows."""
        different = len({cell.strip() for cell in cells})
        reason = f"{counted(different, 'different value')} in {counted(len(cells), 'row')}"
        return "" if different > max(2, len(cells) // 2) else reason

    def stratum(self, output: str) -> str:
        return output

    def form(self, bounds: Bounds) -> str:
        return "{labels}"
