"""States after some of the layers: those of transformers' own full pass, whichever way they are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cotune.errors import InputError
from cotune.model.engine.attention import use_plain_attention
from cotune.model.engine.plan import padded_count, plan_pass
from cotune.model.engine.prefix_cache import NO_PREFIX
from cotune.model.engine.settings import EngineSettings
from cotune.model.layers.cut import cut_decoder, layers_of, norm_epsilon, unit_rms
from cotune.model.loading.minimal_llama import LightLlama
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from tiny import save_tiny, tiny_local, tiny_model, tiny_tokenizer

DEPTH = 4
KINDS = ["llama", "qwen3", "gemma3", "gpt_neox", "granite", "gpt2"]
"""Of these gemma3 has a sliding window, granite scales its embeddings, gpt2 adds positions and names its parts otherwise."""
UNFIT = ["gemma2", "gpt_oss"]
TANGLED = {
    "gemma3n": {"hidden_size_per_layer_input": 8, "laurel_rank": 4, "altup_num_inputs": 2, "num_kv_shared_layers": 2},
    "gemma4": {"hidden_size_per_layer_input": 8, "global_head_dim": 8},
    "gemma4 with shared keys": {"hidden_size_per_layer_input": 8, "global_head_dim": 8, "num_kv_shared_layers": 2},
}
"""Models whose layers depend on each other beyond the states between them, and what of their configuration says so."""

# The prefix is longer than the window, and rows are of different lengths.
_DRAW = np.random.default_rng(0)
PREFIX = _DRAW.integers(3, 440, 9).tolist()
SEQUENCES = [[*PREFIX, i, *_DRAW.integers(3, 440, length).tolist()] for i, length in enumerate((1, 7, 4, 12, 7))]


def model_of(kind: str, seed: int = 0) -> Any:
    if kind == "granite":
        return foreign("granite", seed, embedding_multiplier=3.0, residual_multiplier=0.7, attention_multiplier=0.3)
    if kind == "gpt2":
        return foreign("gpt2", seed)
    return tiny_model(kind, seed=seed, num_hidden_layers=DEPTH)  # type: ignore[arg-type]


def foreign(kind: str, seed: int, **changes: Any) -> Any:
    import transformers as t

    shape = {"vocab_size": 448, "hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
    more = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.2}
    if kind == "granite":
        more |= {"intermediate_size": 48, "num_key_value_heads": 2}
    config = {"granite": t.GraniteConfig, "gpt2": t.GPT2Config}[kind](**shape | more | changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return t.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def tangled(name: str) -> Any:
    import transformers as t

    shape = {"vocab_size": 448, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": DEPTH, "head_dim": 8}
    more = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "sliding_window": 6}
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, "vocab_size_per_layer_input": 448}
    kinds = {"layer_types": ["sliding_attention", "full_attention"] * 2}
    if name == "gemma3n":
        kinds["activation_sparsity_pattern"] = [0.0] * DEPTH  # type: ignore[list-item]
    config = (t.Gemma3nTextConfig if name == "gemma3n" else t.Gemma4TextConfig)(**shape | more | ids | kinds | TANGLED[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return t.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def local_of(kind: str, **more: Any) -> LocalModel:
    return LocalModel(model_of(kind), tiny_tokenizer(), fingerprint=f"tiny-{kind}", **more)


def reference(kind: str, sequences: list[list[int]] = SEQUENCES) -> list[torch.Tensor]:
    """``[layers, tokens, width]`` of each sequence by transformers alone, before any final norm."""
    model = model_of(kind)
    decoder, found = model.get_decoder(), []
    for ids in sequences:
        with torch.inference_mode():
            last: list[torch.Tensor] = []
            handle = layers_of(decoder)[-1].register_forward_hook(
                lambda _, __, out, last=last: last.append(out[0] if isinstance(out, tuple) else out)  # type: ignore[misc]
            )
            states = decoder(torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states
            handle.remove()
        # transformers gives the last ones behind the final norm.
        found.append(torch.stack([*(part[0] for part in states[1:-1]), last[0][0]]))
    return found


def last_states(kind: str) -> np.ndarray[Any, Any]:
    epsilon = norm_epsilon(model_of(kind))
    return torch.stack([unit_rms(states[:, -1], epsilon) for states in reference(kind)], 1).numpy()


@pytest.mark.parametrize("kind", [*KINDS, *UNFIT])
def test_states_after_layers_are_those_of_a_full_pass(kind: str) -> None:
    local = local_of(kind)
    assert local.shared == (kind in KINDS) and local.depth == DEPTH and local.reads_layers
    wanted = last_states(kind)
    layers = [4, 1, 3]
    found = local.layer_states(SEQUENCES, layers)
    np.testing.assert_allclose(found, wanted[[n - 1 for n in layers]], atol=1e-4)
    np.testing.assert_allclose(np.square(found).mean(2), 1, atol=1e-3)
    for layer in (1, 2, 4):
        np.testing.assert_allclose(local.layer_states(SEQUENCES, [layer])[0], wanted[layer - 1], atol=1e-4)
    # One row shares its prompt with none; batches of a row each; a sequence twice.
    np.testing.assert_allclose(local.layer_states(SEQUENCES[3:4], [2])[0], wanted[1, 3:4], atol=1e-4)
    small = local_of(kind, settings=EngineSettings(batch_tokens=1))
    np.testing.assert_allclose(small.layer_states([*SEQUENCES, SEQUENCES[0]], [2])[0], wanted[1, [*range(5), 0]], atol=1e-4)
    # The whole model still does what it did.
    np.testing.assert_allclose(local.last_states(SEQUENCES), local_of(kind).last_states(SEQUENCES), atol=1e-5)


def test_a_prompt_may_fill_all_positions_that_a_model_knows() -> None:
    """The tokens that pad a pass need none."""
    longest = max(SEQUENCES, key=len)
    model = foreign("gpt2", 0, n_positions=len(longest))
    assert padded_count(len(longest) - 1, "cpu") > len(longest)
    local = LocalModel(model, tiny_tokenizer(), fingerprint="tiny-short")
    assert local.shared
    sequences = [[*longest[:-1], 7], [*longest[:-1], 8]]
    found = local.last_states(sequences, layer=2)
    use_plain_attention(model)
    with torch.inference_mode():
        wanted = model.get_decoder()(torch.tensor(sequences), use_cache=False, output_hidden_states=True).hidden_states[2]
    np.testing.assert_allclose(found, wanted[:, -1], atol=1e-4)


@pytest.mark.parametrize("kind", [*KINDS, *UNFIT])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_the_mean_over_a_rows_own_tokens_stands_beside_the_last_state(kind: str, batch_tokens: int) -> None:
    local = local_of(kind, settings=EngineSettings(batch_tokens=batch_tokens))
    epsilon, layers = norm_epsilon(model_of(kind)), [4, 1, 3]
    # Some start at once, some within what all share, one at its last token.
    starts = [0, 2, min(map(len, SEQUENCES)) - 2, 1, len(SEQUENCES[4]) - 1]
    for own in (starts, [min(starts[2], len(ids) - 1) for ids in SEQUENCES]):
        wanted = []
        for states, start in zip(reference(kind), own, strict=True):
            unit = unit_rms(states, epsilon)
            wanted.append(torch.cat([unit[:, -1], unit[:, start:].mean(1)], 1)[[n - 1 for n in layers]])
        found = local.layer_states(SEQUENCES, layers, reads=own)
        np.testing.assert_allclose(found, torch.stack(wanted, 1).numpy(), atol=1e-4)
        np.testing.assert_allclose(found[:, :, : local.width], local.layer_states(SEQUENCES, layers), atol=1e-4)


@pytest.mark.parametrize("kind", [*KINDS, *UNFIT])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_states_of_words_are_means_over_their_tokens(kind: str, batch_tokens: int) -> None:
    local = local_of(kind, settings=EngineSettings(batch_tokens=batch_tokens))
    epsilon, layers = norm_epsilon(model_of(kind)), [4, 1, 3]
    shared = min(map(len, SEQUENCES)) - 2
    # Words of one token and of several, apart and together, and different numbers of them.
    words = [((shared, shared + 1), (shared, len(ids)))[: 1 + row % 2] for row, ids in enumerate(SEQUENCES)]
    wanted = [
        unit_rms(states, epsilon)[[n - 1 for n in layers], start:end].mean(1)
        for states, own in zip(reference(kind), words, strict=True)
        for start, end in own
    ]
    found = local.layer_states(SEQUENCES, layers, reads=words)
    np.testing.assert_allclose(found, torch.stack(wanted, 1).numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_no_layer_above_runs(kind: str) -> None:
    local = local_of(kind)
    ran: list[int] = []
    for number, layer in enumerate(layers_of(local.runner._decoder)):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))  # type: ignore[misc]
    local.layer_states(SEQUENCES, [2])
    assert set(ran) == {0, 1}
    local.layer_states(SEQUENCES, [4])
    assert set(ran) == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_goes_on_from_the_states_at_its_edge(kind: str) -> None:
    local, full = local_of(kind), reference(kind)
    runner, length = local.runner, len(PREFIX)
    suffixes = [ids[length:] for ids in SEQUENCES]
    plan = plan_pass(suffixes, prefix=length, head=PREFIX)
    wanted = last_states(kind)
    with torch.no_grad():
        for first, last in ((1, 3), (2, 4), (3, 4)):
            edge = torch.cat([full[0][first - 1, :length], *(states[first - 1, length:] for states in full)])
            torch.testing.assert_close(runner.edge(plan, NO_PREFIX, first), edge, atol=1e-4, rtol=1e-4)
            np.testing.assert_allclose(runner.window(plan, first, last, edge), wanted[last - 1], atol=1e-4)
        np.testing.assert_allclose(runner.window(plan, 0, 3, None), wanted[2], atol=1e-4)


def test_the_light_model_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    folder = save_tiny(tmp_path / "model", num_hidden_layers=DEPTH)
    LocalModel.load(folder, settings=EngineSettings(dtype="float32"))
    light = LocalModel.load(folder, settings=EngineSettings(dtype="float32"), light=True)
    assert isinstance(light.model, LightLlama)
    np.testing.assert_allclose(light.layer_states(SEQUENCES, [1, 2, 4]), last_states("llama")[[0, 1, 3]], atol=1e-4)


@pytest.mark.parametrize("name", TANGLED)
def test_layers_that_cannot_run_without_the_others_are_not_read(name: str) -> None:
    """Else a run would choose probes and end with a traceback at their first states."""
    local = LocalModel(tangled(name), tiny_tokenizer(), fingerprint=name)
    assert not local.reads_layers
    assert np.isfinite(local.score(Prompt(instruction="Name it."), [{"input": "Who?"}], ("a", "b")).log_probs).all()


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt_neox", "gpt2"])
def test_label_words_are_weights_of_a_state_before_the_final_norm(kind: str) -> None:
    model = model_of(kind)
    decoder, generator = model.get_decoder(), torch.Generator().manual_seed(0)
    norm = next(decoder._modules[name] for name in ("norm", "final_layer_norm", "ln_f") if name in decoder._modules)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    tokens = [5, 70, 301]
    states = unit_rms(torch.randn(6, 32, generator=generator) + 0.5, 0.0)
    wanted = model.get_output_embeddings().weight[tokens] @ (norm(states) - getattr(norm, "bias", 0)).T
    found = torch.from_numpy(LocalModel(model, tiny_tokenizer(), fingerprint=kind).output_vectors(tokens)) @ states.T
    if isinstance(norm, torch.nn.LayerNorm):
        found = found / states.std(1, correction=0)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


def test_a_cut_shares_its_modules_and_leaves_the_model_alone() -> None:
    model = tiny_local("gemma3").model
    decoder = model.get_decoder()
    part = cut_decoder(decoder, 1, 3)
    assert list(layers_of(part)) == list(decoder.layers[1:3]) and part.embed_tokens is decoder.embed_tokens  # type: ignore[attr-defined]
    assert len(decoder.layers) == 4 and model.config.num_hidden_layers == 4
    assert part.config.num_hidden_layers == 2 and part.config.layer_types == model.config.layer_types[1:3]  # type: ignore[union-attr]
    assert type(decoder.norm) is not torch.nn.Identity


def test_a_model_that_hides_its_layers_is_told_of() -> None:
    decoder = tiny_model("llama").get_decoder()
    del decoder.norm
    with pytest.raises(InputError, match="LlamaModel has no final norm that cotune knows"):
        cut_decoder(decoder, 0, 1)
    decoder.layers = torch.nn.Sequential(*decoder.layers)
    with pytest.raises(InputError, match="has no list of layers that cotune knows"):
        cut_decoder(decoder, 0, 1)
