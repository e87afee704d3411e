"""Free text."""

from __future__ import annotations

from collections.abc import Sequence

from cotune.task.values.kinds.base import OutputKind


class TextKind(OutputKind):
    """Free text."""

    name = "text"
    samples = ("The card is on its way.", "Ask the bank for a new one.", "yes", "Tuesday, at noon")
    about = "free text"
    default_metric = "token_f1"
    sampled = True

    def recognise(self, cells: Sequence[str]) -> str:
        """Recognized if no other kind is."""
        return f"{len({cell.strip() for cell in cells}):,} of {len(cells):,} outputs differ"

    def may_name_rows(self, cells: Sequence[str]) -> bool:
        return len({cell.strip() for cell in cells}) == len(cells)
