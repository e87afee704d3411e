"""Exports of bundles that write: the page's own commands give the bundle's answer, and the schema is where they look for it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundles import BIAS, LABELS, Bench, loaded, make_bench

from cotune.bundle.export.command import TARGETS, export_bundle
from cotune.bundle.export.request import vllm_rank
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.task.values.output import Output, label_output

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "who": {"type": "string"}}, "required": ["n"]}
JSON = {"output": Output("json", schema_text=json.dumps(SCHEMA)), "metric": "json_f1", "answer_tokens": 40}
NUMBER = {"output": Output("number", schema_text='{"type": "integer"}'), "metric": "accuracy", "answer_tokens": 9}
TEXT = {"output": Output("text"), "metric": "token_f1", "answer_tokens": 24}
PROMPT = Prompt("Answer.", "{text}", "Answer:")


def exported(bench: Bench, folder: Path, to: Any, kind: dict[str, Any]) -> tuple[Path, str]:
    out = export_bundle(bench.save(folder / "bundle", prompt=PROMPT, **kind), folder / "out", to)
    return out, (out / "README.md").read_text(encoding="utf-8")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def said_by(page: str, out: Path) -> str:
    """What the page's Python prints."""
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code.replace("FOLDER", str(out)), {})
    return said.getvalue().strip()


@pytest.mark.parametrize("to", ["peft", "merged"])
def test_the_python_of_the_page_writes_what_the_bundle_writes(bench: Bench, tmp_path: Path, to: Any) -> None:
    out, page = exported(bench, tmp_path, to, TEXT)
    predictor = loaded(tmp_path / "bundle")
    (wanted,) = predictor.predict("THE TEXT")
    assert len(predictor.model.tokenizer(wanted)["input_ids"]) > 16, "a shorter answer would not show where the page's ends"
    assert said_by(page, out) == wanted


@pytest.mark.parametrize("to", [to for to in TARGETS if to not in ("transformers", "onnx", "mlflow")])
def test_the_schema_goes_along_and_every_server_is_given_it(bench: Bench, tmp_path: Path, to: Any) -> None:
    out, page = exported(bench, tmp_path, to, JSON)
    assert read(out / "schema.json") == SCHEMA
    assert "`schema.json`" in page and "manifest.json" not in page
    request = read(out / "request.json")
    assert request["prompt"] == read(out / "example.json")["prompt_text"] and request["temperature"] == 0
    assert "@FOLDER/request.json" in page
    if to in ("peft", "merged"):
        assert request["response_format"]["json_schema"]["schema"] == SCHEMA and request["max_tokens"] == 40
        assert request["stop_token_ids"] == list(bench.model.stop_ids)
        assert request["add_special_tokens"] is False, "the chat template brings them"
        assert "max_new_tokens=40" in page and "does not enforce the schema" in page
        assert request["model"] in page
        return
    assert request["json_schema"] == SCHEMA and request["n_predict"] == 40
    if to == "gguf":
        assert not (out / "ollama.json").exists() and not (out / "Modelfile").exists(), "Ollama does not support adapters"
        return
    ollama = read(out / "ollama.json")
    assert ollama["format"] == SCHEMA and ollama["raw"] is True and ollama["stream"] is False
    assert ollama["prompt"] == request["prompt"] and f"ollama create {ollama['model']} " in page
    assert "@FOLDER/ollama.json" in page and "neither a grammar" not in page
    assert "num_predict 40\n" in (out / "Modelfile").read_text(encoding="utf-8")


def test_numbers_have_a_schema_too_and_texts_none(bench: Bench, tmp_path: Path) -> None:
    out, page = exported(bench, tmp_path / "number", "merged", NUMBER)
    assert read(out / "schema.json") == {"type": "integer"} and read(out / "request.json")["max_tokens"] == 9
    out, page = exported(bench, tmp_path / "text", "gguf-merged", TEXT)
    assert not (out / "schema.json").exists() and "schema" not in page
    assert "format" not in read(out / "ollama.json") and "json_schema" not in read(out / "request.json")


@pytest.mark.parametrize("to", ["merged", "gguf-merged"])
def test_an_answer_that_begins_with_a_space_is_not_held_to_a_schema(tmp_path: Path, to: Any) -> None:
    """A model without a chat template learnt to write it, and no schema lets it through."""
    out, page = exported(make_bench(tmp_path / "bare", chat=False), tmp_path, to, JSON)
    assert read(out / "schema.json") == SCHEMA and "begin with a space" in page
    assert not {"response_format", "json_schema"} & read(out / "request.json").keys()
    assert to == "merged" or "format" not in read(out / "ollama.json")
    assert to != "merged" or read(out / "request.json")["add_special_tokens"] is True


def test_labels_are_asked_for_by_requests_that_fit_them(bench: Bench, tmp_path: Path) -> None:
    out = export_bundle(bench.save(tmp_path / "bundle", decision=BIAS), tmp_path / "out", "peft")
    request, page = read(out / "request.json"), (out / "README.md").read_text(encoding="utf-8")
    predictor = loaded(tmp_path / "bundle")
    (row,) = predictor.model.renderer.render(predictor.prompt, [{"text": "a"}], predictor.labels)
    assert f"max_new_tokens={max(map(len, row.completions))}" in page
    words = ["a person", "place", "card arrival", "card delivery"]
    assert request["structured_outputs"] == {"choice": words} and request["max_tokens"] == 1 + len("card delivery")
    # Two of them begin with one token, which no bias can tell apart.
    assert "logit_bias" not in request and "begin with the same token" in page
    assert "response_format" not in request and not (out / "schema.json").exists()
    assert "--max-lora-rank 8 " in page, "the adapter's rank is 4"


@pytest.mark.parametrize("to", ["merged", "gguf-merged"])
def test_the_decision_rule_goes_along_as_a_bias_on_first_tokens(bench: Bench, tmp_path: Path, to: Any) -> None:
    decision = type(BIAS)("bias", BIAS.bias[:3])
    bundle = bench.save(tmp_path / "bundle", output=label_output(LABELS[:3]), decision=decision)
    out = export_bundle(bundle, tmp_path / "out", to)
    predictor = loaded(bundle)
    (row,) = predictor.model.renderer.render(predictor.prompt, [{"text": "a"}], predictor.labels)
    told = read(out / "request.json")["logit_bias"]
    pairs = list(told.items()) if to == "merged" else told
    assert [(int(token), bias) for token, bias in pairs] == [
        (ids[0], bias) for ids, bias in zip(row.completions, decision.bias, strict=True)
    ]
    assert "contains it as `logit_bias`" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("to", ["peft", "merged"])
def test_penalties_that_a_model_was_shipped_with_do_not_count(bench: Bench, tmp_path: Path, to: Any) -> None:
    """Servers and transformers take them from the model's own settings, and cotune does not."""
    shipped = tmp_path / "shipped"
    shutil.copytree(bench.base, shipped)
    settings = {"repetition_penalty": 30.0, "do_sample": True, "temperature": 3.0}
    (shipped / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    other = Bench(shipped, LocalModel.load(shipped), bench.adapter)
    out, page = exported(other, tmp_path, to, TEXT)
    (wanted,) = loaded(tmp_path / "bundle").predict("THE TEXT")
    assert said_by(page, out) == wanted
    assert read(out / "request.json")["repetition_penalty"] == 1


def test_ranks_are_those_that_vllm_takes() -> None:
    assert [vllm_rank(rank) for rank in (1, 8, 9, 16, 33, 200, 512)] == [8, 8, 16, 16, 64, 256, 512]
