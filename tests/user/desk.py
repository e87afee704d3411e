"""What a new user has: a spreadsheet with odd headers, blank rows and numbers for labels; and two runs on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from command_line import Ended, call
from tiny import save_tiny

WORDS = {1: ("broken", "late", "wrong"), 3: ("fine", "usual", "plain"), 5: ("great", "quick", "lovely")}
HEADER = "Customer message,Order no.,Stars (1-5)"


Cotune = Callable[..., Ended]


def sheet_rows(count: int, start: int = 0) -> list[str]:
    stars = [list(WORDS)[i % 3] for i in range(start, start + count)]
    return [f"{WORDS[s][i % 2]} parcel {i} {WORDS[s][i % 3]},{i},{s}" for i, s in enumerate(stars, start)]


@dataclass(frozen=True)
class Desk:
    """The user's folder.

    Attributes:
        sheet: the labelled spreadsheet.
        out: the run's folder.
        arguments: of the run, but for its budget.
        said: what the first run printed, and the second one, which got a larger budget.
    """

    sheet: Path
    out: Path
    arguments: tuple[str, ...]
    said: tuple[Ended, Ended]

    @property
    def bundle(self) -> Path:
        return self.out / "best"

    def run(self, budget: str, *more: str) -> Ended:
        return call("run", *self.arguments, "--budget", budget, *more)


def make_desk(folder: Path) -> Desk:
    sheet, out = folder / "reviews.csv", folder / "runs" / "reviews"
    rows = [*sheet_rows(90), ",91,5", "no stars,92,"]
    sheet.write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    arguments = [str(sheet), "--input", "Customer message", "--output", "Stars (1-5)", "--out", str(out)]
    arguments += ["--model", str(save_tiny(folder / "model")), "data.on_blank=skip", "limit.test=24", "tune.rank=2"]
    arguments += ["search.pool=4", "search.max_cycles=1", "evaluate.robustness=false"]
    arguments += ["engine.threads=1", "engine.dtype=float32"]
    first, second = (call("run", *arguments, "--budget", *more) for more in (("25ktok",), ("30ktok", "--quiet")))
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    return Desk(sheet, out, tuple(arguments), (first, second))
