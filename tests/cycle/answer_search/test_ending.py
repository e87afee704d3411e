"""What the end costs: known as soon as it was measured, so that a run spends its budget and never more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from cycle_runs import journal_of, labelled_rows, summary_of
from hypothesis import given
from hypothesis import strategies as st
from test_trial import measured

from cotune.config import RunConfig, config_in_memory
from cotune.config.task import Task
from cotune.cycle.answer_search.ending import EndCosts
from cotune.cycle.answer_search.heuristics import HEURISTICS
from cotune.cycle.answer_search.plan import Plan
from cotune.cycle.answer_search.state import Search
from cotune.cycle.answer_search.steps import SPENT, StepPolicy
from cotune.cycle.answer_search.trial import Trial, advance, decay_steps, finish, open_trial
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.budget.reserve import spent_to
from cotune.cycle.budget.row_costs import RowCosts
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Quiet
from cotune.cycle.run import run as run_cycle
from cotune.cycle.search.measured import CALIBRATION_ROWS
from cotune.model.adapters.slots import BASE
from cotune.prompt.bank import seed_prompt
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.tune.settings import TuneSettings
from tiny import tiny_local

if TYPE_CHECKING:
    from conftest import Bench

CONFIG = config_in_memory(name="ends", input=["text"], output="label")
WORDS = {"apple": "fruit", "cat": "animal", "saw": "tool", "cow": "animal", "pear": "fruit"}


def written_rows(count: int) -> list[dict[str, Any]]:
    words = list(WORDS)
    return [
        {"text": f"{words[i % 5]} {i} {words[i % 5]}", "label": {"kind": WORDS[words[i % 5]], "size": i + 1000}}
        for i in range(count)
    ]


def lab_in(folder: Path, budget: str = "10Mtok", *, written: bool = False) -> RunContext:
    limit = {"test": 24, "dev": 40}
    rows = written_rows(160) if written else labelled_rows(160)
    task = Task.from_rows(rows, input="text", output="label", type="json" if written else None, limit=limit)
    return RunContext(
        task, tiny_local(), Journal(folder), CostModel(parse_budget(budget), 1.0, 1.0), folder, TuneSettings(), 0, Quiet()
    )


def prompts_of(context: RunContext) -> tuple[Prompt, Prompt, Prompt]:
    long = Prompt("Which kind is this? " * 3 + "Say one of {labels}.", "Here it is: {text}", "Kind:")
    return seed_prompt(context.task), long, Prompt("", "{text} is called", "")


def end_of(context: RunContext, config: RunConfig = CONFIG) -> EndCosts:
    return EndCosts(context, config)


def test_every_arm_counts_until_the_base_model_is_measured_and_then_those_that_are_no_doubles(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    seed, long, bare = prompts_of(context)
    end, test, dev = end_of(context), context.task.test.n, len(context.dev)

    def rows(*asked: Prompt) -> float:
        return sum(map(context.spending.rows.scored, asked))

    def cost(chosen: Prompt, **more: Any) -> float:
        return end.cost(seed, chosen, aside="least", **more) / HEURISTICS.end_care

    least = min(CALIBRATION_ROWS, len(context.task.train))
    assert cost(long, new=True) == pytest.approx(
        (dev + least) * rows(seed, seed, seed, long) + test * rows(seed, seed, long, seed, long)
    )
    end.look(seed, [long, bare])
    only = end._only
    assert only in (seed, long, bare)
    other = next(prompt for prompt in (long, bare) if prompt is not only)
    known = dict.fromkeys([seed, only])
    assert cost(seed, alone=True) == pytest.approx(test * rows(*known, seed))
    assert cost(other) == pytest.approx(test * rows(*dict.fromkeys([*known, other]), seed, other))
    assert cost(other, new=True) == pytest.approx(test * rows(*known, other, seed, other) + (dev + least) * rows(other))
    # Confirming finds what was measured, and pays nothing for it.
    before = context.spending.account.tokens
    end.look(seed, [long, bare])
    assert context.spending.account.tokens == before > 0


def test_an_answer_is_as_long_as_it_was_seen_to_be(tmp_path: Path) -> None:
    context = lab_in(tmp_path, written=True)
    seed, long, bare = prompts_of(context)
    rows = context.spending.rows
    guessed, usual = context.answering.answer_tokens(tuned=False), context.answering.answer_tokens(tuned=True)
    assert rows.answer_tokens(seed, tuned=False) == guessed > usual == rows.answer_tokens(seed, tuned=True)
    rows.saw_writing(seed, BASE, 10, 30)
    rows.saw_writing(long, BASE, 10, 400)
    assert rows.knows_answers(seed) and not rows.knows_answers(bare)
    assert [rows.answer_tokens(prompt, tuned=False) for prompt in (seed, long, bare)] == [3.0, 40.0, 40.0]
    assert rows.answer_tokens(seed, tuned=False, new=True) == 40.0
    rows.saw_writing(seed, "tuned", 10, 1)
    assert rows.answer_tokens(long, tuned=True) == usual, "more steps make answers as long as right ones"
    rows.saw_writing(seed, "tuned", 10, 990)
    assert rows.answer_tokens(long, tuned=True) == 99.0
    assert rows.written(long, tuned=False) == 40.0 and rows.written(long, tuned=False, apart=True) > 40.0
    idle = RowCosts(context.answering, context.spending.costs, context.train_sample, writes=False)
    assert idle.written(long, tuned=False) == 0.0


def test_the_answers_to_the_test_are_reserved_for_at_the_length_that_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = lab_in(tmp_path, written=True)
    seed, long, _ = prompts_of(context)
    end, rows = end_of(context), context.spending.rows
    end._only, end._on_dev = seed, {seed.id, long.id}
    test, dev = context.task.test.n, len(context.dev)

    def cost() -> float:
        return end.cost(seed, long, aside="least") / HEURISTICS.end_care

    def answers(tokens: float) -> float:
        """The base model answers the test under both prompts; the tuned weights too, and dev before that."""
        for prompt in (seed, long):
            rows.saw_writing(prompt, BASE, 10, round(10 * tokens))
            rows.saw_writing(prompt, "tuned", 10, round(10 * tokens))
        dev_answers = dev * sum(rows.written(prompt, tuned=True, apart=True) for prompt in (seed, long))
        return dev_answers + test * sum(rows.written(p, tuned=tuned) for p in (seed, long) for tuned in (False, True))

    read = test * 2 * (rows.scored(seed) + rows.scored(long))
    before = answers(3.0)
    assert cost() == pytest.approx(read + before)
    after = answers(40.0)
    assert cost() == pytest.approx(read + after) and after > before + test * 2 * 30
    # A search ends before it spends on steps what these answers need.
    policy = decider_of(context, PLAN)
    policy.end = end
    monkeypatch.setattr(end, "learn", lambda winner: None)
    search = search_of(track_of(seed, (20, 0.8, 0.5)), track_of(long, (20, 0.8, 0.5)))
    spend_all_but(context, policy.owed(search) + 2)
    assert policy.decide(search, 0).next == "finish"


def test_a_row_reads_what_the_largest_request_read_without_the_prefix(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    _, long, _ = prompts_of(context)
    counted, prefix = context.spending.rows.counted(long)
    assert context.spending.rows.scored(long) == counted and prefix > 20
    context.answers.scores(long, BASE, context.dev, "race")
    seen = context.spending.rows.scored(long)
    assert seen == pytest.approx(counted, rel=0.15)
    context.answers.scores(long, BASE, context.dev[:5], "race")
    assert context.spending.rows.scored(long) == seen


def test_the_winners_and_the_best_untuned_prompt_are_answered_once_to_see_how_long_that_takes(tmp_path: Path) -> None:
    context = lab_in(tmp_path, written=True)
    seed, long, _ = prompts_of(context)
    end = end_of(context)
    end.look(seed, [long])
    assert end._only is not None and context.spending.rows.knows_answers(end._only)
    winner = Trial(long, cast(Any, None), measured=[measured(4, 0.5, 1.0)], steady=[measured(4, 0.5, 1.0)])
    winner.steady[0] = measured(0, 0.5, 1.0, adapter=BASE)
    end.learn(winner)
    end.learn(winner)
    answered = [event["value"] for event in journal_of(tmp_path) if event["kind"] == "write"]
    assert context.spending.rows.knows_answers(long) and {value["stage"] for value in answered} == {"measure"}
    # An eighth of the rows that the end answers: they are not what the budget is for.
    assert [value["rows"] for value in answered] == [(24 + 40) // 8] * len(dict.fromkeys([end._only, long]))


def test_what_will_find_no_room_after_the_test_is_not_put_aside(tmp_path: Path) -> None:
    shares = {}
    for budget in ("30ktok", "10Mtok"):
        context = lab_in(tmp_path / budget, budget)
        _, long, _ = prompts_of(context)
        plain, without = (
            end_of(context),
            end_of(context, CONFIG.model_copy(update={"evaluate": config_without_formats().evaluate})),
        )
        with_extras, bare = (plain.cost(long, long, aside=aside) for aside in ("all", "least"))
        shares[budget] = (with_extras - without.cost(long, long), with_extras - bare)
    assert shares["30ktok"][0] == 0 and 0 < shares["10Mtok"][0] < shares["10Mtok"][1]


def config_without_formats() -> RunConfig:
    return config_in_memory(name="ends", input=["text"], output="label", evaluate={"robustness": False})


def search_of(seed: Trial, winner: Trial, *others: Trial) -> Search:
    trials = list({id(trial): trial for trial in (seed, winner, *others)}.values())
    cycles = [{"kind": "prompts"}, {"kind": "prompts"}]
    return Search({}, cast(Any, None), seed, winner, trials, cycles)


def track_of(prompt: Prompt, *facts: tuple[int, float, float]) -> Trial:
    found = [measured(*fact, prompt=prompt) for fact in facts]
    run = cast(Any, SimpleNamespace(tokens_per_step=10.0, steps_per_epoch=20))
    return Trial(prompt, run, measured=list(found), steady=list(found), steady_steps=facts[-1][0])


def spend_all_but(context: RunContext, left: float) -> None:
    context.spending.account.counts["tokens_scored"] += int(
        context.spending.budget.amount - context.spending.account.tokens - left
    )


def test_a_third_track_may_win_where_what_it_brings_can_be_tested(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    seed, long, bare = prompts_of(context)
    end = end_of(context)
    end.look(seed, [seed, bare])
    led = track_of(seed, (20, 0.8, 0.5))
    rival = measured(20, 0.8, 0.6, prompt=long)
    end.aside = "least"
    need = end.cost(seed, long)
    assert need > end.cost(seed, seed, alone=True) + 100
    for left, stands in ((need + 2, True), (need - 2, False)):
        spend_all_but(context, left)
        assert end.election(search_of(led, led))(rival) is stands


class Free:
    """Costs nothing."""

    def cost(self, _: object) -> float:
        return 0.0


def decider_of(context: RunContext, plan: Plan, config: RunConfig = CONFIG) -> StepPolicy:
    return StepPolicy(context, config, plan, end_of(context), cast(Any, Free()))


PLAN = Plan(pool=12, race_rows=40, short_steps=10, target_steps=50, reserve=0.0)


def test_steps_that_no_look_at_them_is_left_for_are_still_taken(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    seed, long, _ = prompts_of(context)
    policy = decider_of(context, PLAN)
    search = search_of(track_of(seed, (20, 0.8, 0.5)), track_of(long, (20, 0.8, 0.5)))
    owed = policy.owed(search)
    for more in (0, 2, 5):
        left = max(policy.owed(search, more), owed + 29 * more) + 2
        spend_all_but(context, left)
        choice = policy.decide(search, 0)
        assert (choice.next, choice.why) == ("finish", SPENT)
        assert choice.steps == more and policy.owed(search, more) <= choice.left == pytest.approx(left, abs=1)
    # One that only grew worse is taken no further, whatever is left.
    search.winner.steady += [measured(30, 0.75, 0.8, prompt=long), measured(40, 0.7, 0.9, prompt=long)]
    search.winner.steady_steps = 40
    assert search.winner.peaked
    spend_all_but(context, max(policy.owed(search, 5), policy.owed(search) + 29 * 5) + 2)
    choice = policy.decide(search, 0)
    assert (choice.next, choice.steps) == ("finish", 0)


def test_no_step_is_taken_that_would_eat_into_what_the_end_needs(tmp_path: Path) -> None:
    found = []
    for attempt in ("first", "resumed"):
        context = lab_in(tmp_path, "100s")
        trial = open_trial(context, seed_prompt(context.task))
        # As long as was expected, to the second.
        context.spending.costs.train_rate = trial.run.tokens_per_step / 10.0
        if attempt == "first":
            context.journal.clock = cast(Any, lambda run=trial.run: 10.0 * run.step)
        assert advance(context, trial, 2, cycle=1) and trial.steps == 2
        # After the third step 30 s have gone, and less than 75 s are left.
        assert advance(context, trial, 9, cycle=1, check=False, keep=75.0)
        found.append((trial.steps, trial.newest, trial.reached))
    assert found[0] == found[1] and found[0][0] == 3
    assert finish(context, trial, cycle=1) and trial.measured[-1].candidate.steps == 3 + decay_steps(3, context.tune.decay)


@given(st.floats(0.2, 8.0), st.floats(5.0, 80.0), st.floats(0.5, 3.0))
def test_what_is_kept_is_left_however_slow_a_machine_becomes(slow: float, keep: float, first: float) -> None:
    """As far as the steps show it: what follows takes as many times as long as they do."""
    costs, gone = CostModel(parse_budget("100s"), 1.0, 10.0), first
    spent = spent_to(keep, costs, 10.0, lambda: gone)
    assert spent is not None
    steps = 1
    while not spent():
        gone += slow
        steps += 1
    # One step more would have been possible at most, but for what ordinary noise may take; twelve steps count as expected.
    before, believed = (max(1.0, (n * slow + 12) / (n + 12)) for n in (steps - 2, steps - 1))
    following, least = keep * believed, 0.95 * keep * before
    assert steps < 40 or believed > 0.75 * slow, "forty steps show how slow they are"
    if steps > 2:
        assert 100 - gone >= least - slow and 100 - gone < following
    assert spent_to(keep, CostModel(parse_budget("100ktok"), 1.0, 10.0), 10.0, lambda: gone) is None
    assert spent_to(0.0, costs, 10.0, lambda: gone) is None


def test_two_slow_steps_end_no_stretch() -> None:
    costs, gone = CostModel(parse_budget("1000s"), 1.0, 10.0), 0.0
    spent = spent_to(900.0, costs, 10.0, lambda: gone)
    assert spent is not None
    steps = 0
    while not spent():
        gone += 2.0 if 2 <= steps < 4 else 1.0
        steps += 1
    assert steps >= 90


def test_where_only_other_prompts_can_help_they_race_for_less_rather_than_not_at_all(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    seed, long, _ = prompts_of(context)
    plan = Plan(pool=12, race_rows=128, short_steps=10, target_steps=50, reserve=0.0)
    policy = decider_of(context, plan)
    winner = track_of(long, (20, 0.8, 0.5), (30, 0.75, 0.8), (40, 0.7, 0.9))
    assert winner.peaked
    search = search_of(track_of(seed, (20, 0.8, 0.5)), winner)
    owed = policy.owed(search) + 3000
    whole, short = (policy.race_cost(long, rows) for rows in (128, 32))
    for left, rows in ((owed + whole + 10_000, 128), (owed + short + 400, 32)):
        spend_all_but(context, left)
        choice = policy.decide(search, 0)
        assert (choice.next, choice.rows) == ("prompts", rows)


def test_prompts_are_bred_where_the_winner_would_meet_its_rows_four_times_all_the_same(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    seed, long, _ = prompts_of(context)
    policy = decider_of(context, PLAN)
    # By what steps and prompts moved dev so far, prompts would be mutated in any case.
    policy.worth = {"prompts": 1.0, "tune": 0.0001}
    search = search_of(track_of(seed, (20, 0.8, 0.5)), track_of(long, (20, 0.8, 0.5)))
    step, race = policy.step(search.winner), policy.race_cost(long, PLAN.race_rows)
    base = policy._owed_to_a_challenger(search) + 2 * policy.check(long) + race
    # A short run of 10 steps for challenger, winner and seed prompt, the first and the last with their decay.
    base += 10 * (2 / 0.7 + 1) * step
    # 30 steps with their decay are behind them then, and four epochs are 80 steps.
    needed = base + (80 - 30 / 0.7) * 2 * step
    for untried in (True, False):
        search.cycles[1:] = [{"kind": "tune" if untried else "prompts"}]
        found = []
        for spare in (-60, 60):
            spend_all_but(context, needed + spare)
            found.append(policy.decide(search, 0))
        assert [choice.next for choice in found] == ["tune", "prompts"]
        # Steps that no longer help are not lacking.
        spend_all_but(context, needed - 60)
        assert policy.decide(search, 1).next == "prompts"
        assert "too few to generate prompts as well: a winner should get 80" in found[0].why


def test_after_one_bad_look_the_winner_is_looked_at_again_before_others_are_bred(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    seed, long, _ = prompts_of(context)
    plan = Plan(pool=12, race_rows=128, short_steps=10, target_steps=50, reserve=0.0)
    policy = decider_of(context, plan)
    looks = [(20, 0.8, 0.5), (30, 0.75, 0.8), (40, 0.7, 0.9)]
    # What a search for prompts gave last would call for another one.
    policy.worth = {"prompts": 1.0, "tune": 0.0001}
    before = policy.decide(search_of(track_of(seed, looks[0]), track_of(long, looks[0])), 0)
    assert before.next == "prompts"
    once, twice = (policy.decide(search_of(track_of(seed, looks[0]), track_of(long, *looks[:n])), 0) for n in (2, 3))
    assert (once.next, twice.next) == ("tune", "prompts")
    assert "a second look" in once.why and once.steps >= 3


def test_a_prompt_whose_length_would_cost_the_winner_its_steps_is_not_tuned(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    seed, long, _ = prompts_of(context)
    rows = context.task.train[:8]
    shown = seed.edit(demonstrations=tuple(Demonstration(tuple(row.fields.items()), row.output) for row in rows))
    policy, first = decider_of(context, PLAN), track_of(seed, (4, 0.8, 0.5))
    own, heavy = (context.training.step_tokens(prompt, context.tune.batch_size) for prompt in (seed, shown))
    assert context.training.step_tokens(long, context.tune.batch_size) < 1.5 * own < heavy
    end = policy.end.cost(seed, seed, new=True) + 5 * policy.check(seed)
    # The seed prompt's whole run beside the heavy prompt's: four times the 20 steps in which all rows are met, and as much
    # again for prompts that are mutated.
    whole = 2 * 80 * (own + heavy)
    for left, tuned in ((end + 0.9 * whole, [long]), (end + 1.1 * whole, [shown, long])):
        spend_all_but(context, left)
        assert policy.light([shown, long], first) == tuned
    # Weights that have steps behind them need fewer, once the seed prompt has as many.
    spend_all_but(context, end + 1)
    assert policy.light([shown, long], first, reached=80, cycles=1) == [long]
    assert policy.light([shown, long], track_of(seed, (80, 0.8, 0.5)), reached=80, cycles=1) == [shown, long]


def test_what_is_kept_for_bred_prompts_is_free_once_none_will_be_bred(tmp_path: Path) -> None:
    context = lab_in(tmp_path)
    seed, *_ = prompts_of(context)
    rows = context.task.train[:8]
    shown = seed.edit(demonstrations=tuple(Demonstration(tuple(row.fields.items()), row.output) for row in rows))
    policy, first = decider_of(context, PLAN), track_of(seed, (4, 0.8, 0.5))
    own, heavy = (context.training.step_tokens(prompt, context.tune.batch_size) for prompt in (seed, shown))
    spare = 80 * (own + heavy)
    spend_all_but(context, policy.end.cost(seed, seed, new=True) + 5 * policy.check(seed) + 1.1 * spare)
    assert policy.light([shown], first) == []
    alone = config_in_memory(name="ends", input=["text"], output="label", search={"max_cycles": 1})
    assert decider_of(context, PLAN, alone).light([shown], first) == [shown]


SETTINGS: dict[str, Any] = {
    "search": {"pool": 6, "max_cycles": 50},
    "tune": {"readout": "words", "batch_size": 8, "rank": 2, "max_epochs": 1000, "learning_rate": 0.002},
    "engine": {"dtype": "float32", "threads": 1},
}


@pytest.mark.parametrize("kind", ["label", "json"])
def test_a_run_spends_its_budget_and_never_more(bench: Bench, tmp_path: Path, kind: str) -> None:
    rows = labelled_rows(160) if kind == "label" else written_rows(120)
    limit = {"test": 40} if kind == "label" else {"test": 30, "train": 80, "dev": 20}
    task = Task.from_rows(rows, input="text", output="label", type=None if kind == "label" else kind, limit=limit)
    config = config_in_memory(
        name=kind, input=["text"], output="label", model=str(bench.model), budget="60ktok", seed=4, **SETTINGS
    )
    run_cycle(config, tmp_path / "run", task=task)
    summary, events = summary_of(tmp_path / "run"), journal_of(tmp_path / "run")
    assert summary["stopped"] == SPENT
    spent = sum(summary["cost"][f"tokens_{what}"] for what in ("scored", "written", "trained", "embedded"))
    assert 0.95 * 60_000 <= spent <= 60_000
    # What the end was expected to take is what it took.
    decided = [event["value"] for event in events if event["kind"] == "decide"][-1]
    confirmed = next(place for place, event in enumerate(events) if event["kind"] == "confirm")
    start = max(place for place, event in enumerate(events[:confirmed]) if event["kind"] == "tuned")
    took = sum(e["value"].get("tokens", 0) for e in events[start:] if e["kind"] in ("score", "write", "noise", "slices"))
    # Answers are as long as the weights of the end write them, which were not there when it was reckoned.
    assert 0.75 * decided["end"] <= took <= (1.0 if kind == "label" else 1.1) * decided["end"]
