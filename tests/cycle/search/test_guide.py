"""Runs with a language model that rewrites instructions: a real server of the tests' own, in every mood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import journal_of, of_kind, summary_of, without_times

from chat_server import Handler, Reply, chat_server, hang, say, send, torn
from cotune.prompt.prompt import Prompt
from cotune.refine.rewriting import ANSWER_SCHEMA

if TYPE_CHECKING:
    from conftest import Bench

KILLED = -9
BRIEF = ("tune.max_epochs=1", "limit.train=50", "search.max_cycles=2")
"""For tests of what is proposed, to which tuning matters little; the second cycle is the first that asks."""
WISE = ("Name the kind of thing that is meant.", "Think of what the first word stands for.", "Decide between {labels}.")


def settings(url: str, *more: str) -> tuple[str, ...]:
    return f"proposer.base_url={url}", "proposer.model=writer", "proposer.timeout=20", *more


def proposed(folder: Path, source: str) -> list[dict[str, Any]]:
    return [p for pool in of_kind(folder, "pool") for p in pool["proposals"] if p["source"] == source]


def good() -> Reply:
    return say(*WISE, "Tools, fruit and animals: {text}", tokens=321)


@pytest.fixture(scope="module")
def guided(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], tuple[str, ...]]:
    """A whole run whose proposer answers well, what the server saw, and the settings."""
    out = tmp_path_factory.mktemp("guided") / "run"
    with chat_server(good()) as server:
        asked = settings(server.url)
        ended = bench.run(out, *asked)
        assert ended.code == 0, ended.stderr
        return out, list(server.seen), asked


def test_rewrites_enter_the_pool_and_the_race(guided: tuple[Path, list[dict[str, Any]], tuple[str, ...]]) -> None:
    out, seen, _ = guided
    rewrites = of_kind(out, "rewrite")
    assert rewrites and len(seen) == sum(value["requests"] for value in rewrites)
    first = rewrites[0]
    assert first["tokens"] == 321 and "failed" not in first
    assert [Prompt.from_json(p["prompt"]).instruction for p in first["proposals"]] == list(WISE)
    assert "more often" in first["refused"][0]["why"]
    pool = next(value for value in of_kind(out, "pool") if value["cycle"] == first["cycle"])
    ids = [Prompt.from_json(p["prompt"]).id for p in pool["proposals"] if p["source"] == "rewrite"]
    assert ids == [Prompt.from_json(p["prompt"]).id for p in first["proposals"]]
    race = next(value for value in of_kind(out, "race") if value["cycle"] == first["cycle"])
    assert set(ids) <= set(race["ranking"])
    parents = {parent for p in first["proposals"] for parent in p["parents"]}
    tuned = {value["prompt_id"] for value in of_kind(out, "tuned")}
    assert parents <= tuned
    # A second answer that says the same is no news.
    assert all(not value.get("proposals") or value is first for value in rewrites)


def test_the_question_holds_dev_failures_and_no_row_of_the_test(
    guided: tuple[Path, list[dict[str, Any]], tuple[str, ...]],
) -> None:
    out, seen, _ = guided
    text = seen[0]["body"]["messages"][1]["content"]
    assert "Rows that it gets wrong" in text
    rows = json.loads((out / "test_rows.json").read_text())["rows"]
    sent = json.dumps([request["body"] for request in seen])
    assert not any(value in sent for row in rows for value in row["input"].values())


def test_the_budget_is_kept_and_the_page_tells(guided: tuple[Path, list[dict[str, Any]], tuple[str, ...]]) -> None:
    out, _, _ = guided
    spent = sum(summary_of(out)["cost"][f"tokens_{what}"] for what in ("scored", "trained", "embedded"))
    assert spent <= 1.05 * 60_000
    page = (out / "report.html").read_text()
    assert not (out / "report-error.txt").exists()
    assert "Rewriting by" in page and WISE[0] in page


def test_a_resumed_run_asks_for_nothing_twice(
    bench: Bench, guided: tuple[Path, list[dict[str, Any]], tuple[str, ...]], tmp_path: Path
) -> None:
    whole, seen, asked = guided
    out = tmp_path / "run"
    port = int(asked[0].rpartition(":")[2].partition("/")[0])
    with chat_server(good(), port=port) as server:
        # Before, between and after: counts are those of a session.
        for at in (("line", "slices", 1), ("line", "rewrite", 1), ("line", "train", 2)):
            assert bench.run(out, *asked, at=at).code == KILLED, at
        assert bench.run(out, *asked).code == 0
        assert len(server.seen) == len(seen)
    assert summary_of(out) == summary_of(whole)
    assert without_times(journal_of(out)) == without_times(journal_of(whole))


@pytest.mark.parametrize(
    ("reply", "more", "told"),
    [
        (torn, (), "the connection broke"),
        (hang, ("proposer.timeout=0.5",), "no answer within"),
        (send(401, b"no such user"), (), "401: no such user"),
        (send(200, b'{"choices": [{"message": {"content": "I would rather not."}}]}'), (), "holds no list"),
    ],
    ids=["torn", "never", "refused", "talk"],
)
def test_a_run_goes_on_without_answers(bench: Bench, tmp_path: Path, reply: Reply, more: tuple[str, ...], told: str) -> None:
    out = tmp_path / "run"
    with chat_server(reply) as server:
        ended = bench.run(out, *settings(server.url, *BRIEF, *more))
    assert ended.code == 0, ended.stderr
    failed = of_kind(out, "rewrite")[0]
    assert told in failed["failed"]
    if reply in (torn, hang):
        # Nobody knows how much was written: each lost try counts as the longest answer.
        assert failed["tokens"] > 1500 * failed["requests"] > 0
    assert not proposed(out, "rewrite") and len(of_kind(out, "pool")) >= 2
    assert told.split(":")[0] in (out / "report.html").read_text()
    assert "the proposer returned nothing" in ended.stdout + ended.stderr


def test_a_schema_is_asked_for_and_what_the_server_refused_is_not_asked_again(bench: Bench, tmp_path: Path) -> None:
    def picky(handler: Handler) -> None:
        wanted = (handler.request_body.get("response_format") or {}).get("type")
        (send(400, b"response_format: no") if wanted == "json_schema" else good())(handler)

    out = tmp_path / "run"
    with chat_server(picky) as server:
        assert bench.run(out, *settings(server.url, *BRIEF)).code == 0
        formats = [request["body"].get("response_format") for request in server.seen]
    assert formats[0]["json_schema"]["schema"] == ANSWER_SCHEMA
    assert [wanted["type"] for wanted in formats] == ["json_schema"] * 2 + ["json_object"] * (len(formats) - 2)
    rewrites = [value for value in of_kind(out, "rewrite") if value["requests"]]
    assert [value["requests"] for value in rewrites] == [3, *[1] * (len(rewrites) - 1)]
    assert rewrites[0]["way"]["form"] == "inside" and rewrites[0]["proposals"]


def test_a_spent_proposer_budget_is_told(bench: Bench, tmp_path: Path) -> None:
    with chat_server(good()) as server:
        assert (
            bench.run(tmp_path / "run", *settings(server.url, "proposer.tokens=300"), at=("line", "rewrite", 1)).code == KILLED
        )
        assert not server.seen
    assert "proposer.tokens=300" in of_kind(tmp_path / "run", "rewrite")[0]["skipped"]


def test_a_missing_key_is_told_before_anything_is_written(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = bench.run(out, *settings("http://127.0.0.1:9/v1", "proposer.key_env=COTUNE_TEST_NO_SUCH_KEY"))
    assert ended.code == 2
    assert "COTUNE_TEST_NO_SUCH_KEY" in ended.stderr and "Traceback" not in ended.stderr
    assert not out.exists()


def test_a_run_that_goes_on_without_the_key_is_left_as_it_is(
    bench: Bench, guided: tuple[Path, list[dict[str, Any]], tuple[str, ...]], tmp_path: Path
) -> None:
    finished, _, asked = guided
    out, no_key = tmp_path / "run", "proposer.key_env=COTUNE_TEST_NO_SUCH_KEY"
    assert bench.run(out, *asked, at=("line", "race", 1)).code == KILLED
    before = (out / "journal.jsonl").read_bytes()
    ended = bench.run(out, *asked, no_key)
    assert ended.code == 2 and "COTUNE_TEST_NO_SUCH_KEY" in ended.stderr
    assert (out / "journal.jsonl").read_bytes() == before
    # What has ended asks nobody any more.
    assert bench.run(finished, *asked, no_key).code == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("proposer.model=smollm2-135m",), "serve the model"),
        (("proposer.base_url=http://127.0.0.1:9/v1",), "base_url needs model"),
        (("proposer.key_env=KEY",), "key_env has no effect without base_url"),
    ],
)
def test_a_proposer_that_cannot_be_had_is_told_before_anything_is_run(
    bench: Bench, tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    ended = bench.run(tmp_path / "run", *given)
    assert ended.code == 2 and said in ended.stderr
    assert not (tmp_path / "run").exists()
