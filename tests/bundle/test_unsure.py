"""Rows that the model cannot tell are left open, by thresholds from the scores that the bundle keeps."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import LABELS, TEXTS, Bench, loaded
from servers import running, texts

from cotune.bundle import Predictor, predict_stream
from cotune.bundle.answer_sheet import answer_sheet, check_sheet
from cotune.bundle.calibration import Calibration
from cotune.cli import main
from cotune.cli.predict import _left_open
from cotune.errors import InputError
from cotune.evaluate.stats.conformal import label_sets, threshold
from cotune.task.reading.read import Sheet
from cotune.task.reading.sheet import sheet_text

ROWS = [*TEXTS[:3], *texts(12)]


@pytest.fixture(scope="module")
def sure(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose threshold for 0.1 lies between the rows' second likeliest labels, so that some rows are left open."""
    folder = tmp_path_factory.mktemp("unsure")
    plain = loaded(bench.save_probed(folder / "plain"))
    _, log_probs = plain.states([{"text": text} for text in ROWS])
    second = -np.sort(log_probs, axis=1)[:, -2]
    highest = float(np.median(second)) + 1e-6
    scores = [0.0] * 17 + [highest] + [highest + 5]
    return bench.save_probed(folder / "sure", metrics={"conformal": {"n": 19, "scores": scores, "test": []}})


@pytest.fixture(scope="module")
def predictor(sure: Path) -> Predictor:
    return loaded(sure)


def test_open_rows_are_those_whose_sets_have_more_labels(predictor: Predictor) -> None:
    assert predictor.calibration is not None
    highest = threshold(np.array(predictor.calibration.scores), 0.1)
    _, log_probs = predictor.states([{"text": text} for text in ROWS])
    sets = label_sets(log_probs, highest)
    found = predictor.predict(ROWS, probabilities=True, unsure=0.1)
    whole = predictor.predict(ROWS, probabilities=True)
    opened = [one.answer is None for one in found]
    assert opened == (sets.sum(axis=1) > 1).tolist() and 0 < sum(opened) < len(ROWS)
    for one, plain, row in zip(found, whole, sets, strict=True):
        assert one.probabilities == pytest.approx(plain.probabilities)
        if one.answer is None:
            assert one.possible[0] == plain.answer and set(one.possible) == {LABELS[i] for i in np.flatnonzero(row)}
        else:
            assert one.answer == plain.answer and one.possible == ()
    assert predictor.predict(ROWS, unsure=0.1) == [one.answer for one in found]
    assert None not in predictor.predict(ROWS)
    # Fewer errors leave more rows open.
    assert sum(answer is None for answer in predictor.predict(ROWS, unsure=0.05)) >= sum(opened)


def test_a_bundle_that_cannot_tell_says_so(bench: Bench, predictor: Predictor, tmp_path: Path) -> None:
    older = loaded(bench.save(tmp_path / "older"))
    assert older.calibration is None
    with pytest.raises(InputError, match="has no scores of held-out rows"):
        older.predict(ROWS, unsure=0.1)
    with pytest.raises(InputError, match=r"needs 99 held-out rows, but the run had 19\. Allow 0\.05 or more"):
        predictor.predict(ROWS, unsure=0.01)
    for share in (0.0, "0.1", True, float("nan")):
        with pytest.raises(InputError, match=f"{share!r} is not a share of rows"):
            predictor.predict(ROWS, unsure=share)
    assert predictor.predict(ROWS, unsure=np.float32(0.1)) == predictor.predict(ROWS, unsure=float(np.float32(0.1)))


@pytest.mark.parametrize("scores", [None, {}, [float("inf")], ["1"], [-1], [True]])
def test_damaged_scores_are_refused(scores: Any) -> None:
    with pytest.raises(InputError, match="scores of held-out rows are invalid"):
        Calibration.of({"conformal": {"scores": scores}}, "metrics.json")
    assert Calibration.of({}, "metrics.json") is None


def test_streams_and_files_have_null_and_the_labels(predictor: Predictor) -> None:
    wanted = predictor.predict(ROWS, probabilities=True, unsure=0.1)
    lines: list[str] = []
    count = predict_stream(predictor, [json.dumps({"text": text}) for text in ROWS], lines.append, unsure=0.1)
    rows = [json.loads(line) for line in lines]
    assert [row["answer"] for row in rows] == [one.answer for one in wanted]
    assert [row.get("possible", []) for row in rows] == [list(one.possible) for one in wanted]
    assert count.open == sum(one.answer is None for one in wanted) > 0
    sheet = Sheet(("text",), [{"text": text} for text in ROWS], "rows.csv", range(1, len(ROWS) + 1))
    checked = check_sheet(sheet, ("text",))
    found = answer_sheet(predictor, sheet, checked, unsure=0.1)
    table = list(csv.DictReader(io.StringIO(sheet_text(sheet, found.added, ".csv"))))
    assert [row["answer"] or None for row in table] == [one.answer for one in wanted] and found.open == count.open
    assert [json.loads(row["possible"] or "[]") for row in table] == [list(one.possible) for one in wanted]
    assert "possible" not in answer_sheet(predictor, sheet, checked).added


def test_the_command_leaves_rows_open(sure: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = predictor.predict(ROWS, probabilities=True, unsure=0.1)
    text = next(text for text, one in zip(ROWS, wanted, strict=True) if one.answer is None)
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(sure), "--input", text, "--unsure", "0.1"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("open: ")
    with pytest.raises(SystemExit):
        main(["predict", str(sure), "--input", text, "--unsure", "0.1", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["answer"] is None and len(told["possible"]) > 1 and told["probabilities"].keys() == set(LABELS)


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "None of 4 rows left open."), (1, "1 of 4 rows left open: its answer is empty"), (2, "2 of 4 rows left open: their")],
)
def test_how_many_rows_are_left_open_is_told(count: int, told: str) -> None:
    assert _left_open(count, 4).startswith(told)


def test_a_server_leaves_rows_open_where_it_is_told_to(predictor: Predictor, bench: Bench, tmp_path: Path) -> None:
    wanted = predictor.predict(ROWS, probabilities=True, unsure=0.1)
    with running([predictor], unsure=0.1) as server:
        rows = server.ask("/predict", {"rows": [{"text": text} for text in ROWS]}).json["rows"]
        assert [row["answer"] for row in rows] == [one.answer for one in wanted]
        assert [row["possible"] for row in rows] == [list(one.possible) for one in wanted]
        assert all((row["value"] is None) == (row["answer"] is None) for row in rows)
        # A chat always has an answer.
        chat = {"model": server.models[0], "messages": [{"role": "user", "content": ROWS[0]}]}
        assert server.ask("/v1/chat/completions", chat).json["choices"][0]["message"]["content"] in LABELS
    with (
        pytest.raises(InputError, match="no scores of held-out rows"),
        running([loaded(bench.save(tmp_path / "older"))], unsure=0.1),
    ):
        pass
