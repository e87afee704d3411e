"""What the commands say of their workers, on a terminal and in a log."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from jobs import numbers

from cotune.cli import workers
from cotune.cli.workers import Meter, running, tell_summary
from cotune.errors import BusyError
from cotune.executor import Choice, Done, part_folder
from cotune.executor.job import perform


class Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_rows_time_left_and_the_pace_of_each_worker(terminal: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = [0.0]
    screen = Screen(terminal)
    monkeypatch.setattr("sys.stderr", screen)
    meter = Meter(4000, now=lambda: clock[0])
    for number in range(20):
        clock[0] += 1.0
        meter.told(Done(str(number), tmp_path, 100, f"host:{number % 2}", 1.0 + number % 2))
    shown = screen.getvalue()
    if terminal:
        assert shown.count("\r") == 20 and "\n" not in shown
        assert shown.endswith("\r2,000 of 4,000 rows, about 20 s left; 2 workers, 100.0 and 50.0 rows/s")
    else:
        assert shown == ""
        clock[0] = 31.0
        meter.told(Done("a", tmp_path, 100, "host:2", 4.0))
        assert screen.getvalue() == "2,100 of 4,000 rows, about 28 s left; 3 workers, 25.0 to 100.0 rows/s\n"


def test_the_last_word_counts_what_was_lost_and_what_was_there(capsys: pytest.CaptureFixture[str]) -> None:
    tell_summary({"workers": {"a:1": 20.0}, "lost_workers": 2, "done_before": 1200}, "text", "processor: AVX2, AVX512")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "1 worker, 20.0 texts/s; 2 workers lost, their chunks were done again; 1,200 texts done before"
    assert second.endswith("last digits may depend on which worker computed a text: processor: AVX2, AVX512.")


def test_what_is_kept_is_told_by_whose_it_is_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, choice = tmp_path / "a.csv", Choice("local")
    with pytest.raises(KeyboardInterrupt), running(choice, out) as executor:
        perform(numbers(1)[0], executor.storage)
        raise KeyboardInterrupt
    assert capsys.readouterr().err == f"1 chunk kept in {out}.parts; the same command resumes.\n"
    with part_folder(out), pytest.raises(BusyError), running(choice, out):
        pass
    assert capsys.readouterr().err == "" and workers.choice_of(None, None) is None
