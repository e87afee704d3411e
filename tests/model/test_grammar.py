from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import jsonschema_rs
import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from cotune.errors import InputError
from cotune.model.base import GREEDY, Sampling
from cotune.model.engine.sampling import Chooser
from cotune.model.structured.grammar import Grammar
from cotune.model.structured.token_grammar import TokenGrammar, TokenTable
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import Renderer
from cotune.task.values.json_value import json_text
from cotune.task.values.output import Output
from tiny import merging_tokenizer, tiny_local, tiny_tokenizer

VOCABULARY = 448
TABLE = TokenTable(tiny_tokenizer(), VOCABULARY)
STOPS = (0, 2)
names = st.sampled_from(["intent", "slots", "é", 'a "b"', "x", "in", "0"])
values = st.one_of(
    st.none(), st.booleans(), st.integers(-50, 50), st.text(max_size=4), st.sampled_from(["a", "ab", "abc", "日本"])
)


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    bounds = sorted(
        draw(st.lists(st.one_of(st.integers(-2000, 2000), st.sampled_from([0.25, -7.5, 99.125])), min_size=2, max_size=2))
    )
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = bounds[0]
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = bounds[1]
    return schema


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    least = draw(st.integers(0, 5))
    if draw(st.booleans()):
        schema["minLength"] = least
    if draw(st.booleans()):
        schema["maxLength"] = least + draw(st.integers(0, 5))
    return schema


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(names, inner, max_size=4))
        required = [name for name in properties if draw(st.booleans())]
        return {"type": "object", "properties": properties, "required": required}

    return build()


def arrays(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "items": draw(inner)}
        least = draw(st.integers(0, 2))
        if draw(st.booleans()):
            schema["minItems"] = least
        if draw(st.booleans()):
            schema["maxItems"] = least + draw(st.integers(0, 2))
        return schema

    return build()


leaves = st.one_of(
    numbers(),
    strings(),
    st.builds(lambda options: {"enum": options}, st.lists(values, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, values),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {"type": "array", "maxItems": 0}]),
)
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        objects(inner), arrays(inner), st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3))
    ),
    max_leaves=6,
)


def grammar_of(schema: dict[str, Any]) -> Grammar:
    try:
        return Grammar.json(schema)
    except InputError as error:
        assume("Unsatisfiable" not in str(error))
        assume("none of its values can be generated" not in str(error))
        raise


def decode(
    held: TokenGrammar,
    limit: int,
    seed: int,
    sampling: Sampling = GREEDY,
    favour: dict[int, float] | None = None,
    ahead: bool = False,
) -> Any:
    """An answer under random logits: whatever a model might want to say."""
    generator = torch.Generator().manual_seed(seed)
    chooser = Chooser(STOPS, sampling, held, ahead=ahead)
    answer = chooser.start([seed], limit)
    while not answer.done:
        logits = torch.randn(1, VOCABULARY, generator=generator) * 3
        for token, more in (favour or {}).items():
            logits[0, token] += more
        chooser.choose(logits, [answer])
    return answer


@given(schemas, st.integers(0, 40), st.integers(0, 2**31), st.booleans())
@settings(max_examples=90, deadline=None)
def test_every_answer_parses_and_validates_also_at_the_limit(schema: dict[str, Any], more: int, seed: int, hot: bool) -> None:
    grammar = grammar_of(schema)
    limit = len(TABLE.encode(grammar.end(b"") or b"") or ()) + more
    assume(limit)
    held = TokenGrammar(grammar, TABLE, lead="", limit=limit)
    answer = decode(held, limit, seed, Sampling(1.0, 0) if hot else GREEDY)
    assert len(answer.ids) <= limit
    text = held.read(answer.ids)
    value = json.loads(text)
    jsonschema_rs.validator_for(schema).validate(value)
    # written as the gold answers are
    written = Output("json", schema_text=json_text(schema)).canonical(text)
    assert written == text or "\\" in text or re.search(r"\d\.\d*0|-0|(?:\d\.?){16}|\.\d{15}", text)


def logits_after(seed: int, ids: Sequence[int]) -> torch.Tensor:
    """Random ones that hang on what was written, as a model's do."""
    generator = torch.Generator().manual_seed(hash((seed, tuple(ids))) % 2**31)
    return torch.randn(1, VOCABULARY, generator=generator) * 3


def masked_greedy(held: TokenGrammar, limit: int, seed: int) -> tuple[list[int], bool]:
    """The definition: the likeliest token that the mask allows, one after the other, and an end where the limit cuts."""
    walk, ids = held.start(), []
    while len(ids) < limit:
        logits = logits_after(seed, ids)[0].masked_fill(~torch.from_numpy(walk.allowed(STOPS)), -torch.inf)
        token = int(logits.argmax())
        if logits[token] == -torch.inf:
            return held.ended(ids), False
        if token in STOPS:
            return ids, True
        walk.push(token)
        ids.append(token)
        if walk.must_stop:
            return ids, True
    return ids if walk.may_stop else held.ended(ids), False


@given(schemas, st.integers(0, 40), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_what_is_taken_ahead_is_what_the_masks_leave(schema: dict[str, Any], more: int, seed: int) -> None:
    grammar = grammar_of(schema)
    limit = len(TABLE.encode(grammar.end(b"") or b"") or ()) + more
    assume(limit)
    held = TokenGrammar(grammar, TABLE, lead=" " if seed % 2 else "", limit=limit + 1)
    for sampling in (GREEDY, Sampling(1.0, 0)):
        written = []
        for ahead in (False, True):
            chooser = Chooser(STOPS, sampling, held, ahead=ahead)
            answer = chooser.start([seed], limit + 1)
            while not answer.done:
                chooser.choose(logits_after(seed, answer.ids), [answer])
            written.append((answer.ids, answer.ended))
        assert written[0] == written[1]
        if sampling == GREEDY:
            assert written[0] == masked_greedy(held, limit + 1, seed)


def test_an_answer_that_may_end_is_not_led_on() -> None:
    held = TokenGrammar(Grammar.json({"enum": [1, 123]}), TABLE, lead="", limit=9)
    for favoured, text in ((STOPS[0], "1"), ((TABLE.encode(b"2") or [0])[0], "123")):
        assert held.read(decode(held, 9, 0, favour={favoured: 100.0}, ahead=True).ids) == text


def test_where_nothing_is_to_be_chosen_the_model_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    local, grammar = tiny_local(), Grammar.json({"const": {"a": 1}})
    asked: Any = (Prompt(instruction="Say."), [{"input": "x"}])
    losses = local.answer_losses(*asked, ["x y"]).losses
    both = local.generate(*asked, limit=30, grammar=grammar, references=["x y"])
    assert both.reference_losses is not None and both.reference_losses.losses.tolist() == pytest.approx(
        losses.tolist(), rel=1e-5
    )
    monkeypatch.setattr(local.runner, "hidden", None)  # whatever runs now would fail
    found = local.generate(*asked, limit=30, grammar=grammar)
    assert found.texts == both.texts == ('{"a": 1}',) and found.ended == both.ended == (True,) and found.written == 0


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_tokens_taken_ahead_take_no_step_and_change_no_answer(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"enum": ["card arrival", "refund of it all", "account"]}
    schema = {
        "type": "object",
        "properties": {
            "first letters": {"type": "string", "maxLength": 4},
            "kind of thing": words,
            "words": {"type": "array", "items": words, "minItems": 2, "maxItems": 4},
        },
        "required": ["first letters", "kind of thing", "words"],
    }
    rows = [{"input": text} for text in ("a row of words", "x", "where is my money and all the rest of it", "no")]
    local = tiny_local(kind)
    local.shared = False
    asked: Any = {"limit": 200, "grammar": Grammar.json(schema)}
    one_by_one = local.generate(Prompt(instruction="Say."), rows, **asked)
    local.shared = True
    fed: list[int] = []
    step = local.runner.step
    monkeypatch.setattr(local.runner, "step", lambda ids, *rest: (fed.append(len(ids)), step(ids, *rest))[1])
    found = local.generate(Prompt(instruction="Say."), rows, **asked)
    assert found.ids == one_by_one.ids and found.ended == one_by_one.ended
    assert len(set(found.ids)) > 1 and max(fed) > len(rows)
    assert 3 * len(fed) < max(map(len, found.ids))
    assert found.written < one_by_one.written, "an end that is taken ahead is never read"


def spaced_tokenizer() -> Any:
    """Byte-level BPE without a chat template whose tokens begin with a space, as those of most models do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(['Answer: {"a": 12}', 'Answer: "x"', "Answer: 12", "Answer: -1"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (Grammar.json({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}), '{"a": 12}'),
        (Grammar.json({"enum": ["x", "y"]}), '"x"'),
        (Grammar.number(), "12"),
        (Grammar.number(integer=True), "-1"),
    ],
)
def test_an_answer_behind_a_cue_begins_with_the_tokens_that_training_gives_it(grammar: Grammar, text: str) -> None:
    """A token of the space alone, which the model was never tuned to write, would be followed by anything."""
    renderer = Renderer(spaced_tokenizer())
    prompt, fields = Prompt(cue="Answer:"), {"input": "x"}
    (row,) = renderer.render_answers(prompt, [fields], [text])
    (*wanted, stop) = row.completions[0]
    table = TokenTable(renderer.tokenizer, VOCABULARY)
    assert len(table.bytes[wanted[0]] or b"") > 1
    held = TokenGrammar(grammar, table, lead=renderer.lead(prompt, tuple(fields)), limit=20)
    walk = held.start()
    assert not walk.may_stop
    for token in wanted:
        assert walk.allows(token, (stop,))
        walk.push(token)
    assert walk.may_stop and held.read(wanted) == text
    assert json.loads(held.read(held.ended(wanted[:1]))) is not None


def test_bytes_tokens_are_for_characters_that_have_no_other() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(0x21, 0x7F)), "▁"]
    inner = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    table = TokenTable(tokenizer, len(names))
    for text in (' {"a": 1}', "x é"):
        assert table.encode(text.encode()) == tokenizer(text)["input_ids"]


@given(st.integers(0, 2**31), st.integers(1, 30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_plain_numbers(seed: int, limit: int, integer: bool) -> None:
    held = TokenGrammar(Grammar.number(integer=integer), TABLE, lead=" ", limit=limit + 1)
    text = held.read(decode(held, limit + 1, seed).ids)
    assert re.fullmatch(r"-?(0|[1-9]\d*)" if integer else r"-?(0|[1-9]\d*)(\.\d+)?", text)


def can_be_written(grammar: Grammar, text: str) -> bool:
    """Whether a text is let pass, token by token."""
    held = TokenGrammar(grammar, TABLE, lead="", limit=10_000)
    walk = held.start()
    for token in TABLE.encode(text.encode()) or ():
        if not walk.allows(token, STOPS):
            return False
        walk.push(token)
    return walk.may_stop


@pytest.mark.parametrize(
    "grammar", [Grammar.number(), Grammar.json({"type": "number"}), Grammar.json({"type": "number", "minimum": -1})]
)
def test_numbers_have_the_digits_of_any_that_people_have(grammar: Grammar) -> None:
    for text in ("0.30000000000000004", "0.00000012", "123456789012345.5", "-0.5", "52.5170365"):
        assert can_be_written(grammar, text), text
    assert not can_be_written(grammar, "1e-07") and not can_be_written(grammar, "1" * 16)


def test_next_to_a_bound_that_is_left_out_there_are_no_more_digits_than_a_double_keeps_apart() -> None:
    schema = {"type": "number", "exclusiveMaximum": 10**12}
    assert json.loads("999999999999.99999") == 10**12
    assert not can_be_written(Grammar.json(schema), "999999999999.99999")
    assert can_be_written(Grammar.json(schema), "999999999999.99")
    assert not can_be_written(Grammar.json({"type": "number", "exclusiveMaximum": 10**17}), "99999999999999999.9")
    both = Grammar.json({"type": "number", "maximum": 5, "exclusiveMaximum": 10})
    assert both.accepts("5") and not both.accepts("7")


def test_a_model_that_never_stops_is_brought_to_its_end() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"enum": ["yes", "no"]}}, "required": ["a", "b"]}
    grammar = Grammar.json(schema)
    letter = (TABLE.encode(b"z") or [0])[0]
    least = len(TABLE.encode(grammar.end(b"") or b"") or ())
    for limit in range(least, least + 12):
        held = TokenGrammar(grammar, TABLE, lead="", limit=limit)
        answer = decode(held, limit, 0, favour={letter: 1000.0})
        assert not answer.ended and len(answer.ids) == limit, "as much as there is room for is kept"
        assert json.loads(held.read(answer.ids))["b"] == "no"
    with pytest.raises(InputError, match=f"takes {least} tokens and the limit is {least - 1}"):
        TokenGrammar(grammar, TABLE, lead="", limit=least - 1)


@pytest.mark.parametrize(
    ("schema", "begun", "end"),
    [
        ({"enum": ["aaaa", "zz", "z", "zzz"]}, "", '"z"'),
        ({"enum": ['a"b"c"d', "a\\\\\\\\", "azerty"]}, '"a', 'zerty"'),
        ({"properties": {"a": {}, "b": {}, "z": {}}, "required": ["z"]}, "", '{"z": ""}'),
        ({"properties": {"a": {}, "b": {}, "z": {}}, "required": ["z"]}, '{"', 'a": "", "z": ""}'),
        (
            {"properties": {name: {"enum": ["aaaaaaaa", "b"]} for name in "xyz"}, "required": [*"xyz"]},
            '{"x": "a',
            'aaaaaaa", "y": "b", "z": "b"}',
        ),
        ({"type": "array", "items": {"type": ["object", "null"]}, "minItems": 2}, "[", "null, null]"),
        ({"type": "string", "pattern": "^[a-z]{12}$"}, '"', 'nnnnnnnnnnnn"'),
        ({"type": "number", "exclusiveMinimum": 0}, "0.0", "1"),
    ],
)
def test_ends_are_short(schema: dict[str, Any], begun: str, end: str) -> None:
    for name, inner in schema.get("properties", {}).items():
        schema["properties"][name] = inner or {"type": "string"}
    assert Grammar.json(schema).end(begun.encode()) == end.encode()


def test_the_model_decides_where_it_may() -> None:
    grammar = Grammar.json({"enum": ["card arrival", "refund", "account"]})
    held = TokenGrammar(grammar, TABLE, lead="", limit=30)
    wanted = dict.fromkeys(TABLE.encode(b'"refund"') or (), 100.0)
    assert held.read(decode(held, 30, 0, favour=wanted).ids) == '"refund"'


def test_generated_by_a_model_with_and_without_chat_template() -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "words": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
        "required": ["kind", "words"],
    }
    validator = jsonschema_rs.validator_for(schema)
    rows = [{"input": text} for text in ("a row of words", "x")]
    for kind, chat in (("llama", True), ("llama", False), ("gemma2", True)):
        local = tiny_local(kind, chat=chat)
        found = local.generate(Prompt(instruction="Say."), rows, limit=27, grammar=Grammar.json(schema))
        for text in found.texts:
            validator.validate(json.loads(text))


def test_gold_answers_take_the_order_of_the_schema() -> None:
    inner = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"$ref": "#/$defs/n"}}}
    schema = {"anyOf": [{"type": "null"}, {"type": "array", "items": inner}], "$defs": {"n": {"type": "integer"}}, "title": "x"}
    grammar = Grammar.json(schema)
    written = Output("json", schema_text=json.dumps(schema)).canonical('[{"a": 1.0,\n "b": "é"}]')
    assert written == '[{"b": "é", "a": 1}]'
    assert grammar.accepts(written)
    assert grammar == Grammar.json(schema) and grammar.key != Grammar.number().key


@given(st.integers(-3000, 3000), st.integers(1, 2000), st.integers(1, 4), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_any_decimal_within_bounds_can_be_written(
    low: int, wide: int, places: int, exclusive: bool, data: st.DataObject
) -> None:
    least, most = low / 10**places, (low + wide) / 10**places
    names = ("exclusiveMinimum", "exclusiveMaximum") if exclusive else ("minimum", "maximum")
    grammar = Grammar.json(
        {"type": "object", "properties": {"a": {"type": "number"} | dict(zip(names, (least, most), strict=True))}}
    )
    digits = data.draw(st.integers(1, places))
    value = data.draw(st.integers(low - 1, low + wide + 1)) // 10 ** (places - digits) / 10**digits
    inside = least < value < most if exclusive else least <= value <= most
    assert grammar.accepts(json.dumps({"a": int(value) if value == int(value) else value})) == inside


def test_a_number_with_bounds_may_stand_beside_other_types_and_behind_a_reference() -> None:
    score = {"type": ["number", "null"], "minimum": -0.25, "maximum": 0.25}
    grammar = Grammar.json({"type": "array", "items": {"$ref": "#/$defs/score"}, "$defs": {"score": score}})
    assert grammar.accepts("[0.2, -0.2, null, 0, 0.25]")
    assert not grammar.accepts("[0.3]") and not grammar.accepts("[-0.26]")


@pytest.mark.parametrize("bounds", [{"minimum": 0}, {"minimum": 0, "maximum": 1.25}])
@pytest.mark.parametrize("choice", [{"enum": [0.5, 1]}, {"const": 0.5}])
def test_listed_numbers_with_bounds_stay_the_only_ones(bounds: dict[str, Any], choice: dict[str, Any]) -> None:
    """The decimals that a bound begins with, such as 1.2 of 1.25, are no further choice."""
    grammar = Grammar.json({"type": "object", "properties": {"x": {"type": "number", **choice, **bounds}}, "required": ["x"]})
    assert grammar.accepts('{"x": 0.5}')
    assert not grammar.accepts('{"x": 1.2}') and not grammar.accepts('{"x": 0.7}')


def respelled(value: Any, seed: int) -> Any:
    """The same value otherwise: keys in another order, whole numbers with a point."""
    if isinstance(value, dict):
        return {name: respelled(value[name], seed + 1) for name in sorted(value, key=lambda name: hash((seed, name)))}
    if isinstance(value, list):
        return [respelled(item, seed + 1) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and seed % 3 else value


@given(schemas, st.integers(0, 40), st.integers(0, 2**31))
@settings(max_examples=90, deadline=None)
def test_however_a_valid_answer_is_spelled_its_one_form_can_be_written(schema: dict[str, Any], more: int, seed: int) -> None:
    grammar = grammar_of(schema)
    limit = len(TABLE.encode(grammar.end(b"") or b"") or ()) + more
    assume(limit)
    held = TokenGrammar(grammar, TABLE, lead="", limit=limit)
    value = json.loads(held.read(decode(held, limit, seed).ids))
    output = Output("json", schema_text=json_text(schema))
    written = output.canonical(json.dumps(respelled(value, seed), indent=seed % 3))
    note(f"{schema} {written}")
    assert grammar.accepts(written)
    assert json.loads(written) == value and output.canonical(written) == written


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({}, "no type"),
        ({"type": "any"}, "any"),
        (True, "not an object"),
        ({"type": "array", "items": True}, "#/items: the schema must be"),
        ({"type": "string", "minLength": -1}, "-1"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "maxLength"),
        ({"type": "array"}, "items"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "integer", "minimum": 2, "exclusiveMaximum": 2}, "greater than maximum (1)"),
        ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "no integer"),
        ({"type": "string", "not": {"const": "a"}}, "not"),
        ({"type": "integer", "multipleOf": 2}, "'multipleOf'"),
        ({"enum": []}, "none of its values"),
        ({"enum": ["a"], "type": "integer"}, "Unsatisfiable"),
        ({"enum": ["a\x1f", "\x7f"]}, "none of its values"),
        ({"anyOf": []}, "[]"),
        ({"$ref": "#/$defs/x"}, "/$defs/x"),
        (
            {"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"a": {"$ref": "#/$defs/x"}}, "required": ["a"]}}},
            "the shortest answer",
        ),
        ({"type": "object", "properties": {}, "required": ["a"]}, "a"),
        (
            {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "null", "if": {}}}}}},
            "#/properties/a/properties/b",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_by_place(schema: Any, word: str) -> None:
    with pytest.raises(InputError, match=re.escape(word)):
        Grammar.json(schema)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": {"type": "array", "items": schema, "minItems": 1}}, "required": ["a"]}
    return schema


def doubling(levels: int, leaf: dict[str, Any]) -> dict[str, Any]:
    """Two references a level: a small schema that is large once they are written out."""
    steps = {
        f"l{i}": {"type": "object", "properties": {name: {"$ref": f"#/$defs/l{i + 1}"} for name in "ab"}} for i in range(levels)
    }
    return {"$ref": "#/$defs/l0", "$defs": {**steps, f"l{levels}": leaf}}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("schema", "word"),
    [
        (nested(1000), "128 levels"),
        ({"type": "string", "minLength": 10**9}, "the shortest answer"),
        ({"type": "array", "items": {"type": "null"}, "minItems": 10**9}, "the shortest answer"),
        (
            {
                "type": "object",
                "properties": {name: {"type": "string", "minLength": 60_000} for name in "ab"},
                "required": ["a", "b"],
            },
            "the shortest answer",
        ),
        ({"type": "number", "minimum": 10**400}, "too large"),
        ({"type": "number", "exclusiveMaximum": 1e300}, "too large"),
        ({"type": "number", "minimum": float("-inf")}, "-inf"),
    ],
)
def test_a_schema_without_measure_is_refused_at_once(schema: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=re.escape(word)):
        Grammar.json(schema)


def test_large_schemas_that_people_have_are_kept() -> None:
    many = {f"field{i}": {"type": "string", "maxLength": 10**9} for i in range(250)}
    for schema in (
        {"type": "object", "properties": many, "required": list(many)},
        nested(31),
        {"enum": [f"product {i}" for i in range(2_000)]},
        {"type": "integer", "minimum": -(10**18), "maximum": 10**18},
        doubling(25, {"type": "boolean"}),
        {"$ref": "#/$defs/x", "$defs": {"x": {"type": "array", "items": {"$ref": "#/$defs/x"}}}},
    ):
        held = TokenGrammar(Grammar.json(schema), TABLE, lead="", limit=10_000)
        jsonschema_rs.validator_for(schema).validate(json.loads(held.read(held.ended([]))))
    text = json_text(dict.fromkeys(many, "x"))
    for required in (list(many), []):
        assert Grammar.json({"type": "object", "properties": many, "required": required}).accepts(text)


def test_what_the_library_keeps_to_may_be_asked_for() -> None:
    for schema, good, bad in (
        ({"type": "string", "pattern": "^a+$"}, '"aaa"', '"ab"'),
        ({"type": "string", "format": "date"}, '"2024-02-29"', '"2024-02"'),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, "null", "1"),
        ({"enum": ["a\x1f", "a\\u001f", "b"]}, '"a\\\\u001f"', '"a"'),
    ):
        grammar = Grammar.json(schema)
        assert grammar.accepts(good) and not grammar.accepts(bad)
        assert can_be_written(grammar, good) and not can_be_written(grammar, bad)


def test_a_tokenizer_without_bytes_is_refused() -> None:
    with pytest.raises(InputError, match="generation cannot be constrained with this tokenizer"):
        TokenTable(merging_tokenizer(), 300)
