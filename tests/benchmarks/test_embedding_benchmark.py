from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tiny import save_tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import embedding


def test_all_parts_run_and_the_best_on_validation_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "_DRAWS", 20)
    words = ["card", "tower", "book", "number", "person", "place"]
    pairs = [
        {"sentence1": f"a {words[i % 6]} here", "sentence2": f"a {words[i % 5]} there", "score": float(i % 4)}
        for i in range(12)
    ]
    labelled = [{"input": f"the {words[i % 6]} {i}", "output": words[i % 6]} for i in range(24)]
    for folder, parts in (("stsb_en", ("train", "validation", "test")), ("trec6", ("train", "test"))):
        (tmp_path / folder).mkdir()
        for part in parts:
            rows = pairs if folder == "stsb_en" else labelled
            (tmp_path / folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = save_tiny(tmp_path / "model")
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    given = ["--data", str(tmp_path), "--model", str(model), "--quick"]
    # Out of time at once, it stops; what it ran is not run again.
    with pytest.raises(SystemExit, match="goes on from here"):
        embedding.main([*given, "--minutes", "0"])
    assert embedding.main(given) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"]["validation"] == max(entry["validation"] for entry in found["tried"])
    assert [entry["pooling"] for entry in found["best_by_pooling"]] == ["prompt_eol", "static"]
    reported = [*found["best_by_pooling"], found["chosen"]]
    assert all(entry["test_ci"][0] <= entry["test"] <= entry["test_ci"][1] for entry in reported)
    assert set(found["nearest_neighbours"]) == {"trec6"}
    monkeypatch.setattr(embedding, "last_states", None)
    assert embedding.main(given) == 0
