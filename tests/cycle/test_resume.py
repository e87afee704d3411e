"""Runs that are killed, stopped, refused or out of space, and what the same command makes of their folder."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from cycle_runs import SETTINGS, Ended, journal_of, summary_of, without_times

from cotune.config import RunConfig
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.folder import open_folder
from cotune.cycle.run import _open_journal
from journals import write_journal

if TYPE_CHECKING:
    from conftest import Bench

KILLED = -9

# Each chain is one run: killed at a moment, run again and killed at the next, until the last session comes to the end. Counts
# are those of a session; what stands in the journal is not done again and does not count.
CHAINS = [
    pytest.param(
        [
            (("line", "any", 9), "after a journal line in the middle"),
            (("torn line", "train", 1), "inside the journal line of a training"),
            (("rename", "adapter_config.json", 2), "between an adapter's two files"),
            (("line", "arm", 3), "between the arms of the test"),
            (("rename", "summary.json", 1), "before the summary gets its name"),
        ],
        id="between what is written",
    ),
    pytest.param(
        [
            (("pass", "race", 7), "inside the prompt race"),
            (("optimizer step", "", 17), "inside an optimizer step"),
            (("pass", "test", 2), "inside an arm's test scoring"),
            (("bundle", "", 1), "while the bundle is saved"),
        ],
        id="inside what is computed",
    ),
    pytest.param(
        [
            (("rename", "steady.safetensors", 3), "between a checkpoint and its rename"),
            (("adapter saved", "", 2), "between an adapter and its journal line"),
            (("rename", "decay-*.safetensors", 1), "between the decay's checkpoint and its rename"),
            (("clean", "", 1), "behind the summary, before checkpoints are cleaned away"),
        ],
        id="between weights and their names",
    ),
]


def same_as(whole: Path, out: Path) -> None:
    assert summary_of(out) == summary_of(whole)
    assert without_times(journal_of(out)) == without_times(journal_of(whole))
    files = [sorted(path.relative_to(folder / "best") for path in (folder / "best").rglob("*")) for folder in (whole, out)]
    assert files[0] == files[1]
    for name in ("prompt.json", "decision.json", "adapter/adapter_model.safetensors"):
        assert (out / "best" / name).read_bytes() == (whole / "best" / name).read_bytes()
    assert not [path for path in out.rglob(".*") if path.name not in (".lock", ".best.lock")]
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(("budget", "told"), [("60s", True), ("10m", False), ("1ktok", False)])
def test_a_run_that_is_resumed_says_whether_its_time_is_over(tmp_path: Path, budget: str, told: bool) -> None:
    write_journal(tmp_path, [{"n": 0, "kind": "race", "key": "0", "value": 1, "active_s": 75.0}])
    said: list[dict[str, Any]] = []
    view = SimpleNamespace(event=said.append)
    _open_journal(tmp_path, parse_budget(budget), time.monotonic(), view)
    (note,) = (event["value"]["text"] for event in said)
    assert note.startswith(f"resuming {tmp_path} after 1 step in 1 min 15 s")
    assert ("the budget of 1 min 00 s is spent" in note) is told


@pytest.mark.parametrize("chain", CHAINS)
def test_killed_and_run_again(bench: Bench, whole: Path, tmp_path: Path, chain: list[tuple[tuple[str, str, int], str]]) -> None:
    journal = tmp_path / "run" / "journal.jsonl"
    kept = b""
    for at, where in chain:
        killed = bench.run(tmp_path / "run", at=at)
        assert killed.code == KILLED, f"the moment never came: {where}: {killed.stderr}"
        found = journal.read_bytes()
        assert found.startswith(kept), f"what stood in whole lines was written anew before the kill {where}"
        kept = found[: found.rfind(b"\n") + 1]
    again = bench.run(tmp_path / "run")
    assert again.code == 0, again.stderr
    same_as(whole, tmp_path / "run")
    assert journal.read_bytes().startswith(kept)


def test_killed_over_and_over(bench: Bench, whole: Path, tmp_path: Path) -> None:
    """A run that is killed every few lines still gets to the same end, as each session adds its part."""
    lines, kills = 0, 0
    while True:
        ended = bench.run(tmp_path / "run", at=("line", "any", 24))
        if ended.code == 0:
            break
        assert ended.code == KILLED, ended.stderr
        kills += 1
        now = len(journal_of(tmp_path / "run"))
        assert now == lines + 24
        lines = now
    assert kills >= 3
    same_as(whole, tmp_path / "run")


def test_the_journal_leaves_the_test_sealed_until_arms_are_frozen(whole: Path) -> None:
    kinds = [event["kind"] for event in journal_of(whole)]
    opened = kinds.index("open_test")
    assert kinds.count("open_test") == 1
    assert all(e["value"].get("stage") != "test" for e in journal_of(whole)[:opened] if isinstance(e["value"], dict))


def test_another_seed_gives_another_journal(bench: Bench, whole: Path, tmp_path: Path) -> None:
    bench.run(tmp_path / "run", seed=5, at=("line", "race", 1))
    other, mine = without_times(journal_of(tmp_path / "run")), without_times(journal_of(whole))
    assert other != mine[: len(other)]


def test_a_finished_run_is_told_again_without_its_model(bench: Bench, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file() and path.name != ".lock"}
    again = bench.run(whole, "--json", at=("model opened", "", 1))
    assert again.code == 0, "a model was opened: " + again.stderr
    told = json.loads(again.stdout.splitlines()[-1])
    assert told.pop("out") == str(whole)
    assert told == json.loads((whole / "summary.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path in before} == before


def test_a_run_tells_nothing_but_its_own_story(whole: Path, bench: Bench, tmp_path: Path) -> None:
    ended = bench.run(tmp_path / "run", at=("line", "race", 1))
    assert ended.stderr == ""
    assert "\x1b" not in ended.stdout


def test_a_folder_that_is_taken_over_is_told(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"name": "a", "data": {"train": "a.csv", "input": "text", "output": "label"}})
    other = config.model_copy(update={"budget": "75s"})
    for given, told in ((config, ""), (config, ""), (other, "budget: '10m' -> '75s'"), (other, "")):
        with open_folder(tmp_path, given, {"data": "x"}) as folder:
            assert told in folder.replaced and bool(told) == bool(folder.replaced)
            # A run that is stopped in the first second of its search leaves this.
            (tmp_path / "row_hashes.json").write_text("{}", encoding="utf-8")


# Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("tune.rank=8",), "tune.rank: 4 -> 8"),
        (("metric=macro_f1",), "metric: not set -> 'macro_f1'"),
        (("--budget", "50ktok"), "budget: '60ktok' -> '50ktok'"),
        (("--seed", "5"), "seed: 4 -> 5"),
        (("limit.train=60",), "limit.train: 80 -> 60"),
    ],
)
def test_a_changed_config_is_refused_and_told(bench: Bench, whole: Path, settings: tuple[str, ...], told: str) -> None:
    before = (whole / "journal.jsonl").read_bytes()
    refused = bench.run(whole, *settings)
    assert refused.code == 2
    assert told in refused.stderr
    assert "--out" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (whole / "journal.jsonl").read_bytes() == before


def test_a_budget_may_be_spelled_otherwise(bench: Bench, whole: Path, tmp_path: Path) -> None:
    assert bench.run(whole, "--budget", "0.06Mtok").code == 0
    out = tmp_path / "run"
    assert bench.run(out, at=("line", "plan", 1)).code == KILLED
    again = bench.run(out, "--budget", "60000tok", at=("line", "plan", 2))
    assert again.code == 0, again.stderr
    same_as(whole, out)


def test_changed_data_are_refused(bench: Bench, whole: Path, tmp_path: Path) -> None:
    text = bench.rows.read_text()
    try:
        bench.rows.write_text(text.replace("apple", "melon"))
        refused = bench.run(whole)
    finally:
        bench.rows.write_text(text)
    assert refused.code == 2
    assert "data:" in refused.stderr


def test_another_prompt_is_refused(bench: Bench, whole: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("What is this?\n{text}")
    refused = bench.run(whole, "--prompt", str(mine))
    assert refused.code == 2
    assert "prompts:" in refused.stderr


def test_a_folder_of_something_else_is_refused(bench: Bench, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(whole / "journal.jsonl", out)
    refused = bench.run(out)
    assert refused.code == 2
    assert "journal without its config" in refused.stderr
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == ["journal.jsonl"]


@pytest.mark.parametrize(
    "name", ["checkpoints/model.bin", "jobs/letter.txt", "best/notes.md", "finish", "summary.json", "journal.jsonl"]
)
def test_what_the_user_has_in_the_folder_is_neither_replaced_nor_removed(bench: Bench, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    refused = bench.run(out)
    told(refused, "the folder holds", name.partition("/")[0].removesuffix(".jsonl"), "--out")
    assert (out / name).read_text() == "mine" and not (out / "config.json").exists()


def test_a_new_run_that_is_refused_leaves_what_was_in_its_folder_alone(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "rows.csv").write_text("mine")
    told(bench.run(out, "engine.device=cuda:7"), "cuda")
    assert [path.name for path in out.iterdir()] == ["rows.csv"]
    config = RunConfig.model_validate({"name": "a", "data": {"train": "a.csv", "input": "text", "output": "label"}})
    with open_folder(out, config, {"data": "x"}) as folder:
        # An earlier bundle's adapter is copied before the budget is checked.
        (out / "adapters").mkdir()
        folder.take_back()
    assert [path.name for path in out.iterdir() if path.name != ".lock"] == ["rows.csv"]
    with open_folder(out, config, {"data": "x"}) as folder:
        assert folder.new
    with open_folder(out, config, {"data": "x"}) as folder:
        assert not folder.new


def test_a_damaged_journal_is_told_and_left_alone(bench: Bench, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    lines = (out / "journal.jsonl").read_bytes().split(b"\n")
    lines[4] = lines[4][:20]
    (out / "journal.jsonl").write_bytes(b"\n".join(lines))
    refused = bench.run(out)
    assert refused.code == 1
    assert "line 5" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (out / "journal.jsonl").read_bytes() == b"\n".join(lines)


def test_an_altered_journal_is_cut_where_the_user_says_so(bench: Bench, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
    arm = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == "arm")
    event = json.loads(lines[arm])
    event["value"]["score"] = 0.123
    lines[arm] = json.dumps(event) + "\n"
    (out / "journal.jsonl").write_text("".join(lines))
    refused = bench.run(out)
    assert refused.code == 1 and f"line {arm + 1} " in refused.stderr and "--cut-journal" in refused.stderr
    ended = bench.run(out, "--cut-journal")
    assert ended.code == 0, ended.stderr
    assert (out / "journal.jsonl.damaged-1").read_text() == "".join(lines)
    same_as(whole, out)


def unfinished(whole: Path, out: Path) -> Path:
    """A copy of a run whose summary is gone, so that the next session goes through its journal again."""
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    return out


def told(ended: Ended, *fragments: str, code: int = 2) -> None:
    assert ended.code == code and "Traceback" not in ended.stderr, ended.stderr
    assert all(fragment in ended.stderr for fragment in fragments), ended.stderr


def test_a_folder_that_lacks_something_is_told_what(bench: Bench, whole: Path, tmp_path: Path) -> None:
    out = unfinished(whole, tmp_path / "adapters")
    shutil.rmtree(out / "adapters")
    told(bench.run(out), "trained weights", "are missing", "adapters/", "--out")

    out = unfinished(whole, tmp_path / "identity")
    config = json.loads((out / "config.json").read_text())
    del config["identity"]
    (out / "config.json").write_text(json.dumps(config))
    told(bench.run(out), "config cannot be read")
    (out / "config.json").write_text("[" * 100_000)
    told(bench.run(out), "config cannot be read")

    out = unfinished(whole, tmp_path / "setting")
    config = json.loads((out / "config.json").read_text())
    config["config"]["tune"]["gone"] = 1
    (out / "config.json").write_text(json.dumps(config))
    told(bench.run(out), "config cannot be read", "tune.gone", "this version of cotune does not know", "--out")

    out = unfinished(whole, tmp_path / "locked")
    (out / ".lock").unlink()
    (out / ".lock").mkdir()
    told(bench.run(out), "cannot write")


def test_a_summary_that_cannot_be_read_is_made_again(bench: Bench, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    text = (out / "summary.json").read_text()
    for damaged in (text[: len(text) // 2], "[" * 100_000):
        (out / "summary.json").write_text(damaged)
        shown = bench.commands.run("report", str(out))
        assert shown.code == 0 and shown.stdout.startswith("Report: "), shown.stderr
        assert "summary.json cannot be read" in (out / "report.html").read_text()
    ended = bench.run(out)
    assert ended.code == 0, ended.stderr
    same_as(whole, out)


def test_a_model_that_has_changed_is_named(bench: Bench, whole: Path, tmp_path: Path) -> None:
    out = unfinished(whole, tmp_path / "run")
    path = bench.model / "generation_config.json"
    text = path.read_text()
    try:
        path.write_text(text + " ")
        told(bench.run(out), "the model is not the one", str(bench.model), "--out")
    finally:
        path.write_text(text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_run_of_a_machine_with_a_gpu_is_told_elsewhere(bench: Bench, whole: Path, tmp_path: Path) -> None:
    out = unfinished(whole, tmp_path / "run")
    events = journal_of(out)
    next(event for event in events if event["kind"] == "engine")["value"]["device"] = "cuda:0"
    write_journal(out, events)
    told(bench.run(out), "started on cuda:0", "no cuda device", "--out")
    # A prompt is compared where both can be scored, whatever device the run had.
    tried = bench.commands.run("try", str(out), "--text", "What is {text}?", "--json")
    assert tried.code == 0 and json.loads(tried.stdout)["comparisons"], tried.stderr


def test_a_second_process_is_refused_until_the_first_is_gone(bench: Bench, whole: Path, tmp_path: Path) -> None:
    first = bench.run(tmp_path / "run", at=("line", "race", 1), signal="STOP")
    assert first.code is None
    try:
        lines = (tmp_path / "run" / "journal.jsonl").read_bytes()
        second = bench.run(tmp_path / "run")
        assert second.code == 3
        assert "another process" in second.stderr
        assert "Traceback" not in second.stderr
        assert (tmp_path / "run" / "journal.jsonl").read_bytes() == lines
    finally:
        woken = bench.commands.send(first, "CONT")
    assert woken.code == 0
    # A session that nothing killed: the same seed gives the same journal.
    same_as(whole, tmp_path / "run")


# Stopping on purpose, and a full disk -----------------------------------------------------------------------------


def test_an_interrupt_says_how_to_go_on(bench: Bench, whole: Path, tmp_path: Path) -> None:
    for at, signal, code in ((("pass", "race", 3), "INT", 130), (("optimizer step", "", 20), "TERM", 143)):
        stopped = bench.run(tmp_path / "run", at=at, signal=signal)
        assert stopped.code == code
        assert "run the same command to continue" in stopped.stderr
        assert str(tmp_path / "run") in stopped.stderr
        assert "Traceback" not in stopped.stderr
    assert bench.run(tmp_path / "run").code == 0
    same_as(whole, tmp_path / "run")


def test_a_run_that_had_hardly_begun_leaves_its_folder_to_another(bench: Bench, tmp_path: Path) -> None:
    """Neither one that was killed while its model was loading, nor one that was refused, is in the way of the next."""
    out = tmp_path / "run"
    assert bench.run(out, budget="50ktok", at=("line", "start", 1)).code == -9
    assert bench.run(out, at=("line", "start", 1)).code == -9
    assert not out.with_name("run-2").exists()
    other = bench.run(out, seed=5, at=("line", "plan", 1))
    assert other.code == -9, other.stderr
    assert [event["value"]["seed"] for event in journal_of(out) if event["kind"] == "start"] == [5]
    # From here on there is something to lose.
    told(bench.run(out, seed=6), "seed: 5 -> 6")
    shutil.rmtree(out)
    stopped = bench.run(out, at=("line", "engine", 1), signal="INT")
    assert stopped.code == 130 and "Nothing was done yet" in stopped.stderr
    assert not out.exists()


def _told_of_space(ended: Ended) -> None:
    assert ended.code == 2
    assert "Traceback" not in ended.stderr
    assert "cannot write" in ended.stderr
    assert "Free some space" in ended.stderr


def test_a_full_disk_is_told_and_gone_on_after(bench: Bench, whole: Path, tmp_path: Path) -> None:
    """No file may grow above a limit, which fails writes as a full disk does."""
    out = tmp_path / "run"
    for limit in (3_000, 12_000, 60_000):
        _told_of_space(bench.run(out, file_limit=limit))
    assert bench.run(out).code == 0
    same_as(whole, out)


def test_a_disk_that_was_full_from_the_start_is_told(bench: Bench, tmp_path: Path) -> None:
    _told_of_space(_on_full_disk(bench, tmp_path / "run"))


def _on_full_disk(bench: Bench, out: Path) -> Ended:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    out.mkdir()
    (out / "journal.jsonl").symlink_to("/dev/full")
    return bench.run(out)


def test_a_run_in_a_bundles_folder_is_refused(bench: Bench, whole: Path) -> None:
    before = sorted(path.name for path in (whole / "best").iterdir())
    refused = bench.run(whole / "best")
    assert refused.code == 2 and "the folder is a bundle" in refused.stderr
    assert sorted(path.name for path in (whole / "best").iterdir()) == before


def test_rows_in_another_order_are_refused_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    header, *rows = bench.rows.read_text(encoding="utf-8").splitlines()
    train, dev, test, out = (tmp_path / name for name in ("train.csv", "dev.csv", "test.csv", "run"))

    def started(lines: list[str], **named: Any) -> Any:
        train.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
        for file, part in ((dev, rows[60:90]), (test, rows[90:120])):
            file.write_text("\n".join([header, *part, ""]), encoding="utf-8")
        asked = ("run", str(train), "--input", "text", "--output", "label", "--model", str(bench.model), "--budget", "60ktok")
        return bench.commands.run(*asked, "--out", str(out), f"data.dev={dev}", f"data.test={test}", *SETTINGS, **named)

    assert started(rows[:60], at=("line", "pool", 1)).code == -9
    for changed in (rows[:60][::-1], ["", *rows[:60]]):
        refused = started(changed)
        assert refused.code == 2 and "their order or their line numbers differ" in refused.stderr
    assert started(rows[:60], at=("line", "race", 1)).code == -9, "in the first order the run goes on"
