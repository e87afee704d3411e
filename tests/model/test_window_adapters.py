"""Adapters that lie on some layers only, and probes beside them or on the model as it is."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cotune.errors import CotuneError, InputError
from cotune.files import write_json
from cotune.model.adapters.files import (
    CONFIG,
    WEIGHTS,
    LoraSettings,
    adapter_content_id,
    adapter_files,
    bare_content_id,
    is_bare_probe,
    read_settings,
)
from cotune.model.adapters.slots import BASE
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.layers.cut import layers_of, norm_epsilon, unit_rms
from cotune.model.local import LocalModel
from cotune.probe.readout import PROBE, Probe
from cotune.prompt.prompt import Prompt
from tiny import tiny_local, tiny_model, widen_lora

DEPTH = 4
PROMPT = Prompt(instruction="Classify the question.", cue="Label:")
ROWS = [{"input": text} for text in ("Who?", "How tall is the tower?", "card", "Where is the river?")]
LABELS = ("person", "place", "card arrival", "card delivery")
WINDOW = LoraSettings(rank=4, alpha=8, layers=(1, 2))
BY_NAME = LoraSettings(rank=4, alpha=8, target="down_proj,q_proj", layers=(2,))
WHOLE = LoraSettings(rank=4, alpha=8, target="model.layers.0.self_attn.q_proj,model.layers.3.mlp.up_proj", layers=(1, 2))
"""Whole names, as an adapter on all layers lists them, beside the layers of a window."""


def local_of(kind: Any = "llama", **more: Any) -> LocalModel:
    found: LocalModel = tiny_local(kind, num_hidden_layers=DEPTH, **more)
    return found


def tuned(local: LocalModel, parent: Path, settings: LoraSettings = WINDOW, seed: int = 0) -> str:
    widen_lora(local.adapters.start(settings, seed=seed), seed)
    return local.adapters.save(local.adapters.weights(), parent)


def probe_of(width: int, layer: int, seed: int = 0, labels: tuple[str, ...] = LABELS) -> Probe:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(len(labels), 2 * width)), rng.normal(size=len(labels))
    return Probe(labels, weight.astype(np.float32), bias.astype(np.float32), layer)


def sequences(local: LocalModel) -> list[list[int]]:
    return [list(row.prompt_ids) for row in local.renderer.render(PROMPT, ROWS, LABELS)]


def scores(local: LocalModel, adapter: str, **more: Any) -> Any:
    return local.score(PROMPT, ROWS, LABELS, adapter=adapter, **more).log_probs


def plain_peft(kind: Any, folder: Path, ids: list[list[int]]) -> Any:
    """``[layers, rows, width]`` by peft alone, read from the folder; and how many weights it took from there."""
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(tiny_model(kind, num_hidden_layers=DEPTH), folder).eval()
    own = {name.replace(".default.", "."): value for name, value in wrapped.named_parameters() if ".lora_" in name}
    stored = load_file(folder / WEIGHTS)
    assert set(own) == set(stored) and all(torch.equal(own[name], stored[name]) for name in own)
    model = wrapped.get_base_model()
    decoder, rows = model.get_decoder(), []
    for one in ids:
        seen: list[torch.Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out[0] if isinstance(out, tuple) else out))  # type: ignore[misc]
            for layer in layers_of(decoder)
        ]
        with torch.inference_mode():
            decoder(torch.tensor([one]), use_cache=False)
        for hook in hooks:
            hook.remove()
        rows.append(torch.stack([unit_rms(states[0, -1], norm_epsilon(model)) for states in seen]))
    return torch.stack(rows, 1).numpy()


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("settings", [WINDOW, BY_NAME, WHOLE])
def test_an_adapter_on_some_layers_is_the_same_bound_in_peft_and_in_plain_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, settings: LoraSettings
) -> None:
    maker = local_of(kind)
    adapter = tuned(maker, tmp_path, settings)
    ids, layers = sequences(maker), [1, 2, 3, 4]
    names = load_file(tmp_path / adapter / WEIGHTS)
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in names} == set(settings.layers)
    assert json.loads((tmp_path / adapter / CONFIG).read_text())["layers_to_transform"] == list(settings.layers)
    assert read_settings(tmp_path / adapter).layers == settings.layers
    by_peft = maker.layer_states(ids, layers, adapter=adapter)
    np.testing.assert_allclose(by_peft, plain_peft(kind, tmp_path / adapter, ids), atol=1e-4)
    base = local_of(kind).layer_states(ids, layers)
    first = settings.layers[0]
    np.testing.assert_allclose(by_peft[:first], base[:first], atol=1e-5)
    assert np.abs(by_peft[first:] - base[first:]).max(axis=(1, 2)).min() > 0.05
    wanted = scores(maker, adapter)
    monkeypatch.setitem(sys.modules, "peft", None)
    fresh = local_of(kind)
    assert fresh.adapters.register(tmp_path / adapter) == adapter
    assert fresh.layer_states(ids, layers, adapter=adapter).tobytes() == by_peft.tobytes()
    assert scores(fresh, adapter).tobytes() == wanted.tobytes()


def test_adapters_of_other_layers_take_turns(tmp_path: Path) -> None:
    local = local_of()
    every = {settings: tuned(local, tmp_path, settings) for settings in (WINDOW, LoraSettings(rank=4, alpha=8), BY_NAME)}
    assert len(set(every.values())) == 3
    once = {name: scores(local, name) for name in (*every.values(), BASE)}
    fresh = local_of()
    for name in (*every.values(), BASE, *reversed(every.values())):
        if name != BASE:
            fresh.adapters.register(tmp_path / name)
        assert scores(fresh, name).tobytes() == once[name].tobytes()
    # Trained on, an adapter stays on its layers.
    parameters = local.adapters.start(LoraSettings(rank=2), seed=0, adapter_id=every[WINDOW])
    assert {name.split(".layers.")[1][0] for name, _ in parameters} == {"1", "2"}
    assert local.adapters.save(local.adapters.weights(), tmp_path / "again") == every[WINDOW]


@pytest.mark.parametrize(
    "changes",
    [
        {"layers_pattern": "blocks"},
        {"layers_to_transform": ["1"]},
        {"layers_to_transform": [-1]},
        {"layers_to_transform": True},
    ],
)
def test_layers_of_another_kind_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / tuned(local_of(), tmp_path)
    write_json(folder / CONFIG, json.loads((folder / CONFIG).read_text()) | changes)
    with pytest.raises(InputError, match="layers_to_transform or layers_pattern is not supported"):
        read_settings(folder)


def test_which_layers_are_adapted_is_part_of_an_id(tmp_path: Path) -> None:
    folder = tmp_path / tuned(local_of(), tmp_path)
    config = json.loads((folder / CONFIG).read_text())
    before = adapter_content_id(folder)
    write_json(folder / CONFIG, config | {"layers_to_transform": [1]})
    assert adapter_content_id(folder) != before
    write_json(folder / CONFIG, config | {"layers_to_transform": 1})
    assert read_settings(folder).layers == (1,)


# Probes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt_oss"])
@pytest.mark.parametrize("layer", [2, 4])
def test_a_probe_answers_from_its_layer(tmp_path: Path, kind: Any, layer: int) -> None:
    local = local_of(kind, cache=ScoreCache(tmp_path / "scores.sqlite"))
    plain = tuned(local, tmp_path, LoraSettings(rank=4, alpha=8, target="q_proj,v_proj", layers=(0, 1)))
    rendered, probe = local.renderer.render(PROMPT, ROWS, LABELS), probe_of(local.width, layer)
    ids, starts = [row.prompt_ids for row in rendered], [row.start for row in rendered]
    for bare in (plain, BASE):
        before = scores(local, bare)
        adapter = local.adapters.add_probe(bare, probe, tmp_path)
        wanted = probe.log_probs(local.layer_states(ids, [layer], reads=starts, adapter=bare)[0], LABELS)
        assert np.abs(wanted - before).max() > 0.1
        for _ in range(2):
            # The second time from the cache.
            np.testing.assert_allclose(scores(local, adapter), wanted, atol=1e-4)
        np.testing.assert_allclose(scores(local, adapter, top=1), wanted, atol=1e-4)
        turned = local.score(PROMPT, ROWS, LABELS[::-1], adapter=adapter).log_probs
        np.testing.assert_allclose(turned, wanted[:, ::-1], atol=1e-4)
        assert np.array_equal(scores(local, bare), before), "without its probe it answers as before"
        assert local.adapters.without_probe(adapter) == bare and local.adapters.probe(bare) is None
        # A row costs its own text: of the labels' words none runs.
        assert local.score(PROMPT, ROWS, LABELS, adapter=adapter, fresh=True).tokens <= sum(map(len, ids))


def test_scoring_by_a_probe_runs_no_layer_above_it(tmp_path: Path) -> None:
    local = local_of()
    adapter = local.adapters.add_probe(BASE, probe_of(local.width, 2), tmp_path)
    ran: list[int] = []
    for number, layer in enumerate(layers_of(local.runner._decoder)):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))  # type: ignore[misc]
    scores(local, adapter)
    assert set(ran) == {0, 1}
    local.keep_prefix(PROMPT, ["input"], LABELS, adapter=adapter)
    again = scores(local, adapter)
    assert set(ran) == {0, 1}
    np.testing.assert_allclose(again, scores(local_of_with(tmp_path / adapter), adapter), atol=1e-5)


def local_of_with(folder: Path) -> LocalModel:
    local = local_of()
    local.adapters.register(folder)
    return local


def test_a_probe_alone_in_a_folder_reads_the_model_as_it_is(tmp_path: Path) -> None:
    local = local_of()
    probe = probe_of(local.width, 3)
    adapter = local.adapters.add_probe(BASE, probe, tmp_path)
    folder = tmp_path / adapter
    assert [path.name for path in folder.iterdir()] == [PROBE] == adapter_files(folder)
    assert is_bare_probe(folder) and adapter_content_id(folder) == adapter and bare_content_id(folder) == BASE
    moved = tmp_path / "another name"
    shutil.copytree(folder, moved)
    fresh = local_of()
    assert fresh.adapters.register(moved) == adapter
    np.testing.assert_array_equal(scores(fresh, adapter), scores(local, adapter))
    # What is trained on from there starts fresh, and another probe takes the place of the first.
    started = fresh.adapters.start(WINDOW, seed=0, adapter_id=adapter)
    assert all(not value.any() for name, value in started if ".lora_B." in name)
    other = fresh.adapters.add_probe(adapter, probe_of(local.width, 3, seed=1), tmp_path)
    assert other != adapter and fresh.adapters.without_probe(other) == BASE


def test_a_probe_beside_weights_is_an_adapter_apart(tmp_path: Path) -> None:
    local = local_of()
    plain = tuned(local, tmp_path)
    probe = probe_of(local.width, 3)
    adapter = local.adapters.add_probe(plain, probe, tmp_path / "more")
    folder = tmp_path / "more" / adapter
    assert adapter != plain and adapter_content_id(folder) == adapter and bare_content_id(folder) == plain
    assert PROBE in adapter_files(folder) and PROBE not in adapter_files(tmp_path / plain)
    other = local_of()
    assert other.adapters.register(folder) == adapter
    np.testing.assert_array_equal(scores(other, adapter), scores(local, adapter))
    np.testing.assert_array_equal(scores(other, plain), scores(local, plain))
    again = local.adapters.add_probe(adapter, probe_of(local.width, 3, seed=1), tmp_path / "again")
    assert local.adapters.without_probe(again) == plain and again != adapter


@pytest.mark.parametrize(("width", "layer"), [(16, 2), (32, DEPTH + 1)])
def test_a_probe_of_another_model_is_refused(tmp_path: Path, width: int, layer: int) -> None:
    local = local_of()
    adapter = local.adapters.add_probe(BASE, probe_of(width, layer), tmp_path)
    with pytest.raises(InputError, match="the probe does not fit this model"):
        scores(local, adapter)


def test_other_labels_than_the_probes_are_refused(tmp_path: Path) -> None:
    local = local_of()
    adapter = local.adapters.add_probe(BASE, probe_of(local.width, 2), tmp_path)
    with pytest.raises(CotuneError, match="other labels"):
        local.score(PROMPT, ROWS, LABELS[:2], adapter=adapter)
