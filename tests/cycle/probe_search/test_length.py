"""Long rows and a small budget: rows are shortened so that there is room for tuning, and everything later reads them so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import SETTINGS, Ended, journal_of, labelled_rows, of_kind, summary_of, without_times, write_csv

from cotune.cache import cache_folder

if TYPE_CHECKING:
    from conftest import Bench

KILLED = -9
WORDS = 170


def run(bench: Bench, out: Path, *more: str, budget: str = "120ktok", words: int = WORDS, **options: Any) -> Ended:
    if not out.exists():
        # Else it would be told that the runs before had opened its test.
        shutil.rmtree(cache_folder("ledger"), ignore_errors=True)
    rows = [{**row, "text": row["text"] + " so" * (words if i % 2 else 5)} for i, row in enumerate(labelled_rows(60))]
    data = write_csv(out.parent / f"{words}.csv", rows)
    settings = ("--model", str(bench.model), "--budget", budget, "--out", str(out), *SETTINGS, "tune.readout=auto")
    brief = ("search.max_cycles=1", "limit.test=20", "evaluate.robustness=false")
    return bench.commands.run("run", str(data), "--input", "text", "--output", "label", *settings, *brief, *more, **options)


@pytest.fixture(scope="module")
def finished(bench: Bench) -> Path:
    out = bench.folder / "shortened"
    ended = run(bench, out)
    assert ended.code == 0, ended.stderr
    assert "rows are read up to about" in ended.stdout
    return out


def test_rows_are_shortened_until_a_tuning_has_room(finished: Path) -> None:
    read = of_kind(finished, "length")
    assert [value["row"] for value in read] == [128, 256] and [value["kept"] for value in read] == [True, False]
    assert read[0]["max_tokens"] > 128, "the prompt's own tokens are not taken from the row"
    # The states that were read for it are those of the race.
    embedded = [value["stage"] for value in of_kind(finished, "embed")]
    assert embedded[:2] == ["length", "length"]
    assert of_kind(finished, "train"), "there is room for tuning"
    assert summary_of(finished)["arms"]["best_tuned"]["n"] == 20
    assert summary_of(finished)["length"] == {name: read[0][name] for name in ("row", "max_tokens")}


def test_the_bundle_shortens_rows_likewise(bench: Bench, finished: Path, tmp_path: Path) -> None:
    manifest = json.loads((finished / "best" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["engine"]["max_tokens"] == of_kind(finished, "length")[0]["max_tokens"]
    for words, truncated in ((5, False), (WORDS, True)):
        answered = bench.commands.run("predict", str(finished / "best"), "--json", "--input", "apple 1 apple" + words * " so")
        assert answered.code == 0, answered.stderr
        assert ("too long" in answered.stderr) is truncated
    (prompt := tmp_path / "mine.txt").write_text("Name the kind of thing. {text}", encoding="utf-8")
    tried = bench.commands.run("try", str(finished), "--prompt", str(prompt))
    assert tried.code == 0, tried.stderr
    assert "lost a part of the text under your prompt" in tried.stdout


def test_a_killed_run_reads_the_same_rows(bench: Bench, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for at in (("line", "length", 1), ("line", "train", 1)):
        assert run(bench, out, at=at).code == KILLED, at
    ended = run(bench, out)
    assert ended.code == 0, ended.stderr
    assert without_times(journal_of(out)) == without_times(journal_of(finished))


def test_the_users_longest_prompt_fits_the_limit(bench: Bench, finished: Path, tmp_path: Path) -> None:
    (prompt := tmp_path / "mine.txt").write_text("Name the kind. " * 20 + "{text}", encoding="utf-8")
    out = tmp_path / "run"
    ended = run(bench, out, "--prompt", str(prompt), at=("line", "race", 1))
    assert ended.code == KILLED, ended.stderr
    assert of_kind(out, "length")[0]["max_tokens"] > of_kind(finished, "length")[0]["max_tokens"] + 60


def test_with_hardly_any_budget_rows_are_shortened_unseen(bench: Bench, tmp_path: Path) -> None:
    assert run(bench, tmp_path / "run", budget="8ktok").code == 2
    assert run(bench, tmp_path / "run", budget="20ktok", at=("line", "pool", 1)).code == KILLED
    (value,) = of_kind(tmp_path / "run", "length")
    assert (value["row"], value["log_loss"], value["kept"], value["reads_on"]) == (128, None, True, False)


@pytest.mark.parametrize(
    ("more", "named"),
    [(("engine.max_tokens=1024",), {}), ((), {"budget": "4Mtok"}), ((), {"words": 5})],
    ids=["a limit is set", "there is room", "rows are short"],
)
def test_rows_stay_whole(bench: Bench, tmp_path: Path, more: tuple[str, ...], named: dict[str, Any]) -> None:
    assert run(bench, tmp_path / "run", *more, at=("line", "pool", 1), **named).code == KILLED
    assert not of_kind(tmp_path / "run", "length")
