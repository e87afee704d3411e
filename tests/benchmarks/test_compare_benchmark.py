"""The comparison's protocol, its cells, its statistics and its table, without any peer that needs a package or a model."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from compare import envs, gains, pairs, table
from compare.cells import CELLS, DONE, LIMIT, NOT_INSTALLABLE, Cell, Cells, answers_path, cell_key, read_cells
from compare.envs import Environments, NotInstallableError
from compare.harness import Harness, environment_of
from compare.measure import run_measured
from compare.picture import Point, score_picture
from compare.protocol import Draw, Row, RowSet, draw_rows, read_set, sets_in, shares
from compare.registry import HERE, PEERS, SERVER, Peer
from compare.scores import LEAST_PROBABILITY, macro_f1, score_answers, summed_interval
from cotune.errors import BusyError, InputError

BENCHMARKS = HERE.parent
LABELS = ("a", "b", "c")


def write_set(folder: Path, counts: dict[str, int], test: int = 30) -> None:
    folder.mkdir(parents=True)
    rows = [{"input": f"{label} number {i}", "output": label} for label, count in counts.items() for i in range(count)]
    # U+2028 ends no line of such a file, though str.splitlines() divides there.
    tested = [{"input": f"{LABELS[i % 3]} asked\u2028{i}", "output": LABELS[i % 3]} for i in range(test)]
    for split, part in (("train", rows), ("test", tested)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in part]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def texts(rows: list[Row]) -> list[str]:
    return [row.text for row in rows]


def test_draws_are_seeded_and_keep_the_shares_of_labels(tmp_path: Path) -> None:
    write_set(tmp_path / "s", {"a": 200, "b": 90, "c": 3})
    rows = read_set(tmp_path, "s")
    drawn = draw_rows(rows, Draw(30, False, 0))
    assert Counter(row.output for row in drawn) == {"a": 20, "b": 9, "c": 1}, "the rarest label has its one row"
    assert texts(drawn) == texts(draw_rows(rows, Draw(30, False, 0)))
    assert set(texts(drawn)) != set(texts(draw_rows(rows, Draw(30, False, 1))))
    by_class = draw_rows(rows, Draw(8, True, 0))
    assert Counter(row.output for row in by_class) == {"a": 8, "b": 8, "c": 3}
    with pytest.raises(InputError, match="cannot be drawn"):
        draw_rows(rows, Draw(1000, False, 0))


def test_shares_add_up_whatever_the_counts() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = {str(i): int(count) for i, count in enumerate(rng.integers(1, 60, size=rng.integers(2, 30)))}
        total = int(rng.integers(1, sum(counts.values()) + 1))
        given = shares(counts, total, rng)
        assert sum(given.values()) == total
        assert all(0 <= given[name] <= counts[name] for name in counts)
        assert total < len(counts) or min(given.values()) >= 1


def test_no_labelled_row_repeats_a_test_row_or_has_two_labels(tmp_path: Path) -> None:
    write_set(tmp_path / "s", {"a": 5, "b": 5})
    extra = [
        {"input": "a asked\u20280", "output": "a"},
        {"input": "both", "output": "a"},
        {"input": "both", "output": "b"},
        {"input": "twice", "output": "a"},
        {"input": "twice", "output": "a"},
    ]
    with (tmp_path / "s" / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in extra)
    found = Counter(row.text for row in read_set(tmp_path, "s").pool)
    assert found["twice"] == 1 and not {"a asked\u20280", "both"} & found.keys()
    assert len(found) == 11


def test_part_of_the_labels_and_of_the_test_rows(tmp_path: Path) -> None:
    write_set(tmp_path / "s", {"a": 9, "b": 9, "c": 9, "oos": 9})
    rows = read_set(tmp_path, "s:2", most_test=7)
    assert rows.name == "s-2" and len(rows.labels) == 2 and "oos" not in rows.labels
    assert len(rows.test) == 7 and {row.output for row in rows.test} <= set(rows.labels)
    assert rows == read_set(tmp_path, "s:2", most_test=7)


def test_columns_come_from_a_task_file_and_json_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "task.yaml").write_text(
        "data: {train: train.jsonl, test: test.jsonl, input: [said, asked], output: form}\n", encoding="utf-8"
    )
    row = {"said": "two", "asked": ["people", "time"], "form": {"people": "two"}}
    for split in ("train", "test"):
        text = f"{split} of it"
        (folder / f"{split}.jsonl").write_text(json.dumps({**row, "said": text}) + "\n", encoding="utf-8")
    rows = read_set(tmp_path, "mine")
    assert rows.kind == "json" and rows.labels == ()
    assert rows.pool[0].text == "said: train of it\nasked: people, time"
    (folder / "task.yaml").unlink()
    with pytest.raises(InputError, match="no column 'input'"):
        read_set(tmp_path, "mine")


def test_a_folder_of_other_sets_is_taken_as_it_is(tmp_path: Path) -> None:
    rows = {
        "pairs": [{"question": f"is {i} so", "passage": f"{i}", "answer": i % 2 == 0, "id": i} for i in range(40)],
        "stories": [{"input": f"tell {i}", "output": f"once upon a time there were {i} of them"} for i in range(40)],
    }
    for name, made in rows.items():
        (tmp_path / name).mkdir()
        for split, part in (("train", made[:30]), ("test", made[30:])):
            (tmp_path / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    (tmp_path / "no set").mkdir()
    assert sets_in(tmp_path) == ["pairs", "stories"]
    pairs, stories = read_set(tmp_path, "pairs"), read_set(tmp_path, "stories")
    assert pairs.labels == ("false", "true") and pairs.pool[0].text == "question: is 0 so\npassage: 0"
    assert stories.kind == "text"
    with pytest.raises(InputError, match="there is no set"):
        sets_in(tmp_path / "no set")
    (tmp_path / "pairs" / "train.jsonl").write_text("{\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1 is not JSON"):
        read_set(tmp_path, "pairs")


def test_numbers_are_known_unless_they_are_labels(tmp_path: Path) -> None:
    for name, outputs in (("scores", [i * 7 % 101 / 4 for i in range(40)]), ("stars", [i % 5 for i in range(40)])):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            lines = (json.dumps({"input": f"{split} {i}", "output": output}) + "\n" for i, output in enumerate(outputs))
            (tmp_path / name / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    scores, stars = read_set(tmp_path, "scores"), read_set(tmp_path, "stars")
    assert scores.kind == "number" and scores.labels == () and len(draw_rows(scores, Draw(30, False, 0))) == 30
    assert stars.kind == "label" and len(stars.labels) == 5


def cell(peer: str = "majority", **changes: Any) -> Cell:
    plain = Cell(
        set="s",
        kind="label",
        rows=8,
        per_class=False,
        draw=0,
        peer=peer,
        status=DONE,
        tested=4,
        seconds={"all": 3.0, "train": 2.0, "predict": 0.4, "other": 0.6},
        machine={"cpu": "a processor", "threads": 2, "cotune": "0"},
        day="2026-11-27",
    )
    return replace(plain, **changes)


def test_cells_survive_a_torn_line_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    cells.add(cell())
    cells.add(cell("tfidf"), {"outputs": ["a"]})
    with pytest.raises(BusyError):
        Cells(tmp_path)
    cells.close()
    with (tmp_path / CELLS).open("ab") as stream:
        stream.write(b'{"set": "s", "kin')
    assert [one.peer for one in read_cells(tmp_path)] == ["majority", "tfidf"]
    again = Cells(tmp_path)
    again.add(cell(status=LIMIT, reason="late"))
    again.close()
    found = {one.peer: one for one in read_cells(tmp_path)}
    assert found["majority"].status == LIMIT and found["tfidf"].status == DONE and len(found) == 2
    (tmp_path / CELLS).write_bytes(b"nonsense\n" + (tmp_path / CELLS).read_bytes())
    with pytest.raises(InputError, match="line 1"):
        read_cells(tmp_path)


SLOW = """
import json, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(__file__).with_name(f"child-{time.time_ns()}").write_text(str(child.pid))
if len([*Path(__file__).parent.glob("child-*")]) == 2:
    # The one whose harness is killed; whoever runs its cell again is the third.
    time.sleep(600)
test = (folder / "test.jsonl").read_text().splitlines()
assert all("output" not in json.loads(line) for line in test)
told = {"predictions": ["a"] * len(test), "probabilities": None, "labels": [], "shipped_bytes": 1, "base_bytes": 0}
told |= {"seconds": {"train": 0.1, "predict": 0.1, "other": 0.0}, "settings": {}, "versions": {}, "curve": []}
(folder / "answers.json").write_text(json.dumps(told))
"""
DRIVER = """
import sys
sys.path.insert(0, {benchmarks!r})
from compare import harness, registry
# Half a second of multiplying before and after each cell would be most of the time that this takes.
harness._MATRIX_RATE = harness._MATRIX_RATE.replace("+ 0.5", "+ 0.02")
registry.PEERS = {{"slow": registry.Peer("slow", "slow", {script!r}, "", small_model=False)}}
from compare import run
sys.exit(run.main(sys.argv[1:]))
"""


def wait_until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def lines_of(out: Path) -> list[bytes]:
    return (out / CELLS).read_bytes().split(b"\n")[:-1] if (out / CELLS).is_file() else []


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def child_lives(told: Path) -> bool:
    """Whether the child whose id a file tells is alive; a process begun after the file was written has only got its number."""
    try:
        child = psutil.Process(int(told.read_text()))
        return child.status() != psutil.STATUS_ZOMBIE and child.create_time() <= told.stat().st_mtime + 1
    except psutil.Error:
        return False


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Path]:
    """A driver of the harness whose only peer leaves a child behind, and the second time does not come to an end."""
    script, driver = tmp_path / "slow.py", tmp_path / "driver.py"
    script.write_text(SLOW, encoding="utf-8")
    driver.write_text(DRIVER.format(benchmarks=str(BENCHMARKS), script=str(script)), encoding="utf-8")
    yield driver
    for told in tmp_path.glob("child-*"):
        if lives(pid := int(told.read_text() or 0)):
            os.kill(pid, signal.SIGKILL)


def test_a_killed_harness_goes_on_and_runs_no_cell_twice(tmp_path: Path, slow: Path) -> None:
    write_set(tmp_path / "data" / "s", {"a": 9, "b": 9})
    out = tmp_path / "out"
    asked = ["--data", str(tmp_path / "data"), "--out", str(out), "--sets", "s", "--rows", "4", "--draws", "3"]
    command = [sys.executable, str(slow), *asked]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_until(lambda: len([*tmp_path.glob("child-*")]) == 2 and (out / "running.json").is_file())
    assert len(lines_of(out)) == 1
    left = int(json.loads((out / "running.json").read_text())["group"])
    first.kill()
    first.wait()
    assert lives(left), "the peer goes on without its harness"
    before = lines_of(out)
    with (out / CELLS).open("ab") as stream:
        stream.write(b'{"set": "torn')
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    after = lines_of(out)
    assert after[: len(before)] == before and len(after) == 3
    assert {json.loads(line)["draw"] for line in after} == {0, 1, 2}
    assert all(rate > 0.1 for line in after for rate in json.loads(line)["machine"]["gflops"])
    assert not lives(left) and not (out / "running.json").exists()
    # Children of peers are ended too.
    wait_until(lambda: not any(map(child_lives, tmp_path.glob("child-*"))))
    cells, rows, draw = Cells(out), read_set(tmp_path / "data", "s", most_test=5), Draw(4, False, 0)
    harness, peer = Harness(cells, out, Environments(tmp_path), 1), Peer("slow", "slow", "slow.py", "")
    with pytest.raises(InputError, match="other rows"):
        harness.run(rows, draw, draw_rows(rows, draw), peer)
    cells.close()


def test_the_limit_ends_the_whole_group_and_memory_is_that_of_all(tmp_path: Path) -> None:
    grown = "import time; held = bytearray(60_000_000); time.sleep(600)"
    script = f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {grown!r}]); print(p.pid, flush=True)"
    command = [sys.executable, "-c", f"{script}; time.sleep(600)"]
    found = run_measured(
        command, folder=tmp_path, environment=os.environ, limit_s=3.0, log=tmp_path / "log", running=tmp_path / "running.json"
    )
    assert found.timed_out and 3 <= found.seconds < 15 and found.peak_bytes > 60_000_000
    wait_until(lambda: not lives(int((tmp_path / "log").read_text())))
    assert not (tmp_path / "running.json").exists()


def test_a_peer_that_cannot_be_installed_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed, tools, environments = tmp_path / "requirements", tmp_path / "tools", Environments(tmp_path / "envs")
    needed.mkdir()
    tools.mkdir()
    (needed / "tfidf.txt").write_text("scikit-learn==999\n", encoding="utf-8")
    (tools / "uv").write_text('#!/bin/sh\necho tried >> "$0.log"\necho "error: there is no version 999" >&2\nexit 1\n')
    (tools / "uv").chmod(0o755)
    monkeypatch.setattr(envs, "REQUIREMENTS", needed)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    write_set(tmp_path / "data" / "s", {"a": 9, "b": 9})
    rows = read_set(tmp_path / "data", "s")
    cells = Cells(tmp_path / "out")
    harness = Harness(cells, tmp_path / "out", environments, 1)
    draws = [Draw(4, False, 0), Draw(4, False, 1)]
    assert all(harness.run(rows, draw, draw_rows(rows, draw), PEERS["tfidf"]) for draw in draws)
    assert not harness.run(rows, draws[0], draw_rows(rows, draws[0]), PEERS["tfidf"]), "it is a finished cell"
    found = cells.get(cell_key("s", draws[0], "tfidf"))
    assert found is not None and (found.status, found.reason) == (NOT_INSTALLABLE, "error: there is no version 999")
    assert (tools / "uv.log").read_text().count("tried") == 1, "what failed once is not tried for each cell"
    (needed / "tfidf.txt").write_text("scikit-learn==998\n", encoding="utf-8")
    with pytest.raises(NotInstallableError):
        environments.python("tfidf")
    assert (tools / "uv.log").read_text().count("tried") == 2, "other requirements are"
    cells.close()


def test_pip_installs_requirements_where_there_is_no_uv(tmp_path: Path) -> None:
    (tmp_path / "needed.txt").write_text("pip\n", encoding="utf-8")
    assert envs.install(tmp_path / "needed.txt", envs.own_python(), None) == ""


def test_peers_do_not_compile_their_modules_at_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    own, other = (environment_of(PEERS[name], 2) for name in ("cotune_1m", "tfidf"))
    assert "PYTHONDONTWRITEBYTECODE" not in own | other
    assert own["PYTHONPATH"] == "elsewhere" and "PYTHONPATH" not in other
    assert own["OMP_NUM_THREADS"] == other["OMP_NUM_THREADS"] == "2"


def test_every_peer_has_its_script_and_pinned_requirements() -> None:
    names = {peer.environment for peer in PEERS.values()} | {SERVER}
    for name in names - {""}:
        lines = (envs.REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        assert all("==" in line for line in lines if line and not line.startswith("#")), name
    for peer in PEERS.values():
        compile((HERE / "peers" / peer.script).read_text(encoding="utf-8"), peer.script, "exec")


def test_the_word_tagger_places_values_and_finds_their_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("crf_peer", HERE / "peers" / "crf.py")
    assert spec is not None and spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(HERE / "peers")
    spec.loader.exec_module(peer)
    values = list(peer.values_of({"to": "New York", "at": {"days": ["1", "12"]}}))
    assert values == [(("to",), "New York"), (("at", "days"), "1"), (("at", "days"), "12")]
    names = {path: ".".join(path) for path, _ in values}
    tags, placed = peer.tags_of("12 to New York, not 1", values, names)
    assert tags == ["B at.days", "O", "B to", "I to", "O", "O", "B at.days"] and placed == 3
    assert peer.tags_of("York", values[:1], names) == (["O"], 0)


def test_the_majority_peer_speaks_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "data" / "s", {"a": 20, "b": 9})
    rows = read_set(tmp_path / "data", "s")
    cells = Cells(tmp_path / "out")
    # Paths are mostly given as they are seen from the current folder.
    monkeypatch.chdir(tmp_path)
    harness, draw = Harness(cells, Path("out"), Environments(Path("envs")), 1), Draw(9, False, 0)
    assert harness.run(rows, draw, draw_rows(rows, draw), PEERS["majority"])
    found = cells.get(cell_key("s", draw, "majority"))
    assert found is not None and found.status == DONE and found.seconds["train"] > 0 and found.peak_mb > 0
    answers = json.loads(answers_path(tmp_path / "out", found.key).read_text(encoding="utf-8"))
    assert answers["predictions"] == ["a"] * 30 and answers["labels"] == ["a", "b"]
    assert score_answers(found, answers).values["accuracy"] == pytest.approx(1 / 3)
    cells.close()


def answered(seed: int, sure: float = 2.0, rows: int = 60) -> dict[str, Any]:
    """Answers of a made-up peer, the better the surer."""
    rng = np.random.default_rng(seed)
    outputs = [LABELS[i] for i in rng.integers(0, 3, size=rows)]
    logits = rng.standard_normal((rows, 3)) + sure * np.array([[label == output for label in LABELS] for output in outputs])
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predictions = [LABELS[i] for i in found.argmax(axis=1)]
    return {"outputs": outputs, "predictions": predictions, "probabilities": found.tolist(), "labels": list(LABELS)}


def test_scores_are_what_their_definitions_say() -> None:
    answers = answered(3)
    found = score_answers(cell(), answers).values
    pairs_of = list(zip(answers["outputs"], answers["predictions"], strict=True))
    assert found["accuracy"] == pytest.approx(np.mean([right == said for right, said in pairs_of]))
    by_label = []
    for label in LABELS:
        hits = sum(right == said == label for right, said in pairs_of)
        by_label.append(2 * hits / sum((right == label) + (said == label) for right, said in pairs_of))
    assert found["macro_f1"] == pytest.approx(np.mean(by_label))
    given = [row[LABELS.index(right)] for row, right in zip(answers["probabilities"], answers["outputs"], strict=True)]
    assert found["log_loss"] == pytest.approx(-np.mean(np.log(given)))
    assert 0 < found["ece"] < 0.3 and macro_f1(["a"], ["b"]) == 0.0


def test_a_label_that_a_peer_does_not_know_costs_what_the_least_probability_costs() -> None:
    answers = {"outputs": ["a", "c"], "predictions": ["a", "b"], "probabilities": [[1.0, 0.0]] * 2, "labels": ["a", "b"]}
    losses = score_answers(cell(), answers).losses
    assert losses is not None and losses[0] < 1e-5 and losses[1] == pytest.approx(-np.log(LEAST_PROBABILITY), rel=1e-3)
    plain = score_answers(cell(), {**answers, "probabilities": None, "labels": []})
    assert plain.losses is None and set(plain.values) == {"accuracy", "macro_f1"}


def test_json_answers_are_scored_field_by_field() -> None:
    outputs = ['{"a": "1", "b": "2"}', '{"a": "1"}', "{}"]
    answers = {"outputs": outputs, "predictions": ['{"b": "2", "a": "1"}', "no", "{}"], "probabilities": None, "labels": []}
    found = score_answers(cell(kind="json"), answers)
    assert found.right.tolist() == [1.0, 0.0, 1.0] and found.worth.tolist() == [1.0, 0.0, 1.0]
    assert found.values["json_f1"] == pytest.approx(2 * 2 / (3 + 3))


def test_numbers_are_scored_by_explained_variance_whatever_their_unit() -> None:
    right = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0]
    near, far = [1.5, 2.0, 2.5, 4.5, 6.0, 7.0], [4.0] * 6
    told = []
    for unit in (1.0, 1000.0):
        both = []
        for peer, given in (("majority", far), ("cotune_3m", near)):
            answers = {
                "outputs": [repr(unit * one) for one in right],
                "predictions": [repr(unit * one) for one in given],
                "probabilities": None,
                "labels": [],
            }
            both.append(score_answers(cell(kind="number", peer=peer), answers))
        told.append(both)
        assert both[1].values["mean_absolute_error"] == pytest.approx(unit * 2.5 / 6, rel=1e-4)
    wanted = 1 - 1.75 / sum((one - 4.0) ** 2 for one in right)
    assert told[0][0].values["r2"] == 0.0 and told[0][1].values["r2"] == pytest.approx(wanted)
    assert told[0][1].counts == pytest.approx(told[1][1].counts)
    (difference,) = pairs.differences(told[1], "cotune_3m", "s, 8")
    assert difference.value == pytest.approx(wanted)
    interval = summed_interval("number", told[0][1].counts, told[0][1].worth, None)
    assert interval.low <= wanted <= interval.high <= 1.0


def test_the_interval_and_the_differences_of_json_are_of_the_f1_that_is_told() -> None:
    """A row without values that is answered by none counts one in a mean of rows, and nothing in the F1 over all values."""
    right = ["{}"] * 60 + ['{"a": "x", "b": "y"}'] * 60
    wrong = '{"a": "n", "b": "n"}'
    said = {"trl_sft": [*right[:90], *[wrong] * 30], "cotune_3m": [*right[:110], *[wrong] * 10]}
    answers = {"outputs": right, "labels": [], "probabilities": None}
    told = [score_answers(cell(kind="json", peer=peer), {**answers, "predictions": of}) for peer, of in said.items()]
    (difference,) = pairs.differences(told, "cotune_3m", "s, 64")
    assert difference.value == pytest.approx(told[1].values["json_f1"] - told[0].values["json_f1"]) == pytest.approx(1 / 3)
    assert difference.ci.low < 1 / 3 < difference.ci.high and difference.p < 0.001
    assert told[0].counts is not None
    interval = summed_interval("json", told[0].counts, told[0].worth, None)
    assert interval.low < 0.5 < interval.high < told[0].worth.mean()


def scored_pair(rng: np.random.Generator, gain: float, draws: int, rows: int = 80) -> list[Any]:
    """Cells of two peers whose answers to a row are alike whichever draw they learnt from."""
    ease = rng.standard_normal(rows)
    cells = []
    for peer, better in (("tfidf", 0.0), ("cotune_3m", gain)):
        leaning = ease + rng.standard_normal(rows) + better
        for draw in range(draws):
            right = (leaning + 0.3 * rng.standard_normal(rows) > 0).astype(float)
            cells.append(score_answers(cell(peer, draw=draw), {
                "outputs": ["a"] * rows,
                "predictions": ["a" if good else "b" for good in right],
                "probabilities": None,
                "labels": [],
            }))  # fmt: skip
    return cells


def test_three_draws_of_equal_peers_are_rarely_told_apart() -> None:
    rng, told, held = np.random.default_rng(0), 0, 0
    for _ in range(60):
        (one,) = pairs.differences(scored_pair(rng, 0.0, 3), "cotune_3m", "s")
        told += one.p_holm < 0.05
        held += 0.0 in one.ci
        assert (one.cells, one.rows) == (3, 240)
    assert told <= 6 and held >= 54, "answers to one test row count as one group"


def test_a_better_peer_is_found_and_the_sign_is_cotunes() -> None:
    rng = np.random.default_rng(1)
    found = [pairs.differences(scored_pair(rng, 1.2, draws), "cotune_3m", "s")[0] for draws in (1, 3)]
    assert all(one.value > 0.1 and one.ci.low > 0 and one.p < 0.05 for one in found)


def test_holm_is_taken_over_the_peers_of_a_measure() -> None:
    scored = [score_answers(cell("cotune_3m"), answered(0, 3.0))]
    for number, name in enumerate(("tfidf", "palp", "setfit")):
        answers = answered(0, 3.0 - 0.7 * number)
        scored.append(score_answers(cell(name), answers))
    found = pairs.differences(scored, "cotune_3m", "s")
    for measure in (pairs.SCORE, pairs.LOG_LOSS):
        part = [one for one in found if one.measure == measure]
        assert len(part) == 3 and all(one.p_holm >= one.p for one in part)
        least = min(part, key=lambda one: one.p)
        assert least.p_holm == pytest.approx(min(1.0, 3 * least.p))
    losses = {one.peer: one.value for one in found if one.measure == pairs.LOG_LOSS}
    assert losses["tfidf"] == 0.0 and losses["setfit"] < losses["palp"] < 0


def test_gains_of_cotunes_arms_are_pooled_and_an_untuned_seed_prompt_is_left_out() -> None:
    scored = []
    for name, tuned in (("s", True), ("t", False)):
        sure = {
            "seed_prompt": 0.0,
            "prompt_only": 1.5,
            "best_prompt": 1.5,
            "seed_tuned": 1.0 if tuned else 0.0,
            "best_tuned": 3.0,
        }
        arms = {
            arm: {key: value for key, value in answered(3, at, 200).items() if key != "outputs"} for arm, at in sure.items()
        }
        told = {"arms": {"seed_tuned": {"readout": "probe", "steps": 20 if tuned else 0}}}
        scored.append(score_answers(cell("cotune_1m", set=name, settings=told), {**answered(3, 3.0, 200), "arms": arms}))
    scored.append(score_answers(cell("tfidf", set="s"), answered(3, 1.0, 200)))
    found = gains.all_gains(scored)
    assert list(found) == ["cotune_1m"]
    by = {(one.scope, one.peer, one.measure): one for one in found["cotune_1m"]}
    arm = {name: one.values["accuracy"] for name, one in scored[0].arms.items()}
    prompt = by["all sets, 8", "prompt, frozen weights", "score"]
    assert (prompt.cells, prompt.rows) == (2, 400)
    assert prompt.value == pytest.approx(arm["prompt_only"] - arm["seed_prompt"]) and prompt.ci.low > 0
    assert by["s, 8", "prompt and tuning", "log_loss"].ci.high < 0
    on_tuned = by["all sets, 8", "prompt, tuned weights", "score"]
    assert on_tuned.cells == 1 and on_tuned.value == pytest.approx(arm["best_tuned"] - arm["seed_tuned"])
    assert ("t, 8", "prompt, tuned weights", "score") not in by
    assert f"| t, 8 | {100 * prompt.value:+.1f} (" in table.gains_markdown("cotune_1m", found["cotune_1m"])


def write_cells(out: Path) -> None:
    cells = Cells(out)
    for name in ("s", "t"):
        for peer, sure, seconds in (("cotune_3m", 3.0, 170.0), ("tfidf", 1.0, 2.0)):
            for draw in range(2):
                answers = answered(7, sure + 0.05 * draw)
                early = {key: value for key, value in answered(7, 2.0).items() if key in ("predictions", "probabilities")}
                curve = [{"seconds": 40.0, **early}] if peer == "cotune_3m" else []
                times = {"all": seconds + 2, "train": seconds, "predict": 1.2, "other": 0.8}
                cells.add(cell(peer, set=name, draw=draw, tested=60, seconds=times), {**answers, "curve": curve})
    cells.add(cell("dspy_gepa", status=LIMIT, reason="not finished after 15 minutes"))
    cells.add(cell("fastfit", set="t", status=NOT_INSTALLABLE, reason="error: no | wheel"))
    cells.close()


def test_the_table_tells_all_cells_and_draws_the_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cells(tmp_path)
    assert table.main(["--out", str(tmp_path), "--to", str(tmp_path / "to")]) == 0
    told = capsys.readouterr().out
    assert (tmp_path / "to" / "comparison.md").read_text(encoding="utf-8") == told.removesuffix("\n")
    found = json.loads((tmp_path / "to" / "comparison.json").read_text(encoding="utf-8"))
    ours, theirs = found["scopes"]["s, 8"]
    assert (ours["peer"], theirs["peer"]) == ("cotune_3m", "tfidf"), "the best stands first"
    assert ours["values"]["train_s"] == 170.0 and ours["values"]["predict_ms"] == pytest.approx(20.0) and ours["cells"] == 2
    assert f"| TF-IDF + regression | {theirs['values']['accuracy']:.3f} (" in told
    assert "| DSPy GEPA | limit | s, 8, draw 0 | not finished after 15 minutes |" in told
    assert "| FastFit on MiniLM | not installable | t, 8, draw 0 | error: no / wheel |" in told
    scopes = {one["scope"] for one in found["differences"]}
    assert scopes == {"s, 8", "t, 8", "all sets and sizes"}
    whole = next(one for one in found["differences"] if one["scope"] == "all sets and sizes" and one["measure"] == "score")
    assert (whole["cells"], whole["rows"]) == (4, 240) and whole["value"] > 0
    for name in ("score-s-8.svg", "score-t-8.svg", "score-all-sets.svg"):
        drawn = (tmp_path / "to" / name).read_text(encoding="utf-8")
        assert drawn.startswith("<svg") and "cotune" in drawn and 'class="curve"' in drawn


def test_cells_of_a_slower_machine_are_told(tmp_path: Path) -> None:
    def at(peer: str, *rates: float) -> Cell:
        return cell(peer, machine={"gflops": list(rates)} if rates else {})

    usual = [at("tfidf", 200.0, 190.0), at("setfit", 210.0, 220.0), at("palp")]
    assert table.slow_cells(usual) == table.slow_cells([at("palp")]) == ""
    told = table.slow_cells([*usual, at("cotune_3m", 205.0, 120.0)])
    assert "usually 190" in told and told.count("\n") == 4 and "| s, 8, draw 0 | 120 |" in told


def test_no_name_in_a_picture_covers_another_or_a_mark() -> None:
    found = {
        "cotune 3m": (176.0, 0.95), "cotune 8m": (460.0, 0.955), "SetFit": (470.0, 0.95), "DSPy BootstrapFewShot": (90.0, 0.45),
        "DSPy MIPROv2": (890.0, 0.48), "promptolution CAPO": (870.0, 0.47), "DSPy GEPA": (880.0, 0.46), "majority": (0.3, 0.19),
    }  # fmt: skip
    points = [Point(name, *place, ours=name.startswith("cotune")) for name, place in found.items()]
    picture = score_picture("s", points, [(42.0, 0.9), (200.0, 0.95)])
    drawn = re.findall(r'class="name \w+" x="(.+?)" y="(.+?)" text-anchor="(\w+)">(.+?)<', picture)
    marks = [tuple(map(float, place)) for place in re.findall(r'<circle class="\w+" cx="(.+?)" cy="(.+?)"', picture)]
    assert {name for *_, name in drawn} == set(found) and len(marks) == len(found) + 2
    boxes = []
    for x, y, anchor, name in drawn:
        width = len(name) * (8 if name.startswith("cotune") else 7)
        start, middle = float(x) - width * (anchor == "end"), float(y) - 4
        boxes.append((name, start, start + width, middle))
        assert not [at for at, level in marks if start - 5 < at < start + width + 5 and abs(level - middle) < 11], name
    for one, two in itertools.combinations(boxes, 2):
        assert one[2] <= two[1] or two[2] <= one[1] or abs(one[3] - two[3]) >= 12, f"{one[0]} covers {two[0]}"


def test_without_cells_the_table_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(["--out", str(tmp_path)]) == 2
    assert "run.py" in capsys.readouterr().err


def test_written_answers_need_no_labels_to_be_drawn() -> None:
    rows = tuple(Row({"input": str(i)}, "{}") for i in range(10))
    written = RowSet("w", "json", rows, (), ())
    assert len(draw_rows(written, Draw(4, False, 0))) == 4
    with pytest.raises(InputError, match="need labels"):
        draw_rows(written, Draw(4, True, 0))
