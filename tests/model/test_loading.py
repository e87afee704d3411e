"""What the first load of a model found out is not found out again, and a later one gives the same to the bit."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import cotune.model.engine.runner
from cotune.errors import InputError
from cotune.model.engine.settings import EngineSettings
from cotune.model.loading.folder import check_model_folder
from cotune.model.loading.load import load_tokenizer
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from tiny import FITTING, save_tiny

PROMPT = Prompt(instruction="Classify the question.", cue="Label:")
ROWS = [{"input": text} for text in ("Who?", "How tall is the tower?", "card")]
LABELS = ("person", "place", "card arrival", "card delivery")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def scores(folder: Path, dtype: str = "float32") -> bytes:
    model = LocalModel.load(folder, settings=EngineSettings(dtype=dtype))
    assert not model.model.training and not any(p.requires_grad for p in model.model.parameters())
    return model.score(PROMPT, ROWS, LABELS).log_probs.tobytes() + str((model.shared, model.stop_ids)).encode()


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("this was found out before")


@pytest.mark.parametrize("kind", FITTING)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_second_load_does_not_try_again_whether_the_engine_fits(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, dtype: str
) -> None:
    folder = save_tiny(tmp_path / "model", kind)
    first = scores(folder, dtype)
    monkeypatch.setattr(cotune.model.engine.runner, "self_check", refuse)
    assert scores(folder, dtype) == first


def test_weights_that_change_are_loaded_anew(tmp_path: Path, cache: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    first = scores(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value * 1.1 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    second = scores(folder)
    assert second != first
    assert scores(folder) == second
    assert len(list((cache / "loaded").iterdir())) == 2


def test_tensors_that_have_to_be_renamed_are_left_to_transformers(tmp_path: Path, cache: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    wanted = scores(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): x for name, x in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert [scores(folder) for _ in range(2)] == [wanted, wanted]
    light = [json.loads(path.read_text())["light"] for path in (cache / "loaded").iterdir()]
    assert sorted(light) == [False, True]


def test_an_engine_that_does_not_fit_is_remembered(tmp_path: Path, cache: Path) -> None:
    folder = save_tiny(tmp_path / "model", "gemma2")
    first = scores(folder)
    assert b"(False, " in first
    assert scores(folder) == first


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"shared": 1, "light": true}', '{"shared": true}'])
def test_a_damaged_memory_is_none(tmp_path: Path, cache: Path, content: str) -> None:
    folder = save_tiny(tmp_path / "model")
    first = scores(folder)
    (path,) = (cache / "loaded").iterdir()
    before = path.read_text()
    path.write_text(content)
    assert scores(folder) == first
    assert path.read_text() == before


def test_what_cannot_be_loaded_is_an_error_at_a_second_load_too(tmp_path: Path, cache: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    scores(folder)
    data = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(data[:100])
    with pytest.raises(InputError, match="cannot be loaded"):
        scores(folder)


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_models_folder_is_never_run_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Transformers asks on standard input whether to run it, which a script's rows may answer."""
    folder = save_tiny(tmp_path / "model", "gemma3")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "theirs.Theirs"]}}
    config["tokenizer_class"] = config["tokenizer_class"] if known else "Theirs"
    path.write_text(json.dumps(config))
    (folder / "theirs.py").write_text(
        f"open({str(tmp_path / 'executed')!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizerFast\n\n\nclass Theirs(PreTrainedTokenizerFast):\n    pass\n"
    )
    rows = io.StringIO("y\n" * 9)
    monkeypatch.setattr("sys.stdin", rows)
    if known:
        check_model_folder(folder)
        load_tokenizer(folder)
    else:
        with pytest.raises(InputError, match="'Theirs' runs code from its own folder"):
            check_model_folder(folder)
        with contextlib.suppress(InputError):
            load_tokenizer(folder)
    assert rows.tell() == 0 and not (tmp_path / "executed").exists()


def test_quantised_weights_are_refused_by_name(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(InputError, match=r"quantised \(bitsandbytes\)"):
        check_model_folder(folder)


@pytest.mark.parametrize("missing", ["lm_head.weight", "model.layers.1."])
def test_weights_that_lack_tensors_are_refused(tmp_path: Path, cache: Path, missing: str) -> None:
    """transformers would draw them at random, anew in each process."""
    folder = save_tiny(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(missing)}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"its weights lack '{missing}"):
        scores(folder)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match=r"its tokenizer has a token .* and the model 300 embeddings"):
        scores(save_tiny(tmp_path / "model", vocab_size=300))


def test_a_token_for_another_purpose_may_have_no_embedding(tmp_path: Path, cache: Path) -> None:
    """Gemma's tokenizers have one for images, also beside models that read texts alone."""
    folder = save_tiny(tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"<image{number}>" for number in range(200)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) > 448 and scores(folder)


@pytest.mark.parametrize("template", ["{% for m in messages %}", "{{ raise_exception('no') }}"])
def test_a_chat_template_that_fails_is_told(tmp_path: Path, cache: Path, template: str) -> None:
    folder = save_tiny(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(InputError, match="its chat template fails"):
        scores(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_position_embeddings": None},
        {"hidden_size": "big"},
        {"num_attention_heads": 0},
        {"architectures": 5},
        {"vocab_size": -1},
    ],
)
def test_a_damaged_config_is_an_error_without_a_traceback(tmp_path: Path, cache: Path, changes: dict[str, Any]) -> None:
    folder = save_tiny(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    if changes == {"architectures": 5}:
        # Nothing else is wrong with it.
        check_model_folder(folder)
        return
    with pytest.raises(InputError, match="cannot be loaded"):
        scores(folder)
