"""Vectors made on an executor are the same on every one, and hang on the texts alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cotune.cli import main
from cotune.embed import chunks
from cotune.model.hardware.capability import check_capability
from cotune.model.hardware.machine import usable_cpus
from tiny import save_tiny


def embed(*arguments: object) -> int:
    try:
        main(["embed", *map(str, arguments)])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    # A machine that is faster in bfloat16 would take it, and there vectors differ by the texts beside them in a pass. Workers
    # read the remembered rates too.
    for threads in range(1, usable_cpus() + 1):
        check_capability("cpu", threads=threads)
    for rates in (tmp_path / "cache" / "probe").glob("*.json"):
        stored = json.loads(rates.read_text())
        rates.write_text(json.dumps({**stored, "gemm_gflops": {**stored["gemm_gflops"], "bfloat16": 0.0}}))
    return save_tiny(tmp_path / "model", "llama")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """600 texts, 300 of them different."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"How tall is tower {number % 300}?" for number in range(600)), encoding="utf-8")
    return path


def test_processes_give_the_same_vectors(model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--input", texts, "--model", model, "--json"]
    told = {}
    for name, words in (("local", ["local"]), ("processes", ["processes", "--workers", 1])):
        assert embed(*given, "--out", tmp_path / f"{name}.npy", "--executor", *words) == 0
        told[name] = json.loads(capsys.readouterr().out)
    local, processes = (np.load(tmp_path / f"{name}.npy") for name in ("local", "processes"))
    assert (tmp_path / "local.npy").read_bytes() == (tmp_path / "processes.npy").read_bytes()
    assert local.shape == (600, told["local"]["width"]) and told["local"]["standard"] == "half_whiten"
    np.testing.assert_array_equal(local[0], local[300])
    assert [*told["local"]["workers"]] != [*told["processes"]["workers"]]
    assert not [*tmp_path.glob("*.parts")]
    assert embed(*given, "--out", tmp_path / "usual.npy") == 0
    assert json.loads(capsys.readouterr().out)["from_cache"] == 0, "an executor leaves the cache alone"
    np.testing.assert_allclose(np.load(tmp_path / "usual.npy"), processes, atol=1e-4)


def test_vectors_fitted_on_other_texts(model: Path, texts: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("Who?\nHow tall is tower 3?", encoding="utf-8")
    given = ["--input", few, "--model", model, "--fit-on", texts, "--layer", 1]
    assert embed(*given, "--out", tmp_path / "on.npy", "--executor", "local") == 0
    assert embed(*given, "--out", tmp_path / "usual.npy") == 0
    np.testing.assert_allclose(np.load(tmp_path / "on.npy"), np.load(tmp_path / "usual.npy"), atol=1e-4)


def test_an_interrupted_command_goes_on_from_finished_chunks(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "vectors.npy"
    given = ["--input", texts, "--model", model, "--out", out, "--executor", "local"]
    whole, calls = chunks.named_embedder, [0]

    class Interrupted:
        def __init__(self) -> None:
            self.inner = whole(str(model))
            self.facts = self.inner.facts

        def embed(self, texts: list[str]) -> object:
            calls[0] += 1
            if calls[0] == 2:
                raise KeyboardInterrupt
            return self.inner.embed(texts)

    monkeypatch.setattr(chunks, "named_embedder", lambda *_, **__: Interrupted())
    chunks._opened.cache_clear()
    assert embed(*given) == 130
    assert "1 chunk kept in" in capsys.readouterr().err
    assert embed(*given) == 0
    chunks._opened.cache_clear()
    assert calls[0] == 3 and "256 texts done before" in capsys.readouterr().err
    assert len(np.load(out)) == 600


def test_a_worker_with_another_model_is_refused(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = iter(["as the command sees it", "as the worker does"])
    monkeypatch.setattr(chunks, "model_content", lambda name: next(found))
    given = ["--input", texts, "--model", model, "--out", tmp_path / "v.npy", "--executor", "local"]
    assert embed(*given) == 2
    assert "has a different model under this name" in capsys.readouterr().err
    assert not [*tmp_path.glob("v.npy*")]
