"""What is measured after the test: noise and other formats, paid from the budget and safe from kills."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cycle_runs import journal_of, summary_of
from test_resume import KILLED, same_as

from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.diagnostics.allowance import FORMATS, NOISE
from cotune.prompt.prompt import Prompt

if TYPE_CHECKING:
    from conftest import Bench, Ended

BUDGET = "750ktok"
ROWS = ("limit.train=90", "limit.dev=40", "search.demonstrations=false")


@dataclass(frozen=True)
class Roomy:
    """A run whose budget has room for other formats, and whose winner is a tuned prompt that has some."""

    bench: Bench
    seed: int
    folder: Path

    def run(self, out: Path, *more: str, at: tuple[str, str, int] | None = None) -> Ended:
        return self.bench.run(out, *ROWS, *more, budget=BUDGET, seed=self.seed, at=at)


@pytest.fixture(scope="module")
def roomy(bench: Bench) -> Roomy:
    # A random model often does best with the bare input, which has no other format.
    for seed in range(5, 15):
        found = Roomy(bench, seed, bench.folder / f"measured-{seed}")
        ended = found.run(found.folder)
        assert ended.code == 0, ended.stderr
        if len(summary_of(found.folder)["robustness"].get("prompts", ())) == 8:
            assert "8 other formats on 40 dev rows" in ended.stdout and "answers flip" in ended.stdout
            return found
    raise AssertionError("no seed's winner has other formats")


@pytest.fixture(scope="module")
def measured(roomy: Roomy) -> Path:
    return roomy.folder


def after_the_test(folder: Path) -> list[dict[str, Any]]:
    events = journal_of(folder)
    last = max(place for place, event in enumerate(events) if event["kind"] == "arm")
    return events[last + 1 :]


def test_formats_are_scored_on_dev_after_the_test_and_paid_for(measured: Path) -> None:
    summary = summary_of(measured)
    found = summary["robustness"]
    winner = Prompt.from_json(summary["best"]["prompt"])
    formats = [Prompt.from_json(item) for item in found["prompts"]]
    assert found["n"] == 40 and len(formats) == len(found["base"]["scores"]) == len(found["tuned"]["scores"]) == 8
    assert len({p.id for p in formats} | {winner.id}) == 9
    events = after_the_test(measured)
    scored = [event["value"] for event in events if event["kind"] == "score"]
    chosen = next(event["value"]["chosen"] for event in journal_of(measured) if event["kind"] == "confirm")
    assert {(v["stage"], v["rows"], v["adapter_id"]) for v in scored} == {
        ("robustness", 40, "base"),
        ("robustness", 40, chosen["adapter_id"]),
    }
    kinds = [event["kind"] for event in events if event["kind"] != "score"]
    assert kinds == ["reference", "reference", "reference", "noise", "robustness", "slices", "cost", "done"]
    # All tokens count, and they are no more than their share of the budget.
    everything = sum(e["value"]["tokens"] for e in journal_of(measured) if e["kind"] in ("score", "noise"))
    assert summary["cost"]["tokens_scored"] == everything
    assert sum(v["tokens"] for v in scored) <= 1.05 * 0.05 * 600_000
    assert found["own"]["tuned"] == pytest.approx(summary["selection"]["dev"], abs=1e-6)


def test_noise_is_there_and_not_hidden_by_the_cache(measured: Path) -> None:
    noise = summary_of(measured)["noise"]
    assert noise["n"] == 40 and noise["batch_rows"] == [40, 3]
    (timed,) = [event["value"]["seconds"] for event in journal_of(measured) if event["kind"] == "noise"]
    assert "seconds" not in noise and timed > 0
    assert 0 < noise["mean"] < noise["largest"] <= noise["reach"] * 1.01 < 1e-3
    gains = summary_of(measured)["gains"]
    assert all(not gain["within_noise"] for gain in gains.values())


def test_killed_in_between(roomy: Roomy, measured: Path, tmp_path: Path) -> None:
    for at in (("torn line", "noise", 1), ("line", "noise", 1), ("pass", "robustness", 5), ("line", "robustness", 1)):
        killed = roomy.run(tmp_path / "run", at=at)
        assert killed.code == KILLED, f"{at}: {killed.stderr}"
    again = roomy.run(tmp_path / "run")
    assert again.code == 0, again.stderr
    same_as(measured, tmp_path / "run")


def test_formats_can_be_switched_off_and_are_not_put_aside_for_then(roomy: Roomy, measured: Path, tmp_path: Path) -> None:
    assert roomy.run(tmp_path / "run", "evaluate.robustness=false").code == 0
    assert summary_of(tmp_path / "run")["robustness"] == {"skipped": "evaluate.robustness is false"}
    reserved = [
        event["value"]["reserve"]
        for folder in (measured, tmp_path / "run")
        for event in journal_of(folder)
        if event["kind"] == "plan"
    ]
    assert 0 < reserved[0] - reserved[1] <= 1.06 * 0.048 * 750_000


def test_what_a_small_budget_leaves_unused_is_measured_with(bench: Bench, roomy: Roomy, tmp_path: Path) -> None:
    assert bench.run(tmp_path / "run", *ROWS, budget="150ktok", seed=roomy.seed).code == 0
    summary, events = summary_of(tmp_path / "run"), journal_of(tmp_path / "run")
    used = sum(
        event["value"]["tokens"] for event in events if event["kind"] == "score" and event["value"]["stage"] == "robustness"
    )
    assert summary["robustness"]["n"] >= 32 and used > FORMATS.share * 150_000
    assert summary["noise"]["n"] >= 16


def test_rows_follow_the_room_that_is_left() -> None:
    tokens = CostModel(parse_budget("1Mtok"), 1000.0, 500.0)
    assert FORMATS.rows(tokens, 300, 35, 60) == 84
    assert FORMATS.rows(tokens, 300, 20, 60) == 100
    assert FORMATS.rows(tokens, 70, 25, 60) == 70
    assert FORMATS.rows(tokens, 300, 60, 60) == 49
    assert FORMATS.rows(tokens, 300, 120, 60) == 0
    assert FORMATS.rows(tokens, 30, 5, 60) == 0
    assert FORMATS.rows(tokens, 300, 25, 60, left=20_000) == 47
    assert NOISE.rows(tokens, 300, 400, 400) == 0 and NOISE.rows(tokens, 300, 400, 400, left=100_000) == 30, "what is unused"
    assert NOISE.why_not(tokens, 300, 400, 400, 9_000.0) == "needs about 13,600 tokens, 9,000 tokens left"
    short = "needs about 13,600 tokens and may take 10,000 tokens of the 40,000 tokens left"
    assert NOISE.why_not(tokens, 300, 400, 400, 40_000.0) == short
    assert FORMATS.rows(tokens, 300, 25, 60, left=-5) == 0
    # Under a time budget the measured rate decides.
    timed = CostModel(parse_budget("10m"), 1000.0, 500.0)
    assert FORMATS.rows(timed, 300, 25, 60) == 69
    timed.score_rate = 400.0
    assert FORMATS.rows(timed, 300, 25, 60) == 0
    assert NOISE.rows(timed, 300, 25, 60) == 36
