"""What ``--to onnx`` writes, run by ONNX Runtime. Each graph takes torch some seconds, so there are two for all tests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bundles import PROMPT, TEXTS, Bench, loaded, make_bench

from command_line import call
from cotune.bundle.export import onnx as onnx_export
from cotune.bundle.export.classify import RowClassifier, load
from cotune.bundle.export.command import export_bundle
from cotune.errors import CotuneError, InputError
from tiny import merging_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import classifiers

ROWS = [f"{text} {number}" for number in range(3) for text in (*TEXTS, "so<|im_end|>so", "")]


class Exported(NamedTuple):
    """A bundle, what was written of it, and what the command said."""

    bundle: Path
    out: Path
    said: str


@pytest.fixture(scope="module")
def pooled(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tuned model, a probe that reads the mean over the row's tokens too, a chat template."""
    folder = tmp_path_factory.mktemp("pooled")
    bundle = bench.save_probed(folder / "bundle")
    code, _, said = call("export", bundle, "--to", "onnx", "--out", folder / "out")
    assert code == 0, said
    return Exported(bundle, folder / "out", said)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Attention in windows shorter than the prompt, a tokenizer that merges the prompt with rows and answers, TF-IDF."""
    folder = tmp_path_factory.mktemp("windowed")
    bench = make_bench(folder, "gemma3", tokenizer=merging_tokenizer())
    bundle = bench.save_probed(folder / "bundle", terms=True, prompt=PROMPT.edit(cue="Answer:", demonstrations=()))
    return Exported(bundle, export_bundle(bundle, folder / "out", "onnx"), "")


def check(classify: RowClassifier, bundle: Path, texts: list[str]) -> None:
    wanted = loaded(bundle).predict(texts, probabilities=True)
    for batch_size in (1, 5):
        found = classify.probabilities(texts, batch_size)
        for row, prediction in zip(found, wanted, strict=True):
            assert dict(zip(classify.labels, row, strict=True)) == pytest.approx(prediction.probabilities, abs=1e-4)
        assert [each["label"] for each in classify(texts, batch_size)] == [each.answer for each in wanted]
    assert len({prediction.answer for prediction in wanted}) > 1


def test_batches_and_single_rows_get_the_bundles_probabilities(pooled: Exported) -> None:
    classify = load(pooled.out, threads=1)
    assert len(json.loads((pooled.out / "template.json").read_text())["prefix_ids"]) > 20
    long = " ".join(map(str, range(1000)))
    check(classify, pooled.bundle, [*ROWS, long])
    assert len(classify.ids([long])[0]) <= classify.template["max_tokens"] < 1000
    assert classify({"text": ROWS[0]}) == classify(ROWS[0]) == classify([ROWS[0]])[0]


def test_rows_that_do_not_begin_as_the_others_do_are_read_whole(pooled: Exported) -> None:
    classify = load(pooled.out, threads=1)
    mixed = classify.feed([classify.ids(ROWS[:1])[0], [7, *classify.ids(ROWS[:1])[0][1:]]])
    known = mixed["attention_mask"].shape[1] - mixed["input_ids"].shape[1]
    assert mixed["attention_mask"][:, :known].tolist() == [[1] * known, [0] * known]
    classify.template["prefix_ids"][0] = 7  # type: ignore[index]
    check(classify, pooled.bundle, ROWS)


def test_windows_and_tokens_that_merge_across_the_prompts_borders(windowed: Exported) -> None:
    classify = load(windowed.out, threads=1)
    known = classify.template["prefix_ids"]
    assert classify.template["beyond"] > 0 and len(known) > 6
    texts = [*ROWS, "erson", "n", "lace or what", "e" * 20]
    check(classify, windowed.bundle, texts)


def test_the_pages_code_needs_neither_torch_nor_transformers_nor_cotune(pooled: Exported) -> None:
    page = (pooled.out / "README.md").read_text(encoding="utf-8")
    own, stock = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (wanted,) = loaded(pooled.bundle).predict("THE TEXT")
    none = "import sys; sys.modules |= dict.fromkeys(('torch', 'transformers', 'safetensors', 'cotune'))\n"
    code = (none + own + stock).replace("FOLDER", str(pooled.out))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, cwd=pooled.out.parent)
    assert ended.stdout.split("\n") == [wanted, wanted, ""], ended.stderr
    shutil.rmtree(pooled.out / "__pycache__", ignore_errors=True)


def test_the_folder_holds_what_is_needed_and_no_path_of_this_machine(pooled: Exported) -> None:
    assert pooled.said.count("\n") <= 1 and "torchvision" not in pooled.said
    names = {"model.onnx", "tokenizer.json", "template.json", "classify.py", "cells.py", "truncate.py", "probe.safetensors"}
    assert {path.name for path in pooled.out.iterdir()} == names | {"README.md", "prompt.json", "decision.json", "example.json"}
    for path in pooled.out.iterdir():
        content = path.read_bytes()
        assert b"site-packages" not in content and str(pooled.bundle.parent).encode() not in content, path.name


def test_a_graph_that_answers_otherwise_is_not_handed_over(
    pooled: Exported, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(source: Any, adapter: Any, probe: Any, target: Path, prefix_ids: Any) -> None:
        for name in ("model.onnx", "tokenizer.json"):
            shutil.copyfile(pooled.out / name, target / name)

    monkeypatch.setattr(onnx_export, "write_onnx", other)
    with pytest.raises(CotuneError, match="give other answers"):
        export_bundle(bench.save_probed(tmp_path / "bundle", tuned=False), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_told_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name.startswith("onnx") else object())
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InputError, match="onnx and onnxscript and onnxruntime are not installed") as error:
        export_bundle(tmp_path / "bundle", tmp_path / "out", "onnx")
    assert "cotune[onnx]" in error.value.hint


def test_the_benchmark_tells_speeds_and_same_labels(
    pooled: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pooled.out, tmp_path / "work" / "onnx")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ROWS), encoding="utf-8")
    places = ["--bundle", pooled.bundle, "--data", tmp_path / "rows.jsonl", "--work", tmp_path / "work"]
    assert classifiers.main([str(place) for place in places] + ["--rows", "12", "--single", "2", "--repeats", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found["same_label"][name]["rows"] for name in ("onnx", "transformers")] == [12, 12]
    sizes, tokens = found["bytes"], found["tokens"]
    assert sizes["model-int8.onnx"] < sizes["model-int8-partly.onnx"] < sizes["model.onnx"]
    assert tokens["mean"] > tokens["prompt"]
    for told in (found["one_call"], found["a_call_a_row"]):
        assert told["predict"]["against_predict"]["median"] == 1 and told["onnx_int8"]["rows_per_s"] > 0
