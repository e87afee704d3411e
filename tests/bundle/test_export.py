from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from bundles import BIAS, LABELS, PROMPT, TEXTS, Bench, answers_of_page, loaded, make_bench

from command_line import call
from cotune.bundle.export import command
from cotune.bundle.export.command import export_bundle
from cotune.bundle.export.request import Asking
from cotune.bundle.hub.repository import Repository
from cotune.bundle.snippets import prompt_lines
from cotune.cli import main
from cotune.errors import CotuneError, InputError
from cotune.model.adapters.files import LoraSettings
from cotune.model.engine.settings import EngineSettings
from cotune.model.local import LocalModel
from cotune.probe.readout import PROBE, Probe, load_probe
from cotune.prompt.prompt import Prompt
from cotune.prompt.truncate import Truncation
from cotune.task.values.output import Output
from tiny import merging_tokenizer, tiny_tokenizer

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


_KILLED = """
import json, os, sys
from pathlib import Path

import cotune.bundle.export.command, peft, sklearn.linear_model, transformers.models.auto.modeling_auto
from cotune.cli import main

out = Path(sys.argv[-1])
for how in json.loads(sys.argv[1]):
    pid = os.fork()
    if pid == 0:
        begun = []

        def kill(event, about):
            if event == "open" and ".new-" in str(about[0]) and "w" in str(about[1]) and not begun:
                begun.append(True)
                os.kill(os.getpid(), how)

        sys.addaudithook(kill)
        main(["export", *sys.argv[2:]])
        sys.exit("nothing was written")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps([code, len([*out.parent.glob(f".{out.name}.new-*")]), out.exists()]), flush=True)
"""
"""Runs exports that get a signal once they write their first file, each a process that is forked from one with all imports."""


def test_a_killed_export_leaves_nothing_behind_or_the_next_one_removes_it(bench: Bench, tmp_path: Path) -> None:
    bundle, signals = bench.save(tmp_path / "bundle"), [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]
    command = [sys.executable, "-c", _KILLED, json.dumps(signals), str(bundle), "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert "Traceback" not in ended.stderr and ended.returncode == 0, ended.stderr
    # The code, how many unfinished folders are left (after the second kill, only that of the second), and whether there is one.
    assert [json.loads(line) for line in ended.stdout.splitlines()] == [
        [-signal.SIGKILL, 1, False],
        [-signal.SIGKILL, 1, False],
        [128 + signal.SIGTERM, 0, False],
    ]


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
    assert "**The folder holds 1 labelled row of your data" in page
    modes = {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "bundle" / "README.md").stat().st_mode & 0o777}, "whoever may read one file may read all"
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
    from cotune.bundle.export import command as export

    whole = export.merge
    monkeypatch.setattr(export, "merge", lambda source, adapter, target: whole(source, None, target))
    with pytest.raises(CotuneError, match="give other answers"):
        export_bundle(bench.save(tmp_path / "bundle"), tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()


# A control token in a row is text to cotune; a page's code has one tokenizer for all.
PLAIN = [text for text in TEXTS if "|im_end|" not in text]
FORMS = ("transformers", "peft", "merged", "gguf", "gguf-merged")


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize("to", ["peft", "merged"])
def test_the_pages_code_answers_as_the_probe_does(bench: Bench, tmp_path: Path, to: Any, tuned: bool) -> None:
    bundle = bench.save_probed(tmp_path / "bundle", tuned=tuned)
    if to == "peft" and not tuned:
        with pytest.raises(InputError, match="no adapter") as error:
            export_bundle(bundle, tmp_path / "out", to)
        assert "--to transformers" in error.value.hint
        return
    out = export_bundle(bundle, tmp_path / "out", to)
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "layer 1 of 2" in page and "vllm serve" not in page and str(tmp_path) not in page
    assert json.loads((out / "decision.json").read_text())["kind"] == "probe"
    assert (out / PROBE).is_file() and not (out / "adapter" / PROBE).exists(), "an adapter is a PEFT folder and nothing else"
    assert not (out / "request.json").exists(), "a model that ends in the middle writes nothing"
    config = json.loads((out / ("base" if to == "peft" else "model") / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    wanted = loaded(bundle).predict(PLAIN)
    assert answers_of_page(out, "## Run it", PLAIN) == wanted and len(set(wanted)) > 1


def test_what_stands_for_a_field_is_not_in_the_prompt_itself(bench: Bench, tmp_path: Path) -> None:
    prompt = PROMPT.edit(instruction="Classify THE TEXT and THE TEXT 2: {labels}.")
    bundle = bench.save_probed(tmp_path / "bundle", prompt=prompt)
    repository = Repository.of("org/questions", bundle, to="transformers")
    repository.write(tmp_path / "pushed")
    out = export_bundle(bundle, tmp_path / "out", "transformers")
    example = json.loads((out / "example.json").read_text())
    assert example["fields"] == {"text": "THE TEXT 3"}
    wanted = bench.model.renderer.text(prompt, {"text": "Hello"}, LABELS)
    assert example["prompt_text"].replace("THE TEXT 3", "Hello") == wanted
    page, card = ((tmp_path / name / "README.md").read_text() for name in ("out", "pushed"))
    assert "Replace THE TEXT 3 and keep" in page and 'prompt_text.replace("THE TEXT 3", ' in page
    head = yaml.safe_load(card.split("---")[1])
    assert head["widget"][0]["text"] == wanted.replace("Hello", "Hello, can you help me with this?")


def test_fields_whose_names_differ_in_case_alone_are_told_apart(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save(
        tmp_path / "bundle",
        input_fields=("text", "Text", "text_2"),
        prompt=Prompt(input_template="{text} / {Text} / {text_2}", cue="Label:"),
    )
    asking = Asking.of(loaded(bundle))
    assert asking.marks == {"text": "THE TEXT", "Text": "THE TEXT 2", "text_2": "THE TEXT_2"}
    names = {"prompt_text": asking.text}
    exec("\n".join(prompt_lines(asking.marks)[2:]).replace(", 'THE ", ", 'my "), names)
    assert "my TEXT / my TEXT 2 / my TEXT_2" in names["prompt_text"] and "THE" not in names["prompt_text"]


def pipeline_of(out: Path, **options: Any) -> Any:
    """What ``pipeline.py`` of an export loads, by itself."""
    spec = importlib.util.spec_from_file_location("pipeline", out / "pipeline.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(**options)


@pytest.mark.parametrize(
    ("kind", "layer", "tuned"),
    [
        ("llama", 1, True),
        ("llama", 2, False),
        ("qwen2", 1, True),
        ("qwen3", 1, False),
        ("gemma3", 3, True),
    ],
)
def test_a_classifier_for_transformers_answers_as_the_bundle_does(tmp_path: Path, kind: Any, layer: int, tuned: bool) -> None:
    bench = make_bench(tmp_path, kind, rms_norm_eps=1e-3)
    bundle = bench.save_probed(tmp_path / "bundle", layer=layer, tuned=tuned)
    out = export_bundle(bundle, tmp_path / "out", "transformers")
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification") and config["num_hidden_layers"] == layer
    assert set(config["label2id"]) == set(LABELS) and len(config.get("layer_types") or [0] * layer) == layer
    texts = [f"{text} {number}" for number in range(3) for text in (*TEXTS, "so<|im_end|>so")]
    wanted = loaded(bundle).predict(texts, probabilities=True)
    for size in (1, 5):
        told = pipeline_of(out, batch_size=size)(texts, top_k=None)
        for row, prediction in zip(told, wanted, strict=True):
            assert row[0]["label"] == prediction.answer
            assert {each["label"]: each["score"] for each in row} == pytest.approx(prediction.probabilities, abs=1e-4)
    assert len({prediction.answer for prediction in wanted}) > 1
    classify = pipeline_of(out)
    assert classify({"text": texts[0]})["label"] == wanted[0].answer
    assert classify([]) == classify([], top_k=None) == []
    with pytest.raises(TypeError, match="a row must be a text or a mapping with named fields, not of type NoneType"):
        classify(None)
    assert {path.suffix for path in out.iterdir() if path.is_file()} <= {".json", ".jinja", ".safetensors", ".md", ".py"}


@pytest.mark.parametrize("to", ["transformers", "peft", "merged"])
def test_tf_idf_is_exported_too(bench: Bench, tmp_path: Path, to: Any) -> None:
    bundle = bench.save_probed(tmp_path / "bundle", terms=True)
    out = export_bundle(bundle, tmp_path / "out", to)
    assert (out / "terms.py").is_file()
    wanted = loaded(bundle).predict(PLAIN)
    assert wanted != loaded(bench.save_probed(tmp_path / "without" / "bundle")).predict(PLAIN), "TF-IDF that changes nothing"
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "TF-IDF" in page and "logistic regression on the row's words" in page
    if to == "transformers":
        assert [row["label"] for row in pipeline_of(out, batch_size=2)(PLAIN)] == wanted
        assert "It leaves out TF-IDF" in page
    else:
        assert answers_of_page(out, "## Run it", PLAIN) == wanted


@pytest.mark.parametrize("truncate", ["middle", "end"])
def test_long_rows_are_shortened_as_in_the_bundle(bench: Bench, tmp_path: Path, truncate: Truncation) -> None:
    bundle = bench.save_probed(tmp_path / "bundle", model=bench.model.with_prompts(180, truncate))
    out = export_bundle(bundle, tmp_path / "out", "transformers")
    classify, whole = pipeline_of(out), tmp_path / "whole"
    texts = [f"{text} " * 60 + "Who built it?" for text in TEXTS]
    wanted = loaded(bundle).predict(texts, probabilities=True)
    assert all(prediction.truncated for prediction in wanted)
    for row, prediction in zip(classify(texts, top_k=None), wanted, strict=True):
        assert {each["label"]: each["score"] for each in row} == pytest.approx(prediction.probabilities, abs=1e-4)
    assert ("Who built it?" in classify.tokenizer.decode(classify.prompt_ids(texts[0]))) == (truncate == "middle")
    assert "as in cotune" in (out / "README.md").read_text(encoding="utf-8")
    with pytest.raises(KeyError, match="the row has no field 'text'; a row needs 'text'"):
        classify({"title": "x"})
    code, _, said = call("export", bundle, "--to", "merged", "--out", whole)
    assert code == 0 and "shortens rows whose prompt is longer than 180 tokens" in said
    assert "shorten such rows before" in (whole / "README.md").read_text(encoding="utf-8")


def test_an_export_that_reads_whole_rows_is_not_handed_over(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample text is longer than the limit on prompts."""
    write = command.write_template
    monkeypatch.setattr(command, "write_template", lambda *given, **more: write(*given, **more | {"max_tokens": 10_000}))
    with pytest.raises(CotuneError, match="shortens a long row to other tokens"):
        export_bundle(bench.save_probed(tmp_path / "bundle"), tmp_path / "out", "transformers")


def test_an_end_token_of_the_tokenizer_does_not_count(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer(False)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    bench = make_bench(tmp_path, tokenizer=tokenizer)
    bundle = bench.save_probed(tmp_path / "bundle", model=bench.model.with_prompts(150, "middle"))
    out = export_bundle(bundle, tmp_path / "out", "transformers")
    assert json.loads((out / "template.json").read_text(encoding="utf-8"))["ends"] == 1
    predictor, classify = loaded(bundle), pipeline_of(out)
    for words in range(1, 120):
        (row,) = predictor.rendered([{"text": "go " * words}])
        assert classify.prompt_ids("go " * words) == list(row.prompt_ids)


def test_rows_of_several_fields_go_through_the_classifiers_pipeline(bench: Bench, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    weight = numbers.normal(size=(len(LABELS), 2 * bench.model.width)).astype(np.float32)
    bias = np.zeros(len(LABELS), dtype=np.float32)
    probe = Probe(LABELS, weight - weight.mean(axis=0), bias, 1)
    prompt = PROMPT.edit(input_template="FIELD 0 0 HERE {title}: {text}", demonstrations=())
    bundle = bench.save_probed(tmp_path / "bundle", probe=probe, prompt=prompt, input_fields=("title", "text"))
    out = export_bundle(bundle, tmp_path / "out", "transformers")
    rows = [{"title": title, "text": text} for text in TEXTS for title in ("{text}", "THE TEXT", "")]
    wanted = loaded(bundle).predict(rows, probabilities=True)
    for row, prediction in zip(pipeline_of(out)(rows, top_k=None), wanted, strict=True):
        assert {each["label"]: each["score"] for each in row} == pytest.approx(prediction.probabilities, abs=1e-4)
    (own, _) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "{'title': 'THE TITLE', 'text': 'THE TEXT'}" in own


def test_the_pages_code_runs_the_classifier(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save_probed(tmp_path / "bundle")
    out = export_bundle(bundle, tmp_path / "out", "transformers")
    page = (out / "README.md").read_text(encoding="utf-8")
    own, stock = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (wanted,) = loaded(bundle).predict("THE TEXT")
    for code in (own, stock):
        with redirect_stdout(StringIO()) as printed:
            exec(code.replace("FOLDER", str(out)), {})
        assert printed.getvalue().strip() == wanted
    sys.modules.pop("pipeline")
    sys.path.remove(str(out))


@pytest.mark.parametrize("to", FORMS)
def test_a_tuned_window_above_the_layer_that_is_read_is_left_out(bench: Bench, tmp_path: Path, to: Any) -> None:
    """The adapter changes all layers and the probe reads after the first."""
    out = export_bundle(bench.save_probed(tmp_path / "bundle"), tmp_path / "out", to)
    if to == "peft":
        from safetensors.torch import load_file

        assert all(".layers.0." in name for name in load_file(out / "adapter" / "adapter_model.safetensors"))
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_layers_that_an_adapter_names_are_cut_too(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, num_hidden_layers=3, lora=LoraSettings(rank=4, alpha=8, layers=(1, 2)))
    out = export_bundle(bench.save_probed(tmp_path / "bundle", layer=2), tmp_path / "out", "peft")
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["layers_to_transform"] == [1]
    with pytest.raises(InputError, match="changes no layer up to layer 1") as error:
        export_bundle(bench.save_probed(tmp_path / "other", layer=1), tmp_path / "none", "peft")
    assert "--to transformers" in error.value.hint and not (tmp_path / "none").exists()


@pytest.mark.parametrize("to", ["transformers", "peft", "merged", "gguf", "gguf-merged"])
def test_a_probe_that_would_answer_otherwise_is_not_handed_over(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any
) -> None:
    from cotune.bundle.export import command as export

    whole = export.cut
    # One layer too many.
    monkeypatch.setattr(export, "cut", lambda source, adapter, layer, target: whole(source, adapter, layer + 1, target))
    with pytest.raises(CotuneError, match="give other answers"):
        export_bundle(bench.save_probed(tmp_path / "bundle"), tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_batches_are_padded_with_a_token_that_no_prompt_ends_with(bench: Bench, tmp_path: Path) -> None:
    from cotune.bundle.export.weights import cut, write_classifier

    bundle = bench.save_probed(tmp_path / "bundle")
    probe, own = load_probe(bundle / "adapter"), bench.model.tokenizer.pad_token_id
    assert probe is not None and own is not None
    source, adapter = cut(bench.base, bundle / "adapter", 1, tmp_path)
    for name, last_ids in (("kept", {own + 1}), ("other", {own})):
        (tmp_path / name).mkdir()
        write_classifier(source, adapter, probe, tmp_path / name, last_ids, 3)
        padded = json.loads((tmp_path / name / "config.json").read_text())["pad_token_id"]
        assert (padded == own) is (name == "kept") and padded is not None
    with pytest.raises(InputError, match="no token for padding"):
        write_classifier(source, adapter, probe, tmp_path, set(range(len(bench.model.tokenizer))), 3)


def test_words_and_written_answers_are_no_classifier(bench: Bench, tmp_path: Path) -> None:
    written = {"output": Output("text"), "metric": "token_f1", "answer_tokens": 9, "prompt": Prompt("Say.")}
    for name, changes in (("words", {}), ("written", written)):
        for to in ("transformers", "onnx"):
            with pytest.raises(InputError, match="not by a probe") as error:
                export_bundle(bench.save(tmp_path / name, **changes), tmp_path / "out", to)  # type: ignore[arg-type]
            assert "--to merged" in error.value.hint and not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["transformers", "merged"])
def test_an_export_reads_the_state_that_cotune_reads(tmp_path: Path, to: Any) -> None:
    """Where a tokenizer merges the end of the prompt with the answer, the model's answer begins before the text's end."""
    bench = make_bench(tmp_path, tokenizer=merging_tokenizer())
    prompt = PROMPT.edit(cue="Answer:", demonstrations=())
    bundle = bench.save_probed(tmp_path / "bundle", prompt=prompt)
    out = export_bundle(bundle, tmp_path / "out", to)
    assert to == "transformers" or re.search(r"part\[:, :-\d\]", (out / "README.md").read_text(encoding="utf-8"))
    wanted = loaded(bundle).predict(PLAIN)
    found = (
        [each["label"] for each in pipeline_of(out)(PLAIN)]
        if to == "transformers"
        else answers_of_page(out, "## Run it", PLAIN)
    )
    assert found == wanted


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize("to", ["gguf", "gguf-merged"])
def test_the_page_says_how_llama_cpp_tells_the_states_that_a_probe_needs(
    bench: Bench, tmp_path: Path, to: Any, tuned: bool
) -> None:
    bundle = bench.save_probed(tmp_path / "bundle", tuned=tuned)
    out = export_bundle(bundle, tmp_path / "out", to)
    page = (out / "README.md").read_text(encoding="utf-8")
    files = {"gguf": f"-m FOLDER/base.gguf {'--lora FOLDER/adapter-' if tuned else ''}", "gguf-merged": "-m FOLDER/model.gguf "}
    assert files[to] in page and "--embeddings --pooling none" in page and (out / PROBE).is_file()
    assert json.loads((out / "request.json").read_text()).keys() == {"content", "embd_normalize"}
    assert not (out / "Modelfile").exists()


def test_an_export_says_that_there_is_a_probe(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = bench.save_probed(tmp_path / "bundle")

    def said(bundle: Path, *options: str) -> tuple[str, str]:
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["export", str(bundle), "--to", "peft", "--out", str(tmp_path / "-".join(["out", *options])), *options])
        return capsys.readouterr()

    assert PROBE in said(bundle)[1]
    assert json.loads(said(bundle, "--json")[0])["probe"] == PROBE
    shutil.rmtree(tmp_path / "out---json")
    out, error = said(bench.save(tmp_path / "plain"), "--json")
    assert json.loads(out)["probe"] is None and "probe" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["BUNDLE", "--out", "OUT", "--to", "tflite"], "unknown format 'tflite'"),
        (["BUNDLE", "--out", "BUNDLE"], "is not empty"),
        (["OUT", "--out", "OUT"], "there is no such bundle"),
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
