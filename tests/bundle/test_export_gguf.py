from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from bundles import BIAS, LABELS, TEXTS, Bench, answers_of_page, loaded, make_bench
from hypothesis import given
from hypothesis import strategies as st

from cotune.bundle.export.command import export_bundle
from cotune.bundle.export.gguf import label_grammar
from cotune.bundle.export.gguf_files import weights_in
from cotune.bundle.export.gguf_layout import Layout
from cotune.bundle.export.gguf_tokenizer import GgufTokenizer
from cotune.bundle.export.probe import EMBEDDING_PORT
from cotune.errors import CotuneError, InputError
from cotune.model.engine.trie import label_paths
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import Renderer
from cotune.task.values.output import Output, label_output
from free_port import free_port
from tiny import Kind, merging_tokenizer, save_tiny, tiny_config, tiny_tokenizer

KINDS: tuple[Kind, ...] = ("llama", "qwen2", "qwen3")
LONG = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def facts(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def test_the_files_hold_base_and_adapter_apart(bench: Bench, tmp_path: Path) -> None:
    out = export_bundle(bench.save(tmp_path / "bundle", decision=BIAS), tmp_path / "out", "gguf")
    adapter = f"adapter-{bench.adapter_id}.gguf"
    assert {path.name for path in out.iterdir()} == {
        "base.gguf",
        adapter,
        "prompt.json",
        "decision.json",
        "example.json",
        "request.json",
        "README.md",
    }
    told, said = facts(out / "base.gguf"), facts(out / adapter)
    assert told["general.architecture"] == said["general.architecture"] == "llama"
    assert said["general.type"] == "adapter" and said["adapter.type"] == "lora" and said["adapter.lora.alpha"] == 8.0
    assert bench.adapter_id in said["general.name"]
    tokenizer = bench.model.tokenizer
    assert told["tokenizer.chat_template"] == tokenizer.chat_template
    assert told["tokenizer.ggml.tokens"][: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert len(told["tokenizer.ggml.tokens"]) == 448, "one for each row of the embedding"
    assert told["tokenizer.ggml.eot_token_id"] == bench.model.renderer.stop_id
    layout = Layout.of(bench.base)
    held = weights_in(bench.base, layout, out / "base.gguf", out / adapter)
    bare = weights_in(bench.base, layout, out / "base.gguf")
    name = "model.layers.1.self_attn.q_proj"
    factors = bench.model.adapters.read(bench.adapter_id)
    added = 2 * factors[f"base_model.model.{name}.lora_B.weight"] @ factors[f"base_model.model.{name}.lora_A.weight"]
    torch.testing.assert_close(held[f"{name}.weight"] - bare[f"{name}.weight"], added, atol=1e-5, rtol=1e-5)
    page = (out / "README.md").read_text(encoding="utf-8")
    assert f"--lora FOLDER/{adapter}" in page and str(tmp_path) not in page
    assert "ollama create" not in page and "--to gguf-merged" in page, "Ollama does not support adapters"


def test_the_request_is_bounded_to_the_words_of_the_labels(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save(tmp_path / "bundle", decision=BIAS)
    out = export_bundle(bundle, tmp_path / "out", "gguf")
    request = json.loads((out / "request.json").read_text(encoding="utf-8"))
    example = json.loads((out / "example.json").read_text(encoding="utf-8"))
    assert request["prompt"] == example["prompt_text"] and request["temperature"] == 0
    assert request["grammar"] == 'root ::= "a person" | "place" | "card arrival" | "card delivery"'
    # "card arrival" and "card delivery" begin alike, so no bias on a first token could tell them apart.
    assert "logit_bias" not in request
    assert "begin with the same token" in (out / "README.md").read_text(encoding="utf-8")
    apart = LABELS[:3]
    prompt, decision = loaded(bundle).prompt, type(BIAS)("bias", BIAS.bias[:3])
    other = bench.save(tmp_path / "other", output=label_output(apart), decision=decision, prompt=prompt)
    told = json.loads((export_bundle(other, tmp_path / "more", "gguf") / "request.json").read_text(encoding="utf-8"))
    (row,) = bench.model.renderer.render(prompt, [{"text": "a"}], apart)
    assert told["logit_bias"] == [[ids[0], bias] for ids, bias in zip(row.completions, decision.bias, strict=True)]


def test_a_bundle_that_writes_asks_for_its_schema(bench: Bench, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    prompt = Prompt("Write JSON.", "{text}", "JSON:")
    changes = {"output": Output("json", schema_text=json.dumps(schema)), "prompt": prompt, "metric": "json_f1"}
    out = export_bundle(bench.save(tmp_path / "bundle", answer_tokens=24, **changes), tmp_path / "out", "gguf")
    request = json.loads((out / "request.json").read_text(encoding="utf-8"))
    assert request["json_schema"] == schema and request["n_predict"] == 24 and "grammar" not in request
    assert "restricted to the schema" in (out / "README.md").read_text(encoding="utf-8")


def test_one_file_holds_the_sum(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save(tmp_path / "bundle")
    out = export_bundle(bundle, tmp_path / "out", "gguf-merged")
    assert (out / "model.gguf").is_file() and not list(out.glob("adapter*")) and not list(out.glob(".*"))
    recipe = (out / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert recipe[0] == "FROM ./model.gguf" and "PARAMETER repeat_penalty 1" in recipe
    assert "ollama create" in (out / "README.md").read_text(encoding="utf-8") and (out / "ollama.json").is_file()
    parts = export_bundle(bundle, tmp_path / "parts", "gguf")
    layout = Layout.of(bench.base)
    one = weights_in(bench.base, layout, out / "model.gguf")
    both = weights_in(bench.base, layout, parts / "base.gguf", parts / f"adapter-{bench.adapter_id}.gguf")
    assert one.keys() == both.keys()
    for name, values in one.items():
        torch.testing.assert_close(values, both[name], atol=2e-3, rtol=2e-3)


def test_a_bundle_without_an_adapter_is_its_base(bench: Bench, tmp_path: Path) -> None:
    out = export_bundle(bench.save(tmp_path / "bundle", adapter_folder=None), tmp_path / "out", "gguf")
    assert not list(out.glob("adapter*"))
    assert (out / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./base.gguf\n")
    assert "ollama create" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("to", ["gguf", "gguf-merged"])
def test_rows_in_another_order_are_not_handed_over(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any
) -> None:
    monkeypatch.setattr(Layout, "reordered", lambda self, tensor, values: values)
    with pytest.raises(CotuneError, match="give other answers"):
        export_bundle(bench.save(tmp_path / "bundle"), tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_architectures_without_a_layout_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    bench = make_bench(tmp_path / "gemma", "gemma3")
    with pytest.raises(InputError, match="'gemma3_text' cannot be written as GGUF"):
        export_bundle(bench.save(tmp_path / "bundle"), tmp_path / "out", "gguf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rotary embeddings of the type 'linear'",
        ),
        ({"hidden_act": "gelu"}, "the activation 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights"),
    ],
)
def test_what_a_file_could_not_say_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    config = tiny_config("llama").to_dict() | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=said):
        Layout.of(tmp_path)


def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused() -> None:
    assert GgufTokenizer.of(Renderer(tiny_tokenizer())).splitting == "gpt-2"
    with pytest.raises(InputError, match="tokenizer cannot be written"):
        GgufTokenizer.of(Renderer(merging_tokenizer()))


def test_the_bundled_tokenizer_is_the_one_that_its_file_named(bundled_folder: Path) -> None:
    from transformers import AutoTokenizer

    found = GgufTokenizer.of(Renderer(AutoTokenizer.from_pretrained(bundled_folder)))
    assert found.splitting == "smollm" and not found.adds_bos and found.special["eos"] == found.special["eot"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_kept_to_the_bit(tmp_path: Path, kind: Kind) -> None:
    from safetensors.torch import load_file

    from cotune.bundle.export.gguf_files import write_model

    folder = save_tiny(tmp_path / "model", kind, dtype=torch.bfloat16)
    layout, tokenizer = Layout.of(folder), GgufTokenizer.of(Renderer(tiny_tokenizer()))
    assert write_model(folder, tmp_path / "model.gguf", layout, tokenizer, "tiny") == "bfloat16"
    held = weights_in(folder, layout, tmp_path / "model.gguf")
    stored = load_file(folder / "model.safetensors")
    assert held.keys() == {name for name in stored if not layout.skipped(name)}
    assert all(torch.equal(values, stored[name].float()) for name, values in held.items())


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_a_grammar_spells_its_words(words: list[str]) -> None:
    written = label_grammar(words).removeprefix("root ::= ")
    parts = re.findall(r'"((?:[^"\\]|\\x[0-9a-f]{2}|\\.)*)"', written, re.DOTALL)
    assert " | ".join(f'"{part}"' for part in parts) == written and "\n" not in written
    read = [re.sub(r"\\(?:x([0-9a-f]{2})|(.))", lambda m: chr(int(m[1], 16)) if m[1] else m[2], part) for part in parts]
    assert read == words


# Through llama.cpp itself --------------------------------------------------------------------------------------------


def llama(model: Path, adapter: Path | None = None) -> Any:
    llama_cpp = pytest.importorskip("llama_cpp")
    lora = None if adapter is None else str(adapter)
    return llama_cpp.Llama(
        str(model), lora_path=lora, n_ctx=512, logits_all=True, n_threads=1, n_threads_batch=1, verbose=False
    )


def label_scores(model: Any, bundle: Path) -> np.ndarray[Any, Any]:
    """Log-probabilities of labels by llama.cpp, from the rendered texts."""
    predictor = loaded(bundle)
    rendered = predictor.model.renderer.render(predictor.prompt, [{"text": text} for text in TEXTS], predictor.labels)
    found = np.zeros((len(TEXTS), len(predictor.labels)))
    for i, (text, row) in enumerate(zip(TEXTS, rendered, strict=True)):
        whole = predictor.model.renderer.text(predictor.prompt, {"text": text}, predictor.labels)
        assert tuple(model.tokenize(whole.encode(), add_bos=False, special=True)) == row.prompt_ids
        for j, ids in enumerate(label_paths(row.completions)):
            model.reset()
            model.eval([*row.prompt_ids, *ids[:-1]])
            logits = torch.from_numpy(model.scores[len(row.prompt_ids) - 1 : model.n_tokens].copy()).double()
            found[i, j] = float(torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None]).sum())
    return found


@pytest.mark.llama
@pytest.mark.parametrize("to", ["gguf", "gguf-merged"])
@pytest.mark.parametrize(
    ("kind", "changes"), [*((kind, {}) for kind in KINDS), ("llama", {"rope_parameters": LONG}), ("llama", {"head_dim": 16})]
)
def test_llama_cpp_answers_as_the_bundle_does(tmp_path: Path, kind: Kind, changes: dict[str, Any], to: Any) -> None:
    pytest.importorskip("llama_cpp")
    bench = make_bench(tmp_path, kind, **changes)
    bundle = bench.save(tmp_path / "bundle")
    out = export_bundle(bundle, tmp_path / "out", to)
    predictor = loaded(bundle)
    rows = [{"text": text} for text in TEXTS]
    wanted = predictor.model.score(predictor.prompt, rows, LABELS, adapter=bench.adapter_id).log_probs
    adapter = out / f"adapter-{bench.adapter_id}.gguf"
    model = llama(out / "base.gguf", adapter) if to == "gguf" else llama(out / "model.gguf")
    found = label_scores(model, bundle)
    np.testing.assert_allclose(found, wanted, atol=0.1)
    assert found.argmax(1).tolist() == wanted.argmax(1).tolist()
    bare = predictor.model.score(predictor.prompt, rows, LABELS).log_probs
    assert np.abs(bare - wanted).max() > 0.5, "an adapter that changes nothing proves nothing"


@pytest.mark.llama
@pytest.mark.parametrize("to", ["gguf", "gguf-merged"])
def test_llama_cpps_server_and_the_pages_code_answer_by_the_probe(bench: Bench, tmp_path: Path, to: Any) -> None:
    if shutil.which("llama-server") is None:
        pytest.skip("llama-server is not on the PATH")
    bundle = bench.save_probed(tmp_path / "bundle")
    out = export_bundle(bundle, tmp_path / "out", to)
    page, heading = (out / "README.md").read_text(encoding="utf-8"), "## Run it"
    (command,) = re.findall(r"```sh\n(.*?)```", page[page.index(heading) :], re.DOTALL)
    port = str(free_port())
    command = command.strip().replace("FOLDER", str(out)).replace(f"--port {EMBEDDING_PORT}", f"--port {port}")
    texts = [text for text in TEXTS if "|im_end|" not in text]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(["sh", "-c", f"exec {command} --threads 1"], stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server)
            found = answers_of_page(out, heading, texts, port)
        finally:
            server.terminate()
            server.wait(120)
    wanted = loaded(bundle).predict(texts)
    assert found == wanted and len(set(wanted)) > 1


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Until a server answers."""
    for _ in range(1000):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the server did not start")


@pytest.mark.llama
def test_the_request_runs_and_names_a_label(bench: Bench, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    out = export_bundle(bench.save(tmp_path / "bundle"), tmp_path / "out", "gguf-merged")
    request = json.loads((out / "request.json").read_text(encoding="utf-8"))
    answer = llama(out / "model.gguf").create_completion(
        request["prompt"],
        max_tokens=request["n_predict"],
        temperature=0,
        grammar=llama_cpp.LlamaGrammar.from_string(request["grammar"], verbose=False),
    )
    assert answer["choices"][0]["text"] in ("a person", *LABELS[1:]) and answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.llama
@given(st.text(max_size=40))
def test_texts_have_the_same_ids_in_llama_cpp(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    pytest.importorskip("llama_cpp")
    folder = tmp_path_factory.getbasetemp() / "same-ids"
    if not folder.exists():
        bench = make_bench(tmp_path_factory.mktemp("same"))
        export_bundle(bench.save(folder.parent / "same-bundle"), folder, "gguf-merged")
    if not hasattr(test_texts_have_the_same_ids_in_llama_cpp, "model"):
        test_texts_have_the_same_ids_in_llama_cpp.model = llama(folder / "model.gguf")  # type: ignore[attr-defined]
    model = test_texts_have_the_same_ids_in_llama_cpp.model  # type: ignore[attr-defined]
    wanted = tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert model.tokenize(text.encode(), add_bos=False, special=True) == wanted
