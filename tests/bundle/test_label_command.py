"""``cotune label`` as a process: what it picks, whom it asks, what a kill leaves."""

from __future__ import annotations

import csv
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import LABELS, TEXTS, Bench, loaded
from servers import texts

from cotune.bundle.answer_sheet import check_sheet
from cotune.bundle.manifest import read_manifest
from cotune.bundle.rows import said
from cotune.bundle.seen import write_row_hashes
from cotune.cli import main
from cotune.config.paths import IN_MEMORY
from cotune.errors import InputError
from cotune.labelling.acquisition import ACQUISITIONS, margins
from cotune.labelling.known import bundle_of, replay_options, rows_of_run
from cotune.labelling.picking import DEFAULT, pick_rows
from cotune.labelling.pool import identity_of
from cotune.labelling.session import Earlier, Session, session_file
from cotune.task.example import Example
from cotune.task.reading.read import read_sheet
from cotune.task.split import duplicate_key


def pool_of(folder: Path, count: int = 24) -> Path:
    path = folder / "pool.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text"])
        writer.writerows([[i, text] for i, text in enumerate(texts(count))])
    return path


def picked(bench: Bench, bundle: Path, pool: Path, count: int, way: str = "margin", **more: Any) -> list[Any]:
    predictor, sheet = loaded(bundle), read_sheet(pool)
    settings = {"way": way, "look": 100, "seed": 0, **more}
    return pick_rows(predictor, sheet, check_sheet(sheet, ("text",)), count, **settings)


def test_states_and_probabilities_are_those_that_answer(bench: Bench, tmp_path: Path) -> None:
    rows = [{"text": text} for text in (*TEXTS, *texts(5))]
    for name, bundle in (("words", bench.save(tmp_path / "w")), ("probe", bench.save_probed(tmp_path / "p"))):
        predictor = loaded(bundle)
        states, log_probs = predictor.states(rows)
        shares = np.array([list(one.probabilities.values()) for one in predictor.answers(rows, probabilities=True)])
        assert np.exp(log_probs) == pytest.approx(shares, abs=2e-5), name
        last, width = states[:, : bench.model.width], bench.model.width * (2 if name == "probe" else 1)
        assert states.shape == (9, width) and np.square(last).mean(axis=1) == pytest.approx(np.ones(9), rel=1e-3)


def test_picks_are_the_rows_that_the_way_says(bench: Bench, tmp_path: Path) -> None:
    bundle, pool = bench.save_probed(tmp_path / "bundle"), pool_of(tmp_path)
    by_margin = picked(bench, bundle, pool, 24)
    found = margins(np.log([list(pick.shares.values()) for pick in by_margin]))
    assert (np.diff(found) >= -1e-5).all() and sorted(int(pick.row["id"]) for pick in by_margin) == list(range(24))
    assert [pick.fields for pick in picked(bench, bundle, pool, 5)] == [pick.fields for pick in by_margin[:5]]
    assert by_margin[0].guess == loaded(bundle).predict(by_margin[0].fields)[0]
    for way in ACQUISITIONS:
        assert len({pick.number for pick in picked(bench, bundle, pool, 6, way)}) == 6
    assert len({pick.number for pick in picked(bench, bundle, pool, 24, look=7)}) == 7


def test_rows_that_are_known_or_said_twice_are_not_asked_about(bench: Bench, tmp_path: Path) -> None:
    bundle, pool = bench.save_probed(tmp_path / "bundle"), tmp_path / "pool.csv"
    pool.write_text("text\na one\nA  ONE\n \na two\na three\n", encoding="utf-8")
    known = {said({"text": "a TWO"})}
    assert sorted(pick.number for pick in picked(bench, bundle, pool, 9, known=known)) == [2, 6]
    with pytest.raises(InputError, match="the pool has no row left to label"):
        picked(bench, bundle, pool, 9, known={said({"text": f"a {n}"}) for n in ("one", "two", "three")})


def test_a_run_tells_its_bundle_and_the_rows_it_knows(bench: Bench, tmp_path: Path) -> None:
    run = tmp_path / "run"
    bundle = bench.save_probed(run / "best")
    rows = tmp_path / "rows.csv"
    rows.write_text("label,text\nplace,where is it\nperson,who built it\n", encoding="utf-8")
    (run / "config.json").write_text(json.dumps({"config": {"data": {"train": str(rows)}}}), encoding="utf-8")
    (run / "test_rows.json").write_text(json.dumps({"rows": [{"input": {"text": "Where  is it"}}]}), encoding="utf-8")
    assert bundle_of(run) == (bundle, run) and bundle_of(bundle) == (bundle, run)
    manifest = read_manifest(bundle)
    labelled, words, all_read = rows_of_run(run, manifest)
    assert labelled == [{"text": "who built it"}] and words == {"where is it", "who built it"} and all_read
    rows.write_text("label,text\nplace,where is it\n,who built it\n", encoding="utf-8")
    assert rows_of_run(run, manifest) == ([], {"where is it"}, True), "a row without a label is not labelled"
    rows.unlink()
    assert rows_of_run(run, manifest)[1:] == ({"where is it"}, False)
    for name in ("config.json", "test_rows.json"):
        (run / name).write_text("[" * 10**5, encoding="utf-8")
    assert rows_of_run(run, manifest) == ([], set(), False)


def test_rows_of_a_run_whose_data_cannot_be_read_are_known_by_their_hashes(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, pool = tmp_path / "run", pool_of(tmp_path, 8)
    bench.save_probed(run / "best")
    (run / "config.json").write_text(json.dumps({"config": {"data": {"train": IN_MEMORY}}}), encoding="utf-8")
    rows = [Example("", {"text": text}, "") for text in texts(8)]
    asked = (run, pool, "--n", 8, "--json")
    code, printed, told = called(capsys, *asked)
    assert code == 0 and len(json.loads(printed)["rows"]) == 8 and "may be asked again" in told
    write_row_hashes(run, learnt=map(duplicate_key, rows[:3]), tested=[duplicate_key(rows[5])])
    code, printed, told = called(capsys, *asked)
    assert {one["number"] for one in json.loads(printed)["rows"]} == {5, 6, 8, 9} and "may be asked again" not in told


def test_all_data_files_of_a_run_are_known(bench: Bench, tmp_path: Path) -> None:
    run, data = tmp_path / "run", {}
    manifest = read_manifest(bench.save_probed(run / "best"))
    for role in ("train", "dev", "test", "replay"):
        data[role] = str(tmp_path / f"{role}.csv")
        Path(data[role]).write_text(f"label,text\nplace,a row of {role}\nplace,tested twice\n", encoding="utf-8")
    (run / "config.json").write_text(json.dumps({"config": {"data": data}}), encoding="utf-8")
    labelled, words, all_read = rows_of_run(run, manifest)
    assert {row["text"] for row in labelled} == {f"a row of {role}" for role in ("train", "dev", "replay")} and all_read
    assert words == {f"a row of {role}" for role in data} | {"tested twice"}
    Path(data["replay"]).unlink()
    assert rows_of_run(run, manifest)[1:] == (words - {"a row of replay"}, False)


def test_the_rows_of_a_run_are_replayed_as_it_read_them(tmp_path: Path) -> None:
    def options(columns: tuple[str, ...] = ("text", "person", "label"), train: str = "old.csv", **more: Any) -> tuple[str, ...]:
        data = {"train": train, **more}
        (tmp_path / "config.json").write_text(json.dumps({"config": {"data": data}}), encoding="utf-8")
        return replay_options(tmp_path, columns)

    assert options() == options(on_blank="error", group=None) == ("--replay", "old.csv")
    kept = ("--replay", "old.csv", "data.on_blank=skip")
    assert options(on_blank="skip", group="person") == (*kept, "data.group=person")
    assert options(("text", "label"), on_blank="skip", group="person") == kept, "new rows without the column have no groups"
    assert options(train="(in memory)") == ("--replay", "OLD.csv")
    (tmp_path / "config.json").unlink()
    assert replay_options(tmp_path, ()) == replay_options(None, ()) == ("--replay", "OLD.csv")


def started(*arguments: object) -> tuple[subprocess.Popen[bytes], int]:
    """``cotune label`` at a terminal."""
    terminal, other = os.openpty()
    command = [sys.executable, "-m", "cotune.cli", "label", *map(str, arguments)]
    child = subprocess.Popen(command, stdin=other, stdout=other, stderr=subprocess.PIPE, start_new_session=True)
    os.close(other)
    return child, terminal


def shown_until(terminal: int, text: bytes) -> bytes:
    shown = b""
    while text not in shown:
        shown += os.read(terminal, 4096)
    return shown


def labels_of(out: Path) -> list[str]:
    with out.open(encoding="utf-8", newline="") as stream:
        return [row["label"] for row in csv.DictReader(stream)]


def test_after_a_kill_the_same_command_goes_on_without_a_model(bench: Bench, tmp_path: Path) -> None:
    bundle, pool, out = bench.save_probed(tmp_path / "bundle"), pool_of(tmp_path), tmp_path / "labelled.csv"
    command = (bundle, pool, "--n", 4, "--out", out)
    child, terminal = started(*command)
    shown_until(terminal, b"Row 1 of 4")
    os.write(terminal, b"2")
    shown_until(terminal, b"Row 2 of 4")
    os.write(terminal, b"1")
    shown_until(terminal, b"Row 3 of 4")
    child.kill()
    child.communicate()
    os.close(terminal)
    assert labels_of(out) == [LABELS[1], LABELS[0]]
    # The picks are kept: the model is not needed any more.
    (bench.base / "config.json").rename(bench.base / "away.json")
    try:
        child, terminal = started(*command)
        assert b"Row 3 of 4, 2 labelled, 0 skipped" in shown_until(terminal, b"Row 3 of 4, 2 labelled, 0 skipped")
        os.write(terminal, b"s4")
        shown = shown_until(terminal, b"data.test=TEST.csv")
    finally:
        (bench.base / "away.json").rename(bench.base / "config.json")
    assert child.wait(120) == 0
    os.close(terminal)
    assert labels_of(out) == [LABELS[1], LABELS[0], LABELS[3]] and not session_file(out).exists()
    assert b"3 rows labelled" in shown and b"--from" in shown and not list(tmp_path.glob(".labelled*"))


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    """Exit code, output and complaints of the command in this process, whose standard input is no terminal."""
    with pytest.raises(SystemExit) as ended:
        main(["label", *map(str, arguments)])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_without_a_terminal_it_says_how_else_and_json_asks_nobody(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, pool = bench.save_probed(tmp_path / "bundle"), pool_of(tmp_path)
    code, _, refused = called(capsys, bundle, pool, "--out", tmp_path / "out.csv")
    assert code == 2 and "--web" in refused and "--json" in refused
    assert "--out labelled.csv" in called(capsys, bundle, pool)[2]
    assert "unknown method 'best'" in called(capsys, bundle, pool, "--by", "best", "--json")[2]
    code, printed, _ = called(capsys, bundle, pool, "--n", 3, "--json", "--by", "margin")
    found = json.loads(printed)
    assert code == 0 and found["way"] == "margin" and found["labels"] == list(LABELS) and len(found["rows"]) == 3
    for row in found["rows"]:
        assert row["row"]["id"] and row["guess"] == max(row["probabilities"], key=row["probabilities"].get)
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob("*.session.json"))


@pytest.mark.parametrize(
    ("name", "told"), [("file/labelled.csv", "where a folder is needed"), ("made.csv", "A folder has that")]
)
def test_a_place_for_labels_that_cannot_be_written_is_told(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    bundle, pool = bench.save_probed(tmp_path / "bundle"), pool_of(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "made.csv").mkdir()
    code, _, error = called(capsys, bundle, pool, "--out", tmp_path / name, "--web", "--no-open")
    assert code == 2 and "cannot write" in error and told in error


def test_a_refused_session_leaves_nothing_beside_the_labels(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, out = bench.save_probed(tmp_path / "bundle"), tmp_path / "labels" / "labelled.csv"
    out.parent.mkdir()
    out.write_text("text,other\nwhere is it,1\n", encoding="utf-8")
    code, _, error = called(capsys, bundle, pool_of(tmp_path), "--out", out, "--web", "--no-open")
    assert code == 2 and "has no column 'label'" in error
    assert list(out.parent.iterdir()) == [out]


def test_the_page_is_served_by_the_command_and_ends_with_it(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, pool, out = bench.save_probed(tmp_path / "bundle"), pool_of(tmp_path), tmp_path / "labelled.csv"
    # A session that is begun needs no model in the process that asks.
    asks = {"bundle": read_manifest(bundle).id, "n": 2, "way": DEFAULT, "seed": 0, "look": 2000, "pool": identity_of(pool)}
    Session(out, "label", LABELS, picked(bench, bundle, pool, 2), Earlier(), asks).save()
    options = [str(bundle), str(pool), "--n", "2", "--out", str(out), "--web", "--json"]
    command = [sys.executable, "-m", "cotune.cli", "label", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        url, _, token = json.loads(child.stdout.readline())["url"].partition("#")
        code, _, other = called(capsys, *options)
        assert code == 3 and "another cotune label" in other
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=120)
        for at in (0, 1):
            body = json.dumps({"do": "label", "at": at, "label": LABELS[at]})
            connection.request("POST", "/answer", body, {"Authorization": f"Bearer {token}"})
            assert json.loads(connection.getresponse().read())["at"] == at + 1
        child.send_signal(signal.SIGINT)
        told, complaints = child.communicate(timeout=120)
    assert child.returncode == 0 and complaints == "Resuming at row 1 of 2.\n" and labels_of(out) == list(LABELS[:2])
    found = json.loads(told)
    assert found == {"out": str(out), "labelled": 2, "skipped": 0, "left": 0, "agreed": found["agreed"]}
