"""What cells chose is found again, judged on rows that they have not seen, and picked from by rules that differ."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_racing_benchmark import made_set

from cotune.evaluate.packing import pack_rows
from tiny import save_tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import choosing
import racing
from cells import read_results


def candidate(correct: list[int], losses: list[float], **more: Any) -> dict[str, Any]:
    kept = {"dev": pack_rows(np.array(correct, dtype=bool)), "dev_losses": losses}
    return {"cell": "some", "seed_prompt": False, "score": 0.0, "log_loss": 0.0, **kept, **more}


def test_rules_part_where_the_metric_the_log_loss_and_chance_disagree() -> None:
    rows = 20
    seed = candidate([1] * 14 + [0] * 6, [1.0] * rows)
    a_row_more = candidate([0] + [1] * 15 + [0] * 4, [2.0] * 10 + [0.4] * 10)
    surer = candidate([1] * 14 + [0] * 6, [0.5] * rows)
    far_ahead = candidate([1] * 20, [1.1] * rows)

    def picks(*others: dict[str, Any]) -> dict[str, int]:
        everyone = [seed, *others]
        return {rule: everyone.index(choosing.choose(everyone, rule)) for rule in choosing.RULES}

    # One row more is no more than chance, and the log-loss speaks against it.
    by_a_row = picks(a_row_more)
    assert by_a_row == {"metric": 1, "loss": 0, "tied": 0, "metric_se": 0, "loss_se": 0, "both_se": 0, "seed": 0}
    # As often right, and surer on every row.
    assert picks(surer) == {"metric": 1, "loss": 1, "tied": 1, "metric_se": 0, "loss_se": 1, "both_se": 1, "seed": 0}
    # Six rows more, each at a slightly higher loss.
    assert picks(far_ahead) == {"metric": 1, "loss": 0, "tied": 1, "metric_se": 1, "loss_se": 0, "both_se": 0, "seed": 0}


def test_families_are_judged_once_and_told_against_the_present_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_set(tmp_path / "data" / "trec6")
    model = save_tiny(tmp_path / "model", max_position_embeddings=1024)
    places = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--model", str(model)]
    engine = ["--device", "cpu", "--dtype", "float32"]
    assert choosing.main([*places, *engine]) == 1
    cells = ["--sets", "trec6", "--seeds", "0", "1", "--rows", "40", "--cells", "seed", "winner", "race"]
    assert racing.main([*places, *engine, *cells, "--steps", "36", "--test", "12", "--wording-rows", "6"]) == 0
    capsys.readouterr()
    assert choosing.main([*places, *engine, "--rows", "14", "--most", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["all"]["families"] == 1
    assert choosing.main([*places, *engine, "--rows", "14"]) == 0
    found = json.loads(capsys.readouterr().out)
    families = [json.loads(line) for line in (tmp_path / "out" / choosing.JUDGED).read_text().splitlines()]
    assert [f["family"] for f in families] == [["trec6", 40, 0], ["trec6", 40, 1]]
    assert found["all"]["families"] == 2 == found["trec6, 40 rows"]["families"]
    by_seed = {cell["seed"]: cell for cell in read_results(tmp_path / "out") if cell["cell"] == "seed"}
    for family in families:
        first = family["candidates"][0]
        assert first["seed_prompt"] and first["cell"] == "seed" and 1 < family["n"] <= 14
        right = int(np.sum(choosing.unpack_rows(first["dev"])))
        assert right / len(first["dev_losses"]) == pytest.approx(by_seed[family["seed"]]["dev"], abs=1e-4)
    assert found["all"]["seed"]["score"] == pytest.approx(np.mean([f["candidates"][0]["score"] for f in families]), abs=1e-4)
    assert found["all"]["metric"]["score_more"] == [0.0, 0.0]
