from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from cotune.embed import EmbedSettings, Standardizer, TextEmbedder, centred, whole_texts
from cotune.embed.text import ONE_WORD_FRAME, WORDS_SHARE, framed
from cotune.errors import InputError
from tiny import FITTING, tiny_local

TEXTS = ["Who?", "How tall is the tower?", "card", "How tall is the tower"]


def hidden_of(local: Any, text: str, layer: int | None) -> torch.Tensor:
    """All states of a text run alone through plain transformers."""
    from cotune.model.engine.attention import use_plain_attention

    ids = local.tokenizer(text)["input_ids"]
    use_plain_attention(local.model)
    with torch.inference_mode():
        output = local.model.get_decoder()(input_ids=torch.tensor([ids]), output_hidden_states=True)
    states: torch.Tensor = output.last_hidden_state if layer is None else output.hidden_states[layer]
    return states[0]


@pytest.mark.parametrize("kind", [*FITTING, "unfit"])
@pytest.mark.parametrize("layer", [None, 1, -2])
def test_a_vector_is_the_state_before_the_one_word(kind: Any, layer: int | None) -> None:
    local = tiny_local("llama" if kind == "unfit" else kind)
    local.shared = kind != "unfit"
    found = TextEmbedder(local, EmbedSettings(layer=layer, words=False)).embed(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        states = hidden_of(local, ONE_WORD_FRAME.replace("{text}", text), layer)
        np.testing.assert_allclose(vector, states[-1].float().numpy(), atol=1e-4, rtol=1e-3)


def test_an_end_that_the_tokenizer_appends_is_not_read() -> None:
    from tokenizers import Tokenizer, processors

    local = tiny_local("llama")
    wanted = framed(local.tokenizer, TEXTS)
    assert local.tokenizer.decode(wanted[0]).endswith('means in one word:"')
    inner = Tokenizer.from_str(local.tokenizer.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    ending = type(local.tokenizer)(tokenizer_object=inner, eos_token="<|endoftext|>")
    assert ending("x")["input_ids"][-1] == ending.eos_token_id
    assert framed(ending, TEXTS) == wanted


def test_words_stand_beside_the_state_and_alone() -> None:
    local = tiny_local("llama")
    state = TextEmbedder(local, EmbedSettings(words=False)).embed(TEXTS)
    words = TextEmbedder(local, EmbedSettings("static")).embed(TEXTS)
    both = TextEmbedder(local).embed(TEXTS)
    np.testing.assert_allclose(both[:, :32], state / np.linalg.norm(state, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(both[:, 32:], WORDS_SHARE * words, atol=1e-6)


def test_what_cannot_be_done_is_said() -> None:
    unknown: Any = "mean"
    with pytest.raises(InputError, match="pooling: unknown value 'mean'"):
        EmbedSettings(unknown)
    with pytest.raises(InputError, match="no texts"):
        TextEmbedder(tiny_local("llama")).embed([])
    with pytest.raises(InputError, match="at least two"):
        Standardizer.fit(np.ones((1, 4), dtype=np.float32), "whiten")
    with pytest.raises(InputError, match="whitening needs different vectors"):
        Standardizer.fit(np.ones((3, 4), dtype=np.float32), "half_whiten")


def test_a_frame_that_all_texts_share_runs_once() -> None:
    told: list[int] = []
    local = tiny_local("llama")
    TextEmbedder(local, progress=told.append).embed(TEXTS)
    alone = sum(len(local.tokenizer(ONE_WORD_FRAME.replace("{text}", text))["input_ids"]) for text in TEXTS)
    assert sum(told) < alone


def test_whitening_gives_every_direction_the_same_variance() -> None:
    generator = np.random.default_rng(0)
    other, vectors = ((generator.normal(size=(400, 6)) * [9, 5, 3, 1, 0.5, 0.1] + 7).astype(np.float32) for _ in range(2))
    fitted = Standardizer.fit(other, "whiten", keep=4)
    assert fitted.rotation is not None
    white = (other - fitted.mean) @ fitted.rotation
    np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=1e-3)
    assert fitted.apply(vectors).shape == (400, 4)
    half = Standardizer.fit(other, "half_whiten", keep=4)
    assert half.rotation is not None
    spread = np.std((other - half.mean) @ half.rotation, axis=0)
    np.testing.assert_allclose(spread, np.sqrt(np.std((other - half.mean) @ np.eye(6)[:, :4], axis=0)), rtol=0.02)
    np.testing.assert_allclose(np.linalg.norm(fitted.apply(vectors), axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(Standardizer.fit(other, "centre").mean, other.mean(0), atol=1e-4)
    assert np.allclose(centred(vectors), Standardizer.fit(vectors).apply(vectors))


def test_many_vectors_are_whitened_as_their_decomposition_whitens_them_in_less_memory() -> None:
    scales = np.geomspace(9, 0.1, 32)
    vectors = (np.random.default_rng(1).normal(size=(40_000, 32)) * scales + 3).astype(np.float32)
    tracemalloc.start()
    fitted = Standardizer.fit(vectors, "whiten", keep=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < vectors.nbytes
    _, lengths, directions = np.linalg.svd((vectors - fitted.mean).astype(np.float64), full_matrices=False)
    expected = directions[:8].T * np.sqrt(len(vectors) - 1) / lengths[:8]
    assert fitted.rotation is not None
    # A direction may point either way.
    signs = np.sign((fitted.rotation * expected).sum(axis=0))
    np.testing.assert_allclose(fitted.rotation * signs, expected, atol=2e-4)


def test_a_long_text_is_read_to_its_end_in_pieces() -> None:
    embedder = TextEmbedder(tiny_local("llama"), EmbedSettings("static"))
    start = "Who? " * 300
    texts = ["Who?", start + "card", start + "tower"]
    cut, whole = embedder.embed(texts), whole_texts(embedder, texts)
    np.testing.assert_array_equal(cut[1], cut[2])
    assert not np.allclose(whole[1], whole[2]) and whole.shape == cut.shape
    np.testing.assert_allclose(whole[0], cut[0], atol=1e-6)
    pieces = embedder.embed([texts[1][:1200], texts[1][1200:]])
    np.testing.assert_allclose(whole[1], (1200 * pieces[0] + 304 * pieces[1]) / 1504, atol=1e-6)
    assert whole_texts(embedder, ["", "a"]).shape == (2, cut.shape[1])
