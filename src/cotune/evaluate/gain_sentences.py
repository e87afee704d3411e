"""Sentences that describe the gains of a run."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from cotune.errors import counted
from cotune.evaluate.attribution import Gain
from cotune.evaluate.frozen_arms import PREVIOUS, repeated_gains
from cotune.evaluate.metric_words import p_value, signed
from cotune.evaluate.stats.intervals import Interval
from cotune.evaluate.stats.together import ALPHA

_TOLD = {
    "prompt_given_tuning": "on top of tuning, the searched prompt {verb}s {points}",
    "tuning": "tuning with the seed prompt {verb}s {points}",
    "both": "prompt and tuning together {verb} {points}",
    "prompt": "without tuning, the searched prompt {verb}s {points}",
}
# In a warm start the winner need not have a searched prompt.
_GOING_ON = "against tuning the seed prompt afresh on these rows, starting from the old bundle {verb}s {points}"
_SAME = {
    "prompt_given_tuning": "the winner is the tuned seed prompt itself, so the search adds nothing on top of tuning",
    "tuning": "the seed prompt was not tuned, so tuning adds nothing",
    "both": "the winner is the untuned seed prompt, so nothing is gained",
    "prompt": "without tuning, no prompt was chosen over the seed prompt",
}
# If one of the two tuned arms has frozen weights, no prompt was tried on top of tuning.
_WINNER_FROZEN = {
    "prompt_given_tuning": "over the tuned seed prompt, the winner, which is not tuned, {verb}s {points}",
    "both": "the winner, which is not tuned, {verb}s {points} over the seed prompt",
}
_SEED_FROZEN = {
    "synergy": "with the winner's prompt, tuning {verb}s {points}",
    "prompt_given_tuning": "over the seed prompt, which was not tuned, the tuned winner {verb}s {points}",
}
_SEED_FROZEN_SAME = {"tuning": "the seed prompt was not tuned, so what tuning alone gains is not known"}
_BOTH_FROZEN = {
    **_WINNER_FROZEN,
    "prompt_given_tuning": "over the seed prompt, which was not tuned either, the winner {verb}s {points}",
}
_WINNER_FROZEN_SAME = {"prompt_given_tuning": "the winner is the untuned seed prompt itself, so the search adds nothing"}
_FROZEN_FIRST = {
    "prompt": "on frozen weights, the searched prompt {verb}s {points}",
    "tuning": _TOLD["tuning"],
    "prompt_given_tuning": _TOLD["prompt_given_tuning"],
    "both": _TOLD["both"],
}


def sentence(
    gains: Mapping[str, Gain],
    n: int,
    *,
    going_on: bool = False,
    frozen_first: bool = False,
    frozen: Collection[str] = (),
    candidates: Mapping[str, str] | None = None,
    tuned: bool = True,
) -> str:
    """Describe the gains in words, starting with the gain of the prompt on a tuned model.

    Args:
        gains: gains by name, from :func:`cotune.evaluate.attribution.attribute`, on a metric between 0 and 1.
        n: number of test rows.
        going_on: whether the run started from an earlier bundle; the comparison with it is described elsewhere.
        frozen_first: whether to start with the gain of the prompt on frozen weights, then that of tuning; the number of rows
            then comes first.
        frozen: which of the arms ``seed_tuned`` and ``best_tuned`` have the base model's weights.
        candidates: id of the candidate by arm. A gain that compares the same candidates as an earlier one is not repeated.
        tuned: whether any prompt was tuned at all.

    Returns:
        A few sentences. A gain that is not significant is called "no significant difference"; a significant one that numerical
        noise could cause is called "within the noise of this machine".
    """
    parts = []
    winner_frozen, seed_frozen = "best_tuned" in frozen, "seed_tuned" in frozen
    other = (_BOTH_FROZEN if seed_frozen else _WINNER_FROZEN) if winner_frozen else _SEED_FROZEN if seed_frozen else {}
    if candidates and PREVIOUS in candidates and candidates[PREVIOUS] == candidates["best_tuned"]:
        # The earlier bundle ships: its prompt need not be that of the arm best_prompt.
        other = {name: template for name, template in other.items() if name != "synergy"}
    same = {**_SAME, **(_WINNER_FROZEN_SAME if winner_frozen else {}), **(_SEED_FROZEN_SAME if seed_frozen and tuned else {})}
    order = {**(_FROZEN_FIRST if frozen_first else _TOLD), **other}
    repeated = repeated_gains(candidates or {}, [name for name in order if name in gains])
    compared = [gains[name] for name in order if name in gains]
    if compared and not going_on and all(gain.identical for gain in compared):
        # All of them compare the untuned seed prompt with itself.
        why = "no tuning step paid off" if tuned else "nothing was tuned"
        return f"The seed prompt ships untuned: no other prompt was chosen and {why}, so there is no gain to report."
    for name, template in ({**order, "prompt_given_tuning": _GOING_ON} if going_on and not seed_frozen else order).items():
        if name in repeated:
            continue
        if name in gains and gains[name].identical:
            parts += [same[name]] if name in same else []
        elif name in gains:
            gain = gains[name]
            verb = "gain" if gain.value >= 0 else "lose"
            verdict = "" if gain.significant() else f": {unclear(gain)}"
            parts.append(
                f"{template.format(verb=verb, points=points_text(gain.value))} ({uncertainty_text(gain.ci, gain.p)}){verdict}"
            )
    if winner_frozen and repeated.get("both") == "prompt":
        why = "no tuning step paid off" if tuned else "nothing was tuned"
        parts.append(f"what ships is that prompt on frozen weights: {why}")
    # With an untuned winner this would be the gain of tuning with the opposite sign.
    if "synergy" in gains and not gains["synergy"].identical and not winner_frozen and not seed_frozen:
        parts.append(_synergy(gains["synergy"]))
    text = ". ".join(part if not number else part[0].upper() + part[1:] for number, part in enumerate(parts))
    differing = [name for name, gain in gains.items() if not gain.identical]
    tested = len(differing) - len(repeated_gains(candidates or {}, differing))
    note = " Intervals and p-values are corrected for multiple comparisons (Bonferroni)." if tested > 1 else ""
    return f"{text[:1].upper()}{text[1:]}.{note}" if frozen_first else f"On {counted(n, 'test row')}, {text}.{note}"


def _synergy(gain: Gain) -> str:
    points, uncertainty = points_text(gain.value), uncertainty_text(gain.ci, gain.p)
    if not gain.significant():
        sign = signed(100 * gain.value)[0]
        return (
            "synergy, what the prompt adds after tuning beyond what it adds before, is "
            f"{sign if sign in '+-' else ''}{points} ({uncertainty}): {unclear(gain)}"
        )
    if gain.value > 0:
        return f"tuning makes the prompt worth {points} more than before ({uncertainty}): synergy"
    return (
        f"tuning makes the prompt worth {points} less than before ({uncertainty}): the two overlap, or the score has "
        "little room left above"
    )


def unclear(gain: Gain) -> str:
    """Why no difference is claimed for a gain that is not significant."""
    if gain.p < ALPHA:
        return "within the noise of this machine, so no difference is claimed"
    return "no significant difference"


def points_text(value: float) -> str:
    """The size of a difference of scores between 0 and 1, such as ``3.0 points``."""
    amount = f"{100 * abs(value):.1f}"
    return f"{amount} point{'' if amount == '1.0' else 's'}"


def uncertainty_text(ci: Interval, p: float) -> str:
    """Interval and p-value of a difference in words."""
    low, high = (signed(100 * end) if math.isfinite(end) else "unknown" for end in (ci.low, ci.high))
    return f"95% interval {low} to {high}, {p_value(p)}"
