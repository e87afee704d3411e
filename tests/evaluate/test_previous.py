"""Old and new bundle on the test: parts, p-values, and which to keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cotune.config.task import Task
from cotune.evaluate.arms import ArmScores
from cotune.evaluate.attribution import Gain, attribute
from cotune.evaluate.decision import Decision
from cotune.evaluate.frozen_arms import GAINS
from cotune.evaluate.previous import Part, compare_parts, keep_sentence, which_to_keep
from cotune.evaluate.responses import LabelOutputs
from cotune.evaluate.scoring import finite, score_interval
from cotune.evaluate.stats.intervals import Interval
from cotune.evaluate.stats.paired import mcnemar
from cotune.task.example import Example
from cotune.task.metrics.metric import METRICS


def gain(value: float, p: float) -> Gain:
    ci = Interval(value - 0.05, value + 0.05)
    return Gain(value, ci, p, ci, p)


def part(value: float, p: float) -> Part:
    ci = Interval(value - 0.05, value + 0.05)
    return Part(100, 0.5 + value, 0.5, Gain(value, ci, p, ci, p, test="exact McNemar"))


def told(found: Gain, parts: dict[str, Part], **changes: Any) -> str:
    return keep_sentence(found, parts, **{"ships_old": False, "new_labels": ["x"], "unseen": False} | changes)


def test_parts_are_compared_apart_and_read_together() -> None:
    rng = np.random.default_rng(0)
    known = np.arange(200) < 120
    old = (rng.random(200) < 0.9) & known
    new = np.where(known, rng.random(200) < 0.8, rng.random(200) < 0.9)
    parts = compare_parts(new, old, known)
    assert [found.n for found in parts.values()] == [200, 120, 80]
    assert parts["new_labels"].old == 0 and parts["new_labels"].gain.value == pytest.approx(new[~known].mean())
    lost, won = int((old & ~new & known).sum()), int((new & ~old & known).sum())
    assert parts["old_labels"].gain.p_single == mcnemar(lost, won)
    assert parts["old_labels"].gain.p == min(1.0, 3 * mcnemar(lost, won))
    assert parts["old_labels"].gain.value == pytest.approx((won - lost) / 120)
    gains = [found.gain for found in parts.values()]
    assert all(found.p >= found.p_single and found.ci.low <= found.value <= found.ci.high for found in gains)
    whole = sum(found.gain.value * found.n for name, found in parts.items() if name != "all")
    assert parts["all"].gain.value == pytest.approx(whole / 200)


def test_where_all_labels_are_known_there_is_one_part() -> None:
    right = np.array([1, 0, 1, 1])
    assert list(compare_parts(right, right, np.ones(4))) == ["all"]
    assert list(compare_parts(right, right, np.zeros(4))) == ["all"]


def test_rows_of_a_group_count_as_one() -> None:
    new, old, known = np.ones(40), np.zeros(40), np.ones(40)
    alone = compare_parts(new, old, known)["all"]
    together = compare_parts(new, old, known, groups=np.repeat(["a", "b", "c", "d"], 10))["all"]
    assert together.gain.p > alone.gain.p and together.gain.test == "paired permutation"


@pytest.mark.parametrize(
    ("found", "parts", "ships_old", "keep"),
    [
        (gain(0.1, 0.01), {}, False, "new"),
        (gain(0.1, 0.01), {"old_labels": part(-0.1, 0.01)}, False, "new"),
        (gain(-0.1, 0.01), {}, False, "old"),
        (gain(-0.02, 0.5), {}, False, "new"),
        (gain(0.02, 0.5), {"old_labels": part(-0.2, 0.01)}, False, "old"),
        (gain(0.02, 0.5), {"old_labels": part(-0.2, 0.2)}, False, "new"),
        (gain(0.0, 1.0), {}, True, "old"),
    ],
)
def test_which_to_keep(found: Gain, parts: dict[str, Part], ships_old: bool, keep: str) -> None:
    assert which_to_keep(found, parts, ships_old=ships_old) == keep
    assert told(found, parts, ships_old=ships_old).startswith(f"Keep the {keep} bundle")


def test_forgetting_is_said() -> None:
    text = told(gain(0.1, 0.001), {"old_labels": part(-0.1, 0.01), "new_labels": part(0.4, 0.0001)})
    assert "On the 100 rows of the old labels it loses 10.0 points" in text and "forgot" in text
    assert "On the 100 rows of new labels it gains 40.0 points" in text
    assert "forgot" not in told(gain(0.1, 0.001), {"old_labels": part(-0.1, 0.2), "new_labels": part(0.4, 0.0001)})


def test_what_cannot_be_seen_is_said() -> None:
    assert "does not show" in told(gain(0.1, 0.01), {"all": part(0.1, 0.01)})
    assert "does not show" not in told(gain(0.1, 0.01), {"all": part(0.1, 0.01)}, new_labels=[])
    assert "replay old rows" in told(gain(0.1, 0.01), {"old_labels": part(0.1, 0.01)}, unseen=True)


def test_a_test_of_old_labels_alone_tells_what_was_forgotten() -> None:
    lost, level = {"all": part(-0.1, 0.01)}, {"all": part(-0.1, 0.2)}
    text = told(gain(-0.05, 0.5), lost, only_old=True, unseen=True)
    assert text.startswith("Keep the old bundle") and "but it forgot" in text
    assert "On the 100 rows of the old labels it loses 10.0 points" in text and "forgot some of what" in text
    assert "no rows of new labels" in text and "does not show what was forgotten" not in text and "replay old rows" in text
    assert which_to_keep(gain(-0.05, 0.5), lost, ships_old=False, only_old=True) == "old"
    assert which_to_keep(gain(-0.05, 0.5), level, ships_old=False, only_old=True) == "new"
    assert "forgot" not in told(gain(-0.05, 0.5), level, only_old=True)


def test_the_gain_over_the_old_bundle_joins_the_family_and_changes_no_other() -> None:
    rng = np.random.default_rng(1)
    arms = {
        name: ArmScores((rng.random(80) < share).astype(float), rng.random(80), candidate=name)
        for name, share in zip(
            ("seed_prompt", "prompt_only", "best_prompt", "seed_tuned", "best_tuned"), (0.3, 0.4, 0.4, 0.7, 0.9), strict=True
        )
    }
    before = attribute(arms, draws=200, permutations=200)
    after = attribute({**arms, "previous": ArmScores((rng.random(80) < 0.6).astype(float))}, draws=200, permutations=200)
    assert set(after.gains) == {*GAINS, "over_previous"} and set(before.gains) == set(GAINS)
    for name in GAINS:
        now, then = after.gains[name], before.gains[name]
        assert (now.value, now.ci_single, now.p_single) == (then.value, then.ci_single, then.p_single)
        assert now.p >= then.p and now.ci.low <= then.ci.low and then.ci.high <= now.ci.high
    assert after.log_loss.keys() == before.log_loss.keys()


def test_a_label_that_is_not_known_is_never_right_and_costs_no_number() -> None:
    rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(40)]
    task = Task.from_rows(rows, input="text", output="label")
    asked = [Example(str(i), {"text": "x"}, label) for i, label in enumerate("bab")]
    given = LabelOutputs(np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])), ("b", "gone"))
    found = given.judge(asked, Decision("bias", (0.0, 0.0)), task)
    assert found.answers == ("b", "gone", "b")
    assert list(found.correct) == [1, 0, 1] and found.score == pytest.approx(2 / 3)
    assert finite(found.log_loss) is None and finite(0.25) == 0.25
    assert np.isinf(found.log_losses[1]) and np.isfinite(found.log_losses[[0, 2]]).all()
    assert given[:2].plus(given[2:]).judge(asked, Decision(), task).answers == found.answers
    by_label = replace(task, measure=METRICS["macro_f1"])
    assert 0 < given.judge(asked, Decision(), by_label).score < 1


def test_the_interval_of_f1_is_over_the_labels_of_the_score() -> None:
    rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(40)]
    task = replace(Task.from_rows(rows, input="text", output="label"), measure=METRICS["macro_f1"])
    asked = [Example(str(i), {"text": "x"}, "ab"[i % 2]) for i in range(100)]
    known = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])[np.arange(100) % 2]
    known[:7] = [0.1, 0.1, 0.8]
    found = LabelOutputs(np.log(known), ("a", "b", "gone")).judge(asked, Decision(), task)
    references = [row.output for row in asked]
    interval = score_interval(found, references, task.measure, task.output, seed=0)
    assert found.score == pytest.approx(0.93, abs=0.01) and found.score in interval


def test_a_gain_within_the_noise_is_not_said_to_be_without_significance() -> None:
    noisy = replace(gain(0.06, 0.012), noise=0.1)
    assert "within the noise of this machine" in told(noisy, {}) and "no significant" not in told(noisy, {})
