"""What is measured after the test may fail, and the run goes on; a broken journal still ends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cycle_runs import journal_of
from test_slicing import judged, make_lab

from cotune.config.task import Task
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.candidate import Candidate, Own
from cotune.cycle.context import RunContext
from cotune.cycle.diagnostics.slices import measure_slices
from cotune.cycle.diagnostics.stability import measure_noise, measure_robustness
from cotune.cycle.journal import Journal, attempt
from cotune.cycle.progress import Quiet
from cotune.cycle.search.arms import Confirmed
from cotune.cycle.search.measured import Measured
from cotune.embed import TextEmbedder
from cotune.errors import CotuneError, InputError
from cotune.evaluate.decision import RAW, Decision
from cotune.evaluate.scoring import finite
from cotune.model.adapters.slots import BASE
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.task.values.output import Output
from cotune.tune.settings import TuneSettings
from tiny import tiny_local


def confirmed(context: RunContext) -> Confirmed:
    """A winner that counts as tuned; the base model stands in for its weights."""
    base = judged(context, "Which kind is it?\nOne of: {labels}")
    winner = Measured(Candidate(base.candidate.prompt, "tuned", RAW, 4), base.evaluation, base.scores)
    return Confirmed({"best_prompt": base, "best_tuned": winner}, [base, winner], winner)


def failing_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Scoring works so many times, for whatever adapter, then memory runs out."""
    real, done = LocalModel.score, [0]

    def score(self: LocalModel, *given: Any, adapter: str = "base", **more: Any) -> Any:
        done[0] += 1
        if done[0] > calls:
            raise RuntimeError("not enough memory")
        return real(self, *given, **more)

    monkeypatch.setattr(LocalModel, "score", score)


def test_a_failure_in_the_middle_is_recorded_and_a_run_that_goes_on_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_lab(tmp_path)
    failing_after(monkeypatch, 3)
    told = measure_robustness(context, confirmed(context))
    assert told == {"skipped": "it failed (RuntimeError: not enough memory)"}
    assert [event["kind"] for event in journal_of(tmp_path)] == ["score", "score", "score", "robustness"]
    # The next session has memory enough, and must still end where the first one did.
    monkeypatch.undo()
    failing_after(monkeypatch, 1000)
    again = make_lab(tmp_path)
    assert measure_robustness(again, confirmed(again)) == told
    assert not again.journal.broken and again.spending.account.counts == context.spending.account.counts
    assert len(journal_of(tmp_path)) == 4


def test_the_prompt_as_it_is_stands_beside_its_formats_by_a_rule_made_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_after(monkeypatch, 1000)
    context = make_lab(tmp_path, "80ktok")
    prompt = Prompt("Which kind is it?\nOne of: {labels}", "{text}")
    scores = context.answers.scores(prompt, BASE, context.dev, "confirm")
    # What the run chose on all rows is right for none of those that the formats meet.
    chosen = Decision("bias", tuple(50.0 * (label == context.task.labels[0]) for label in context.task.labels))
    base, tuned = (
        Measured(Candidate(prompt, adapter, chosen, 4), context.answers.judge(scores, context.dev, chosen), scores)
        for adapter in (BASE, "tuned")
    )
    found = measure_robustness(context, Confirmed({"best_prompt": base, "best_tuned": tuned}, [base, tuned], tuned))
    rows = context.dev[: found["n"]]
    alike = finite(context.answers.judge(scores[: len(rows)], rows, context.answers.bias(scores[: len(rows)])).score)
    assert 32 <= len(rows) < len(context.dev)
    assert found["own"] == {"base": alike, "tuned": alike}
    assert alike != context.answers.judge(scores[: len(rows)], rows, chosen).score


def test_formats_of_a_prompt_whose_untuned_answers_were_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"q": f"row {i}", "a": {"n": i + 1000}} for i in range(200)]
    task = Task.from_rows(rows, input="q", output="a", type="json", limit={"dev": 40})
    costs = CostModel(parse_budget("3Mtok"), 1.0, 1.0)
    context = RunContext(task, tiny_local(), Journal(tmp_path), costs, tmp_path, TuneSettings(), 0, Quiet())
    for name in ("generate", "answer_losses"):
        # The base model stands in for the tuned weights.
        real = getattr(LocalModel, name)
        monkeypatch.setattr(LocalModel, name, lambda *a, real=real, **more: real(*a, **{**more, "adapter": BASE}))
    prompt = Prompt("What is it?", "{q}")
    given = {BASE: context.answers.scores(prompt, BASE, context.dev, "confirm", answers=False)}
    given["tuned"] = context.answers.scores(prompt, "tuned", context.dev, "confirm")
    base, tuned = (
        Measured(Candidate(prompt, adapter, RAW, 4), context.answers.judge(given[adapter], context.dev, RAW), given[adapter])
        for adapter in (BASE, "tuned")
    )
    found = measure_robustness(context, Confirmed({"best_prompt": base, "best_tuned": tuned}, [base, tuned], tuned))
    assert found["n"] == 40 and len(found["base"]["scores"]) == 8
    assert found["own"]["base"] is None and 0 <= found["own"]["tuned"] <= 1


def test_formats_are_not_compared_where_nothing_is_tuned(tmp_path: Path) -> None:
    context = make_lab(tmp_path)
    frozen = confirmed(context).chosen
    alike = Confirmed({"best_prompt": frozen, "best_tuned": frozen}, [frozen], frozen)
    assert "nothing is tuned in the winner" in measure_robustness(context, alike)["skipped"]


def test_formats_of_an_earlier_bundle_with_the_labels_of_the_task_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_after(monkeypatch, 1000)
    context = make_lab(tmp_path)
    prompt = Prompt("Which kind is it?\nOne of: {labels}", "{text}")
    scores = context.answers.scores(prompt, BASE, context.dev, "confirm")
    base, earlier = (
        Measured(Candidate(prompt, adapter, RAW, 4, own), context.answers.judge(scores, context.dev, RAW), scores)
        for adapter, own in ((BASE, None), ("tuned", Own(context.task.output)))
    )
    found = measure_robustness(context, Confirmed({"best_prompt": base, "best_tuned": earlier}, [earlier], earlier))
    assert "skipped" not in found and len(found["tuned"]["scores"]) == len(found["prompts"]) > 1


def test_formats_of_an_earlier_bundle_with_other_labels_are_not_scored(tmp_path: Path) -> None:
    """The base model answers with the labels of the task, which the bundle does not know."""
    context = make_lab(tmp_path)
    both = confirmed(context)
    own = Own(Output("label", ("fruit", "animal")))
    earlier = replace(both.chosen, candidate=replace(both.chosen.candidate, own=own))
    found = measure_robustness(context, Confirmed({**both.arms, "best_tuned": earlier}, [earlier], earlier))
    assert "unchanged earlier bundle" in found["skipped"]
    assert "score" not in [event["kind"] for event in journal_of(tmp_path)]


def test_what_no_journal_can_hold_is_a_failure_too(tmp_path: Path) -> None:
    assert "not JSON" in attempt(Journal(tmp_path), lambda: {"score": float("nan")})["skipped"]


def test_noise_and_slices_that_fail_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_lab(tmp_path)
    failing_after(monkeypatch, 0)
    assert "not enough memory" in measure_noise(context, confirmed(context))["skipped"]

    def failing(*_: object) -> None:
        raise RuntimeError("no more")

    monkeypatch.setattr(TextEmbedder, "embed", failing)
    found = measure_slices(context, judged(context))
    assert found["skipped"] == "it failed (RuntimeError: no more)" and found["tokens"] == 0


def test_a_broken_journal_ends_the_run(tmp_path: Path) -> None:
    Journal(tmp_path).step("score", "one", lambda: 1)
    journal = Journal(tmp_path)
    with pytest.raises(CotuneError, match="records a step"):
        attempt(journal, lambda: {"found": journal.step("score", "another", lambda: 2)})
    gone = Journal(tmp_path / "no" / "folder")
    with pytest.raises(InputError, match="cannot write"):
        attempt(gone, lambda: {"found": gone.step("score", "one", lambda: 2)})
    assert attempt(Journal(tmp_path), lambda: {"found": 1}) == {"found": 1}
    with pytest.raises(KeyboardInterrupt):
        attempt(Journal(tmp_path), interrupted)


def interrupted() -> dict[str, Any]:
    raise KeyboardInterrupt
