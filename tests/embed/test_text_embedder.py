from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cotune.embed import EmbedSettings, Standardizer, TextEmbedder, centred, whole_texts
from cotune.embed.text import ONE_WORD_FRAMES, WORDS_SHARE
from cotune.errors import InputError
from tiny import FITTING, tiny_local

TEXTS = ["Who?", "How tall is the tower?", "card", "How tall is the tower"]


def hidden_of(local: Any, text: str, layer: int | None) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """All states of a text run alone through plain transformers, and its tokens' characters."""
    from cotune.model.engine.attention import use_plain_attention

    encoded = local.tokenizer(text, return_offsets_mapping=True)
    use_plain_attention(local.model)
    with torch.inference_mode():
        output = local.model.get_decoder()(input_ids=torch.tensor([encoded["input_ids"]]), output_hidden_states=True)
    states = output.last_hidden_state if layer is None else output.hidden_states[layer]
    return states[0], encoded["offset_mapping"]


@pytest.mark.parametrize("kind", [*FITTING, "unfit"])
@pytest.mark.parametrize("layer", [None, 1, -2])
@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "last", "prompt_eol", "echo"])
def test_each_pooling_is_what_it_says(kind: Any, layer: int | None, pooling: Any) -> None:
    local = tiny_local("llama" if kind == "unfit" else kind)
    local.shared = kind != "unfit"
    found = TextEmbedder(local, EmbedSettings(pooling, layer, words=False)).embed(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        frame = {"prompt_eol": ONE_WORD_FRAMES[0], "echo": "Say it again: {text}\nAgain: {text}"}.get(pooling, "{text}")
        whole = frame.replace("{text}", text)
        states, offsets = hidden_of(local, whole, layer)
        start = whole.rindex(text)
        own = [i for i, (a, b) in enumerate(offsets) if b > start and a < start + len(text) and b > a]
        if pooling == "prompt_eol":
            wanted = states[-1]
        elif pooling == "last":
            wanted = states[own[-1]]
        elif pooling == "weighted_mean":
            shares = torch.arange(1.0, len(own) + 1)
            wanted = (states[own] * (shares / shares.sum())[:, None]).sum(0)
        else:
            wanted = states[own].mean(0)
        np.testing.assert_allclose(vector, wanted.float().numpy(), atol=1e-4, rtol=1e-3)


def test_several_frames_are_averaged_as_unit_vectors() -> None:
    local = tiny_local("llama")
    one, three = (TextEmbedder(local, EmbedSettings(frames=n, words=False)).embed(TEXTS) for n in (1, 3))
    assert not np.allclose(one, three)
    assert np.all(np.linalg.norm(three, axis=1) <= 1 + 1e-5)


def test_words_stand_beside_the_state_and_alone() -> None:
    local = tiny_local("llama")
    state = TextEmbedder(local, EmbedSettings(words=False)).embed(TEXTS)
    words = TextEmbedder(local, EmbedSettings("static")).embed(TEXTS)
    both = TextEmbedder(local).embed(TEXTS)
    np.testing.assert_allclose(both[:, :32], state / np.linalg.norm(state, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(both[:, 32:], WORDS_SHARE * words, atol=1e-6)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(InputError, match="pooling mean has 1 frame"):
        EmbedSettings("mean", frames=2)
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
    alone = sum(len(local.tokenizer(ONE_WORD_FRAMES[0].replace("{text}", text))["input_ids"]) for text in TEXTS)
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
