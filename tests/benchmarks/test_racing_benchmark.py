"""Every way of spending the tokens runs, is resumed cell by cell, keeps to its tokens, and is told with its difference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tiny import save_tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import racing
import racing_table
from cells import RESULTS, add_result, read_results
from racing_ways import EPOCHS, WAYS

LABELS = ("person", "place", "number")
WORDS = ("who", "where", "many")


def made_set(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part, count in (("train", 60), ("test", 20)):
        rows = [{"input": f"{WORDS[i % 3]} {part[:2]} {i} {WORDS[i % 3]}?", "output": LABELS[i % 3]} for i in range(count)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("racing-benchmark")
    made_set(root / "data" / "trec6")
    model = save_tiny(root / "model", max_position_embeddings=1024)
    sizes = ["--steps", "36", "--rows", "57", "--test", "12", "--wording-rows", "6"]
    places = ["--data", str(root / "data"), "--out", str(root / "out"), "--model", str(model)]
    return [*places, "--sets", "trec6", "--seeds", "0", *sizes, "--device", "cpu", "--dtype", "float32"]


def test_all_ways_run_a_cell_at_a_time(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(given[3])
    assert racing.main([*given, "--most", "1"]) == 0
    first = read_results(out)
    assert [cell["cell"] for cell in first] == ["seed"]
    with (out / RESULTS).open("a") as stream:
        stream.write('{"set": "tre')
    assert racing.main(given) == 0
    cells = read_results(out)
    assert [cell["cell"] for cell in cells] == list(WAYS) and cells[0] == first[0]
    for cell in cells:
        assert cell["n"]["test"] == len(cell["row_ids"]) == len(cell["log_losses"]) == 12
        assert len(cell["wordings"]) == racing.WORDINGS and len(cell["wording_row_ids"]) == 6
        # Two races and five short runs are more than so few tokens hold.
        if cell["cell"] not in ("shown_steps", "nearest_steps", "nearest_untuned", "cycles"):
            assert cell["tokens"] <= cell["budget"], cell["cell"]
    by_way: dict[str, Any] = {cell["cell"]: cell for cell in cells}
    assert by_way["shown"]["demonstrations"] == 3 and by_way["seed"]["demonstrations"] == 0
    assert (
        by_way["nearest_steps"]["demonstrations"] == 3 and by_way["nearest_steps"]["tokens"] > by_way["shown_steps"]["tokens"]
    )
    assert by_way["shown_steps"]["tokens"] > 1.3 * by_way["shown"]["tokens"]
    capsys.readouterr()
    assert racing.main(given) == 0
    assert "nothing is missing" in capsys.readouterr().err


def test_the_table_pools_seeds_and_pairs_rows(given: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cells = read_results(Path(given[3]))
    better = {**cells[2], "correct": "12:fff0", "log_losses": [0.1] * 12}
    worse = {**cells[0], "correct": "12:0ff0", "log_losses": [0.3] * 12}
    for cell in (better, worse, {**better, "seed": 1}, {**worse, "seed": 1}, {**better, "seed": 2, "correct": "12:0000"}):
        add_result(tmp_path, cell)
    assert racing_table.main(["--out", str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    reference, line = found["cells"]
    assert (reference["cell"], line["cell"]) == ("seed", "race") and reference["difference"] is None
    assert (line["n"], line["seeds"]) == (36, [0, 1, 2]) and line["test"] == pytest.approx(24 / 36, abs=1e-4)
    difference = line["difference"]
    assert difference["seeds"] == [0, 1] and difference["score"] == pytest.approx(1 / 3, abs=1e-4)
    assert difference["ci"][0] <= difference["score"] <= difference["ci"][1]
    assert difference["log_loss"] == pytest.approx(-0.2) and difference["p_holm"] == difference["p"] <= 1
    assert racing_table.main(["--out", str(tmp_path)]) == 0
    assert "| race | 3 | 36 |" in capsys.readouterr().out


def test_no_way_meets_a_row_more_than_eight_times(given: list[str], tmp_path: Path) -> None:
    cells = ["--cells", "seed", "race", "cycles"]
    assert racing.main([*given, "--out", str(tmp_path), "--rows", "24", "--steps", "300", *cells]) == 0
    for cell in read_results(tmp_path):
        assert 0 < cell["steps"] <= EPOCHS * -(-cell["n"]["train"] // 8), cell["cell"]
        assert cell["tokens"] < 0.9 * cell["budget"], cell["cell"]
