from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from cycle_runs import labelled_rows

from cotune.config.task import Task
from cotune.cycle.answer_search.trial import Trial, open_trial
from cotune.cycle.budget.budget import parse_budget
from cotune.cycle.budget.rates import CostModel
from cotune.cycle.candidate import Candidate
from cotune.cycle.context import RunContext
from cotune.cycle.journal import Journal
from cotune.cycle.progress import Quiet
from cotune.cycle.search.measured import Measured
from cotune.evaluate.decision import RAW
from cotune.evaluate.scoring import Evaluation, unanswered
from cotune.model.adapters.files import LoraSettings
from cotune.model.engine.settings import EngineSettings
from cotune.model.local import LocalModel
from cotune.prompt.prompt import Prompt
from cotune.tune.settings import TuneSettings
from tiny import tiny_local

PROMPT = Prompt(instruction="Say it.")


def measured(steps: int, score: float, log_loss: float, prompt: Prompt = PROMPT, adapter: str | None = None) -> Measured:
    rows = 100
    correct = np.zeros(rows)
    correct[: round(score * rows)] = 1
    evaluation = Evaluation(("a",) * rows, correct, correct, np.full(rows, log_loss), score)
    return Measured(Candidate(prompt, adapter or f"adapter-{steps}", RAW, steps), evaluation, cast(Any, None))


def trial(*facts: tuple[int, float, float]) -> Trial:
    found = [measured(*fact) for fact in facts]
    return Trial(PROMPT, cast(Any, None), measured=list(found), steady=list(found), steady_steps=facts[-1][0])


def test_a_track_that_still_gains_goes_on_from_where_it_stands() -> None:
    gaining = trial((20, 0.80, 0.6), (40, 0.85, 0.5))
    assert not gaining.peaked and gaining.ground.candidate.steps == 40


def test_a_track_whose_last_steps_made_both_numbers_worse_is_behind_and_others_go_on_from_its_best() -> None:
    behind = trial((20, 0.80, 0.6), (40, 0.88, 0.35), (90, 0.86, 0.64))
    assert behind.behind and behind.ground.candidate.steps == 40 and behind.steps == 90
    assert not behind.peaked and behind.reached == 90


def test_two_such_looks_in_a_row_send_it_back() -> None:
    worse = trial((20, 0.80, 0.6), (40, 0.88, 0.35), (60, 0.86, 0.64), (90, 0.87, 0.5))
    assert worse.peaked and worse.reached == 40 and worse.ground.candidate.steps == 40
    undone = trial((20, 0.80, 0.6), (40, 0.88, 0.35), (60, 0.86, 0.64), (90, 0.88, 0.5))
    assert not undone.behind and not undone.peaked and undone.reached == 90
    again = trial((40, 0.88, 0.35), (60, 0.86, 0.64), (80, 0.89, 0.5), (100, 0.86, 0.6))
    assert again.behind and not again.peaked


def test_before_every_row_was_met_once_nothing_is_learnt_by_heart() -> None:
    worse = trial((20, 0.80, 0.6), (40, 0.88, 0.35), (60, 0.86, 0.64), (90, 0.86, 0.64))
    worse.epoch = 90
    assert not worse.behind and worse.ground.candidate.steps == 90
    worse.epoch = 60
    assert worse.behind and not worse.peaked
    worse.epoch = 59
    assert worse.peaked


def test_one_number_alone_does_not_send_it_back() -> None:
    """Accuracy is noisy, and the log-loss of a model that grows surer rises while it still gets better."""
    assert not trial((40, 0.88, 0.35), (90, 0.90, 0.64)).behind
    assert not trial((40, 0.88, 0.35), (90, 0.87, 0.33)).behind


def test_without_answers_the_log_loss_alone_ranks_and_sends_back_where_it_rose_beyond_chance() -> None:
    def unwritten(steps: int, losses: list[float]) -> Measured:
        return Measured(Candidate(PROMPT, f"adapter-{steps}", RAW, steps), unanswered(np.array(losses)), cast(Any, None))

    def of(*found: Measured) -> Trial:
        return Trial(PROMPT, cast(Any, None), measured=list(found), steady=list(found), steady_steps=found[-1].candidate.steps)

    before, noisy = unwritten(20, [0.5] * 10), unwritten(40, [0.2, 0.9] * 5)
    assert not of(before, noisy).behind and of(before, noisy).best is before
    worse = of(before, unwritten(40, [0.6, 0.7] * 5))
    assert worse.behind and worse.ground is before
    # Whoever wrote answers was a finalist, and whoever was none of them cannot win.
    assert max([before, measured(20, 0.0, 5.0)], key=lambda m: m.rank).evaluation.score == 0.0


def test_what_a_decay_gave_is_the_best_and_nothing_to_train_on_from() -> None:
    one = trial((20, 0.80, 0.6), (40, 0.85, 0.5))
    one.measured.append(measured(57, 0.92, 0.3))
    assert one.best.candidate.steps == 57 and one.ground.candidate.steps == 40 and not one.behind


def lab_in(folder: Path, model: LocalModel) -> RunContext:
    folder.mkdir(exist_ok=True)
    task = Task.from_rows(labelled_rows(100), input="text", output="label", limit={"dev": 20})
    settings = TuneSettings(lora=LoraSettings(rank=4, alpha=8), learning_rate=0.01, batch_size=4)
    return RunContext(task, model, Journal(folder), CostModel(parse_budget("1Mtok"), 1.0, 1.0), folder, settings, 0, Quiet())


def test_fewer_steps_than_the_checkpoint_has_are_trained_anew(tmp_path: Path) -> None:
    model, asked = tiny_local(settings=EngineSettings(max_tokens=200)), Prompt(input_template="{text}", cue="Kind:")
    short = lab_in(tmp_path / "a", model)
    expected = short.training.advance(asked, open_trial(short, asked).run, 3)
    long = lab_in(tmp_path / "b", model)
    long.training.advance(asked, open_trial(long, asked).run, 6)
    (tmp_path / "b" / "journal.jsonl").unlink()
    again = lab_in(tmp_path / "b", model)
    assert again.training.advance(asked, open_trial(again, asked).run, 3) == expected
