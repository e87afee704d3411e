"""Gains are paired, corrected, and told as they are."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from dependent import f1_counts, f1_metric
from sklearn.metrics import f1_score

from cotune.evaluate import attribution
from cotune.evaluate.arms import ArmScores, ArmsMetric
from cotune.evaluate.attribution import Gain, attribute
from cotune.evaluate.frozen_arms import ARMS, GAINS, repeated_gains
from cotune.evaluate.stats.intervals import Interval
from cotune.evaluate.stats.paired import mcnemar, paired_proportion_interval
from cotune.evaluate.words import gain_rows, group_of, shown_gains
from cotune.evaluate.words import gains_sentence as sentence
from cotune.task.metrics.metric import Aggregate

ACCURACY = {"seed_prompt": 0.4, "prompt_only": 0.5, "best_prompt": 0.45, "seed_tuned": 0.8, "best_tuned": 0.95}


def _arms(rows: int = 400, seed: int = 0, accuracy: dict[str, float] | None = None) -> tuple[dict, dict[str, np.ndarray]]:
    """Arms by name, with counts for the macro F1, and their answers with the right ones under ``gold``."""
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, 4, rows)
    hard = generator.random(rows)
    arms, answers = {}, {"gold": gold}
    for name, share in (accuracy or ACCURACY).items():
        correct = 0.5 * hard + 0.5 * generator.random(rows)
        right = correct < np.quantile(0.5 * generator.random(50_000) + 0.5 * generator.random(50_000), share)
        predicted = np.where(right, gold, (gold + generator.integers(1, 4, rows)) % 4)
        loss = np.where(right, 0.3, 1.7) + 0.2 * generator.random(rows)
        answers[name] = predicted
        arms[name] = ArmScores(right.astype(float), loss, f1_counts(gold, predicted), candidate=f"{name}-candidate")
    return arms, answers


def test_gains_are_the_differences_that_their_names_say():
    arms, _ = _arms()
    score = {name: float(arm.score.mean()) for name, arm in arms.items()}
    loss = {name: float(arm.log_loss.mean()) for name, arm in arms.items()}
    result = attribute(arms)
    expected = {
        "prompt": score["prompt_only"] - score["seed_prompt"],
        "tuning": score["seed_tuned"] - score["seed_prompt"],
        "both": score["best_tuned"] - score["seed_prompt"],
        "prompt_given_tuning": score["best_tuned"] - score["seed_tuned"],
        "synergy": score["best_tuned"] - score["seed_tuned"] - score["best_prompt"] + score["seed_prompt"],
    }
    assert {name: gain.value for name, gain in result.gains.items()} == pytest.approx(expected)
    assert next(iter(result.gains)) == "prompt_given_tuning"
    assert result.log_loss["tuning"].value == pytest.approx(loss["seed_prompt"] - loss["seed_tuned"])
    for gain in [*result.gains.values(), *result.log_loss.values()]:
        assert gain.ci.low <= gain.value <= gain.ci.high and 0 < gain.p_single <= gain.p <= 1
        assert gain.ci.low <= gain.ci_single.low and gain.ci_single.high <= gain.ci.high
    assert result.n == 400
    assert json.loads(json.dumps(result.as_dict()))["synergy_log_loss"]["ci"] == result.log_loss["synergy"].ci.as_list()


def test_tests_and_intervals_are_the_paired_ones():
    arms, _ = _arms()
    gain = attribute(arms).gains["prompt_given_tuning"]
    first, second = arms["seed_tuned"].score > 0, arms["best_tuned"].score > 0
    assert gain.p_single == pytest.approx(mcnemar(int((first & ~second).sum()), int((~first & second).sum())))
    unpaired = 1.96 * np.sqrt(np.var(first) / 400 + np.var(second) / 400)
    assert gain.ci_single.width / 2 < unpaired < gain.ci.width
    assert attribute(arms).gains == attribute(arms).gains
    assert attribute(arms, seed=5).gains["both"].ci != attribute(arms).gains["both"].ci


def test_few_discordant_rows_get_the_score_interval():
    arms, _ = _arms()
    score = arms["seed_tuned"].score.copy()
    flipped = np.flatnonzero(score == 0)[:3]
    score[flipped] = 1
    arms["best_tuned"] = ArmScores(score, arms["seed_tuned"].log_loss, None, "other")
    gain = attribute(arms).gains["prompt_given_tuning"]
    assert gain.ci_single == paired_proportion_interval(0, 3, 400) and gain.ci_single.low < 0 < gain.value
    assert gain.ci == paired_proportion_interval(0, 3, 400, 1 - 0.05 / 6)
    assert not gain.identical and gain.p_single == pytest.approx(0.25) and gain.p == 1


def test_the_same_candidate_gains_nothing_and_is_no_test():
    arms, _ = _arms()
    arms["best_tuned"], arms["best_prompt"] = arms["seed_tuned"], arms["seed_prompt"]
    result = attribute(arms)
    for name in ("prompt_given_tuning", "synergy"):
        gain = result.gains[name]
        assert gain.identical and gain.value == 0 and gain.p == gain.p_single == 1
        assert gain.ci == gain.ci_single == Interval(0, 0)
    # tuning and both compare the same two arms then, so that two hypotheses on the score are left.
    assert result.gains["tuning"].p == pytest.approx(2 * result.gains["tuning"].p_single)
    assert result.gains["tuning"].p == result.gains["both"].p
    told = sentence(result.gains, result.n)
    assert "the winner is the tuned seed prompt itself" in told and "ynergy" not in told


def test_synergy_falls_back_to_two_arms_where_the_others_cancel_out():
    arms, _ = _arms()
    arms["best_prompt"] = arms["seed_prompt"]
    result = attribute(arms)
    assert result.gains["synergy"].test == "exact McNemar"
    assert result.gains["synergy"] == result.gains["prompt_given_tuning"]


def test_f1_gains_are_differences_of_f1():
    arms, answers = _arms(rows=200)
    result = attribute(arms, metric=f1_metric("macro_f1"), draws=500, permutations=500)
    one, two = (f1_score(answers["gold"], answers[name], average="macro") for name in ("best_tuned", "seed_tuned"))
    gain = result.gains["prompt_given_tuning"]
    assert gain.value == pytest.approx(one - two)
    assert gain.test == "paired permutation" and gain.significant()
    # A mean as a metric of sums, which is resampled in another way.
    share = Aggregate(lambda answered: np.ones((200, 2)), lambda sums: sums[..., 0] / sums[..., 1])
    summed = {name: replace(arm, counts=np.stack([arm.score, np.ones(200)], axis=1)) for name, arm in arms.items()}
    summed_gain = attribute(summed, metric=share, draws=200, permutations=50).gains["prompt_given_tuning"]
    plain = attribute(arms).gains["prompt_given_tuning"]
    assert summed_gain.value == pytest.approx(plain.value)
    ends = [(gain.ci_single.low, gain.ci_single.high) for gain in (summed_gain, plain)]
    assert ends[0] == pytest.approx(ends[1], abs=0.02)
    with pytest.raises(ValueError, match="counts"):
        attribute({name: replace(arm, counts=None) for name, arm in arms.items()}, metric=f1_metric("macro_f1"))


@pytest.mark.parametrize("metric", ["macro_f1", "weighted_f1"])
def test_swapping_rows_between_arms_is_what_it_says(metric):
    arms, answers = _arms(rows=60)
    gold = answers["gold"]
    table = ArmsMetric(arms, f1_metric(metric))
    swaps = np.random.default_rng(1).integers(0, 2, (4, 60), dtype=np.int8)
    got = table.swapped([("best_tuned", "seed_tuned"), ("seed_prompt", "best_prompt")], swaps)

    def score(name: str, other: str, row: np.ndarray) -> float:
        mixed = np.where(row == 1, answers[other], answers[name])
        return float(f1_score(gold, mixed, average=metric.removesuffix("_f1")))

    for row, value in zip(swaps, got, strict=True):
        pairs = [("best_tuned", "seed_tuned"), ("seed_prompt", "best_prompt")]
        expected = sum(score(one, two, row) - score(two, one, row) for one, two in pairs)
        assert value == pytest.approx(expected)


def test_groups_widen_intervals_where_rows_depend_on_each_other():
    generator = np.random.default_rng(3)
    small, _ = _arms(rows=50, seed=3)
    groups = np.repeat(np.arange(50), 8)
    arms = {name: ArmScores(np.repeat(arm.score, 8), np.repeat(arm.log_loss, 8), None, name) for name, arm in small.items()}
    order = generator.permutation(400)
    arms = {name: ArmScores(arm.score[order], arm.log_loss[order], None, name) for name, arm in arms.items()}
    grouped = attribute(arms, groups=groups[order]).gains["prompt_given_tuning"]
    naive = attribute(arms).gains["prompt_given_tuning"]
    assert grouped.ci.width > 2 * naive.ci.width
    assert grouped.p_single > naive.p_single and grouped.test == "paired permutation"


def test_no_gain_is_claimed_where_there_is_none():
    claimed = {"score": 0, "log_loss": 0}
    even = dict.fromkeys(ARMS, 0.5)
    for run in range(120):
        arms, _ = _arms(rows=100, seed=run + 10, accuracy=even)
        result = attribute(arms, draws=200, permutations=500)
        claimed["score"] += any(gain.significant() for gain in result.gains.values())
        claimed["log_loss"] += any(gain.significant() for gain in result.log_loss.values())
    # 120 runs at 5%: 6 expected, 11 at two standard errors.
    assert claimed["score"] <= 11 and claimed["log_loss"] <= 11


def test_paired_intervals_of_gains_are_covered():
    held, total = dict.fromkeys(GAINS, 0), 120
    truth = {"prompt_given_tuning": 0.15, "tuning": 0.4, "both": 0.55, "prompt": 0.1, "synergy": 0.1}
    for run in range(total):
        arms, _ = _arms(rows=150, seed=run + 500)
        scores = {name: ArmScores(arm.score) for name, arm in arms.items()}
        for name, gain in attribute(scores, draws=400, permutations=1).gains.items():
            held[name] += truth[name] in gain.ci_single
    assert np.mean(list(held.values())) / total >= 0.92
    assert min(held.values()) / total >= 0.88


def _gain(value: float, low: float, high: float, p: float) -> Gain:
    return Gain(value, Interval(low, high), p, Interval(low, high), p)


def test_the_sentence_leads_with_the_prompt_on_top_of_tuning_and_admits_doubt():
    gains = {
        "prompt": _gain(0.07, 0.018, 0.122, 0.03),
        "tuning": _gain(0.57, 0.53, 0.61, 1e-9),
        "both": _gain(0.58, 0.54, 0.62, 1e-9),
        "prompt_given_tuning": _gain(0.01, -0.01, 0.03, 0.4),
        "synergy": _gain(-0.06, -0.11, -0.01, 0.02),
    }
    told = sentence(gains, 500)
    assert told.startswith(
        "On 500 test rows, on top of tuning, the searched prompt gains 1.0 point (95% interval -1.0 to +3.0, p = 0.400): "
        "no significant difference."
    )
    assert "Tuning with the seed prompt gains 57.0 points (95% interval +53.0 to +61.0, p < 0.001). " in told
    assert "makes the prompt worth 6.0 points less than before" in told
    assert "corrected for multiple comparisons (Bonferroni)" in told
    worse = sentence({"prompt_given_tuning": _gain(-0.03, -0.05, -0.01, 0.01)}, 300)
    assert "loses 3.0 points" in worse and "significant" not in worse and "corrected" not in worse
    frozen = sentence(gains, 500, frozen_first=True)
    assert frozen.startswith(
        "Without tuning, the searched prompt gains 7.0 points (95% interval +1.8 to +12.2, p = 0.030). Tuning"
    )
    assert frozen.index("Tuning with") < frozen.index("On top of tuning") < frozen.index("Prompt and tuning together")


def test_the_sentence_calls_no_frozen_arm_tuned():
    gains = {
        "prompt": _gain(0.07, 0.018, 0.122, 0.03),
        "tuning": _gain(0.02, -0.01, 0.05, 0.2),
        "both": _gain(0.07, 0.018, 0.122, 0.03),
        "prompt_given_tuning": _gain(0.05, 0.01, 0.09, 0.01),
        "synergy": _gain(-0.02, -0.05, 0.01, 0.2),
    }
    for frozen_first in (False, True):
        told = sentence(gains, 500, frozen=["best_tuned"], frozen_first=frozen_first)
        assert "on top of tuning" not in told.lower() and "together gain" not in told and "ynergy" not in told
        assert "over the tuned seed prompt, the winner, which is not tuned, gains 5.0 points" in told.replace("Over", "over")
        assert "The winner, which is not tuned, gains 7.0 points over the seed prompt (95%" in told
    neither = sentence(gains, 500, frozen=["seed_tuned", "best_tuned"])
    assert "over the seed prompt, which was not tuned either, the winner gains 5.0 points" in neither
    none = Gain(0.0, Interval(0, 0), 1.0, Interval(0, 0), 1.0, True)
    alone = sentence(gains | {"tuning": none}, 500, frozen=["seed_tuned"])
    assert "over the seed prompt, which was not tuned, the tuned winner gains 5.0 points" in alone
    assert "The seed prompt was not tuned, so what tuning alone gains is not known. " in alone
    assert "With the winner's prompt, tuning loses 2.0 points (95%" in alone and "ynergy" not in alone
    going_on = sentence(gains | {"tuning": none, "synergy": none}, 500, frozen=["seed_tuned"], going_on=True)
    assert (
        "over the seed prompt, which was not tuned, the tuned" in going_on
        and "afresh" not in going_on
        and "winner's" not in going_on
    )
    old = {"previous": "o", "best_tuned": "o", "best_prompt": "b", "seed_prompt": "s", "seed_tuned": "s"}
    kept = sentence(gains | {"tuning": none}, 500, frozen=["seed_tuned"], going_on=True, candidates=old)
    assert "winner's prompt" not in kept and "ynergy" not in kept, "the old bundle has another prompt"
    both = sentence(gains | {"tuning": none}, 500, frozen=["seed_tuned", "best_tuned"])
    assert "what tuning alone gains is not known" in both
    never = sentence(gains | {"tuning": none}, 500, frozen=["seed_tuned", "best_tuned"], tuned=False)
    assert "what tuning alone gains is not known" in never and "adds nothing" not in never
    gains_of_none = dict.fromkeys(("prompt_given_tuning", "tuning", "both"), none)
    untuned = sentence({**gains, **gains_of_none}, 500, frozen=["seed_tuned", "best_tuned"])
    assert "seed prompt, so nothing is gained" in untuned and "adds nothing" not in untuned, "told once"
    tuning = _gain(0.02, -0.01, 0.05, 0.2)
    same = sentence({"prompt_given_tuning": none, "tuning": tuning, "both": none}, 500, frozen=["best_tuned"])
    assert "tuned seed prompt itself, so the search adds nothing" in same and "on top of tuning" not in same


def test_one_arm_is_told_in_one_sentence():
    none = Gain(0.0, Interval(0, 0), 1.0, Interval(0, 0), 1.0, True)
    gains = dict.fromkeys(("prompt", "tuning", "prompt_given_tuning", "both", "synergy"), none)
    told = "The seed prompt ships untuned: no other prompt was chosen and {}, so there is no gain to report."
    for frozen_first in (False, True):
        assert sentence(gains, 28, frozen_first=frozen_first, tuned=False) == told.format("nothing was tuned")
    assert sentence(gains, 28) == told.format("no tuning step paid off")
    assert "ships untuned" not in sentence({}, 28)


def test_a_p_value_at_the_limit_agrees_with_its_interval():
    # 19 permutations, none of which reaches what was seen, make 1/20: 1 - 0.95 is a little more than that.
    better = np.linspace(0.1, 0.3, 40)
    arms = dict.fromkeys(ARMS, ArmScores(np.zeros(40), candidate="before")) | {
        "best_tuned": ArmScores(better, candidate="after")
    }
    gain = attribute(arms, permutations=19).gains["both"]
    assert gain.p == gain.p_single == 0.05 and not gain.significant() and 0.0 in gain.ci and 0.0 in gain.ci_single


def test_arms_that_two_gains_compare_are_permuted_once(monkeypatch):
    counted = []
    kept = attribution.sign_flip_test
    monkeypatch.setattr(attribution, "sign_flip_test", lambda *args, **more: counted.append(1) or kept(*args, **more))
    arms, _ = _arms(rows=60)
    groups = np.arange(60) // 3
    arms["best_tuned"], arms["best_prompt"] = arms["seed_tuned"], arms["seed_prompt"]
    twice = attribute({name: ArmScores(arm.score, candidate=arm.candidate) for name, arm in arms.items()}, groups=groups)
    # Tuning and both are the same comparison; the prompt alone is another.
    assert len(counted) == 2 and twice.gains["tuning"] == twice.gains["both"]


def test_missing_arms_and_broken_rows_are_refused():
    arms, _ = _arms(rows=20)
    with pytest.raises(ValueError, match="seed_tuned"):
        attribute({name: arm for name, arm in arms.items() if name != "seed_tuned"})
    arms["seed_tuned"] = ArmScores(np.full(20, np.nan))
    with pytest.raises(ValueError, match="NaN"):
        attribute(arms)


def test_what_compares_the_same_arms_is_told_once() -> None:
    gain, other = _gain(0.033, 0.01, 0.06, 0.01), _gain(0.01, -0.01, 0.03, 0.4)
    none = Gain(0.0, Interval(0, 0), 1.0, Interval(0, 0), 1.0, True)
    gains = {"prompt_given_tuning": gain, "tuning": none, "both": gain, "prompt": gain, "synergy": none}
    same = {"seed_prompt": "s", "seed_tuned": "s", "prompt_only": "b", "best_prompt": "b", "best_tuned": "b"}
    told = sentence(gains, 120, frozen=["seed_tuned", "best_tuned"], frozen_first=True, candidates=same)
    assert told.count("3.3 points") == 1 and "What ships is that prompt on frozen weights: no tuning step paid off." in told
    assert "nothing was tuned" in sentence(gains, 120, frozen=list(same)[-1:], frozen_first=True, candidates=same, tuned=False)
    assert repeated_gains(same, ["prompt", "tuning", "prompt_given_tuning", "both", "synergy"]) == {
        "prompt_given_tuning": "prompt",
        "both": "prompt",
    }
    tuned = {**same, "seed_tuned": "t", "best_tuned": "t"}
    again = {**gains, "tuning": gain, "prompt_given_tuning": none, "prompt": other}
    assert sentence(again, 120, frozen_first=True, candidates=tuned).count("3.3 points") == 1
    assert repeated_gains({}, list(gains)) == {}, "arms of which nothing is known are all different"


def test_gains_stay_within_what_is_possible() -> None:
    # 30 rows of which the tuned arms answer nearly all and the others none, in parts.
    low = np.zeros(30)
    high = np.where(np.arange(30) < 4, 0.55, 1.0)
    arms = {name: ArmScores(high if "tuned" in name else low, candidate="t" if "tuned" in name else "b") for name in ARMS}
    gain = attribute(arms).gains["both"]
    assert 0.9 < gain.value < gain.ci.high <= 1


def test_a_single_comparison_is_not_said_to_be_corrected() -> None:
    same = {"seed_prompt": "s", "seed_tuned": "s", "prompt_only": "b", "best_prompt": "b", "best_tuned": "b"}
    rng = np.random.default_rng(4)
    right = {"s": rng.random(200) < 0.5, "b": rng.random(200) < 0.7}
    gains = attribute({name: ArmScores(right[one].astype(float), candidate=one) for name, one in same.items()}).gains
    assert gains["prompt"].p == gains["prompt"].p_single
    assert "corrected" not in sentence(gains, 200, frozen=["seed_tuned", "best_tuned"], candidates=same)


def test_nothing_has_no_sign() -> None:
    gains = {name: _gain(0.01, -0.01, 0.03, 0.4) for name in GAINS} | {"synergy": _gain(-0.0003, -0.02, 0.02, 0.9)}
    assert "is 0.0 points" in sentence(gains, 200)


def test_synergy_is_not_shown_where_the_seed_prompt_alone_was_tuned() -> None:
    """It would be what the seed prompt's tuning lost, with the sign turned."""
    frozen, gain = {"prompt_id": "a", "adapter_id": "base", "candidate_id": "1"}, {"value": 0.7, "p": 0.001, "ci": [0.5, 0.9]}
    tuned = {"prompt_id": "a", "adapter_id": "x", "candidate_id": "2", "steps": 12}
    arms = {**dict.fromkeys(("seed_prompt", "prompt_only", "best_prompt", "best_tuned"), frozen), "seed_tuned": tuned}
    names = ("prompt_given_tuning", "tuning", "both", "prompt", "synergy", "synergy_log_loss")
    assert not {"synergy", "synergy_log_loss"} & {*shown_gains({"arms": arms, "gains": dict.fromkeys(names, gain)})}
    other = {"prompt_id": "b", "adapter_id": "base", "candidate_id": "3"}
    both = {**arms, "prompt_only": other, "best_prompt": other}
    both["best_tuned"] = {**tuned, "prompt_id": "b", "adapter_id": "y", "candidate_id": "4"}
    assert {"synergy", "synergy_log_loss"} <= {*shown_gains({"arms": both, "gains": dict.fromkeys(names, gain)})}


def test_a_prompt_that_is_not_the_winners_has_no_synergy_with_its_tuning() -> None:
    """A warm start may ship the bundle that it began with, and then the best new prompt is the arm best_prompt."""
    gain = {"value": 0.2, "p": 0.001, "ci": [0.1, 0.3]}
    old = {"prompt_id": "old", "adapter_id": "x", "candidate_id": "1", "steps": 12}
    arms = {name: {"prompt_id": name, "adapter_id": "base", "candidate_id": name} for name in ARMS}
    tuned = {"prompt_id": "s", "adapter_id": "y", "candidate_id": "2", "steps": 9}
    arms |= {"best_tuned": old, "previous": old, "seed_tuned": tuned}
    summary = {"arms": arms, "gains": dict.fromkeys(("prompt_given_tuning", "both", "synergy", "synergy_log_loss"), gain)}
    assert shown_gains(summary) == ["prompt_given_tuning", "both"]
    assert [row[0] for row in gain_rows(summary)] == ["old bundle over seed tuned", "old bundle over seed prompt"]
    assert group_of(arms, "best_prompt").meaning == "best new prompt, base model"
    arms["best_prompt"]["prompt_id"] = "old"
    assert "synergy" in shown_gains(summary)


def test_a_gain_that_is_left_out_does_not_count_in_the_correction() -> None:
    rng = np.random.default_rng(0)
    arms = {
        name: ArmScores((rng.random(80) < 0.5 + 0.1 * place).astype(float), candidate=name) for place, name in enumerate(ARMS)
    }
    whole, less = attribute(arms), attribute(arms, left_out=("synergy",))
    assert "synergy" not in less.gains and less.gains["tuning"].p_single == whole.gains["tuning"].p_single
    assert less.gains["tuning"].ci.width < whole.gains["tuning"].ci.width
