"""A bundle is written whole or not at all, and refused when anything of it is not what it was."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from bundles import BIAS, LABELS, PROMPT, TEXTS, Bench, edit_json, forge, loaded
from hypothesis import given
from hypothesis import strategies as st

from cotune import __version__
from cotune.bundle import load, place
from cotune.bundle.manifest import LARGEST_JSON, Manifest, check_name, read_manifest
from cotune.config import config_from_data
from cotune.errors import InputError
from cotune.evaluate.decision import BY_PROBE, RAW
from cotune.probe.readout import Probe
from cotune.prompt.prompt import Prompt
from cotune.task.values.output import Output, label_output
from manifests import small_manifest
from tiny import save_tiny

FILES = (
    "prompt.json",
    "decision.json",
    "metrics.json",
    "README.md",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
)


@pytest.fixture
def bundle(bench: Bench, tmp_path: Path) -> Path:
    return bench.save(tmp_path / "best", decision=BIAS)


def refused(folder: Path, **options: Any) -> InputError:
    with pytest.raises(InputError) as error:
        loaded(folder, **options)
    assert error.value.hint, error.value
    return error.value


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# Writing --------------------------------------------------------------------------------------------------------------


def test_what_a_bundle_holds(bench: Bench, bundle: Path) -> None:
    assert names(bundle) == sorted((*FILES, "manifest.json"))
    saved = json.loads((bundle / "prompt.json").read_text())
    assert saved == {
        "prompt": json.loads(json.dumps(PROMPT.to_json())),
        "labels": list(LABELS),
        "input_fields": ["text"],
        "chat_template": bench.model.tokenizer.chat_template,
        "stop_id": bench.model.renderer.stop_id,
        "max_tokens": bench.model.renderer.max_tokens,
    }
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["format"] == 3
    assert manifest["base_model"] == {"name": str(bench.base), "fingerprint": bench.model.fingerprint, "revision": None}
    assert set(manifest["versions"]) == {"cotune", "python", "torch", "transformers", "peft"}
    assert (manifest["adapter_id"], manifest["prompt_id"]) == (bench.adapter_id, PROMPT.id)
    assert manifest["engine"] == {"max_tokens": 1024, "truncate": "middle"}
    assert loaded(bundle).bundle_id == read_manifest(bundle).id


def test_the_same_content_has_the_same_id(bench: Bench, bundle: Path, tmp_path: Path) -> None:
    again, other = bench.save(tmp_path / "again", decision=BIAS), bench.save(tmp_path / "other")
    assert read_manifest(again).id == read_manifest(bundle).id != read_manifest(other).id


def test_a_local_path_in_the_adapter_does_not_travel(bench: Bench, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(bench.adapter, adapter)
    config = edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(bench.base))
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    bundle = bench.save(tmp_path / "best", adapter_folder=adapter)
    assert str(bench.base) not in (bundle / "adapter" / "adapter_config.json").read_text()
    assert loaded(bundle).adapter_id == bench.adapter_id


def test_an_older_bundle_is_replaced(bench: Bench, bundle: Path) -> None:
    bench.save(bundle, adapter_folder=None, task_name="second")
    assert read_manifest(bundle).task == "second"
    assert not (bundle / "adapter").exists()
    assert {p.name for p in bundle.parent.iterdir()} <= {"best", ".best.lock"}


@pytest.mark.parametrize("swaps", [True, False])
def test_replacing_with_and_without_a_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool) -> None:
    if not swaps:
        monkeypatch.setattr(place, "exchange", lambda left, right: False)
    for text in ("one", "two"):
        with place.atomic_folder(tmp_path / "x") as temporary:
            (temporary / "file").write_text(text)
    assert (tmp_path / "x" / "file").read_text() == "two"
    assert {p.name for p in tmp_path.iterdir()} <= {"x", ".x.lock"}


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work: Callable[[], object]) -> None:
    """Run ``work`` in a child and see it die."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("moment", ["_put", "_sync_all", "rename", "rmtree"])
def test_a_kill_leaves_a_whole_bundle(bench: Bench, bundle: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    old = {name: (bundle / name).read_bytes() for name in names(bundle)}
    with monkeypatch.context() as patch:
        if moment in ("_put", "_sync_all"):
            patch.setattr(place, moment, die)
        elif moment == "rmtree":
            patch.setattr(place.shutil, "rmtree", die)
        else:
            patch.setattr(place, "exchange", die)
        killed(lambda: bench.save(bundle, task_name="second"))
    loaded(bundle)
    if moment == "rmtree":
        # What is removed is the old one, after the new one has taken its name.
        assert read_manifest(bundle).task == "second"
    else:
        assert {name: (bundle / name).read_bytes() for name in names(bundle)} == old
    bench.save(bundle, task_name="third")
    assert read_manifest(bundle).task == "third"
    assert {p.name for p in bundle.parent.iterdir()} <= {"best", ".best.lock"}


def test_a_kill_between_two_renames_is_repaired(bench: Bench, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def move_then_die(temporary: Path, folder: Path, aside: Path) -> None:
        folder.rename(aside)
        die()

    with monkeypatch.context() as patch:
        patch.setattr(place, "_put", move_then_die)
        killed(lambda: bench.save(bundle, task_name="second"))
        assert not bundle.exists()
        patch.setattr(place, "_put", die)
        killed(lambda: bench.save(bundle, task_name="third"))
    assert loaded(bundle).task == "questions"


def test_a_failed_save_leaves_the_old_one(bench: Bench, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(InputError, match=r"cannot write .*best \(No space left"):
            bench.save(bundle, task_name="second")
    with pytest.raises(ValueError, match="JSON"):
        bench.save(bundle, metrics={"score": float("nan")})
    assert loaded(bundle).task == "questions"
    assert {p.name for p in bundle.parent.iterdir()} <= {"best", ".best.lock"}


def test_what_is_no_bundle_is_not_replaced(bench: Bench, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "an extension"}')
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(bundle)
    (bundle / "notes.md").write_text("mine")
    for name in ("mine", "web", "file", "link", "best"):
        with pytest.raises(InputError):
            bench.save(tmp_path / name)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert (bundle / "notes.md").exists()


def test_arguments_that_do_not_fit(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit 3 labels"):
        bench.save(tmp_path / "best", output=label_output(LABELS[:3]), decision=BIAS)
    with pytest.raises(InputError, match="not an adapter"):
        bench.save(tmp_path / "best", adapter_folder=tmp_path)
    assert not (tmp_path / "best").exists()


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_missing_file_is_refused(bundle: Path, name: str) -> None:
    whole = (bundle / name).read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    (bundle / name).write_bytes(changed)
    error = refused(bundle)
    assert "changed" in error.what
    assert error.where.endswith(name)
    (bundle / name).unlink()
    error = refused(bundle)
    assert "missing" in error.what
    assert error.where.endswith(name)
    (bundle / name).write_bytes(whole)
    loaded(bundle)


@pytest.mark.parametrize("name", ["extra.json", "adapter/extra.safetensors", ".hidden", "deep/er/x.md"])
def test_an_extra_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_text("x")
    assert refused(bundle).where.endswith(name)


@pytest.mark.parametrize("name", ["prompt.json", "manifest.json", "adapter/adapter_model.safetensors", "adapter"])
def test_links_are_refused_even_with_the_same_content(bundle: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (bundle / name).rename(outside)
    (bundle / name).symlink_to(outside)
    error = refused(bundle)
    assert "a link" in error.what
    assert error.where.endswith(name)


def test_a_link_to_a_whole_bundle_is_fine(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(bundle, target_is_directory=True)
    assert loaded(tmp_path / "latest").predict(TEXTS) == loaded(bundle).predict(TEXTS)


def test_pipes_are_not_waited_for(bundle: Path) -> None:
    (bundle / "metrics.json").unlink()
    os.mkfifo(bundle / "metrics.json")
    assert "not a regular file" in refused(bundle).what


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "/etc/evil.json",
        "a/../../evil.json",
        "a\\..\\evil.json",
        "C:/x.json",
        "./prompt.json",
        "",
        "manifest.json",
    ],
)
def test_names_that_lead_elsewhere_are_refused(bundle: Path, name: str) -> None:
    (bundle.parent / "evil.json").write_text("{}")
    table = json.loads((bundle / "manifest.json").read_text())
    table["files"][name] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(table))
    assert "not allowed" in refused(bundle).what


@given(
    st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "C:", "~", "\0", "\n", " ", "é", ".json"]), max_size=8).map("".join)
)
def test_no_name_that_passes_leads_out(name: str) -> None:
    folder = Path("/somewhere/best")
    try:
        check_name(folder, name)
    except InputError:
        return
    parts = PurePosixPath(name).parts
    assert ".." not in parts
    assert not {"\\", ":", "~", "\0", "\n"} & set(name)
    assert (folder / name).is_relative_to(folder)
    assert "/".join(parts) == name, "one file has one name"


def test_plain_names_pass() -> None:
    for name in (*FILES, "adapter/README.md"):
        check_name(Path("/somewhere/best"), name)


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pickle-ran",)


@pytest.mark.parametrize("name", ["adapter/adapter_model.bin", "weights.pt", "x.pkl", "run.py"])
def test_files_that_could_run_code_are_refused(bundle: Path, name: str) -> None:
    forge(bundle, name, pickle.dumps(Bomb()))
    error = refused(bundle)
    assert "run code" in error.what
    assert error.where.endswith(name)


def test_a_pickle_named_safetensors_is_not_run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    forge(bundle, "adapter/adapter_model.safetensors", pickle.dumps(Bomb()))
    assert "adapter" in refused(bundle).what
    assert not (tmp_path / "pickle-ran").exists()


def test_a_huge_or_deep_json_is_refused(bundle: Path) -> None:
    whole = (bundle / "manifest.json").read_bytes()
    (bundle / "manifest.json").write_bytes(whole + b" " * LARGEST_JSON)
    assert "bytes" in refused(bundle).what
    (bundle / "manifest.json").write_text("[" * 1_000_000)
    assert "not valid JSON" in refused(bundle).what
    (bundle / "manifest.json").write_bytes(whole)
    forge(bundle, "prompt.json", b" " * (LARGEST_JSON + 1))
    assert "bytes" in refused(bundle).what


def test_far_too_many_files_are_refused(bundle: Path) -> None:
    for i in range(1100):
        (bundle / f"{i}.json").touch()
    assert "too many" in refused(bundle).what


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"format": 4}, "format 4"),
        ({"format": 0}, "format 0"),
        ({"format": True}, "wrong type"),
        ({"labels": []}, "labels"),
        ({"labels": ["a", "a"]}, "labels"),
        ({"labels": ["a", 1]}, "labels"),
        ({"files": {"prompt.json": 3}}, "files"),
        ({"files": {"prompt.json": "abc"}}, "sha256"),
        ({"base_model": "x"}, "base_model"),
        ({"base_model": {"name": "x"}}, "base_model.fingerprint"),
        ({"decision": {"kind": "bias", "bias": [1, 2]}}, "2 numbers for 4 labels"),
        ({"decision": {"kind": "bias", "bias": [1, 2, 3, 1e999]}}, "Infinity is not a number"),
        ({"decision": {"kind": "python", "bias": []}}, "decision"),
        ({"engine": {"max_tokens": -1}}, "max_tokens"),
        ({"engine": {"max_tokens": 1, "trust_remote_code": True}}, "trust_remote_code"),
        ({"engine": {"max_tokens": 1, "truncate": "start"}}, "engine.truncate is not one of middle, end"),
        ({"hooks": []}, "hooks"),
        ({"adapter_id": None}, "adapter_id"),
        ({"task": "\ud800"}, "half a character"),
        ({"task": "x" * 10**6}, "very long text"),
        ({"labels": ["a", "b", "c", "\udfff"]}, "half a character"),
        ({"input_fields": ["x" * 10**6]}, "very long text"),
        ({"versions": {"\ud800": "1"}}, "half a character"),
        ({"base_model": {"name": "x" * 100_001, "fingerprint": "0"}}, "very long text"),
    ],
)
def test_a_damaged_manifest_is_refused(bundle: Path, changes: dict[str, Any], what: str) -> None:
    (bundle / "manifest.json").write_text(json.dumps(edit_json(bundle / "manifest.json", **changes)))
    error = refused(bundle)
    assert what in error.what
    assert "manifest.json" in error.where


def test_half_a_character_in_the_prompt_is_refused(bundle: Path) -> None:
    saved = json.loads((bundle / "prompt.json").read_text())
    saved["prompt"]["instruction"] = "\ud800"
    forge(bundle, "prompt.json", saved)
    assert "half a character" in refused(bundle).what


def test_a_base_model_that_cannot_even_be_looked_for_is_told(bench: Bench, bundle: Path) -> None:
    named = json.loads((bundle / "manifest.json").read_text())["base_model"]
    forge(bundle, "metrics.json", {}, base_model=named | {"name": "x" * 100_000})
    assert "cannot be found" in refused(bundle).what


def test_parts_of_two_bundles_are_refused(bench: Bench, bundle: Path, tmp_path: Path) -> None:
    """Each file is whole and listed, but they do not belong together."""
    saved = json.loads((bundle / "prompt.json").read_text())
    cases: list[tuple[str, Any, dict[str, Any], str]] = [
        ("prompt.json", saved | {"prompt": PROMPT.edit(cue="Say:").to_json()}, {}, "the prompt"),
        ("prompt.json", saved | {"labels": list(LABELS[::-1])}, {}, "labels"),
        ("prompt.json", saved | {"input_fields": ["other"]}, {}, "input_fields"),
        ("prompt.json", saved | {"prompt": {"system": ["x"]}}, {}, "the prompt"),
        ("prompt.json", saved | {"prompt": {"evil": 1}}, {}, "evil"),
        ("prompt.json", [], {}, "no prompt"),
        ("prompt.json", saved | {"chat_template": "{{ messages }}"}, {}, "chat template"),
        ("prompt.json", saved | {"stop_id": 5}, {}, "stop token"),
        ("prompt.json", saved | {"max_tokens": 99}, {}, "longest prompt"),
        ("decision.json", {"kind": "raw", "bias": []}, {}, "decision"),
        ("metrics.json", {}, {"adapter_id": "0" * 16}, "the adapter"),
        ("metrics.json", {}, {"adapter_id": "base"}, "not contain an adapter"),
    ]
    for number, (name, data, manifest, what) in enumerate(cases):
        copy = tmp_path / str(number)
        shutil.copytree(bundle, copy)
        forge(copy, name, data, **manifest)
        assert what in refused(copy).what, (name, what)


def test_another_base_model_is_refused(bench: Bench, bundle: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=1)
    assert "not the one" in refused(bundle, base=other).what
    copy = tmp_path / "copy"
    shutil.copytree(bench.base, copy)
    assert loaded(bundle, base=copy).predict(TEXTS) == loaded(bundle).predict(TEXTS)
    (copy / "tokenizer_config.json").write_text((copy / "tokenizer_config.json").read_text() + " ")
    assert "not the one" in refused(bundle, base=copy).what


def test_a_base_model_that_moved(bench: Bench, tmp_path: Path) -> None:
    place_then, place_now = tmp_path / "then", tmp_path / "now"
    shutil.copytree(bench.base, place_then)
    bundle = bench.save(tmp_path / "best", model_name=str(place_then))
    place_then.rename(place_now)
    error = refused(bundle)
    assert "cannot be found" in error.what
    assert "base" in error.hint
    assert loaded(bundle, base=place_now).predict(TEXTS)


def test_an_adapter_of_another_shape_is_refused_before_it_answers(bench: Bench, bundle: Path) -> None:
    from safetensors.torch import load_file, save

    from cotune.model.adapters.files import adapter_content_id

    path = bundle / "adapter" / "adapter_model.safetensors"
    weights = {name: value[:, :-1].contiguous() for name, value in load_file(path).items()}
    forge(bundle, "adapter/adapter_model.safetensors", save(weights))
    forge(bundle, "metrics.json", {}, adapter_id=adapter_content_id(bundle / "adapter"))
    assert "does not fit" in refused(bundle).what


def test_a_probe_that_does_not_fit_the_rest_is_refused_before_it_answers(bench: Bench, tmp_path: Path) -> None:
    numbers, width = np.random.default_rng(0), bench.model.width

    def bundle_with(name: str, labels: tuple[str, ...] = LABELS, wide: int = width, layer: int = 1, **changes: Any) -> Path:
        weight = numbers.normal(size=(len(labels), 2 * wide)).astype(np.float32)
        probe = Probe(labels, weight, np.zeros(len(labels), dtype=np.float32), layer)
        return bench.save_probed(tmp_path / name, probe=probe, **changes)

    for tuned in (True, False):
        right = loaded(bundle_with(f"right {tuned}", LABELS[::-1], tuned=tuned))
        found = right.predict([{"text": "a"}], probabilities=True)[0].probabilities
        assert sum(found.values()) == pytest.approx(1) and set(found) == set(LABELS)
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"labels": (*LABELS[:-1], "else")}, "does not fit the labels or the model"),
            ({"wide": width + 1}, "does not fit this model"),
            ({"layer": 3}, "does not fit this model"),
        ]
        for number, (changes, told) in enumerate(wrong):
            error = refused(bundle_with(f"wrong {tuned} {number}", tuned=tuned, **changes))
            assert told in error.what and error.where.endswith("probe.safetensors")
        with pytest.raises(InputError, match="if and only if"):
            bundle_with(f"rule {tuned}", tuned=tuned, decision=RAW)
    for number, without in enumerate((bench.adapter, None)):
        with pytest.raises(InputError, match="if and only if"):
            bench.save(tmp_path / f"none {number}", decision=BY_PROBE, adapter_folder=without)


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize(
    ("about", "tensors", "what"),
    [
        ({}, {"bias": np.full(4, np.nan, dtype=np.float32)}, "not finite"),
        ({}, {"weight": np.full((4, 64), np.inf, dtype=np.float32)}, "not finite"),
        ({}, {"weight": np.zeros((3, 64), dtype=np.float32)}, "do not fit together"),
        ({}, {"weight": np.zeros((4, 63), dtype=np.float32)}, "its width is invalid"),
        ({"layer": 0}, {}, "its layer is invalid"),
        ({"layer": True}, {}, "its layer is invalid"),
        ({"layer": 10**9}, {}, "its layer is invalid"),
        ({"labels": ["a", "a", "b", "c"]}, {}, "do not fit together"),
        ({"labels": None}, {}, "cannot be read"),
    ],
)
def test_a_forged_probe_is_refused(
    bench: Bench, tmp_path: Path, tuned: bool, about: dict[str, Any], tensors: dict[str, Any], what: str
) -> None:
    """Every hash in the bundle is right; what it holds is not."""
    from safetensors.numpy import save

    from cotune.model.adapters.files import adapter_content_id

    bundle = bench.save_probed(tmp_path / "best", tuned=tuned)
    held = {"weight": np.zeros((4, 64), dtype=np.float32), "bias": np.zeros(4, dtype=np.float32)} | tensors
    said = {"labels": LABELS, "layer": 1} | about
    forge(bundle, "adapter/probe.safetensors", save(held, metadata={"cotune": json.dumps(said)}))
    forge(bundle, "metrics.json", {}, adapter_id=adapter_content_id(bundle / "adapter"))
    error = refused(bundle)
    assert what in error.what and error.where.endswith("probe.safetensors")


def test_a_probe_alone_is_a_bundle_of_the_base_model(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save_probed(tmp_path / "best", tuned=False)
    assert names(bundle) == sorted((*FILES[:4], "adapter/probe.safetensors", "manifest.json"))
    wanted = loaded(bundle).predict(TEXTS)
    assert len(set(wanted)) > 1
    card = (bundle / "README.md").read_text()
    assert "A prompt and a probe for" in card and "peft" not in card.lower()
    # Half of an adapter beside it is none.
    shutil.copy(bench.adapter / "adapter_config.json", bundle / "adapter")
    forge(bundle, "adapter/adapter_config.json", (bench.adapter / "adapter_config.json").read_bytes())
    assert "missing" in refused(bundle).what


@pytest.mark.parametrize("tuned", [True, False])
def test_the_cards_code_answers_by_the_probe(bench: Bench, tmp_path: Path, tuned: bool) -> None:
    bundle = bench.save_probed(tmp_path / "best", tuned=tuned)
    card = (bundle / "README.md").read_text()
    assert "layer 1 of 2" in card and "decision rule" not in card
    *_, code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    predictor = loaded(bundle)
    for text in (text for text in TEXTS if "|im_end|" not in text):
        whole = predictor.model.renderer.text(PROMPT, {"text": text}, LABELS)
        ready = code.replace("FOLDER OR HUB ID OF THE BASE MODEL", str(bench.base)).replace("FOLDER", str(bundle))
        with redirect_stdout(StringIO()) as printed:
            exec(ready.replace('text = "..."', f"text = {whole!r}"), {})
        assert [printed.getvalue().strip()] == predictor.predict(text)


@pytest.mark.parametrize(
    ("versions", "made"),
    [
        ({"cotune": "0.0.9"}, "cotune 0.0.9"),
        ({"cotune": "0.1\n\x1b[31m"}, "another version of cotune"),
        ([], "another version of cotune"),
    ],
)
def test_a_bundle_of_another_format_is_refused_by_the_version_that_made_it(bundle: Path, versions: Any, made: str) -> None:
    for number in (1, 4):
        other = edit_json(bundle / "manifest.json", format=number, versions=versions)
        (bundle / "manifest.json").write_text(json.dumps(other))
        error = refused(bundle)
        assert f"made by {made} in format {number}, and cotune {__version__} reads format 3" in error.what
        assert "\x1b" not in error.what and error.hint == "Use the version of cotune that made it, or run again with this one."


def test_folders_that_are_no_bundle(bundle: Path, tmp_path: Path) -> None:
    assert "no such bundle" in refused(tmp_path / "none").what
    assert "a file" in refused(bundle / "README.md").what
    assert loaded(bundle.parent).bundle_id == loaded(bundle).bundle_id, "a run's folder means the bundle in it"
    (tmp_path / "empty").mkdir()
    assert "has no manifest.json" in refused(tmp_path / "empty").what


# The card -------------------------------------------------------------------------------------------------------------


def test_the_card_says_what_it_is_and_how_good(bench: Bench, tmp_path: Path) -> None:
    arm = {"score": 0.25, "ci": [0.2, 0.3], "n": 90, "split": "test", "prompt_id": "x", "adapter_id": "base"}
    best = arm | {"score": 0.9, "ci": [0.85, 0.94], "prompt_id": PROMPT.id, "adapter_id": bench.adapter_id}
    metrics = {
        "arms": {"seed_prompt": arm, "best_tuned": best, "best_prompt": {"score": 0.123}},
        "gains": {
            "both": {"value": 0.65, "ci": [0.55, 0.72], "p": 0.0006, "p_single": 0.0001},
            "synergy": {"log_loss": {}},
            "synergy_log_loss": {"value": 0.2, "ci": [0.1, 0.3], "p": 0.04},
        },
        "robustness": {
            "n": 80,
            "base": {"scores": [0.2, 0.31]},
            "tuned": {"scores": [0.88, 0.9]},
            "sentence": "Tuning makes the model less sensitive | by 3 points.",
        },
    }
    prompt = PROMPT.edit(instruction="Use ```` fences: {labels}")
    bundle = bench.save(tmp_path / "best", metrics=metrics, task_name="a | b\n# <script>", prompt=prompt)
    card = (bundle / "README.md").read_text()
    assert json.loads((bundle / "metrics.json").read_text()) == metrics
    assert card.startswith("# a / b # ‹script›\n")
    assert "| first prompt, base model | 0.250 (0.200 to 0.300) | 90 | test |" in card
    assert "| prompt and tuning | +65.0 | +55.0 to +72.0 | < 0.001 | a gain |" in card
    assert "| synergy, log-loss | +0.200 | +0.100 to +0.300 | 0.040 | worth more together |" in card and "nats a row" in card
    assert "| p |" in card and "corrected" in card and "| synergy |" not in card
    formats = "in 2 other formats on 80 dev rows: base model 0.200 to 0.310, tuned model 0.880 to 0.900. Tuning makes"
    assert formats in card and "sensitive / by 3 points" in card
    assert "0.123" not in card, "a score without interval is no score"
    shown = bench.model.renderer.text(prompt, {"text": "{text}"}, LABELS)
    assert f"`````text\n{shown}\n`````" in card
    assert "PeftModel.from_pretrained" in card
    assert "tiny-base" in card
    assert str(tmp_path) not in card
    assert str(bench.base.parent) not in card
    assert "(this bundle)" not in card, "the prompt is another"
    marked = (bench.save(tmp_path / "marked", metrics=metrics) / "README.md").read_text()
    assert "| **winner's prompt, tuned model** (this bundle) | 0.900" in marked
    # Where two arms are the same candidate, one row is the bundle's.
    doubled = {**metrics, "arms": {**metrics["arms"], "best_prompt": best}}
    twice = (bench.save(tmp_path / "twice", metrics=doubled) / "README.md").read_text()
    assert twice.count("(this bundle)") == 1 and "winner's prompt, base model" not in twice, "one candidate, one row"
    frozen = {**metrics, "arms": {**metrics["arms"], "best_tuned": best | {"readout": "probe", "steps": 0}}}
    untuned = (bench.save(tmp_path / "untuned", metrics=frozen) / "README.md").read_text()
    assert "| **winner's prompt, base model: not tuned** (this bundle) | 0.900" in untuned and "tuned model" not in untuned
    frozen["arms"]["seed_tuned"] = arm
    frozen["gains"] = {"prompt_given_tuning": {"value": 0.65, "ci": [0.55, 0.72], "p": 0.01}}
    alone = (bench.save(tmp_path / "alone", metrics=frozen) / "README.md").read_text()
    assert "| winner over seed prompt | +65.0" in alone, "which was not tuned either"
    plain = (bench.save(tmp_path / "plain", adapter_folder=None) / "README.md").read_text()
    assert "PeftModel" not in plain
    assert "How good" not in plain


def test_a_card_says_that_the_prompt_holds_rows_of_the_user(bench: Bench, tmp_path: Path) -> None:
    shown = (bench.save(tmp_path / "shown") / "README.md").read_text()
    assert (
        "The bundle holds 1 labelled row of your data, as a demonstration in its prompt: whoever gets it can read it." in shown
    )
    bare = (bench.save(tmp_path / "bare", prompt=PROMPT.edit(demonstrations=())) / "README.md").read_text()
    assert "The bundle holds" not in bare


def test_a_manifest_survives_the_round_trip() -> None:
    assert Manifest.from_json(small_manifest()).to_json() == small_manifest()
    with_revision = small_manifest() | {"base_model": {"name": "o/m", "fingerprint": "f", "revision": "c"}}
    assert Manifest.from_json(with_revision).to_json() == with_revision


def test_a_schema_that_cannot_be_kept_is_refused_before_the_base_is_looked_for(bench: Bench, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "not": {"const": ""}}}}
    output = Output("json", schema_text=json.dumps(schema))
    folder = bench.save(tmp_path / "written", output=output, answer_tokens=20, metric="json_f1", prompt=Prompt("Say."))
    with pytest.raises(InputError, match=r"manifest\.json, output\.schema, #/properties/a: the schema cannot be enforced"):
        load(folder, base=tmp_path / "nowhere")


def test_a_base_model_is_fetched_only_where_the_user_says_so(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.save(tmp_path / "bundle", model_name="cotune-tests/none-such")
    told = refused(bundle)
    assert "needs your permission" in told.what and "--base hub" in told.hint
    assert "cannot be fetched from the hub" in refused(bundle, base="hub").what
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"row {i},{LABELS[i % 2]}\n" for i in range(40)))
    with pytest.raises(InputError, match="--model cotune-tests/none-such"):
        config_from_data(rows, overrides=[f"start={bundle}"])
    assert config_from_data(rows, overrides=[f"start={bundle}", "model=cotune-tests/none-such"]).start
