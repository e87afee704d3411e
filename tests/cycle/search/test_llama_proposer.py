"""The bundled model, behind llama-cpp-python's server, proposes instructions in a real run; the race drops what is worse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cycle_runs import journal_of

import cotune
from cotune.bundle.export.gguf_files import write_model
from cotune.bundle.export.gguf_layout import Layout
from cotune.bundle.export.gguf_tokenizer import GgufTokenizer
from cotune.bundle.manifest import read_manifest
from cotune.model.loading.by_name import open_model
from cotune.prompt.prompt import Prompt
from llama import llama_server

pytestmark = [pytest.mark.llama, pytest.mark.timeout(1800)]

ROWS = Path(__file__).resolve().parents[3] / "examples" / "support" / "train.jsonl"


@pytest.fixture(scope="module")
def served(bundled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as a GGUF file, which takes seconds to write."""
    pytest.importorskip("llama_cpp")
    pytest.importorskip("fastapi")
    target = tmp_path_factory.mktemp("served") / "model.gguf"
    tokenizer = GgufTokenizer.of(open_model("smollm2-135m").renderer)
    write_model(bundled_folder, target, Layout.of(bundled_folder), tokenizer, "smollm2-135m")
    return target


def test_a_small_model_proposes_in_a_run_and_the_race_drops_it(served: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    task = cotune.Task.from_rows(rows, input="message", output="label", limit={"train": 60, "dev": 24, "test": 20})
    out = tmp_path / "run"
    with llama_server(served, "writer", tmp_path / "log", context=4096) as url:
        writer = {"base_url": url, "model": "writer", "timeout": 300}
        cotune.run(task, out=out, budget="120ktok", seed=1, search={"pool": 6}, proposer=writer)
    journal = journal_of(out)
    rewrites = [event["value"] for event in journal if event["kind"] == "rewrite"]
    said = (tmp_path / "log").read_text(errors="replace")
    assert rewrites and all(value["requests"] >= 1 and value["tokens"] > 0 for value in rewrites), said
    # A model of this size may also write a list of nothing but dots.
    assert all("no list of instructions" in value.get("failed", "no list of instructions") for value in rewrites), said
    proposed = [Prompt.from_json(p["prompt"]).id for value in rewrites for p in value.get("proposals", [])]
    races = [event["value"] for event in journal if event["kind"] == "race"]
    places = [race["ranking"].index(i) for race in races for i in proposed if i in race["ranking"]]
    assert len(places) >= len(proposed), "whoever is proposed races"
    assert 0 not in places and read_manifest(out / "best").prompt_id not in proposed
