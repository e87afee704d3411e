"""What ``--to transformers`` writes of bundles that read several fields off hidden states: JSON values and numbers."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import PROMPT, TEXTS, Bench, loaded, make_bench

from command_line import call
from cotune.bundle.export import command
from cotune.bundle.export import fields as fields_export
from cotune.bundle.export.answer import load
from cotune.bundle.export.command import TARGETS, export_bundle
from cotune.bundle.hub.repository import Repository
from cotune.errors import CotuneError, InputError
from cotune.model.adapters.files import BASE
from cotune.probe.readout import Probe
from cotune.probe.term_fits import TermFits
from cotune.task.values.chain import Chain
from cotune.task.values.grouping import Grouping
from cotune.task.values.output import Output
from cotune.task.values.output_fields import CopiedField, Spelling
from cotune.task.values.tags import Tags
from tiny import Kind, merging_tokenizer

TEXT = {"type": "string", "maxLength": 12}
WAY = {"enum": ["from", "to"]}
OBJECT = {"type": "object", "properties": {"name": TEXT, "way": WAY}, "required": ["name", "way"]}
STOP = {
    "type": "object",
    "properties": {"name": TEXT, "way": WAY, "day": TEXT, "note": {"anyOf": [TEXT, {"type": "null"}]}},
    "required": ["name", "way", "note"],
}
GROUPING = Grouping("nearest", ("name",), (",", "of"), ("note",), "before", (".",))
COPIED: dict[str, Any] = {
    "places": {"type": "array", "items": TEXT, "maxItems": 2, "uniqueItems": True},
    "urgent": {"type": "boolean"},
    "size": {"type": "number", "minimum": 1.5},
    "day": {"anyOf": [TEXT, {"type": "null"}]},
    "roads": {"type": "array", "items": OBJECT, "maxItems": 3},
}
CLOSED: dict[str, Any] = {
    "mood": {"enum": ["angry", "glad", None, 1e-05]},
    "topics": {"type": "array", "items": {"enum": ["bill", "refund", "café"]}, "minItems": 1},
    "part": {"type": "object", "properties": {"stars": {"type": "integer", "minimum": 1, "maximum": 4}}, "required": ["stars"]},
    "urgent": {"type": "boolean"},
}
ROWS = [f"{text} {number}" for number in ("3", "12.5 of 1,200", "Ünter 的路") for text in (*TEXTS, "so<|im_end|>so", "\u200b")]


def copied(path: str, type_: str, blank: Any, most: int = 1, spelling: Spelling = "same", **given: str) -> CopiedField:
    return CopiedField(path, type_, blank, most, tuple(given.items()), spelling)


def grouped_part(name: str, blank: Any, spelling: Spelling = "same", **given: str) -> CopiedField:
    return replace(copied(f"stops[].{name}", "string", blank, 4, spelling, **given), grouping=GROUPING)


def json_output(properties: dict[str, Any], required: list[str], *parts: CopiedField) -> Output:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return Output("json", (), json.dumps(schema), copied=parts)


OUTPUTS = {
    # It is read by a narrower schema than it would be written by.
    "closed": Output(
        "json", schema_text=json.dumps({"type": "object"}), read_text=json_output(CLOSED, ["mood", "part"]).schema_text
    ),
    "number": Output(
        "number", (), json.dumps({"type": "number", "thresholds": [1.5, 2, 9], "levels": [-1, 1.7, 4.2, 20], "decimals": 3})
    ),
    # A list of objects with several copied values: the rule groups them, and the closed value is known with the name.
    "objects": json_output(
        {"stops": {"type": "array", "items": STOP, "maxItems": 4}},
        ["stops"],
        *(grouped_part("name", "never", way=way) for way in ("from", "to")),
        grouped_part("day", "absent", "upper"),
        grouped_part("note", "null"),
    ),
    "tags": json_output(
        COPIED,
        ["urgent", "size", "places"],
        copied("places[]", "string", "empty", 2, "upper"),
        copied("size", "number", "never"),
        copied("day", "string", "null"),
        copied("roads[].name", "string", "absent", 3, way="from"),
        copied("roads[].name", "string", "absent", 3, way="to"),
    ),
}


@dataclass(frozen=True)
class Made:
    bundle: Path
    out: Path
    output: Output


def bundle_of(
    bench: Bench, folder: Path, output: Output, *, layer: int = 1, tuned: bool = True, terms: bool = False, **more: Any
) -> Path:
    """A bundle with a random probe that gives different rows different values."""
    fields, model, names = output.fields, bench.model, more.get("input_fields", ("text",))
    assert fields is not None
    adapter, prompt = bench.adapter_id if tuned else BASE, more.get("prompt", PROMPT)
    model.adapters.register(bench.adapter)
    render = model.renderer.render_twice if fields.words else model.renderer.render
    rendered = render(prompt, [dict.fromkeys(names, text) for text in TEXTS], fields.names)
    states = model.layer_states(
        [row.prompt_ids for row in rendered], [layer], reads=[row.read for row in rendered], adapter=adapter
    )[0]
    weight = np.random.default_rng(0).normal(size=(len(fields.names), states.shape[1])).astype(np.float32)
    # What all states have in common says nothing, so that what is left decides.
    bias = -(weight @ states.mean(axis=0)).astype(np.float32)
    probe = Probe(fields.names, weight, bias, layer, None, fields.sizes, fields.words)
    if isinstance(fields, Tags):
        rng, size = np.random.default_rng(1), 1 + len(fields.copied)
        chain = Chain(*(rng.normal(size=shape).astype(np.float32).astype(np.float64) for shape in ((size, size), size, size)))
        probe = replace(probe, chain=chain)
    if terms:
        starts = np.cumsum((0, *fields.sizes))
        parts = zip(starts[:-1], fields.sizes, strict=True)
        truth = np.stack([np.arange(len(TEXTS)) % size + start for start, size in parts], axis=1)
        fits = TermFits(TEXTS, truth, len(fields.names), fields.sizes)
        probe = replace(probe, terms=fits.fit(np.ones(len(TEXTS), dtype=bool), names).times(9.0))
    return bench.save_probed(folder, tuned=tuned, probe=probe, output=output, **more)


@pytest.fixture(scope="module")
def made(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    found = {}
    for name, output in OUTPUTS.items():
        folder = tmp_path_factory.mktemp(name)
        bundle = bundle_of(bench, folder / "bundle", output)
        code, _, said = call("export", bundle, "--to", "transformers", "--out", folder / "out")
        assert code == 0 and said.count("\n") == 1 and said.startswith("The folder holds 1 labelled row"), said
        found[name] = Made(bundle, folder / "out", output)
    return found


def alike(found: list[Any], wanted: list[Any]) -> bool:
    """Whether answers are equal; the last of three decimals of a number may differ by rounding."""
    if isinstance(wanted[0], dict):
        return found == wanted
    return bool(found == pytest.approx(wanted, abs=2e-3))


ALONE = """
import json, os, sys
sys.modules |= dict.fromkeys(("cotune", "scipy", "jsonschema_rs", "peft", "sklearn"))
import torch, transformers.models.auto.modeling_auto
rows = json.load(sys.stdin)
for folder in sys.argv[1:]:
    if os.fork() == 0:
        sys.path.insert(0, folder)
        from answer import load
        answer = load()
        print(json.dumps([answer(rows, batch_size=size) for size in (1, 5)]))
        sys.exit()
    if os.wait()[1]:
        sys.exit("it did not end well: " + folder)
"""


@pytest.fixture(scope="module")
def alone(made: dict[str, Made], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[Any]]]:
    """What programs without cotune answer to the rows one by one and in batches, each forked from one with all imports."""
    elsewhere = tmp_path_factory.mktemp("moved")
    for name in OUTPUTS:
        shutil.copytree(made[name].out, elsewhere / name)
    ended = subprocess.run(
        [sys.executable, "-c", ALONE, *(str(elsewhere / name) for name in OUTPUTS)],
        input=json.dumps(ROWS),
        capture_output=True,
        text=True,
        timeout=200,
        cwd=elsewhere,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(zip(OUTPUTS, map(json.loads, ended.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_program_without_cotune_gives_the_answers_of_predict(
    made: dict[str, Made], alone: dict[str, list[list[Any]]], name: str
) -> None:
    # The command computes in the machine's fastest dtype.
    wanted = [json.loads(one) for one in loaded(made[name].bundle).predict(ROWS)]
    one_by_one, batches = alone[name]
    assert alike(one_by_one, wanted) and alike(batches, wanted)
    assert len(set(map(json.dumps, wanted))) > len(wanted) / 2, "answers that are all alike prove nothing"
    if name == "tags":
        places = "".join(place for one in wanted for place in one["places"])
        assert places == places.upper() != places.lower(), "the parts are spelled"
    if name == "objects":
        stops = [stop for one in wanted for stop in one["stops"]]
        assert max(len(one["stops"]) for one in wanted) > 1 and {len(stop) for stop in stops} == {3, 4}
        assert all(stop["name"] and stop["way"] in ("from", "to") for stop in stops)


@pytest.mark.parametrize("name", OUTPUTS)
def test_log_probabilities_are_those_of_the_bundle(made: dict[str, Made], name: str) -> None:
    predictor, answer = loaded(made[name].bundle), load(made[name].out)
    rows = [{"text": text} for text in ROWS]
    wanted = predictor.model.score(predictor.prompt, rows, predictor.labels, adapter=predictor.adapter_id).log_probs
    assert answer.names == predictor.labels
    np.testing.assert_allclose(answer.log_probs(ROWS, batch_size=5), wanted, atol=1e-3)
    assert answer.log_probs([]).shape == (0, len(answer.names)) and answer([]) == []
    assert answer(ROWS[0]) == answer({"text": ROWS[0]}) == answer([ROWS[0]])[0]


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_folder_holds_readable_code_that_needs_no_further_package(made: dict[str, Made], name: str) -> None:
    out, code = made[name].out, made[name].out / "fields"
    assert {path.name for path in out.iterdir()} - {"__pycache__"} == {
        *("model", "fields", "answer.py", "fields.json", "template.json", "probe.safetensors"),
        *("README.md", "prompt.json", "decision.json", "example.json"),
    }
    always = {"__init__.py", "cells.py", "truncate.py", "number.py"}
    fields = always | {"output_fields.py", "json_value.py", "grouping.py", "words.py"}
    json_files = fields | {"closed.py", "schema_tree.py"}
    tagging = {"tags.py", "tag_posterior.py", "chain.py", "reads.py", "words.py", "schema.py", "schema_order.py", "errors.py"}
    tagging |= {"spelling.py", "placing.py"}
    files = {"number": fields | {"scale.py"}, "closed": json_files}
    files |= dict.fromkeys(("tags", "objects"), json_files | tagging)
    assert {path.name for path in code.iterdir() if path.is_file()} == files[name]
    for path in code.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= {*sys.stdlib_module_names, "numpy"}
            if isinstance(node, ast.ImportFrom):
                top = str(node.module).partition(".")[0]
                assert (node.level == 1 and f"{top}.py" in files[name]) or top in {*sys.stdlib_module_names, "numpy"}
    assert json.loads((out / "fields.json").read_text(encoding="utf-8")) == json.loads(json.dumps(made[name].output.to_json()))
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    for path in out.rglob("*"):
        if path.suffix in (".json", ".md", ".py"):
            assert str(made[name].bundle.parent) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_pages_code_answers(made: dict[str, Made], name: str) -> None:
    page = (made[name].out / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with redirect_stdout(StringIO()) as printed:
        exec(code.replace("FOLDER", str(made[name].out)), {})
    sys.path.remove(str(made[name].out))
    sys.modules.pop("answer")
    (wanted,) = loaded(made[name].bundle).predict("THE TEXT")
    assert printed.getvalue().strip() == str(json.loads(wanted))
    about = "a number" if name == "number" else "JSON"
    assert f"text in, {about}" in page and "layer 1 of 2" in page and "jsonschema-rs" not in page
    assert "the row loses a part of it, as in cotune." in page and "Text generated by it is meaningless" in page


@pytest.mark.parametrize(
    ("kind", "layer", "tuned", "name"),
    [
        ("llama", 2, False, "closed"),
        ("qwen3", 1, True, "tags"),
        ("gemma3", 3, True, "tags"),
        ("gemma3", 3, False, "number"),
    ],
)
def test_other_models_and_rows_of_several_fields(tmp_path: Path, kind: Kind, layer: int, tuned: bool, name: str) -> None:
    bench = make_bench(tmp_path, kind, rms_norm_eps=1e-3)
    prompt = PROMPT.edit(input_template="FIELD 0 0 HERE {title}: {text}", demonstrations=())
    more = {"layer": layer, "tuned": tuned, "prompt": prompt, "input_fields": ("title", "text")}
    out, bundle = check_answers(bench, tmp_path, OUTPUTS[name], **more)
    rows = [{"text": text, "title": title, "more": 1} for text in TEXTS for title in ("{text}", 7, ["a", "b"], "<|im_end|>")]
    assert alike(load(out)(rows, batch_size=7), [json.loads(one) for one in loaded(bundle).predict(rows)])


@pytest.mark.parametrize("name", OUTPUTS)
def test_tokens_that_merge_across_the_end_of_the_prompt(tmp_path: Path, name: str) -> None:
    """Without a chat template a space stands between prompt and copy."""
    bench = make_bench(tmp_path, tokenizer=merging_tokenizer())
    out, bundle = check_answers(bench, tmp_path, OUTPUTS[name], prompt=PROMPT.edit(cue="Answer:", demonstrations=()))
    template = json.loads((out / "template.json").read_text())
    assert template["beyond"] > 0 and template.get("lead", " ") == " "
    texts = [*TEXTS, "erson", "n", "lace or what", "e" * 20]
    assert alike(load(out)(texts), [json.loads(one) for one in loaded(bundle).predict(texts)])


def check_answers(bench: Bench, folder: Path, output: Output, **more: Any) -> tuple[Path, Path]:
    bundle = bundle_of(bench, folder / "bundle", output, **more)
    return export_bundle(bundle, folder / "out", "transformers"), bundle


@pytest.mark.parametrize("name", ["closed", "number"])
def test_tf_idf_is_added_by_field(bench: Bench, tmp_path: Path, name: str) -> None:
    out, bundle = check_answers(bench, tmp_path, OUTPUTS[name], terms=True)
    wanted = loaded(bundle).predict(ROWS)
    assert (out / "terms.py").is_file() and alike(load(out)(ROWS), [json.loads(one) for one in wanted])
    plain = bundle_of(bench, tmp_path / "plain" / "bundle", OUTPUTS[name])
    assert wanted != loaded(plain).predict(ROWS), "TF-IDF that changes nothing"


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_text_that_is_too_long_is_shortened_as_in_the_bundle(made: dict[str, Made], name: str) -> None:
    predictor, answer = loaded(made[name].bundle), load(made[name].out)
    text = "go to Rome 7 " * 400
    (row,) = predictor.rendered([{"text": text}])
    asked = answer.asked(text)
    assert row.truncated and asked.ids == list(row.prompt_ids)
    if row.words:
        assert list(asked.parts) == list(row.words)


def test_keywords_that_need_a_package_are_said(bench: Bench, tmp_path: Path) -> None:
    output = json_output({"code": {"type": "string", "pattern": "^[a-z]{3}$"}}, [], copied("code", "string", "absent"))
    out, bundle = check_answers(bench, tmp_path, output)
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "pip install torch transformers numpy safetensors jsonschema-rs\n" in page
    assert load(out)(ROWS) == [json.loads(one) for one in loaded(bundle).predict(ROWS)]


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("to", [to for to in TARGETS if to not in ("transformers", "mlflow")])
def test_other_formats_name_the_one_that_works(made: dict[str, Made], tmp_path: Path, name: str, to: Any) -> None:
    how = {"closed": "several fields of JSON", "number": "numbers by thresholds"}
    how |= dict.fromkeys(("tags", "objects"), "copies values from the text")
    with pytest.raises(InputError, match=f"{how[name]}.*, which --to {to} does not support") as error:
        export_bundle(made[name].bundle, tmp_path / "out", to)
    assert error.value.hint.startswith("Export with --to transformers") and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", OUTPUTS)
def test_weights_that_answer_otherwise_are_not_handed_over(
    made: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = command.cut
    # One layer too many.
    monkeypatch.setattr(command, "cut", lambda source, adapter, layer, target: whole(source, adapter, layer + 1, target))
    with pytest.raises(CotuneError, match="weights give other answers"):
        export_bundle(made[name].bundle, tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "file", "right", "wrong"),
    [
        ("closed", "closed.py", "argmax", "argmin"),
        ("number", "scale.py", "self.levels[0] +", "self.levels[0] -"),
        ("tags", "tags.py", "        return text\n", "        return text.swapcase()\n"),
    ],
)
def test_code_that_answers_otherwise_is_not_handed_over(
    made: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str, right: str, wrong: str
) -> None:
    whole = fields_export._sources

    def other(modules: Any) -> dict[str, str]:
        found = whole(modules)
        assert right in found[file]
        return {**found, file: found[file].replace(right, wrong)}

    monkeypatch.setattr(fields_export, "_sources", other)
    with pytest.raises(CotuneError, match="the exported code answers"):
        export_bundle(made[name].bundle, tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


def test_a_repository_on_the_hub_holds_the_bundle_alone(made: dict[str, Made], tmp_path: Path) -> None:
    bundle = made["closed"].bundle
    assert Repository.of("org/fields", bundle).form is None
    with pytest.raises(InputError, match="several fields") as error:
        Repository.of("org/fields", bundle, to="transformers")
    assert "--to bundle" in error.value.hint
    assert "--to transformers --out OTHER` writes a model" in (bundle / "README.md").read_text(encoding="utf-8")
