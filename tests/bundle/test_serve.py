"""``cotune serve``: what it answers, to the real client of OpenAI and to plain HTTP, alone and to many at once."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bundles import LABELS, PROMPT, TEXTS, Bench
from servers import Client, running, texts

from cotune.bundle import Predictor, load_several
from cotune.bundle.serve.app import make_app
from cotune.bundle.serve.batcher import Batcher
from cotune.bundle.serve.exchange import Limits
from cotune.bundle.serve.openapi import openapi_document, operations
from cotune.bundle.serve.shelf import Shelf
from cotune.embed.text import TextEmbedder
from cotune.evaluate.decision import fit_bias
from cotune.prompt.prompt import Prompt
from cotune.task.values.output import Output

if TYPE_CHECKING:
    from openai import OpenAI

TWO = Prompt(input_template="{title}\n{body}", cue="Label:")


def bundles(bench: Bench, folder: Path) -> list[Predictor]:
    """One with an adapter, one of two fields, one of the base model; the rules of the first two make all answers common."""
    rows = [{"text": text, "title": text, "body": "x"} for text in texts(60)]
    rules = []
    for prompt, fields in ((PROMPT, ("text",)), (TWO, ("title", "body"))):
        part = [{name: row[name] for name in fields} for row in rows]
        scores = bench.model.score(prompt, part, LABELS, adapter=bench.adapter_id).log_probs
        rules.append(fit_bias(scores, np.full(len(LABELS), 1 / len(LABELS))))
    made = [
        bench.save(folder / "one", decision=rules[0]),
        bench.save(folder / "two", task_name="two/ fields", input_fields=("title", "body"), prompt=TWO, decision=rules[1]),
        bench.save(folder / "three", task_name="plain", adapter_folder=None),
    ]
    return load_several(made, device="cpu", dtype="float32", threads=1)


@pytest.fixture(scope="module")
def predictors(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> list[Predictor]:
    return bundles(bench, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def offline(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> list[Predictor]:
    """The same bundles, loaded apart, to compare with."""
    return bundles(bench, tmp_path_factory.mktemp("offline"))


@pytest.fixture(scope="module")
def server(predictors: list[Predictor]) -> Iterator[Client]:
    with running(predictors) as client:
        yield client


@pytest.fixture(scope="module")
def ai(server: Client) -> Iterator[OpenAI]:
    # Here, as it takes a second: every test process imports this file.
    from openai import OpenAI

    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_bundles_of_one_base_model_share_it(predictors: list[Predictor]) -> None:
    assert len({id(each.model) for each in predictors}) == 1
    assert [each.adapter_id == "base" for each in predictors] == [False, False, True]


def test_models_are_listed_with_parent_and_adapter(ai: OpenAI, server: Client, offline: list[Predictor]) -> None:
    from openai import NotFoundError

    listed = ai.models.list().data
    assert [model.id for model in listed] == [f"{each.task}@{each.bundle_id}" for each in offline] == list(server.models)
    for model, predictor in zip(listed, offline, strict=True):
        about = model.model_dump()
        assert (about["parent"], about["adapter"]) == ("tiny-base", predictor.adapter_id)
        assert (about["labels"], about["input_fields"]) == (list(LABELS), list(predictor.input_fields))
        assert ai.models.retrieve(model.id).id == model.id
    with pytest.raises(NotFoundError):
        ai.models.retrieve("other@0123")


def test_a_chat_is_answered_with_the_label(ai: OpenAI, server: Client, offline: list[Predictor]) -> None:
    for text in TEXTS:
        found = ai.chat.completions.create(
            model=server.models[0],
            messages=[
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "another one"},
                {"role": "assistant", "content": "person"},
                {"role": "user", "content": text},
            ],
            temperature=0.7,
            max_tokens=1,
        )
        assert [choice.message.content for choice in found.choices] == offline[0].predict(text)
        assert (found.object, found.model, found.choices[0].finish_reason) == ("chat.completion", server.models[0], "stop")
        (rendered,) = offline[0].model.renderer.render(offline[0].prompt, [{"text": text}], LABELS)
        assert found.usage is not None and found.usage.prompt_tokens == len(rendered.prompt_ids)
        assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_texts_may_come_in_parts_and_fields_as_json(ai: OpenAI, server: Client, offline: list[Predictor]) -> None:
    from openai import BadRequestError

    parts = [{"type": "text", "text": TEXTS[0][:5]}, {"type": "text", "text": TEXTS[0][5:]}]
    found = ai.chat.completions.create(model="questions", messages=[{"role": "user", "content": parts}])  # type: ignore[misc,list-item]
    assert found.choices[0].message.content == offline[0].predict(TEXTS[0])[0]
    row = {"title": "My card", "body": 12, "other": None}
    found = ai.chat.completions.create(model=server.models[1], messages=[{"role": "user", "content": json.dumps(row)}])
    assert found.choices[0].message.content == offline[1].predict(row)[0]
    with pytest.raises(BadRequestError, match="2 input fields"):
        ai.chat.completions.create(model=server.models[1], messages=[{"role": "user", "content": "My card"}])


@pytest.mark.parametrize("place", [0, 1])
def test_a_stream_says_the_same(ai: OpenAI, server: Client, offline: list[Predictor], place: int) -> None:
    row = {"title": "a", "body": "b"} if place else {"text": TEXTS[1]}
    content = json.dumps(row) if place else TEXTS[1]
    stream = ai.chat.completions.create(
        model=server.models[place],
        messages=[{"role": "user", "content": content}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    deltas = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(deltas) == offline[place].predict(row)[0]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices] == [None, None, "stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_logprobs_are_those_of_the_labels(ai: OpenAI, server: Client, offline: list[Predictor]) -> None:
    row = {"title": "My card", "body": "has not come"}
    (expected,) = offline[1].predict(row, probabilities=True)
    found = ai.chat.completions.create(
        model=server.models[1], messages=[{"role": "user", "content": json.dumps(row)}], logprobs=True, top_logprobs=3
    )
    logprobs = found.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    (token,) = logprobs.content
    ranked = sorted(expected.probabilities, key=lambda label: -expected.probabilities[label])
    assert token.token == expected.answer and [top.token for top in token.top_logprobs] == ranked[:3]
    shares = [np.exp(top.logprob) for top in token.top_logprobs]
    np.testing.assert_allclose(shares, [expected.probabilities[label] for label in ranked[:3]], rtol=1e-4)
    assert bytes(token.bytes or []).decode() == expected.answer


@pytest.mark.parametrize("coding", ["float", "base64", None])
def test_embeddings_are_those_of_the_base_model(
    ai: OpenAI, server: Client, offline: list[Predictor], coding: str | None
) -> None:
    expected = TextEmbedder(offline[0].model).embed(TEXTS)
    given = {} if coding is None else {"encoding_format": coding}
    for model in (server.models[0], "tiny-base"):
        found = ai.embeddings.create(model=model, input=TEXTS, **given)  # type: ignore[arg-type]
        vectors = [each.embedding for each in found.data]
        if coding == "base64":
            vectors = [np.frombuffer(base64.b64decode(vector), "<f4").tolist() for vector in vectors]  # type: ignore[arg-type]
        np.testing.assert_allclose(vectors, expected, atol=1e-4)
        assert [each.index for each in found.data] == list(range(len(TEXTS))) and found.usage.prompt_tokens > 0
    (one,) = ai.embeddings.create(model=server.models[2], input=TEXTS[0]).data
    np.testing.assert_allclose(one.embedding, expected[0], atol=1e-4)


def test_predict_takes_fields_and_gives_probabilities(server: Client, offline: list[Predictor]) -> None:
    (expected,) = offline[0].predict(TEXTS[0], probabilities=True)
    for path, body in (
        ("/predict", {"text": TEXTS[0], "bundle": server.models[0], "other": 1}),
        (f"/predict?bundle={server.models[0]}", {"text": TEXTS[0]}),
    ):
        found = server.ask(path, body).json
        assert (found["answer"], found["bundle"]) == (expected.answer, server.models[0])
        assert list(found["probabilities"]) == list(LABELS) and found["truncated"] is False
        np.testing.assert_allclose(list(found["probabilities"].values()), list(expected.probabilities.values()), atol=1e-5)
    long = "How tall is the tower? " * 200
    several = server.ask("/predict", {"bundle": "plain", "rows": [{"text": TEXTS[0]}, TEXTS[1], {"text": long}]}).json
    assert [row["answer"] for row in several["rows"]] == offline[2].predict([TEXTS[0], TEXTS[1], long])
    assert [row["truncated"] for row in several["rows"]] == [False, False, True]
    assert several["bundle"] == server.models[2]


def test_lists_and_objects_are_taken_as_predict_takes_them(server: Client, offline: list[Predictor]) -> None:
    rows: list[dict[str, Any]] = [{"text": ["How", "tall"]}, {"text": []}, {"text": {"a": [1, None]}}]
    shown = ["How, tall", "none", '{"a": [1, null]}']
    found = server.ask("/predict", {"bundle": "plain", "rows": rows}).json["rows"]
    for one, alone, expected in zip(found, rows, offline[2].predict(shown, probabilities=True), strict=True):
        single = server.ask("/predict", {"bundle": "plain", **alone}).json
        assert one["answer"] == single["answer"] == expected.answer
        np.testing.assert_allclose(list(one["probabilities"].values()), list(expected.probabilities.values()), atol=1e-5)


def test_many_clients_of_several_bundles_get_their_own_answers(server: Client, offline: list[Predictor]) -> None:
    """Kinds of requests mixed, all at once: each answer is the one that the bundle gives alone."""
    plain = texts(60)
    rows = [{"title": text, "body": f"{i}"} for i, text in enumerate(plain)]
    expected = [
        offline[0].predict(plain, probabilities=True),
        offline[1].predict(rows, probabilities=True),
        offline[2].predict(plain, probabilities=True),
    ]

    def ask(number: int) -> None:
        place, i = number % 3, number // 3
        row = rows[i] if place == 1 else {"text": plain[i]}
        if number % 2:
            found = server.ask("/predict", {"bundle": server.models[place], **row}).json
            shares = list(expected[place][i].probabilities.values())
            np.testing.assert_allclose(list(found["probabilities"].values()), shares, atol=1e-4)
            answer = found["answer"]
        else:
            content = json.dumps(row) if place == 1 else plain[i]
            body = {"model": server.models[place], "messages": [{"role": "user", "content": content}]}
            answer = server.ask("/v1/chat/completions", body).json["choices"][0]["message"]["content"]
        assert answer == expected[place][i].answer
        if number % 20 == 0:
            assert server.ask("/v1/embeddings", {"model": server.models[place], "input": plain[i]}).status == 200

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(180)))
    assert all(len({one.answer for one in each}) > 2 for each in expected[:2]), "else any answer would do"


def test_the_fixed_prompt_stays_resident_whatever_else_is_asked(server: Client, predictors: list[Predictor]) -> None:
    runner = predictors[0].model.runner  # type: ignore[attr-defined]
    ran: list[int] = []
    prefix = runner.prefix
    runner.prefix = lambda ids: ran.append(len(ids)) or prefix(ids)
    try:
        for text in texts(12, 100):
            for model, row in zip(server.models, ({"text": text}, {"title": text, "body": text}, {"text": text}), strict=True):
                assert server.ask("/predict", {"bundle": model, **row}).status == 200
    finally:
        del runner.prefix
    assert ran == []


def test_what_it_says_of_itself(server: Client, offline: list[Predictor]) -> None:
    assert server.ask("/health").json == {"status": "ok", "bundles": 3, "waiting": 0}
    document = server.ask("/openapi.json").json
    assert document["openapi"].startswith("3.1") and set(document["paths"]) >= {"/predict", "/v1/chat/completions"}
    assert not document["paths"]["/predict"]["post"]["parameters"][0]["required"], "the bundle may be named in the body"
    rows = document["components"]["schemas"]
    assert set(rows["Row2"]["properties"]) == {"title", "body"} and rows["Row2"]["required"] == ["title", "body"]
    start = server.ask("/")
    assert start.status == 307 and start.headers["location"] == "docs", "a browser at the printed address is sent to the page"
    page = server.ask("/docs")
    assert page.headers["content-type"].startswith("text/html") and "<script" not in page.text and "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "several under <code>rows</code>." in page.text and "`" not in page.text.partition("<h2>Schemas")[0]
    assert all(path in page.text for path in document["paths"]) and all(name in page.text for name in rows)


def references(part: Any) -> set[str]:
    """Names of the schemas that a part of the document refers to."""
    if isinstance(part, list):
        return set().union(*map(references, part))
    if not isinstance(part, dict):
        return set()
    here = {part["$ref"].removeprefix("#/components/schemas/")} if "$ref" in part else set()
    return here.union(*map(references, part.values()))


def test_the_document_tells_of_every_path_that_is_answered_and_of_no_other(server: Client) -> None:
    document = server.ask("/openapi.json").json
    for path, methods in document["paths"].items():
        asked = path.format(model=server.models[0])
        for method, about in methods.items():
            # An empty body is none that any path takes.
            reply = server.ask(asked, method=method.upper())
            assert reply.status == (200 if method == "get" else 400), path
            assert reply.headers["content-type"] in about["responses"][str(reply.status)]["content"]
            assert ("requestBody" in about) == (method == "post")
        refused = server.ask(asked, {}, method="PUT")
        assert refused.status == 405 and set(refused.headers["allow"].lower().split(", ")) - {"head"} == set(methods)
    operations = [about["operationId"] for methods in document["paths"].values() for about in methods.values()]
    assert len(operations) == len(set(operations)) == 6
    assert references(document) == set(document["components"]["schemas"]), "all that is named is there, and nothing else"


def test_every_route_stands_in_the_document(predictors: list[Predictor]) -> None:
    shelf, batcher = Shelf(predictors), Batcher()
    try:
        guard: Any = make_app(shelf, batcher, Limits(), address="http://here", port=1, loopback=True, names=(), token=None)
    finally:
        batcher.close()
    told = openapi_document(operations(shelf), shelf, Limits(), token=False)["paths"]
    routed = {(route.path_format, method.lower()) for route in guard._app.routes for method in route.methods - {"HEAD"}}
    pages = {("/openapi.json", "get"), ("/docs", "get"), ("/", "get")}
    assert routed - pages == {(path, method) for path in told for method in told[path]}


def test_a_bundle_that_writes_answers_as_it_predicts(bench: Bench, tmp_path: Path) -> None:
    output = Output("json", schema_text='{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    prompt = PROMPT.edit(instruction="Answer with JSON.", label_words=(), demonstrations=())
    made = bench.save(tmp_path / "best", output=output, prompt=prompt, metric="json_f1", answer_tokens=24)
    (predictor,) = load_several([made], device="cpu", dtype="float32", threads=1)
    wanted = predictor.predict(TEXTS[:2])
    assert all(isinstance(json.loads(answer)["n"], int) for answer in wanted)
    with running([predictor]) as client:
        rows = client.ask("/predict", {"rows": TEXTS[:2]}).json["rows"]
        assert [row["answer"] for row in rows] == wanted and rows[0]["probabilities"] == {}
        chat = {"model": client.models[0], "messages": [{"role": "user", "content": TEXTS[0]}]}
        reply = client.ask("/v1/chat/completions", {**chat, "response_format": {"type": "json_object"}})
        assert reply.status == 200 and reply.json["choices"][0]["message"]["content"] == wanted[0]
        assert client.ask("/v1/chat/completions", {**chat, "logprobs": True}).json["error"]["param"] == "logprobs"
        assert client.ask("/v1/models").json["data"][0]["labels"] == []
