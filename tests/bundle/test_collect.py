"""A server keeps the rows that it cannot tell or that are far off, without anything else of a request, in bounded files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import Bench, loaded
from servers import running, texts

from cotune.bundle import Predictor
from cotune.bundle import collect as module
from cotune.bundle.collect import Collector, Nearness, collected_files
from cotune.cli import main
from cotune.errors import BusyError, InputError
from cotune.labelling.pool import identity_of, read_pool

ROWS = [{"text": text} for text in texts(16)]
LIKE = [{"text": text} for text in texts(40, start=100)]


@pytest.fixture(scope="module")
def predictor(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """It leaves about half of the rows open."""
    folder = tmp_path_factory.mktemp("collect")
    _, log_probs = loaded(bench.save_probed(folder / "plain")).states(ROWS)
    highest = float(np.median(-np.sort(log_probs, axis=1)[:, -2])) + 1e-6
    scores = [0.0] * 17 + [highest] * 2
    return loaded(bench.save_probed(folder / "sure", metrics={"conformal": {"n": 19, "scores": scores, "test": []}}))


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in collected_files(folder) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_row_is_far_off_where_no_row_was_learnt_from_near_it() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 16)) * 3
    states = (centres[np.arange(400) % 4] + rng.normal(size=(400, 16))).astype(np.float32)
    nearness = Nearness.of(states[:200])
    assert (nearness.distances(states[200:]) > nearness.limit).mean() < 0.05
    elsewhere = (rng.normal(size=(50, 16)) * 3 + rng.normal(size=(1, 16)) * 8).astype(np.float32)
    assert (nearness.distances(elsewhere) > nearness.limit).mean() > 0.8


def test_open_and_far_rows_are_kept_once_with_the_reason(predictor: Predictor, tmp_path: Path) -> None:
    collector = Collector(tmp_path / "rows", predictor, LIKE)
    collector.prepare()
    collector.saw(ROWS[:9])
    collector.saw([{"text": f"  {row['text'].upper()}"} for row in ROWS[:9]])
    collector.saw(ROWS)
    found = {row["row"]["text"]: row for row in kept(tmp_path / "rows")}
    wanted = predictor.predict([row["text"] for row in ROWS], probabilities=True, unsure=0.1)
    opened = {row["text"] for row, one in zip(ROWS, wanted, strict=True) if one.answer is None}
    assert {text for text, row in found.items() if "unsure" in row["why"]} == opened and len(opened) > 3
    assert len(kept(tmp_path / "rows")) == len(found)
    limit = collector._nearness.limit if collector._nearness is not None else 0.0
    assert all(("far" in row["why"]) == (row["distance"] > limit - 1e-4) for row in found.values())
    for row in found.values():
        assert row.keys() == {"row", "why", "answer", "probability", "distance", "bundle", "time"}
    collector.close()


def test_the_folder_is_one_servers_and_its_owners_alone(predictor: Predictor, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    collector = Collector(folder, predictor)
    with pytest.raises(BusyError, match="another server"):
        Collector(folder, predictor)
    assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "rows.jsonl").stat().st_mode & 0o777 == 0o600
    collector.close()
    Collector(folder, predictor).close()


def test_files_are_rotated_and_the_oldest_go(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 500)
    monkeypatch.setattr(module, "MOST_FILES", 3)
    collector = Collector(tmp_path, predictor)
    rows = [{"text": f"{row['text']} {i}"} for i in range(6) for row in ROWS]
    for row in rows:
        collector.saw([row])
    collector.close()
    files = collected_files(tmp_path)
    numbers = [path.name for path in files]
    assert len(files) == 3 and numbers[-1] == "rows.jsonl" and numbers[0] != "rows-1.jsonl"
    assert all(path.stat().st_size <= 500 for path in files)
    said = [row["row"]["text"] for row in kept(tmp_path)]
    assert said == [row["text"] for row in rows if row["text"] in said]
    # The pool has the newest first.
    pool = read_pool(tmp_path, ("text",))
    assert [row["text"] for row in pool.rows] == said[::-1] and identity_of(tmp_path) == str(tmp_path.resolve())


def test_a_torn_line_and_a_full_disk_lose_no_other_row(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collector = Collector(tmp_path, predictor)
    collector.saw(ROWS)
    collector.close()
    count = len(read_pool(tmp_path, ("text",)).rows)
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"row": {"te')
    collector = Collector(tmp_path, predictor)
    collector.saw([{"text": f"{row['text']} more"} for row in ROWS])
    assert len(read_pool(tmp_path, ("text",)).rows) > count
    before = (tmp_path / "rows.jsonl").read_bytes()

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("cotune.bundle.collect.os.write", full)
        collector.saw([{"text": f"{row['text']} again"} for row in ROWS])
    assert "No space left" in caplog.text and ROWS[0]["text"] not in caplog.text
    collector.saw([{"text": f"{row['text']} later"} for row in ROWS])
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_what_cannot_be_told_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scores of held-out rows"):
        Collector(tmp_path / "rows", loaded(bench.save(tmp_path / "older")))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no rows of this task"):
        read_pool(tmp_path / "none", ("text",))
    (tmp_path / "several" / "kinds-1").mkdir(parents=True)
    (tmp_path / "several" / "kinds-1" / "rows.jsonl").write_text('{"row": {"text": "a"}}\n')
    with pytest.raises(InputError) as error:
        read_pool(tmp_path / "several", ("text",))
    assert "kinds-1" in (error.value.hint or "")


def test_a_server_keeps_rows_and_no_key_or_header_and_label_takes_them(predictor: Predictor, tmp_path: Path) -> None:
    secret, folder = "a-very-secret-token", tmp_path / "rows"
    with running([predictor], collect=folder, token=secret) as server:
        headers = {"authorization": f"Bearer {secret}", "x_customer": "customer-header-77"}
        for row in ROWS:
            body = {**row, "other": "another-field-88"}
            assert server.ask("/predict", body, **headers).status == 200
        chat = {"model": server.models[0], "messages": [{"role": "user", "content": f"{ROWS[0]['text']} by chat"}]}
        assert server.ask("/v1/chat/completions", chat, **headers).status == 200
    held = "".join(path.read_text(encoding="utf-8") for path in folder.iterdir())
    assert secret not in held and "customer-header-77" not in held and "another-field-88" not in held
    wanted = predictor.predict([row["text"] for row in ROWS], unsure=0.1)
    assert {row["text"] for row, answer in zip(ROWS, wanted, strict=True) if answer is None} <= {
        row["row"]["text"] for row in kept(folder)
    }


def test_two_bundles_of_a_task_with_a_long_name_collect_apart(bench: Bench, tmp_path: Path) -> None:
    more = {"task_name": "questions " * 9, "metrics": {"conformal": {"n": 19, "scores": [0.0] * 19, "test": []}}}
    made = [bench.save_probed(tmp_path / f"{layer}" / "bundle", layer=layer, **more) for layer in (1, 2)]
    predictors, folder = [loaded(bundle) for bundle in made], tmp_path / "rows"
    with running(predictors, collect=folder) as server:
        for model in server.models:
            assert server.ask("/predict", {**ROWS[0], "bundle": model}).status == 200
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2 and all(any(name.endswith(p.bundle_id) for p in predictors) for name in names)


def test_label_asks_about_collected_rows(
    predictor: Predictor, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, folder = bench.save_probed(tmp_path / "bundle"), tmp_path / "rows"
    collector = Collector(folder, predictor)
    collector.saw(ROWS)
    collector.close()
    with pytest.raises(SystemExit) as ended:
        main(["label", str(bundle), str(folder), "--n", "2", "--json"])
    assert ended.value.code == 0
    asked = {row["row"]["text"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert len(asked) == 2 and asked <= {row["row"]["text"] for row in kept(folder)}
