"""Trained prefixes: an untrained one changes nothing, both engines and PEFT agree on another, no row minds its company."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cotune.errors import InputError
from cotune.model.adapters.files import adapter_content_id
from cotune.model.adapters.prefix import CONFIG, STANDS_FOR, WEIGHTS, TrainedPrefix, load_prefix
from cotune.model.adapters.slots import BASE
from cotune.model.engine.trie import label_paths
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from tiny import FITTING, WINDOW, Kind, tiny_local, tiny_model

LABELS = ("place", "person", "number of things")
PROMPT = Prompt(instruction="Name the kind of the question: {labels}", input_template="Question: {text}", cue="Answer:")
OTHER = Prompt(instruction="Name it: {labels}", input_template="{text}", cue="Answer:")
BARE = Prompt(input_template="{text}", cue="It asks for a")
ROWS = [{"text": text} for text in ("Where is the tower?", "Who?", "How many people live in the city by the river", "\n")]
EVERY: tuple[Kind, ...] = (*FITTING, "gemma2", "gpt_oss")


def own_ids(model: LocalModel, tokens: int | None = None) -> tuple[int, ...]:
    ids = model.own_prefix(PROMPT, ["text"], LABELS)
    assert len(ids) > 4 * WINDOW
    return ids[:tokens]


def from_text(model: LocalModel, tokens: int | None = None, start: str = BASE) -> TrainedPrefix:
    ids = own_ids(model, tokens)
    with torch.no_grad():
        state = model.run_prefix(start, ids)
    assert state is not None
    return TrainedPrefix.of_state(state, ids)


def shaken(trained: TrainedPrefix, by: float = 0.3) -> TrainedPrefix:
    generator = torch.Generator().manual_seed(1)
    return replace(
        trained,
        keys=trained.keys + by * torch.randn(trained.keys.shape, generator=generator),
        values=trained.values + by * torch.randn(trained.values.shape, generator=generator),
    )


def kept(model: LocalModel, trained: TrainedPrefix, folder: Path) -> str:
    return model.adapters.save_prefix(trained, folder)


def scores(model: LocalModel, adapter: str, prompt: Prompt = PROMPT, rows: list[dict[str, str]] = ROWS) -> Any:
    return model.score(prompt, rows, LABELS, adapter=adapter).log_probs


@pytest.mark.parametrize("tokens", [None, 7])
@pytest.mark.parametrize("kind", EVERY)
def test_untrained_it_changes_no_score_of_any_prompt(kind: Kind, tokens: int | None, tmp_path: Path) -> None:
    model = tiny_local(kind)
    adapter = kept(model, from_text(model, tokens), tmp_path)
    for prompt in (PROMPT, OTHER, BARE):
        np.testing.assert_allclose(scores(model, adapter, prompt), scores(model, BASE, prompt), atol=2e-5)
    ids = [own_ids(model), own_ids(model)[:9]]
    np.testing.assert_allclose(model.last_states(ids, adapter=adapter), model.last_states(ids), atol=1e-5)


@pytest.mark.parametrize("before_all", [False, True])
@pytest.mark.parametrize("kind", FITTING)
def test_both_engines_agree(kind: Kind, before_all: bool, tmp_path: Path) -> None:
    fast, plain = tiny_local(kind), tiny_local(kind)
    plain.shared = False
    trained = shaken(from_text(fast, 11))
    trained = replace(trained, ids=()) if before_all else trained
    adapter = kept(fast, trained, tmp_path)
    plain.adapters.register(tmp_path / adapter)
    for prompt in (PROMPT, OTHER, BARE):
        np.testing.assert_allclose(scores(fast, adapter, prompt), scores(plain, adapter, prompt), atol=1e-4)
        assert np.abs(scores(fast, adapter, prompt) - scores(fast, BASE, prompt)).max() > 0.01
    ids = [row.prompt_ids for row in fast.renderer.render(PROMPT, ROWS, LABELS)]
    weights = [(0.0,) * (len(row) - 4) + (0.25,) * 4 for row in ids]
    found = [model.mean_states(ids, weights, adapter=adapter) for model in (fast, plain)]
    np.testing.assert_allclose(*found, atol=1e-4)


@pytest.mark.parametrize("before_all", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_peft_loads_it_with_equal_logits(kind: Kind, before_all: bool, tmp_path: Path) -> None:
    from peft import PeftModel

    model = tiny_local(kind)
    trained = shaken(from_text(model))
    trained = replace(trained, ids=()) if before_all else trained
    folder = tmp_path / kept(model, trained, tmp_path)
    peft = PeftModel.from_pretrained(tiny_model(kind), str(folder)).eval()
    ours = scores(model, folder.name)
    for place, row in enumerate(model.renderer.render(PROMPT, ROWS, LABELS)):
        answer = label_paths(row.completions)[0]
        ids = [*row.prompt_ids[len(trained.ids) :], *answer]
        with torch.no_grad():
            logits = peft(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits
        log_probs = torch.log_softmax(logits[0].float(), -1)
        first = len(ids) - len(answer)
        assert sum(float(log_probs[first + i - 1, token]) for i, token in enumerate(answer)) == pytest.approx(
            ours[place, 0], abs=1e-4
        )


def test_a_row_that_it_fits_less_does_not_mind_its_company(tmp_path: Path) -> None:
    model = tiny_local()
    trained = shaken(from_text(model))
    # As if trained on rows that all begin alike: longer than what the prompt has in common with every row.
    ids = model.renderer.render(PROMPT, [{"text": "Who is it?"}], LABELS)[0].prompt_ids
    with torch.no_grad():
        state = model.run_prefix(BASE, ids[: trained.length + 2])
    assert state is not None
    longer = shaken(TrainedPrefix.of_state(state, ids[: trained.length + 2]))
    adapter = kept(model, longer, tmp_path)
    rows = [*ROWS, {"text": "Who wrote it?"}]
    together = scores(model, adapter, rows=rows)
    alone = np.concatenate([scores(model, adapter, rows=[row]) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_kept_prefix_changes_nothing(tmp_path: Path) -> None:
    model = tiny_local()
    adapter = kept(model, shaken(from_text(model, 9)), tmp_path)
    before = scores(model, adapter), scores(model, adapter, OTHER)
    assert model.keep_prefix(PROMPT, ["text"], LABELS, adapter=adapter) == len(own_ids(model))
    assert model.keep_prefix(OTHER, ["text"], LABELS, adapter=adapter) > 0
    np.testing.assert_allclose(scores(model, adapter), before[0], atol=1e-5)
    np.testing.assert_allclose(scores(model, adapter, OTHER), before[1], atol=1e-5)


def test_tokens_that_it_stands_for_are_not_run(tmp_path: Path) -> None:
    model = tiny_local()
    adapter = kept(model, from_text(model, 9), tmp_path)
    whole, covered = (model.score(PROMPT, ROWS, LABELS, adapter=a) for a in (BASE, adapter))
    assert whole.tokens - covered.tokens == 9


def test_it_changes_places_with_lora(tmp_path: Path) -> None:
    from cotune.model.adapters.files import LoraSettings
    from tiny import widen_lora

    model = tiny_local()
    base = scores(model, BASE)
    prefix = kept(model, shaken(from_text(model)), tmp_path)
    own = scores(model, prefix)
    widen_lora(model.adapters.start(LoraSettings(rank=2, alpha=4), seed=0))
    lora = model.adapters.save(model.adapters.weights(), tmp_path)
    weighted = scores(model, lora)
    for adapter, expected in ((prefix, own), (BASE, base), (lora, weighted), (prefix, own)):
        np.testing.assert_array_equal(scores(model, adapter), expected)
    with pytest.raises(InputError, match="cannot start from a prefix"):
        model.adapters.start(LoraSettings(rank=2, alpha=4), seed=0, adapter_id=prefix)


# Files ------------------------------------------------------------------------------------------------------------


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    model = tiny_local("qwen3")
    trained = shaken(from_text(model))
    folder = tmp_path / kept(model, trained, tmp_path)
    found = load_prefix(folder)
    assert torch.equal(found.keys, trained.keys)
    assert torch.equal(found.values, trained.values)
    assert found.ids == trained.ids
    assert adapter_content_id(folder) == folder.name
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, STANDS_FOR}


def test_its_id_holds_numbers_and_tokens(tmp_path: Path) -> None:
    model = tiny_local()
    trained = from_text(model)
    made = [
        kept(model, t, tmp_path)
        for t in (trained, shaken(trained, 1e-5), replace(trained, ids=()), replace(trained, ids=trained.ids[::-1]))
    ]
    assert len(set(made)) == 4
    assert kept(model, from_text(model), tmp_path) == made[0]


def test_another_models_prefix_is_refused(tmp_path: Path) -> None:
    model, other = tiny_local(), tiny_local("gemma3")
    adapter = kept(model, from_text(model), tmp_path)
    other.adapters.register(tmp_path / adapter)
    with pytest.raises(InputError, match="does not fit this model"):
        scores(other, adapter)


def test_a_model_without_keys_and_values_has_no_prefix() -> None:
    with pytest.raises(InputError, match="no keys and values"):
        from_text(tiny_local("mamba"))


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 3},
        {"num_virtual_tokens": "9"},
        {"prefix_projection": True},
        {"num_attention_heads": 0},
        {"token_dim": None},
    ],
)
def test_a_config_that_lies_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_local()
    folder = tmp_path / kept(model, from_text(model), tmp_path)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(InputError):
        load_prefix(folder)


@pytest.mark.parametrize("text", ["{}", "[]", '{"ids": [1]}', '{"ids": ["a"]}', "nonsense"])
def test_tokens_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    model = tiny_local()
    folder = tmp_path / kept(model, from_text(model), tmp_path)
    (folder / STANDS_FOR).write_text(text)
    with pytest.raises(InputError):
        load_prefix(folder)


@pytest.mark.parametrize("bad", ["torn", "nan", "other"])
def test_numbers_that_are_none_are_refused(bad: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_local()
    folder = tmp_path / kept(model, from_text(model), tmp_path)
    if bad == "torn":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-40])
    else:
        tensors = load_file(folder / WEIGHTS)
        tensors["prompt_embeddings"][0, 0] = float("nan")
        save_file(tensors if bad == "nan" else {"x": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(InputError):
        load_prefix(folder)
