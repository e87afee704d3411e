"""Results and tried prompts in a notebook, and the bar that shows how far a run is."""

from __future__ import annotations

import builtins
import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import termios
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from probe_runs import probe_folder
from report_runs import HOSTILE, run_folder
from rich.cells import cell_len

from cotune.cycle.compare import Tryout
from cotune.cycle.run import Result
from cotune.evaluate.tried import Comparison
from cotune.prompt.prompt import Prompt
from cotune.report.html import run_blocks
from cotune.report.terminal.bar import BarView, Progress, bar_html, bar_line, python_view
from cotune.report.terminal.notebook import notebook_html, summary_line
from cotune.report.terminal.verdict import verdict_text

SUMMARY: dict[str, Any] = {
    "task": "<b>task</b>",
    "arms": {"best_tuned": {"score": 0.942, "ci": [0.918, 0.959], "n": 500, "split": "test"}},
    "gains": {"tuning": {"value": 0.1, "ci": [0.05, 0.15], "p": 0.001}},
    "verdict": "On 500 test rows <script>alert(1)</script>",
}


class Block(HTMLParser):
    """What stands at the top of a piece of HTML, whether all that is opened is closed, and its addresses."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.roots: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str | None] = []
        self.feed(markup)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.roots += [] if self.open else [tag]
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


class ZMQInteractiveShell:
    """Named as the shell of a notebook's kernel, which is what rich goes by."""


def test_a_result_is_short_when_printed_and_one_block_in_a_notebook() -> None:
    result = Result(Path("runs/mine"), SUMMARY)
    assert repr(result) == "Result('runs/mine', best tuned 0.942 (0.918 to 0.959) on 500 test rows)"
    shown = result._repr_html_()
    assert "0.942" in shown and "<script>" not in shown and "+10.0" in shown and "a gain" in shown
    assert Block(shown).roots == ["div"]


@pytest.mark.parametrize("make", [run_folder, probe_folder])
def test_a_whole_run_is_one_block_that_loads_nothing(tmp_path: Path, make: Any) -> None:
    folder = make(tmp_path / "run")
    result = Result(folder, json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    block = Block(result._repr_html_())
    assert block.roots == ["div"] and not block.addresses
    words = " ".join(block.words)
    assert "best tuned" in words and "tuning alone" in words and f"cotune predict {folder} " in words


def test_a_notebooks_kernel_gets_the_verdict_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = verdict_text(SUMMARY)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    assert verdict_text(SUMMARY) == outside != "\n"


def test_what_a_result_holds_is_one_attribute_away(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["references"] = {"majority": {"score": 0.3, "ci": [0.2, 0.4], "n": 400, "log_loss": 1.1}, "tfidf": None}
    result = Result(folder, summary)
    assert result.score == summary["arms"]["best_tuned"]["score"]
    frame = result.to_frame()
    assert frame.loc["best_tuned", "score"] == result.score and frame.loc["majority", "kind"] == "reference"
    assert list(frame.columns) == ["kind", "score", "low", "high", "n", "log_loss"] and "tfidf" not in frame.index
    page = result.report()
    assert page == folder / "report.html" and "<!doctype html>" in page.read_text(encoding="utf-8")


def tried(p: float) -> Tryout:
    flips = [{"input": "<i>row</i>", "gold": "a", "mine": "a", "winner": "b"}] * 12
    return Tryout(Prompt("{text}"), 40, [Comparison("tuned", 0.9, 0.8, 0.1, -0.02, 0.2, p, None, flips)], "x", False)


def test_a_tried_prompt_is_one_block_too() -> None:
    block = Block(tried(0.2)._repr_html_())
    words = " ".join(block.words)
    assert block.roots == ["div"] and "no significant difference" in words and "+10.0" in words
    assert (
        "12 rows flip between right and wrong under the tuned weights, the first 8" in words and words.count("<i>row</i>") == 8
    )
    assert "better" in " ".join(Block(tried(0.01)._repr_html_()).words)


def test_nothing_in_a_text_becomes_markup() -> None:
    assert "<img" not in notebook_html("<img src=x onerror=alert(1)> & more\n  columns")
    assert "\n  columns" in notebook_html("a\n  columns")


def test_a_run_without_scores_says_so() -> None:
    assert summary_line({}) == "no score yet"
    assert Block(Result(Path("x"), {})._repr_html_()).roots == ["div"]


def test_the_bar_says_what_goes_on_and_how_long_it_will_take() -> None:
    clock, drawn, ended = [0.0], [], []
    view = BarView(drawn.append, interval=1.0, end=ended.append, now=lambda: clock[0])
    assert drawn[-1].share is None and "loading" in drawn[-1].text
    view.set_time_left(60.0)
    clock[0] = 20.0
    view.event({"kind": "start", "value": {"task": "mails"}, "active_s": 20.0})
    assert drawn[-1].share == pytest.approx(1 / 3) and drawn[-1].text.endswith("00:20, about 40 s left")
    view.progress("race", "x", 100)
    assert len(drawn) == 2, "not drawn more often than is worth it"
    clock[0] = 30.0
    view.progress("race", "x", 100)
    assert drawn[-1].text == "cotune mails · racing prompts · 00:30, about 30 s left"
    view.close()
    view.close()
    assert [state.share for state in ended] == [1.0]


def test_the_bar_of_a_run_that_failed_is_not_full() -> None:
    clock, drawn = [0.0], []
    view = BarView(drawn.append, now=lambda: clock[0])
    view.set_time_left(60.0)
    clock[0] = 20.0
    view.close(failed=True)
    assert drawn[-1].share == pytest.approx(1 / 3) and drawn[-1].text == "cotune · stopped · 00:20"
    unknown = BarView(drawn.append)
    unknown.close(failed=True)
    assert drawn[-1].share == 0.0, "a bar without a share would go on moving"


def test_the_bar_shows_notes_at_once_and_what_earlier_sessions_did() -> None:
    drawn: list[Progress] = []
    view = BarView(drawn.append, interval=60.0, now=lambda: 0.0)
    assert view.wants_history
    view.event({"n": -1, "kind": "note", "value": {"text": "reading the\nrows"}})
    assert drawn[-1].text == "cotune · reading the rows · 00:00"
    view.event({"kind": "note", "value": {"text": None}})
    view.event({"kind": "tuned", "value": {"prompt_id": "p", "steps": 3, "score": 0.8, "log_loss": 0.5}})
    view.close()
    assert "best so far 0.800" in drawn[-1].text and len(drawn) == 3


@pytest.mark.parametrize("width", [8, 20, 40, 79])
def test_the_bar_keeps_to_the_width_of_a_terminal(width: int) -> None:
    for task in ("mails " * 20, "邮件分类任务" * 10):
        line = bar_line(Progress(0.5, f"cotune {task} · tuning"), width=width)
        assert cell_len(line) <= width and line.startswith("█")


def test_the_bar_is_drawn_for_where_it_is_shown() -> None:
    state = Progress(0.5, "cotune <b> · tuning")
    assert bar_line(state).startswith("█" * 12 + "░" * 12 + " cotune <b>") and bar_line(state, unicode=False).startswith("####")
    assert Block(bar_html(state)).roots == ["div"] and 'value="0.500"' in bar_html(state)
    assert "value" not in bar_html(Progress(None, "x"))
    plain = io.StringIO()
    python_view(plain).close()
    assert "\r" not in plain.getvalue() and plain.getvalue().splitlines()[-1].startswith("cotune · ended")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    python_view(terminal).close()
    assert terminal.getvalue().startswith("\r\x1b[K") and terminal.getvalue().endswith("\r\x1b[K"), "the line is taken away"
    terminal.close()
    python_view(Terminal()).close()


def test_a_line_is_as_wide_as_the_terminal_that_it_is_drawn_in() -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as stream:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        view = python_view(stream)
        view.event({"kind": "note", "value": {"text": "resuming a run of which there is much to say " * 3}})
        written = b""
        while select.select([leader], [], [], 0.1)[0]:
            written += os.read(leader, 10_000)
        os.close(leader)
    shown = written.decode().split("\r\x1b[K")
    assert len(shown) == 3 and all(cell_len(line) <= 39 for line in shown) and cell_len(shown[-1]) > 30


def test_a_run_by_probes_shows_its_layers_and_what_is_taken_for_what(tmp_path: Path) -> None:
    pictures = dict(run_blocks(probe_folder(tmp_path / "run")))
    assert list(pictures) == ["Log-loss by layer", "What is taken for what"]
    curve, table = pictures.values()
    # On a light page and on a dark one: no colour but that of the text, and tints that let the ground through.
    assert "read after layer 20" in curve and set(re.findall(r'(?:stroke|fill)="(\w+)"', curve)) == {"none", "currentColor"}
    assert set(re.findall(r"background:(\w+)", table)) == {"none", "rgba"} and "1 animal" in table
    numbers = [int(n) for n in re.findall(r"<td[^>]*>(\d+)</td>", table)]
    assert sum(numbers) == 40 and re.search(r"(\d+) of 40 test rows right", table)


def test_pictures_of_many_labels_of_hostile_ones_and_of_no_run(tmp_path: Path) -> None:
    labels = (*HOSTILE, *(f"label {number}" for number in range(20)))
    pictures = run_blocks(probe_folder(tmp_path / "run", labels=labels, texts=HOSTILE))
    for _, markup in pictures:
        assert "<script" not in markup and "<img" not in markup
        Block(markup)
    assert "right label" in pictures[-1][1]
    assert run_blocks(tmp_path / "gone") == [] and run_blocks(run_folder(tmp_path / "late", late=True)) == []


def test_a_score_without_an_interval_is_told_without_one() -> None:
    arms = {"best_tuned": {"score": 0.5, "ci": [None, None], "n": 1}}
    assert summary_line({"arms": arms, "best": {"arm": "best_tuned"}}).endswith("0.500 on 1 test row")
