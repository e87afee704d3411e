"""``cotune serve`` with bundles that write: what they say of themselves, typed values, answers that were cut, and draws."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bundles import Bench
from servers import Client, running, texts

from cotune.bundle import Predictor, load_several
from cotune.bundle.serve.work import Draw, Drawing
from cotune.model.base import Sampling
from cotune.prompt.prompt import Prompt
from cotune.task.values.output import Output

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "who": {"enum": ["a", "b"]}, "ok": {"type": "boolean"}},
    "required": ["n", "who", "ok"],
    "additionalProperties": False,
}
JSON, NUMBER, TEXT, LABEL = range(4)
KINDS: tuple[dict[str, Any], ...] = (
    {"output": Output("json", schema_text=json.dumps(SCHEMA)), "metric": "json_f1", "answer_tokens": 60},
    {"output": Output("number", schema_text='{"type": "number"}'), "metric": "accuracy", "answer_tokens": 12},
    {"output": Output("text"), "metric": "token_f1", "answer_tokens": 6},
)


def made(bench: Bench, folder: Path) -> list[Predictor]:
    written = [
        bench.save(
            folder / (name := kind["output"].type), task_name=name, prompt=Prompt(f"Write {name}.", "{text}", "Answer:"), **kind
        )
        for kind in KINDS
    ]
    return load_several([*written, bench.save(folder / "label", task_name="label")], device="cpu", dtype="float32", threads=1)


@pytest.fixture(scope="module")
def offline(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> list[Predictor]:
    return made(bench, tmp_path_factory.mktemp("offline"))


@pytest.fixture(scope="module")
def server(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running(made(bench, tmp_path_factory.mktemp("served"))) as client:
        yield client


def said(server: Client, place: int, text: str, **more: Any) -> Any:
    body = {"model": server.models[place], "messages": [{"role": "user", "content": text}], **more}
    reply = server.ask("/v1/chat/completions", body)
    assert reply.status == 200, reply.text
    return reply.json["choices"][0]


def drawn(offline: list[Predictor], text: str, temperature: float, seed: int) -> str:
    (one,) = offline[TEXT].answers([{"text": text}], sampling=Sampling(temperature, seed))
    return one.answer


def test_a_model_says_what_it_answers_with(server: Client) -> None:
    cards = server.ask("/v1/models").json["data"]
    assert [card["output"]["type"] for card in cards] == ["json", "number", "text", "label"]
    assert [card["output"]["schema"] for card in cards] == [SCHEMA, {"type": "number"}, None, None]
    assert [len(card["labels"]) for card in cards] == [0, 0, 0, 4]
    assert server.ask(f"/v1/models/{server.models[JSON]}").json == cards[JSON]


def test_values_have_their_type(server: Client, offline: list[Predictor]) -> None:
    rows = texts(12)
    for place in range(4):
        found = server.ask("/predict", {"bundle": server.models[place], "rows": rows}).json["rows"]
        assert [row["answer"] for row in found] == offline[place].predict(rows)
        read = json.loads if place in (JSON, NUMBER) else str
        assert [row["value"] for row in found] == [read(row["answer"]) for row in found]
    single = server.ask("/predict", {"bundle": server.models[JSON], "text": rows[0]}).json
    assert single["value"].keys() == SCHEMA["properties"].keys() and single["value"] == json.loads(single["answer"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("number", "12", 12),
        ("number", "-0.5", -0.5),
        ("number", "1E+400", None),
        ("number", "none", None),
        ("json", '{"a": [1, null]}', {"a": [1, None]}),
        ("json", "[1e999]", None),
        ("json", "[" * 400 + "]" * 400, None),
        ("json", '{"a": ', None),
        ("text", "12", "12"),
    ],
)
def test_an_answer_without_a_value_in_json_has_none(kind: Any, text: str, value: Any) -> None:
    from cotune.bundle.predictor import Prediction
    from cotune.bundle.serve.predict import row_answer
    from cotune.bundle.serve.work import Answered

    found = row_answer(Answered(Prediction(text, {}, False), 1, 1), Output(kind, schema_text="" if kind == "text" else "{}"))
    assert json.loads(found.model_dump_json())["value"] == value
    assert type(found.value) is type(value)


def test_a_cut_answer_says_so(server: Client, offline: list[Predictor]) -> None:
    seen = set()
    for place in (JSON, NUMBER, TEXT, LABEL):
        for text in texts(8):
            (wanted,) = offline[place].predict(text, probabilities=True)
            ended = wanted.ended
            seen.add((place, ended))
            assert said(server, place, text)["finish_reason"] == ("stop" if ended else "length")
            assert server.ask("/predict", {"bundle": server.models[place], "text": text}).json["ended"] is ended
    assert (TEXT, False) in seen and {(JSON, True), (LABEL, True)} <= seen, "else one answer for all would do"
    body = {"model": server.models[TEXT], "messages": [{"role": "user", "content": texts(1)[0]}], "stream": True}
    assert '"finish_reason": "length"' in server.ask("/v1/chat/completions", body).text


def test_a_text_is_drawn_where_a_temperature_is_asked_for(server: Client, offline: list[Predictor]) -> None:
    import openai

    (text,) = texts(1)
    (greedy,) = offline[TEXT].predict(text)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as ai:

        def ask(place: int = TEXT, **given: Any) -> str | None:
            messages: Any = [{"role": "user", "content": text}]
            return ai.chat.completions.create(model=server.models[place], messages=messages, **given).choices[0].message.content

        assert ask() == ask(temperature=0, seed=3) == ask(seed=3) == ask(temperature=1e-9, seed=3) == greedy
        ways = [ask(temperature=1.0, seed=seed) for seed in range(6)]
        assert ways == [drawn(offline, text, 1.0, seed) for seed in range(6)] and len(set(ways)) > 3
        assert ask(temperature=1.0, seed=-1) == ask(temperature=1.0, seed=-1)
        assert len({ask(temperature=1.0) for _ in range(6)}) > 3, "without a seed each draw is its own"
        for place in (JSON, NUMBER, LABEL):
            assert ask(place, temperature=1.5, seed=1) == offline[place].predict(text)[0]
        with pytest.raises(openai.BadRequestError, match="temperature"):
            ask(temperature=3)


def test_draws_that_run_together_come_back_in_their_order(offline: list[Predictor]) -> None:
    asked = [("who?", 1), ("where?", 2), ("is it?", 1), ("who?", 2), ("who?", None), ("who?", 1)]
    found = Drawing(offline[TEXT]).run([Draw({"text": text}, 1.0, seed) for text, seed in asked])
    for one, (text, seed) in zip(found, asked, strict=True):
        assert seed is None or one.prediction.answer == drawn(offline, text, 1.0, seed)
    assert len({one.prediction.answer for one in found}) == 5


def test_equal_requests_at_once_are_drawn_apart(server: Client) -> None:
    with ThreadPoolExecutor(12) as pool:
        ways = list(pool.map(lambda _: said(server, TEXT, "who?", temperature=1.2)["message"]["content"], range(24)))
    assert len(set(ways)) > 12


def test_many_clients_of_bundles_that_write_get_their_own_answers(server: Client, offline: list[Predictor]) -> None:
    """Types and ways of asking mixed, all at once: each answer is the one that the bundle gives alone."""
    plain = texts(24)
    expected = [predictor.predict(plain) for predictor in offline]
    seeded = [drawn(offline, text, 0.8, i) for i, text in enumerate(plain)]

    def ask(number: int) -> None:
        i, place = divmod(number, 5)
        if place == 4:
            assert said(server, TEXT, plain[i], temperature=0.8, seed=i)["message"]["content"] == seeded[i]
        elif i % 2:
            found = server.ask("/predict", {"bundle": server.models[place], "text": plain[i]}).json
            assert found["answer"] == expected[place][i]
        else:
            assert said(server, place, plain[i])["message"]["content"] == expected[place][i]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(120)))
    assert all(len(set(each)) > 2 for each in expected[:3]), "else any answer would do"
