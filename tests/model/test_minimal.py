"""The light model and tokenizer give what transformers' own give, bit for bit, or are not taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cotune.model.loading.load
import cotune.model.loading.minimal_llama
from cotune.errors import InputError
from cotune.files import write_json
from cotune.model.adapters.files import LoraSettings
from cotune.model.adapters.slots import BASE
from cotune.model.engine.settings import EngineSettings
from cotune.model.loading.minimal_llama import LightLlama
from cotune.model.loading.minimal_tokenizer import LightTokenizer
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from tiny import Kind, save_tiny, widen_lora

PROMPT = Prompt(instruction="Classify the question.", cue="Label:")
ROWS = [{"input": text} for text in ("Who?", "How tall is the tower?", "card")]
LABELS = ("person", "place", "card arrival", "card delivery")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def known(cache: Path) -> dict[str, bool]:
    (path,) = (cache / "loaded").iterdir()
    found: dict[str, bool] = json.loads(path.read_text())
    return found


def two(folder: Path, dtype: str = "float32") -> tuple[LocalModel, LocalModel]:
    """Transformers' own model of a folder, and then the light one."""
    settings = EngineSettings(dtype=dtype, max_tokens=60)
    return LocalModel.load(folder, settings=settings), LocalModel.load(folder, settings=settings, light=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("chat", "tied"), [(True, True), (False, False)])
def test_a_light_model_gives_the_same_bits_without_transformers(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, chat: bool, tied: bool
) -> None:
    folder = save_tiny(tmp_path / "model", chat=chat, tie_word_embeddings=tied)
    whole = LocalModel.load(folder, settings=EngineSettings(dtype=dtype, max_tokens=60))
    adapters = [
        _adapter(whole, tmp_path, LoraSettings(rank=4, alpha=8)),
        _adapter(whole, tmp_path, LoraSettings(rank=2, alpha=8, target="q_proj,lm_head")),
    ]
    rows = [*ROWS, {"input": "a far too long question " * 20}]

    def answers(model: LocalModel, adapter: str) -> list[bytes]:
        scored = model.score(PROMPT, rows, LABELS, adapter=adapter, fresh=True)
        written = model.generate(PROMPT, rows, adapter=adapter, limit=6)
        losses = model.answer_losses(PROMPT, rows, ["card", "", "the tower", "x"], adapter=adapter)
        sequences = [row.prompt_ids for row in model.renderer.render(PROMPT, rows, LABELS)]
        states = [model.last_states(sequences, adapter=adapter, layer=layer) for layer in (None, 0, 1, 2)]
        found = [scored.log_probs, losses.losses, *states]
        return [*(value.tobytes() for value in found), repr(written.texts).encode(), str(model.stop_ids).encode()]

    wanted = [answers(whole, adapter) for adapter in (BASE, *adapters)]
    assert wanted[0] != wanted[1] != wanted[2]
    monkeypatch.setattr(cotune.model.loading.load, "_whole", None)
    light = LocalModel.load(folder, settings=EngineSettings(dtype=dtype, max_tokens=60), light=True)
    assert isinstance(light.model, LightLlama) and isinstance(light.tokenizer, LightTokenizer)
    for adapter in adapters:
        light.adapters.register(tmp_path / adapter)
    assert [answers(light, adapter) for adapter in (BASE, *adapters)] == wanted
    assert "whole" not in vars(light.tokenizer)


def _adapter(model: LocalModel, folder: Path, settings: LoraSettings) -> str:
    widen_lora(model.adapters.start(settings, seed=0))
    return model.adapters.save(model.adapters.weights(), folder)


def test_the_bundled_model_is_light(bundled_folder: Path, cache: Path) -> None:
    LocalModel.load(bundled_folder)
    assert known(cache) == {"shared": True, "light": True}


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma3"])
def test_other_models_are_transformers_own(tmp_path: Path, cache: Path, kind: Kind) -> None:
    folder = save_tiny(tmp_path / "model", kind)
    whole, other = two(folder)
    assert known(cache)["light"] is False
    assert type(other.model) is type(whole.model)


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", config | changes)

    return change


def _template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None  # type: ignore[func-returns-value]


def _tokenizer(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


UNLIKE: dict[str, Callable[[Path], None]] = {
    "scaled positions": _config(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
    "another gate": _config(hidden_act="gelu"),
    "a template with a variable of its own": _template(
        "{% set n = namespace(x=1) %}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>\n{% endfor %}"
    ),
    "a template that knows tools": _template(
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    ),
    "texts that begin with a token": _tokenizer(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
        }
    ),
}


@pytest.mark.parametrize("how", UNLIKE)
def test_what_might_differ_gives_transformers_own_answers(tmp_path: Path, cache: Path, how: str) -> None:
    folder = save_tiny(tmp_path / "model")
    UNLIKE[how](folder)
    whole, other = two(folder)
    assert other.score(PROMPT, ROWS, LABELS).log_probs.tobytes() == whole.score(PROMPT, ROWS, LABELS).log_probs.tobytes()
    assert other.renderer.render(PROMPT, ROWS, LABELS) == whole.renderer.render(PROMPT, ROWS, LABELS)
    if how != "texts that begin with a token":
        assert known(cache)["light"] is False and not isinstance(other.model, LightLlama)


def _later(q: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = q.chunk(2, dim=-1)
    return torch.cat((first * cos[..., : first.shape[-1]], second * sin[..., : first.shape[-1]]), dim=-1)


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "positions": (cotune.model.loading.minimal_llama, "_turned", _later),
    "norm": (cotune.model.loading.minimal_llama._RMSNorm, "forward", lambda self, states: states * self.weight),
    "layer": (cotune.model.loading.minimal_llama._Layer, "forward", lambda self, states, cos, sin: states + self.mlp(states)),
    "ids": (LightTokenizer, "__call__", lambda self, texts, **_: {"input_ids": [[5]] * len(texts), "offset_mapping": []}),
    "texts": (LightTokenizer, "decode", lambda self, ids, **_: "x"),
    "control tokens": (LightTokenizer, "added_tokens_decoder", {}),
    "end": (LightTokenizer, "eos_token_id", 1),
    "size": (LightTokenizer, "__len__", lambda self: 3),
    "chat": (LightTokenizer, "apply_chat_template", lambda self, messages, **_: str(messages)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_first_load_sees_every_difference(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    owner, name, value = MUTANTS[mutant]
    if mutant in ("norm",):
        monkeypatch.setattr("cotune.model.loading.minimal_check.make_lean", lambda model: None)
    monkeypatch.setattr(owner, name, value)
    LocalModel.load(save_tiny(tmp_path / "model"))
    assert known(cache)["light"] is False


def test_whatever_else_is_asked_of_a_light_tokenizer_is_answered_by_the_whole_one(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    whole, light = (model.tokenizer for model in two(folder))
    assert light.all_special_ids == whole.all_special_ids
    text = "How <b>tall</b> is it?"
    assert dict(light(text, padding="max_length", max_length=30)) == dict(whole(text, padding="max_length", max_length=30))
    assert light.decode([5, 6], skip_special_tokens=True) == whole.decode([5, 6], skip_special_tokens=True)
    turns = [{"role": "user", "content": text}]
    assert light.apply_chat_template(turns)["input_ids"] == whole.apply_chat_template(turns)["input_ids"]
    assert light.convert_tokens_to_ids(["<|im_end|>"]) == whole.convert_tokens_to_ids(["<|im_end|>"])
    assert light.convert_tokens_to_ids("no token") == whole.convert_tokens_to_ids("no token")


def test_a_grammar_holds_a_light_model_s_answers(tmp_path: Path) -> None:
    from cotune.model.structured.grammar import Grammar

    whole, light = two(save_tiny(tmp_path / "model"))
    grammar = Grammar.json({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    texts = [model.generate(PROMPT, ROWS, limit=16, grammar=grammar).texts for model in (whole, light)]
    assert texts[0] == texts[1]


def test_a_tensor_that_is_missing_is_an_error(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    LocalModel.load(folder)
    tensors = cotune.model.loading.load._tensors_in(folder, torch.float32)
    for change in (
        lambda t: t.pop("model.norm.weight"),
        lambda t: t.update(other=torch.zeros(1)),
        lambda t: t.update({"model.norm.weight": torch.zeros(3)}),
    ):
        changed = dict(tensors)
        change(changed)
        with pytest.raises((KeyError, ValueError)):
            cotune.model.loading.minimal_llama.light_llama(folder, changed)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError):
        LocalModel.load(folder, light=True)
