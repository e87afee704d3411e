from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.prompt import abridge
from cotune.prompt.abridge import Abridger
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import RenderedRow, Renderer, common_length
from tiny import CHAT_TEMPLATE, merging_tokenizer, tiny_tokenizer

LABELS = ("card", "card arrival", "place")
LIMIT = 40


def tokenizer_of(kind: str) -> Any:
    """Ways in which models split texts: as GPT-2, each digit alone, as Qwen and Llama 3, not at all with marks for spaces."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if kind == "merging":
        return merging_tokenizer()
    inner = Tokenizer.from_str(tiny_tokenizer(False).backend_tokenizer.to_str())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind in ("gpt2", "digits", "plain"))
    if kind == "digits":
        inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    elif kind == "qwen":
        words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        pattern = words + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])
        inner.normalizer = normalizers.NFC()
    else:
        inner.pre_tokenizer = byte_level
    marks = ["<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|endoftext|>", additional_special_tokens=marks, extra_special_tokens=marks
    )
    if kind != "plain":
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


KINDS = ("gpt2", "plain", "digits", "qwen", "merging")
PAIRS = {}
for _kind in KINDS:
    _tokenizer = tokenizer_of(_kind)
    _quick, _slow = (Renderer(_tokenizer, max_tokens=LIMIT) for _ in range(2))
    _slow._abridger.least = 10**9
    PAIRS[_kind] = _quick, _slow

chunks = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            "card ",
            "it's ",
            " we'll",
            "a",
            "1",
            "12 ",
            "q7",
            "    ",
            "\n \n",
            "...",
            "é",
            "我的",
            "<|im_end|>",
            "xq",
            "The river's",
        ]
    ),
)
long_texts = st.tuples(
    st.lists(st.tuples(chunks, st.integers(1, 150)), min_size=1, max_size=6), st.lists(chunks, max_size=30)
).map(lambda made: "".join(piece * times for piece, times in made[0]) + "".join(made[1]))
mixed = st.tuples(st.integers(0, 2**32), st.integers(1500, 4000)).map(
    lambda made: "".join(random.Random(made[0]).choices("abcqxz ETA019\n'.é", k=made[1]))
)
templates = st.sampled_from(["{input}", "[{input}] ({other})", "{other}{input}", "{input}e", "x{input}\n{other}", "<{input}>"])


def rendered(renderer: Renderer, prompt: Prompt, row: dict[str, str]) -> tuple[RenderedRow, RenderedRow]:
    return renderer.render(prompt, [row], LABELS)[0], renderer.render_answers(prompt, [row], ["card"])[0]


@pytest.mark.parametrize("kind", KINDS)
@given(
    text=long_texts | mixed,
    other=st.text(max_size=5) | long_texts | mixed,
    template=templates,
    cue=st.sampled_from(["", "Label:"]),
)
@settings(max_examples=25, deadline=None)
def test_long_rows_have_the_very_ids_that_they_have_read_as_a_whole(
    kind: str, text: str, other: str, template: str, cue: str
) -> None:
    quick, slow = PAIRS[kind]
    prompt = Prompt(instruction="Name it.", input_template=template, cue=cue)
    row = {"input": text, "other": other}
    wanted = rendered(slow, prompt, row)
    assert rendered(quick, prompt, row) == wanted
    short = quick.shortened(prompt, row, LABELS)
    if short is not None:
        again, free = rendered(slow, prompt, short)
        assert (again.prompt_ids, again.completions) == (wanted[0].prompt_ids, wanted[0].completions)
        assert wanted[0].truncated and not again.truncated and not free.truncated


@pytest.mark.parametrize("kind", KINDS)
@given(text=long_texts | mixed, template=templates, ending=st.sampled_from(["", "c", "car", "the riv", " a", "q1", "' "]))
@settings(max_examples=25, deadline=None)
def test_cut_as_near_as_can_be_they_still_have_them(kind: str, text: str, template: str, ending: str) -> None:
    quick, slow = PAIRS[kind]
    row = {"input": text + ending, "other": "er"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(abridge, "_HEAD", 1)
        patched.setattr(abridge, "_TAIL", 1)
        assert rendered(quick, Prompt(input_template=template), row) == rendered(slow, Prompt(input_template=template), row)


@pytest.mark.parametrize(("text", "other"), [(400, 3), (2000, 1900), (1900, 2000), (40, 39)])
def test_what_was_abridged_too_much_is_read_as_a_whole(text: int, other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = PAIRS["gpt2"][1]
    row, prompt = {"input": words(text), "other": words(other)}, Prompt(input_template="{input} {other}")
    renderer = Renderer(slow.tokenizer, max_tokens=LIMIT, truncate="end")
    slow = Renderer(slow.tokenizer, max_tokens=LIMIT, truncate="end")
    wanted = slow.render(prompt, [row], LABELS)
    for most in (20, 1000):
        monkeypatch.setattr(renderer._abridger, "abridged", lambda whole, most=most: whole[:most])
        assert renderer.render(prompt, [row], LABELS) == wanted


def words(count: int) -> str:
    return " ".join(random.Random(0).choices(("card", "tower", "river", "who", "built", "it's", "42"), k=count))


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_abridged_is(kind: str) -> None:
    abridger = PAIRS[kind][0]._abridger
    text = words(20_000)
    short = abridger.abridged(text)
    assert len(short) < len(text) // 20 and text.startswith(short[:320])
    assert len(abridger._tokenizer(short)["input_ids"]) > LIMIT
    ending = text[len(text) - common_length(text[::-1], short[::-1]) :]
    assert len(abridger._tokenizer(ending)["input_ids"]) > LIMIT // 4
    assert abridger.abridged(text[: abridger.least - 1]) == text[: abridger.least - 1]


@pytest.mark.parametrize("text", ["ac" * 50_000, " " * 50_000, "我" * 50_000, "card'" * 10_000])
def test_texts_without_borders_are_read_as_a_whole(text: str) -> None:
    assert PAIRS["gpt2"][0]._abridger.abridged(text) == text


@pytest.mark.parametrize(
    "change",
    [
        {"model": "unigram"},
        {"normalizer": "lowercase"},
        {"splitter": r"\p{N}{1,3}(?=(?:\p{N}{3})*\b)|\s+"},
        {"splitter": r"(?<=a)b"},
    ],
)
def test_tokenizers_of_other_kinds_read_all_of_it(change: dict[str, str]) -> None:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer.from_str(tiny_tokenizer(False).backend_tokenizer.to_str())
    if "model" in change:
        inner = Tokenizer(models.Unigram([(chr(i), -1.0) for i in range(32, 127)]))
    elif "normalizer" in change:
        inner.normalizer = normalizers.Lowercase()
    else:
        inner.pre_tokenizer = pre_tokenizers.Split(Regex(change["splitter"]), "isolated")
    text = words(20_000)
    assert Abridger(PreTrainedTokenizerFast(tokenizer_object=inner), LIMIT).abridged(text) == text


def test_a_text_of_a_mebibyte_costs_no_more_than_a_short_one() -> None:
    renderer, text = PAIRS["gpt2"][0], words(250_000)
    prompt, read = Prompt(cue="Label:"), 0
    inner = renderer.tokenizer

    class Counting:
        """The tokenizer, counting the characters that it reads."""

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def __call__(self, texts: Any, **options: Any) -> Any:
            nonlocal read
            read += len(texts) if isinstance(texts, str) else sum(map(len, texts))
            return inner(texts, **options)

    counting = Renderer(Counting(), max_tokens=LIMIT)
    assert counting.render(prompt, [{"input": text}], LABELS) == renderer.render(prompt, [{"input": text}], LABELS)
    assert len(text) > 2**20 and read < 20_000
