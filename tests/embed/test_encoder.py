"""Encoders of other packages, made on the spot: read from safetensors, refused where they could run code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotune.cli import main
from cotune.embed import Encoder
from cotune.embed.command import open_embedder
from cotune.embed.encoder import named_encoder
from cotune.embed.text import EmbedSettings
from cotune.errors import InputError
from tiny import tiny_tokenizer

TEXTS = ["Who?", "How tall is the tower?", "card", "Who?"]


def save_static(folder: Path) -> Path:
    """A model2vec model of random vectors over the tiny tokenizer."""
    import model2vec

    tokenizer = tiny_tokenizer(False).backend_tokenizer
    vectors = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 8)).astype(np.float32)
    model2vec.StaticModel(vectors, tokenizer, config={"normalize": True}).save_pretrained(str(folder))
    return folder


def save_sentence(folder: Path) -> Path:
    """A sentence-transformers model: a tiny BERT with random weights, mean pooling."""
    import sentence_transformers as package
    import transformers
    from sentence_transformers import models as modules

    config = transformers.BertConfig(
        vocab_size=448, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(folder / "bert")
    tiny_tokenizer(False).save_pretrained(folder / "bert")
    words = modules.Transformer(str(folder / "bert"), max_seq_length=32)
    pooling = modules.Pooling(words.get_embedding_dimension(), pooling_mode="mean")
    package.SentenceTransformer(modules=[words, pooling]).save(str(folder / "model"))
    return folder / "model"


MAKERS: dict[str, Any] = {"model2vec": save_static, "sentence-transformers": save_sentence}


@pytest.mark.parametrize("kind", MAKERS)
def test_an_encoder_embeds_and_its_vectors_are_kept(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COTUNE_CACHE", str(tmp_path / "cache"))
    folder = MAKERS[kind](tmp_path / "encoder")
    name = f"{kind}:{folder}"
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    files = ["--input", str(tmp_path / "texts.txt"), "--out", str(tmp_path / "v.npy"), "--standard", "none", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["embed", "--model", name, *files])
    assert ended.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["texts"] == 4
    plain = Encoder(kind, folder).embed(TEXTS)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), plain, atol=1e-6)
    np.testing.assert_array_equal(plain[0], plain[3])
    again = open_embedder(name)
    again.embed(TEXTS)
    assert again.found == 3
    with pytest.raises(InputError, match="accepts no settings"):
        open_embedder(name, EmbedSettings(layer=1))
    # Other bytes are another encoder.
    before = Encoder(kind, folder).identity("x")
    (folder / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), "note": 1}))
    assert Encoder(kind, folder).identity("x") != before


def test_names() -> None:
    assert named_encoder("smollm2-135m") is None
    assert named_encoder("org/name") is None
    assert named_encoder("model2vec:some/folder") == ("model2vec", Path("some/folder"))


@pytest.mark.parametrize(
    ("kind", "files", "said"),
    [
        ("sentence-transformers", {}, "no modules.json"),
        ("model2vec", {}, "no model.safetensors"),
        ("model2vec", {"model.safetensors": "short", "tokenizer.json": "{}", "config.json": "{}"}, "cannot load"),
        ("sentence-transformers", {"modules.json": "[]", "2_Dense/pytorch_model.bin": "x"}, "pickle"),
        ("sentence-transformers", {"modules.json": '[{"type": "os.system"}]'}, "not part of the package"),
        ("sentence-transformers", {"modules.json": "{"}, "does not list modules"),
        (
            "sentence-transformers",
            {"modules.json": "[]", "0_Router/router_config.json": '{"types": {"query_0": "theirs.Theirs"}}'},
            "not part of the package",
        ),
        ("fasttext", {}, "unknown kind"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, kind: str, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        Encoder(kind, tmp_path)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is not a folder"):
        open_embedder(f"model2vec:{tmp_path / 'no'}")


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_static(tmp_path / "encoder")
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(InputError, match=r"need the package model2vec.*pip install 'cotune\[embed\]'"):
        Encoder("model2vec", folder)
