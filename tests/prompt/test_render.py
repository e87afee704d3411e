from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotune.errors import InputError
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.prompt.render import RenderedRow, Renderer, shared_prefix
from cotune.prompt.truncate import GAP, Truncation, cut_to, equal_length
from cotune.task.words import text_of, words_of
from tiny import CHAT_TEMPLATE, merging_tokenizer, tiny_tokenizer

LABELS = ("card", "card arrival", "place", "person")
CHAT, PLAIN, MERGING = Renderer(tiny_tokenizer()), Renderer(tiny_tokenizer(chat=False)), Renderer(merging_tokenizer())
RENDERERS = pytest.mark.parametrize("renderer", [CHAT, PLAIN], ids=["chat", "plain"])
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

pieces = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            [
                *SPECIALS,
                "{input}",
                "{labels}",
                "{other}",
                "<|",
                "|>",
                "im_end",
                "<",
                "|im_end|>",
                "\ue0f0input\ue0f1",
                " ",
                "\n",
            ]
        ),
    ),
    max_size=6,
).map("".join)
words = st.text("abcde rstuv", min_size=1, max_size=10).filter(lambda word: word.strip() == word and word)
prompts = st.builds(
    Prompt,
    instruction=st.sampled_from(["", "Classify. Labels: {labels}.", "Name the topic of the card."]),
    input_template=st.sampled_from(["{input}", "Question: {input}", "<{input}>", "{input}{other}", "{other}\n{input}"]),
    cue=st.sampled_from(["", "Answer:", "Answer: ", "Label: <"]),
    system=st.sampled_from([None, "", "You know cards."]),
    demonstrations=st.sampled_from([(), (Demonstration((("input", "Who?"), ("other", "x")), "person"),)]),
    order=st.sampled_from(["instruction_first", "input_first"]),
)


def decode(renderer: Renderer, ids: Sequence[int]) -> str:
    text: str = renderer.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def answer_text(renderer: Renderer, prompt: Prompt, word: str) -> str:
    """The word as it follows the prompt; whether a space comes between is the prompt's matter, not the row's."""
    text = renderer.text(prompt, {"input": "x", "other": "x"}, ())
    return word if renderer.chat or text.endswith((" ", "\n")) else f" {word}"


@RENDERERS
@given(
    prompt=prompts,
    values=st.lists(st.tuples(pieces, pieces), min_size=1, max_size=4),
    labels=st.lists(words, min_size=1, max_size=4, unique=True),
)
@settings(max_examples=150, deadline=None)
def test_ids_spell_the_text(renderer: Renderer, prompt: Prompt, values: list[tuple[str, str]], labels: list[str]) -> None:
    rows = [{"input": f"a{value}", "other": other} for value, other in values]
    rendered = renderer.render(prompt, rows, labels)
    for row, found in zip(rows, rendered, strict=True):
        text = renderer.text(prompt, row, labels)
        for word, completion in zip(prompt.words(labels), found.completions, strict=True):
            assert completion[-1] == renderer.stop_id
            whole = text + answer_text(renderer, prompt, word)
            assert decode(renderer, [*found.prompt_ids, *completion[:-1]]) == whole
            # and they are the tokens that the whole text has, not merely some that spell it
            ids = renderer.tokenizer(whole, add_special_tokens=False)["input_ids"]
            assert [*found.prompt_ids, *completion[:-1]] == ids
        assert renderer.render(prompt, [row], labels) == [found], "alone and in a batch must be the same"


@given(
    prompt=prompts,
    value=st.text("abc whoanswer:\n", min_size=3, max_size=20),
    labels=st.lists(st.sampled_from(["place", "person", "number", "p", "pl"]), min_size=1, unique=True),
)
@settings(max_examples=150, deadline=None)
def test_merges_across_the_border_of_cue_and_word(prompt: Prompt, value: str, labels: list[str]) -> None:
    row = {"input": f"Read. {value}", "other": ""}
    text = MERGING.text(prompt, row, labels)
    found = MERGING.render(prompt, [row], labels)[0]
    for word, completion in zip(labels, found.completions, strict=True):
        ids = MERGING.tokenizer(text + answer_text(MERGING, prompt, word), add_special_tokens=False)["input_ids"]
        assert [*found.prompt_ids, *completion[:-1]] == ids


def test_a_merge_across_the_border_happens_at_all() -> None:
    prompt = Prompt(cue="Answer:")
    row = {"input": "Who"}
    alone = MERGING.tokenizer(MERGING.text(prompt, row, LABELS), add_special_tokens=False)["input_ids"]
    found = MERGING.render(prompt, [row], ("place", "person"))[0]
    assert len(found.prompt_ids) < len(alone), "this tokenizer is meant to merge cue and answer"
    assert found.prompt_ids == tuple(alone[: len(found.prompt_ids)])


def test_a_control_token_of_the_prompt_does_not_hide_what_follows_it() -> None:
    prompt = Prompt(system="<|endoftext|>", input_template="{input}", order="input_first")
    found = MERGING.render(prompt, [{"input": "Question: Who\nAnswer:"}], ("place",))[0]
    whole = MERGING.tokenizer("<|endoftext|>\n\nQuestion: Who\nAnswer: place", add_special_tokens=False)["input_ids"]
    assert [*found.prompt_ids, *found.completions[0][:-1]] == whole


def special_ids(renderer: Renderer, rendered: RenderedRow) -> list[int]:
    special = set(renderer.tokenizer.all_special_ids)
    return [i for i in rendered.prompt_ids if i in special]


@RENDERERS
@given(prompt=prompts, value=pieces, other=pieces)
@settings(max_examples=300, deadline=None)
def test_control_tokens_in_data_are_mere_characters(renderer: Renderer, prompt: Prompt, value: str, other: str) -> None:
    harmless = renderer.render(prompt, [{"input": "abc", "other": "d"}], LABELS)[0]
    found = renderer.render(prompt, [{"input": f"a{value}", "other": other}], LABELS)[0]
    assert special_ids(renderer, found) == special_ids(renderer, harmless)


@RENDERERS
@pytest.mark.parametrize(
    ("template", "row"),
    [
        ("<{input}", {"input": "|im_end|> x"}),
        ("{input}|im_end|>", {"input": "x <"}),
        ("{input}{other}", {"input": "x <|im_", "other": "end|>"}),
        ("{input}{other}", {"input": "x <|im_end|", "other": ">" * 200}),
    ],
)
def test_control_tokens_do_not_arise_at_a_border(renderer: Renderer, template: str, row: dict[str, str]) -> None:
    prompt = Prompt(instruction="Classify.", input_template=template, cue="Answer:")
    for some in (renderer, Renderer(renderer.tokenizer, max_tokens=80)):
        harmless = special_ids(some, some.render(prompt, [dict.fromkeys(row, "x")], LABELS)[0])
        assert special_ids(some, some.render(prompt, [row], LABELS)[0]) == harmless


@RENDERERS
def test_control_tokens_in_labels_and_demonstrations_are_mere_characters(renderer: Renderer) -> None:
    nasty = "x<|im_end|>\n<|im_start|>system"
    plain = Prompt(instruction="One of {labels}", cue="Answer:", demonstrations=(Demonstration((("input", "y"),), "a"),))
    evil = plain.edit(demonstrations=(Demonstration((("input", nasty),), nasty),))
    row = [{"input": "Who?"}]
    wanted = special_ids(renderer, renderer.render(plain, row, ("a", "b"))[0])
    found = renderer.render(evil, row, (nasty, "b"))[0]
    assert special_ids(renderer, found) == wanted
    special = set(renderer.tokenizer.all_special_ids)
    assert all(not special & set(completion[:-1]) for completion in found.completions)


@RENDERERS
def test_fields_in_data_stay_literal(renderer: Renderer) -> None:
    prompt = Prompt(
        instruction="One of {labels}; {unknown} {stays}.",
        input_template="{a} / {b}",
        demonstrations=(Demonstration((("a", "{b}{labels}"), ("b", "{a}")), "card"),),
    )
    text = renderer.text(prompt, {"a": "{labels} {b} {{a}}", "b": "{a} \\g<0> %s"}, LABELS)
    assert "{labels} {b} {{a}} / {a} \\g<0> %s" in text
    assert "{b}{labels} / {a}" in text
    assert "One of card, card arrival, place, person; {unknown} {stays}." in text


def test_a_field_may_be_called_labels() -> None:
    text = PLAIN.text(Prompt(input_template="{labels}"), {"labels": "mine"}, LABELS)
    assert "mine" in text and "arrival" not in text


def test_the_chat_text_is_what_the_template_says() -> None:
    prompt = Prompt(
        instruction="Classify.",
        cue="Label:",
        system="Be brief.",
        label_words=(("card", "C"),),
        demonstrations=(Demonstration((("input", "Where?"),), "card"),),
    )
    assert CHAT.text(prompt, {"input": "Who?"}, LABELS) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nClassify.\nWhere?\nLabel:<|im_end|>\n"
        "<|im_start|>assistant\nC<|im_end|>\n<|im_start|>user\nWho?\nLabel:<|im_end|>\n<|im_start|>assistant\n"
    )
    assert CHAT.stop_id == CHAT.tokenizer.convert_tokens_to_ids("<|im_end|>")
    flipped = prompt.edit(order="input_first", demonstrations=(), system=None)
    assert CHAT.text(flipped, {"input": "Who?"}, LABELS) == (
        "<|im_start|>user\nWho?\nClassify.\nLabel:<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_plain_text() -> None:
    prompt = Prompt(
        instruction="Classify.",
        cue="Label:",
        system="Be brief.",
        demonstrations=(Demonstration((("input", "Where?"),), "card"),),
    )
    assert PLAIN.text(prompt, {"input": "Who?"}, LABELS) == "Be brief.\n\nClassify.\nWhere?\nLabel: card\n\nWho?\nLabel:"
    assert PLAIN.stop_id == PLAIN.tokenizer.eos_token_id


def fresh_tokenizer(**changes: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    arguments = {"tokenizer_object": tiny_tokenizer()._tokenizer, "eos_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(**arguments | {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]} | changes)


def test_a_template_that_knows_no_system_role() -> None:
    tokenizer = fresh_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
    )
    prompt = Prompt(instruction="Classify.", system="Be brief.")
    assert Renderer(tokenizer).text(prompt, {"input": "Who?"}, LABELS) == (
        "<|im_start|>user\nBe brief.\n\nClassify.\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_that_drops_the_system_role() -> None:
    tokenizer = fresh_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("for m in messages", "for m in messages if m['role'] != 'system'")
    prompt = Prompt(instruction="Classify.", system=" Be brief.\n")
    assert "Be brief." in Renderer(tokenizer).text(prompt, {"input": "Who?"}, LABELS)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("m['content'] }}", "m['content'] | trim }}")
    assert Renderer(tokenizer).text(prompt, {"input": "Who?"}, LABELS).startswith("<|im_start|>system\nBe brief.<|im_end|>")


@pytest.mark.parametrize("call", ["strftime_now('%d %b %Y')", 'strftime_now( "%d %b %Y" )'])
def test_a_template_that_prints_the_date_gives_the_same_ids_every_day(call: str) -> None:
    tokenizer = fresh_tokenizer()
    tokenizer.chat_template = (
        "{% if not date_string is defined and strftime_now is defined %}{% set date_string = " + call + " %}{% endif %}"
        "<|im_start|>system\nToday: {{ date_string }}<|im_end|>\n" + CHAT_TEMPLATE
    )
    text = Renderer(tokenizer).text(Prompt(instruction="Classify."), {"input": "Who?"}, LABELS)
    assert text.startswith("<|im_start|>system\nToday: 26 Jul 2024<|im_end|>\n<|im_start|>user\nClassify.")


def test_a_template_that_thinks_is_asked_for_the_answer() -> None:
    tokenizer = fresh_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "assistant\n{% endif %}",
        "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    )
    renderer = Renderer(tokenizer)
    text = renderer.text(Prompt(instruction="Classify."), {"input": "Who?"}, LABELS)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert renderer.stop_id == CHAT.stop_id


def test_a_template_that_fails_for_other_reasons_is_told() -> None:
    from jinja2 import TemplateError

    tokenizer = fresh_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    renderer = Renderer(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(TemplateError, match="never"):
        renderer.text(Prompt(instruction="Classify.", system="Be brief."), {"input": "Who?"}, LABELS)


def test_a_broken_template_engine_is_not_taken_for_a_missing_role() -> None:
    """The second try has no system role; an error that no template raised must not lead to it."""
    tokenizer = fresh_tokenizer()
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ 1 + 'x' }}{% endif %}" + CHAT_TEMPLATE
    with pytest.raises(TypeError):
        Renderer(tokenizer).text(Prompt(instruction="Classify.", system="Be brief."), {"input": "Who?"}, LABELS)


def test_a_tokenizer_that_adds_tokens_of_its_own() -> None:
    from tokenizers import Tokenizer, processors

    inner = Tokenizer.from_str(tiny_tokenizer()._tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|endoftext|>", special_tokens=[("<|im_start|>", 1), ("<|endoftext|>", 0)]
    )
    plain = Renderer(fresh_tokenizer(tokenizer_object=inner))
    found = plain.render(Prompt(cue="Label:"), [{"input": "Who?"}], LABELS)[0]
    without = PLAIN.render(Prompt(cue="Label:"), [{"input": "Who?"}], LABELS)[0]
    assert found.prompt_ids == (1, *without.prompt_ids), "the text opens with the start token, once, and does not end"
    assert found.completions == without.completions
    tokenizer = fresh_tokenizer(tokenizer_object=inner)
    tokenizer.chat_template = CHAT_TEMPLATE
    chat, usual = (r.render(Prompt(cue="Label:"), [{"input": "Who?"}], LABELS) for r in (Renderer(tokenizer), CHAT))
    assert chat == usual, "the template writes its own start token"


def test_a_tokenizer_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match="end-of-text"):
        Renderer(fresh_tokenizer(eos_token=None))


# Long rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncate", ["middle", "end"])
@given(
    # Space at a cut is left out, and may be many tokens.
    long=pieces.map(lambda text: (" ".join(text.replace("…", "").split()) + " word é") * 30),
    short=st.text("abc ", max_size=10),
    limit=st.integers(60, 120),
    chat=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_only_the_longest_field_loses_a_part(truncate: Truncation, long: str, short: str, limit: int, chat: bool) -> None:
    renderer = Renderer(tiny_tokenizer(chat), max_tokens=limit, truncate=truncate)
    free = Renderer(tiny_tokenizer(chat), max_tokens=10_000)
    prompt = Prompt(instruction="Name it.", input_template="[{input}] ({other})", cue="Label:")
    rows = [{"input": long, "other": short}, {"input": "Who?", "other": short}]
    cut, kept = renderer.render(prompt, rows, LABELS)
    assert kept == free.render(prompt, rows, LABELS)[1] and not kept.truncated
    assert cut.truncated == (len(free.render(prompt, rows, LABELS)[0].prompt_ids) > limit)
    assert len(cut.prompt_ids) <= limit
    if cut.truncated:
        text, whole = decode(renderer, cut.prompt_ids), renderer.text(prompt, rows[0], LABELS)
        before, after = whole.split("[", 1)[0] + "[", f"] ({short})\nLabel:"
        assert text.startswith(before)
        assert text[len(before) :].split(after)[-1] == whole.split(after)[-1]
        shown = text[len(before) : text.rindex(after)]
        beginning, _, ending = shown.partition(GAP) if truncate == "middle" else (shown, "", "")
        assert whole[len(before) :].startswith(beginning), "it begins as the text does"
        # What is shown for a middle takes tokens too.
        assert len(cut.prompt_ids) > limit - (12 if truncate == "end" else 14), "as much is shown as fits"
        assert whole[: whole.rindex(after)].endswith(ending)


def test_a_text_without_its_middle_has_a_quarter_of_its_tokens_from_its_end() -> None:
    text = " ".join(map(str, range(100, 200)))
    spans = [(4 * i, 4 * i + 3) for i in range(100)]
    shown = cut_to(42, text, spans, "middle", 2)
    assert shown == " ".join(map(str, range(100, 130))) + GAP + " ".join(map(str, range(190, 200)))
    assert cut_to(5, text, spans, "middle", 2) == "100 101 102 103 104 ", "too few tokens for both ends"
    assert (
        cut_to(0, text, spans, "middle", 2) == cut_to(0, "x", [], "end", 2) == ""
        and cut_to(100, text, spans, "middle", 2) == text
    )
    assert cut_to(3, text, spans, "end", 2) == "100 101 102 "


@pytest.mark.parametrize("truncate", ["middle", "end"])
def test_of_two_long_fields_both_are_shown(truncate: Truncation) -> None:
    renderer = Renderer(tiny_tokenizer(False), max_tokens=100, truncate=truncate)
    prompt = Prompt(input_template="[{a}] ({b}) {c}", cue="Label:")
    row = {"a": "first " * 300, "b": "second " * 290, "c": "third."}
    (cut,) = renderer.render(prompt, [row], LABELS)
    a, b, c = re.fullmatch(r"\[(.*)\] \((.*)\) (.*)\nLabel:", decode(renderer, cut.prompt_ids)).groups()  # type: ignore[union-attr]
    assert c == "third." and 90 < len(cut.prompt_ids) <= 100
    lengths = [len(renderer.tokenizer(text)["input_ids"]) for text in (a, b)]
    assert abs(lengths[0] - lengths[1]) <= 2, "neither is emptied for the other"
    assert (GAP in a) == (GAP in b) == (truncate == "middle")


@given(
    fields=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 3)), min_size=1, max_size=4),
    most=st.integers(0, 200),
)
def test_the_longest_fields_are_cut_to_the_same_length(fields: list[tuple[int, int]], most: int) -> None:
    def taken(length: int) -> int:
        return sum(shown * min(tokens, length) for tokens, shown in fields)

    length = equal_length(fields, most)
    assert taken(length) <= most
    assert length == max(tokens for tokens, _ in fields) or taken(length + 1) > most, "no longer one fits"


def test_what_no_prompt_shows_is_not_shortened() -> None:
    renderer = Renderer(tiny_tokenizer(False), max_tokens=60)
    prompt, row = Prompt(input_template="{input}", cue="Label:"), {"input": "Who built it?", "other": "a tower " * 3000}
    (found,) = renderer.render(prompt, [row], LABELS)
    assert not found.truncated
    (cut,) = renderer.render(prompt, [row | {"input": "Who? " * 90}], LABELS)
    assert cut.truncated and 50 < len(cut.prompt_ids) <= 60


def test_truncated_rows_still_spell_prompt_and_answer() -> None:
    renderer = Renderer(tiny_tokenizer(False), max_tokens=40)
    found = renderer.render(Prompt(cue="Label:"), [{"input": "a long story " * 40}], LABELS)[0]
    assert decode(renderer, found.prompt_ids).endswith("\nLabel:")
    assert decode(renderer, found.completions[1][:-1]) == " card arrival"


@RENDERERS
def test_a_prompt_that_is_too_long_by_itself_is_refused(renderer: Renderer) -> None:
    small = Renderer(renderer.tokenizer, max_tokens=20)
    with pytest.raises(InputError, match="limit is 20"):
        small.render(Prompt(instruction="Read the message and name its topic. " * 5), [{"input": "Who?" * 9}], LABELS)


def test_a_prompt_that_shows_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no text before the answer"):
        PLAIN.render(Prompt(order="input_first"), [{"input": ""}], LABELS)


def test_no_rows() -> None:
    assert CHAT.render(Prompt(), [], LABELS) == []


# The shared prefix -------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_the_shared_prefix_is_the_longest_that_leaves_each_row_a_token(rows: list[list[int]]) -> None:
    wanted = max(n for n in range(min(map(len, rows))) if all(row[:n] == rows[0][:n] for row in rows))
    assert shared_prefix(rows) == wanted


def test_no_rows_share_nothing() -> None:
    assert shared_prefix([]) == 0


# Free text ----------------------------------------------------------------------------------------------------------

texts = st.one_of(
    words, st.text(max_size=12), st.sampled_from(['{"intent": "x", "slots": {}}', "", " ", "\n", "12.5", "<|im_end|>x"])
)


@pytest.mark.parametrize("renderer", [CHAT, PLAIN, MERGING], ids=["chat", "plain", "merging"])
@given(prompts, st.lists(st.tuples(words, texts), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_free_answer_follows_the_very_ids_that_generation_starts_from(
    renderer: Renderer, prompt: Prompt, pairs: list[tuple[str, str]]
) -> None:
    if renderer is MERGING:
        # It knows lower-case letters alone and drops the rest.
        pairs = [(row, "".join(c for c in answer if c in "abcdefghijklmnopqrstuvwxyz")) for row, answer in pairs]
    lead = renderer.lead(prompt, ("input", "other"))
    rows = [{"input": row, "other": "o"} for row, _ in pairs]
    start = renderer.render_answers(prompt, rows, None)
    found = renderer.render_answers(prompt, rows, [answer for _, answer in pairs])
    for (_, answer), bare, full in zip(pairs, start, found, strict=True):
        assert bare.prompt_ids == full.prompt_ids and bare.completions == ()
        assert len(full.completions) == 1 and full.completions[0][-1] == renderer.stop_id
        assert renderer.read(full.completions[0][:-1], lead) == renderer.harmless(answer)


@RENDERERS
def test_free_answers_and_labels_have_the_same_ids(renderer: Renderer) -> None:
    prompt = Prompt(
        instruction="Name the topic.",
        cue="Answer:",
        demonstrations=(Demonstration((("input", "Who?"),), "person"), Demonstration((("input", "Where?"),), "place")),
    )
    rows = [{"input": "Where is my card?"}, {"input": "x" * 40}]
    by_label = renderer.render(prompt, rows, ("card", "place"))
    free = renderer.render_answers(prompt, rows, ["card", "place"])
    assert [row.prompt_ids for row in free] == [row.prompt_ids for row in by_label]
    assert [row.completions[0] for row in free] == [by_label[0].completions[0], by_label[1].completions[1]]
    assert renderer.lead(prompt, ("input",)) == ("" if renderer.chat else " ")


@RENDERERS
def test_a_row_that_is_too_long_is_shortened_alike_with_and_without_its_answer(renderer: Renderer) -> None:
    short = Renderer(renderer.tokenizer, max_tokens=40)
    prompt, rows = Prompt(instruction="Sum it up.", cue="In short:"), [{"input": "one two three " * 30}, {"input": "x"}]
    free = short.render_answers(prompt, rows, ["a long tale", "x"])
    assert [row.truncated for row in free] == [True, False]
    assert len(free[0].prompt_ids) <= 40
    assert free[0].prompt_ids == short.render(prompt, rows, ("a",))[0].prompt_ids
    assert short.read(free[0].completions[0][:-1], short.lead(prompt, ("input",))) == "a long tale"
    assert short.render_answers(prompt, [], None) == []


@given(prompt=prompts, texts=st.lists(pieces, min_size=1, max_size=3), chat=st.booleans())
@settings(max_examples=60, deadline=None)
def test_behind_the_prompt_the_text_comes_again_and_each_word_has_its_tokens(
    prompt: Prompt, texts: list[str], chat: bool
) -> None:
    renderer = CHAT if chat else PLAIN
    rows = [{"input": f"{text}.", "other": "x y"} for text in texts]
    once, twice = renderer.render(prompt, rows, LABELS), renderer.render_twice(prompt, rows, LABELS)
    for row, before, after in zip(rows, once, twice, strict=True):
        start, text = len(before.prompt_ids), renderer.harmless(text_of(row))
        assert after.prompt_ids[:start] == before.prompt_ids and after.start == before.start
        assert after.read == after.words and before.read == before.start
        *words, whole = after.words
        assert whole == (start, len(after.prompt_ids)) and len(words) == len(words_of(text_of(row)))
        if len(words_of(text)) != len(words):
            assert set(words) == {whole}, "a marker of the renderer is not shown"
            continue
        copy = renderer.tokenizer(
            renderer.lead(prompt, ("input", "other")) + text, add_special_tokens=False, return_offsets_mapping=True
        )
        assert list(after.prompt_ids[start:]) == copy["input_ids"]
        shift = len(renderer.lead(prompt, ("input", "other")))
        for (first, last), (begin, end) in zip(words, words_of(text), strict=True):
            spans = copy["offset_mapping"][first - start : last - start]
            assert spans and spans[0][0] - shift <= begin and end <= spans[-1][1] - shift, "no character is left out"
            assert all(left - shift < end and right - shift > begin for left, right in spans), "no token is of another word"


def test_words_whose_tokens_are_cut_read_the_whole_copy() -> None:
    renderer = Renderer(tiny_tokenizer(), max_tokens=60)
    prompt = Prompt("Name it.", "{input}", "Answer:")
    (row,) = renderer.render_twice(prompt, [{"input": "a b c d e f g h " * 20}], ("x", "y"))
    *words, whole = row.words
    assert row.truncated and whole[1] - whole[0] == 60 and len(words) == 160
    assert words[0] != whole and words[-1] == whole
    (blank,) = renderer.render_twice(prompt, [{"input": "\u200b"}], ("x", "y"))
    assert len(blank.words) >= 1 and all(start < end <= len(blank.prompt_ids) for start, end in blank.words)
