from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import BIAS, LABELS, PROMPT, TEXTS, Bench, answers_of_page, loaded, make_bench

from cotune.bundle.export import export_bundle
from cotune.cli import main
from cotune.errors import CotuneError, InputError
from cotune.model.engine_settings import EngineSettings
from cotune.model.local import LocalModel
from cotune.probe.readout import PROBE
from tiny import merging_tokenizer

ROWS = [{"text": text} for text in TEXTS]


def answers(model: LocalModel, bundle: Path, **options: Any) -> np.ndarray[Any, Any]:
    return model.score(loaded(bundle).prompt, ROWS, LABELS, **options).log_probs


def test_merged_weights_answer_as_the_bundle_does(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save(tmp_path / "bundle")
    out = export_bundle(bundle, tmp_path / "out", "merged")
    merged = LocalModel.load(out / "model", settings=EngineSettings("cpu", "float32"))
    wanted = answers(loaded(bundle).model, bundle, adapter=bench.adapter_id)  # type: ignore[arg-type]
    np.testing.assert_allclose(answers(merged, bundle), wanted, atol=1e-3)
    assert np.abs(answers(bench.model, bundle) - wanted).max() > 0.1, "an adapter that changes nothing proves nothing"


def test_an_export_shows_no_bars_of_transformers(bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    bundle = bench.save(tmp_path / "bundle")
    export_bundle(bundle, tmp_path / "once", "merged")
    # A process that knows the model by now loads it without transformers.
    logging.enable_progress_bar()
    export_bundle(bundle, tmp_path / "twice", "merged")
    told = capfd.readouterr().err
    assert "Loading weights" not in told and "shards" not in told


def test_a_peft_export_runs_with_transformers_and_peft_alone(bench: Bench, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    bundle = bench.save(tmp_path / "bundle")
    out = export_bundle(bundle, tmp_path / "out", "peft")
    tokenizer = AutoTokenizer.from_pretrained(out / "base")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(out / "base", dtype=torch.float32), out / "adapter")
    told = json.loads((out / "example.json").read_text(encoding="utf-8"))
    text = told["prompt_text"].replace("THE TEXT", TEXTS[0])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    (rendered,) = bench.model.renderer.render(loaded(bundle).prompt, ROWS[:1], LABELS)
    assert tuple(ids) == rendered.prompt_ids
    with torch.inference_mode():
        logits = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)
    wanted = bench.model.score(loaded(bundle).prompt, ROWS[:1], LABELS, adapter=bench.adapter_id)
    first = {completion[0] for completion in rendered.completions}
    assert len(first) >= 2
    reached = np.logaddexp.reduce([wanted.log_probs[0, i] for i, c in enumerate(rendered.completions) if c[0] == min(first)])
    assert reached <= float(logits[min(first)]) + 1e-4


@pytest.mark.parametrize("to", ["peft", "merged"])
def test_the_page_says_how_to_run_it_and_names_no_local_path(bench: Bench, tmp_path: Path, to: Any) -> None:
    out = export_bundle(bench.save(tmp_path / "bundle", decision=BIAS), tmp_path / "out", to)
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "vllm serve" in page and "adds a fixed bias" in page and all(label in page for label in LABELS)
    assert "`a person` (which means `person`)" in page
    assert to == "merged" or f"questions-{bench.adapter_id}=FOLDER/adapter" in page, "servers keep adapters by name"
    written = [path for path in out.rglob("*") if path.suffix in (".json", ".md", ".jinja")]
    assert not [path for path in written if str(tmp_path) in path.read_text(encoding="utf-8")]
    assert {path.name for path in out.iterdir()} == {
        *(("base", "adapter") if to == "peft" else ("model",)),
        "prompt.json",
        "decision.json",
        "example.json",
        "request.json",
        "README.md",
    }


def test_a_bundle_without_an_adapter_exports_its_base(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save(tmp_path / "bundle", adapter_folder=None)
    out = export_bundle(bundle, tmp_path / "out", "merged")
    plain = LocalModel.load(out / "model", settings=EngineSettings("cpu", "float32"))
    np.testing.assert_allclose(answers(plain, bundle), answers(bench.model, bundle), atol=1e-5)
    with pytest.raises(InputError, match="no adapter"):
        export_bundle(bundle, tmp_path / "other", "peft")


def test_weights_that_answer_otherwise_are_not_handed_over(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotune.bundle import export

    whole = export.merge
    monkeypatch.setattr(export, "merge", lambda source, adapter, target: whole(source, None, target))
    with pytest.raises(CotuneError, match="answer otherwise"):
        export_bundle(bench.save(tmp_path / "bundle"), tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()


# A control token in a row is text to cotune; a page's code has one tokenizer for all.
PLAIN = [text for text in TEXTS if "|im_end|" not in text]
BY_PROBE = "## With the classification head"


@pytest.mark.parametrize("to", ["peft", "merged"])
def test_the_page_says_how_a_classification_head_answers_elsewhere(bench: Bench, tmp_path: Path, to: Any) -> None:
    bundle = bench.save_headed(tmp_path / "bundle", words=BIAS)
    out = export_bundle(bundle, tmp_path / "out", to)
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "reached 0.750 on dev" in page and "adds a fixed bias" in page, "whoever generates is told of the rule for words"
    assert "By words alone cotune scores every label" in page
    assert json.loads((out / "decision.json").read_text()) == BIAS.to_json()
    assert (out / PROBE).is_file() and not (out / "adapter" / PROBE).exists(), "an adapter is a PEFT folder and nothing else"
    wanted = loaded(bundle).predict(PLAIN)
    assert answers_of_page(out, BY_PROBE, PLAIN) == wanted and len(set(wanted)) > 1


def test_the_pages_head_reads_the_state_that_cotune_reads(tmp_path: Path) -> None:
    """Where a tokenizer merges the end of the prompt with the answer, the model's answer begins before the text's end."""
    bench = make_bench(tmp_path, tokenizer=merging_tokenizer())
    prompt = PROMPT.edit(cue="Answer:", demonstrations=())
    bundle = bench.save_headed(tmp_path / "bundle", prompt=prompt)
    out = export_bundle(bundle, tmp_path / "out", "merged")
    assert re.search(r"part\[:, :-\d\]", (out / "README.md").read_text(encoding="utf-8"))
    assert answers_of_page(out, BY_PROBE, PLAIN) == loaded(bundle).predict(PLAIN)


@pytest.mark.parametrize("to", ["gguf", "gguf-merged"])
def test_the_page_says_how_llama_cpp_tells_the_states_that_a_head_needs(bench: Bench, tmp_path: Path, to: Any) -> None:
    out = export_bundle(bench.save_headed(tmp_path / "bundle"), tmp_path / "out", to)
    page = (out / "README.md").read_text(encoding="utf-8")
    part = page[page.index(BY_PROBE) :]
    loaded_files = "-m FOLDER/base.gguf --lora FOLDER/adapter-" if to == "gguf" else "-m FOLDER/model.gguf "
    assert loaded_files in part and "--embeddings --pooling last" in part and (out / PROBE).is_file()


def test_an_export_says_that_there_is_a_head(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = bench.save_headed(tmp_path / "bundle")

    def said(bundle: Path, *options: str) -> tuple[str, str]:
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["export", str(bundle), "--to", "peft", "--out", str(tmp_path / "-".join(["out", *options])), *options])
        return capsys.readouterr()

    assert PROBE in said(bundle)[1]
    assert json.loads(said(bundle, "--json")[0])["head"] == PROBE
    shutil.rmtree(tmp_path / "out---json")
    out, error = said(bench.save(tmp_path / "plain"), "--json")
    assert json.loads(out)["head"] is None and "head" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["BUNDLE", "--out", "OUT", "--to", "onnx"], "unknown form 'onnx'"),
        (["BUNDLE", "--out", "BUNDLE"], "something in that place"),
        (["OUT", "--out", "OUT"], "manifest.json"),
        (["BUNDLE", "--out", "OUT", "--base", "OUT"], "base model cannot be found"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_exit_2(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    places = {"BUNDLE": str(bench.save(tmp_path / "bundle")), "OUT": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as stopped:
        main(["export", *(places.get(argument, argument) for argument in arguments)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
