from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cotune.bundle.export.weights import merged
from cotune.errors import CotuneError, InputError
from cotune.files import write_json
from cotune.model.adapters.files import CONFIG, WEIGHTS, LoraSettings, adapter_content_id, read_settings
from cotune.model.adapters.slots import BASE
from cotune.model.engine.settings import EngineSettings
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.tune.settings import TuneSettings
from cotune.tune.tuners import LoraTuner
from tiny import FITTING, tiny_local, tiny_model, tiny_tokenizer, widen_lora

PROMPT = Prompt(instruction="Classify the question.", cue="Label:")
ROWS = [{"input": text} for text in ("Who?", "How tall is the tower?", "card")]
LABELS = ("person", "place", "card arrival", "card delivery")
SMALL = LoraSettings(rank=4, alpha=8)


def scores(local: LocalModel, adapter: str = BASE) -> np.ndarray[Any, Any]:
    return local.score(PROMPT, ROWS, LABELS, adapter=adapter).log_probs


def saved(local: LocalModel, parent: Path, *, seed: int = 0, settings: LoraSettings = SMALL) -> str:
    widen_lora(local.adapters.start(settings, seed=seed), seed)
    return local.adapters.save(local.adapters.weights(), parent)


@pytest.mark.parametrize("kind", FITTING)
def test_a_saved_adapter_is_a_plain_peft_folder(tmp_path: Path, kind: Any) -> None:
    from peft import PeftModel

    local = tiny_local(kind)
    adapter = saved(local, tmp_path)
    rendered = local.renderer.render(PROMPT, ROWS, LABELS)
    fresh = tiny_model(kind)
    ids = torch.tensor([rendered[1].prompt_ids])
    with torch.inference_mode():
        base = fresh(ids, use_cache=False).logits
        wrapped = PeftModel.from_pretrained(fresh, tmp_path / adapter).eval()
        wanted = wrapped(ids, use_cache=False).logits
        hidden, _ = local.runner.hidden(local_plan(rendered[1].prompt_ids))
        found = local.runner.logits(hidden)
    assert (wanted - base).abs().max() > 0.1, "an adapter that changes nothing proves nothing"
    torch.testing.assert_close(found, wanted[0], atol=1e-5, rtol=1e-5)
    # and the same once it was put away and brought back
    scores(local)
    first = local.score(PROMPT, ROWS, ("person", "place"), adapter=adapter).log_probs
    other = LocalModel(wrapped.get_base_model(), tiny_tokenizer(), fingerprint="peft")
    np.testing.assert_allclose(first, other.score(PROMPT, ROWS, ("person", "place")).log_probs, atol=1e-5)


@pytest.mark.parametrize("settings", [SMALL, LoraSettings(rank=4, alpha=8, layers=(1,)), LoraSettings(4, 8, "c_attn,c_proj")])
def test_layers_with_transposed_weights_are_tuned_too(
    tmp_path: Path, settings: LoraSettings, recwarn: pytest.WarningsRecorder
) -> None:
    """GPT-2's linear layers are no ``nn.Linear``. Probes name the layers they tune, which peft refused for it."""
    from peft import PeftModel

    local = tiny_local("gpt2")
    assert local.shared
    LoraTuner().check(local, TuneSettings(lora=settings))
    base = scores(local)
    adapter = saved(local, tmp_path, settings=settings)
    assert not [warning for warning in recwarn if "fan_in_fan_out" in str(warning.message)]
    found = scores(local, adapter)
    assert np.abs(found - base).max() > 0.1, "an adapter that changes nothing proves nothing"
    wrapped = PeftModel.from_pretrained(tiny_model("gpt2"), tmp_path / adapter).eval()
    names = {name for name, _ in wrapped.named_modules() if name.endswith(".lora_A.default")}
    assert names and all(".h.1." in name for name in names) == bool(settings.layers)
    other = LocalModel(wrapped.get_base_model(), tiny_tokenizer(), fingerprint="peft")
    np.testing.assert_allclose(found, scores(other), atol=1e-5)
    fresh = tiny_local("gpt2")
    assert fresh.adapters.register(tmp_path / adapter) == adapter
    np.testing.assert_allclose(scores(fresh, adapter), found, atol=1e-5)
    # An export adds it to the weights.
    tiny_model("gpt2").save_pretrained(tmp_path / "base")
    added = LocalModel(merged(tmp_path / "base", tmp_path / adapter)[0].eval(), tiny_tokenizer(), fingerprint="merged")
    np.testing.assert_allclose(scores(added), found, atol=1e-4)


def test_a_model_without_layers_to_tune_is_refused_before_anything_runs() -> None:
    local = tiny_local("llama")
    for layer in local.model.model.layers:
        layer.self_attn = layer.mlp = torch.nn.Identity()
    with pytest.raises(InputError, match="LlamaForCausalLM has no linear layers that can be tuned"):
        LoraTuner().check(local, TuneSettings())


def test_small_gradients_vanish_in_float16_so_that_it_is_refused() -> None:
    def gradient(dtype: torch.dtype) -> torch.Tensor:
        layer = torch.nn.Linear(4, 4, dtype=dtype)
        states = torch.ones(1, 4, dtype=dtype, requires_grad=True)
        # As of a mean over a few thousand tokens.
        (layer(states).float().sum() * 1e-8).backward()
        assert states.grad is not None
        return states.grad

    assert not gradient(torch.float16).any() and gradient(torch.bfloat16).any()
    for dtype in ("float32", "bfloat16"):
        LoraTuner().check(tiny_local("llama", settings=EngineSettings(dtype=dtype)), TuneSettings())
    with pytest.raises(InputError, match="float16 is too narrow for tuning") as caught:
        LoraTuner().check(tiny_local("llama", settings=EngineSettings(dtype="float16")), TuneSettings())
    assert caught.value.where == "engine.dtype" and "bfloat16" in caught.value.hint


def local_plan(ids: tuple[int, ...]) -> Any:
    from cotune.model.engine.plan import plan_pass

    return plan_pass([ids], prefix=0)


@pytest.mark.parametrize("other", [SMALL, LoraSettings(rank=2, alpha=2), LoraSettings(rank=4, alpha=8, target="q_proj,v_proj")])
def test_swapping_gives_the_same_bits_every_time(tmp_path: Path, other: LoraSettings) -> None:
    local = tiny_local("llama")
    untouched = scores(local)
    first = saved(local, tmp_path, seed=1)
    second = saved(local, tmp_path, seed=2, settings=other)
    seen: dict[str, list[bytes]] = {first: [], second: [], BASE: []}
    for adapter in (first, BASE, second, first, second, BASE, BASE, first):
        local._prefixes.clear()  # the prefix, too, is run anew
        seen[adapter].append(scores(local, adapter).tobytes())
    assert all(len(set(found)) == 1 for found in seen.values())
    assert len({found[0] for found in seen.values()}) == 3
    assert seen[BASE][0] == untouched.tobytes()
    # a model that loads them from their folders gives the same
    fresh = tiny_local("llama")
    assert fresh.adapters.register(tmp_path / second) == second
    assert scores(fresh, second).tobytes() == seen[second][0]
    assert scores(fresh).tobytes() == untouched.tobytes()


@pytest.mark.parametrize("settings", [SMALL, LoraSettings(rank=2, alpha=2, target="k_proj,v_proj,down_proj")])
def test_an_adapter_is_used_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: LoraSettings) -> None:
    maker = tiny_local("llama")
    adapter = saved(maker, tmp_path, settings=settings)
    wanted, base = scores(maker, adapter), scores(maker)
    assert not np.allclose(wanted, base, atol=0.1), "an adapter that changes nothing proves nothing"
    monkeypatch.setitem(sys.modules, "peft", None)
    fresh = tiny_local("llama")
    fresh.adapters.register(tmp_path / adapter)
    assert scores(fresh, adapter).tobytes() == wanted.tobytes()
    assert scores(fresh).tobytes() == base.tobytes()


def test_an_adapter_in_use_can_be_trained_on(tmp_path: Path) -> None:
    adapter = saved(tiny_local("llama"), tmp_path)
    local = tiny_local("llama")
    local.adapters.register(tmp_path / adapter)
    before = scores(local, adapter)
    parameters = local.adapters.start(SMALL, seed=0, adapter_id=adapter)
    assert local.adapters.save(local.adapters.weights(), tmp_path / "more") == adapter
    with torch.no_grad():
        parameters[0][1].add_(1.0)
    local._prefixes.clear()
    assert scores(local, adapter).tobytes() == before.tobytes()
    fresh = local.adapters.start(SMALL, seed=0)
    assert all(not value.any() for name, value in fresh if ".lora_B." in name)


def test_more_adapters_than_are_kept_in_memory(tmp_path: Path) -> None:
    local = tiny_local("llama")
    adapters = [saved(local, tmp_path, seed=seed) for seed in range(11)]
    assert len(set(adapters)) == 11
    once, again = ([scores(local, adapter).tobytes() for adapter in adapters] for _ in range(2))
    assert once == again and len(set(once)) == 11


def test_training_weights_do_not_leak_into_scores(tmp_path: Path) -> None:
    local = tiny_local("llama")
    base = scores(local)
    adapter = saved(local, tmp_path, seed=1)
    tuned = scores(local, adapter)
    parameters = local.adapters.start(SMALL, seed=5, adapter_id=adapter)
    assert all(parameter.requires_grad for _, parameter in parameters)
    with torch.no_grad():
        for _, parameter in parameters:
            parameter.add_(1.0)
    assert scores(local).tobytes() == base.tobytes()
    local.adapters.start(SMALL, seed=5, adapter_id=adapter)
    with torch.no_grad():
        local.adapters._lora_parameters()[0][1].add_(1.0)
    local._prefixes.clear()
    assert scores(local, adapter).tobytes() == tuned.tobytes()


def test_a_fresh_start_is_the_base_model_and_follows_its_seed() -> None:
    local = tiny_local("llama")
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed + 100)  # the global state has no say
        local.adapters.start(SMALL, seed=seed)
        drawn.append(local.adapters.weights())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert any(not torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])
    assert all(not value.any() for name, value in drawn[0].items() if ".lora_B." in name)
    assert all(value.any() for name, value in drawn[0].items() if ".lora_A." in name)


def test_weights_are_copies_and_can_be_put_back(tmp_path: Path) -> None:
    local = tiny_local("llama")
    parameters = local.adapters.start(SMALL, seed=0)
    widen_lora(parameters)
    kept = local.adapters.weights()
    with torch.no_grad():
        parameters[0][1].zero_()
    changed = local.adapters.weights()
    local.adapters.use(local.adapters.save(kept, tmp_path))
    assert any(not torch.equal(kept[name], changed[name]) for name in kept)
    assert all(torch.equal(kept[name], value) for name, value in local.adapters.weights().items())


def test_the_id_is_a_hash_of_content_alone(tmp_path: Path) -> None:
    local = tiny_local("llama")
    adapter = saved(local, tmp_path / "one")
    assert saved(local, tmp_path / "two" / "deeper") == adapter
    edit_config(tmp_path / "two" / "deeper" / adapter, base_model_name_or_path="hub/name")
    assert adapter_content_id(tmp_path / "one" / adapter) == adapter
    moved = tmp_path / "another name"
    shutil.copytree(tmp_path / "two" / "deeper" / adapter, moved)
    assert adapter_content_id(moved) == adapter == local.adapters.register(moved)

    weights = load_file(moved / WEIGHTS)
    name = sorted(weights)[0]
    weights[name][0, 0] += 1e-3
    save_file(weights, moved / WEIGHTS)
    assert adapter_content_id(moved) != adapter
    scaled = tmp_path / "scaled"
    shutil.copytree(tmp_path / "one" / adapter, scaled)
    edit_config(scaled, lora_alpha=16)
    assert adapter_content_id(scaled) != adapter


def test_no_local_path_is_written(tmp_path: Path) -> None:
    local = tiny_local("llama")
    local.model.config._name_or_path = local.model.name_or_path = str(tmp_path / "secret place")
    adapter = saved(local, tmp_path)
    text = (tmp_path / adapter / CONFIG).read_text()
    assert str(tmp_path) not in text and "secret" not in text
    config = json.loads(text)
    assert config["base_model_name_or_path"] is None and config["inference_mode"] is True
    assert sorted(path.name for path in (tmp_path / adapter).iterdir()) == [CONFIG, WEIGHTS]
    settings = read_settings(tmp_path / adapter)
    assert (settings.rank, settings.alpha) == (SMALL.rank, SMALL.alpha)
    assert "q_proj" in settings.target and "lm_head" not in settings.target


@pytest.mark.parametrize("alpha", [0.5, 6.5, 8.0])
def test_an_alpha_that_is_no_whole_number_scales_as_said(tmp_path: Path, alpha: float) -> None:
    local = tiny_local("llama")
    adapter = saved(local, tmp_path, settings=LoraSettings(SMALL.rank, alpha, SMALL.target))
    assert read_settings(tmp_path / adapter).alpha == alpha
    assert json.loads((tmp_path / adapter / CONFIG).read_text())["lora_alpha"] == alpha


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    write_json(folder / CONFIG, config | changes)


def edit_weights(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({name: change(value).contiguous() for name, value in weights.items()}, folder / WEIGHTS)


def cut_short(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def rename_one(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["somewhere.else.lora_A.weight"] = weights.pop(sorted(weights)[0])
    save_file(weights, folder / WEIGHTS)


BROKEN: dict[str, Callable[[Path], Any]] = {
    # One rank only: copying would silently repeat it.
    "one rank": lambda f: edit_weights(f, lambda x: x[:1] if x.shape[0] == SMALL.rank else x[:, :1]),
    "wrong rank": lambda f: edit_config(f, r=3),
    "other width": lambda f: edit_weights(f, lambda x: torch.cat([x, x])),
    "cut short": cut_short,
    "no safetensors": lambda f: (f / WEIGHTS).write_bytes(b"\x80\x04 a pickle, perhaps"),
    "empty": lambda f: (f / WEIGHTS).write_bytes(b""),
    "another layer": rename_one,
    "no weights": lambda f: (f / WEIGHTS).unlink(),
    "no config": lambda f: (f / CONFIG).unlink(),
    "config is no JSON": lambda f: (f / CONFIG).write_text("{"),
    "config is a list": lambda f: (f / CONFIG).write_text("[]"),
    "prefix tuning": lambda f: edit_config(f, peft_type="PREFIX_TUNING"),
    "dora": lambda f: edit_config(f, use_dora=True),
    "rank-stabilised": lambda f: edit_config(f, use_rslora=True),
    "alpha by layer": lambda f: edit_config(f, alpha_pattern={"q_proj": 64}),
    "no such layer": lambda f: edit_config(f, target_modules=["nowhere"]),
    "rank 0": lambda f: edit_config(f, r=0),
    "a rank that takes all memory": lambda f: edit_config(f, r=10**9),
    "a rank that its weights lack": lambda f: edit_config(f, r=60_000),
    "an alpha that is no number": lambda f: edit_config(f, lora_alpha=10**400),
    "far too many layers": lambda f: edit_config(f, target_modules=[f"layer{i}" for i in range(200_000)]),
    "a name without end": lambda f: edit_config(f, target_modules=["q" * 10**6]),
    "config without bottom": lambda f: (f / CONFIG).write_text('{"r": ' + "[" * 10**5 + "]" * 10**5 + "}"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters of one model."""
    folder, maker = tmp_path_factory.mktemp("whole"), tiny_local("llama")
    one, two = (folder / saved(maker, folder, seed=seed) for seed in (1, 2))
    return one, two


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("while_using", ["base", "another"])
def test_what_does_not_fit_is_refused_and_changes_nothing(
    whole: tuple[Path, Path], tmp_path: Path, how: str, while_using: str
) -> None:
    good, bad = whole[0], tmp_path / whole[1].name
    shutil.copytree(whole[1], bad)
    BROKEN[how](bad)
    local = tiny_local("llama")
    base, adapter = scores(local), local.adapters.register(good)
    tuned = scores(local, adapter)
    if while_using == "base":
        scores(local)
    with pytest.raises(InputError) as caught:
        scores(local, local.adapters.register(bad))
    assert caught.value.exit_code == 2
    if while_using == "another":
        assert scores(local, adapter).tobytes() == tuned.tobytes()
    local._prefixes.clear()
    assert scores(local).tobytes() == base.tobytes()
    assert scores(local, adapter).tobytes() == tuned.tobytes()


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    adapter = saved(tiny_local("llama"), tmp_path)
    local = tiny_local("llama", hidden_size=64)
    base = scores(local)
    local.adapters.register(tmp_path / adapter)
    with pytest.raises(InputError, match="does not fit"):
        scores(local, adapter)
    assert scores(local).tobytes() == base.tobytes()


def test_an_unknown_id_is_refused() -> None:
    with pytest.raises(CotuneError, match="not known"):
        scores(tiny_local("llama"), "0123456789abcdef")


@pytest.mark.parametrize("replacement", [None, LoraSettings(rank=4, alpha=8, layers=(0,)), SMALL])
def test_a_folder_that_is_replaced_or_removed_does_not_change_what_is_in_use(
    tmp_path: Path, replacement: LoraSettings | None
) -> None:
    """A run replaces the bundle that a server has loaded, and the server goes on with what it has."""
    local = tiny_local()
    made = saved(local, tmp_path / "made")
    best = tmp_path / "best"
    shutil.copytree(tmp_path / "made" / made, best)
    served = tiny_local()
    adapter = served.adapters.register(best)
    before = scores(served, adapter)
    scores(served)
    shutil.rmtree(best)
    if replacement is not None:
        other = saved(tiny_local(), tmp_path / "other", seed=1, settings=replacement)
        shutil.copytree(tmp_path / "other" / other, best)
    served.adapters.use(BASE)
    np.testing.assert_array_equal(scores(served, adapter), before)
    if replacement is not None:
        # Weights that are no longer in memory are not taken from the new folder.
        served.adapters._loaded.clear()
        served.adapters.use(BASE)
        with pytest.raises(InputError, match="have changed since they were loaded"):
            served.adapters.use(adapter)
