"""A run's results in words: names of arms, references and gains, and sentences on differences with interval and p-value.

The terminal, the page, notebooks and model cards all take their words from here. Summaries are read leniently.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from cotune.errors import counted
from cotune.evaluate.frozen_arms import (
    ALPHA,
    EVERY_ARM,
    PREVIOUS,
    is_frozen,
    only_winner_tuned,
    previous_ships,
    repeated_gains,
    same_arms,
)
from cotune.plain import between, decimal, fields, harmless, interval_text, items, number, one_line

if TYPE_CHECKING:
    from cotune.evaluate.attribution import Gain

# Metrics and numbers

_SPELLED = {"f1": "F1", "json": "JSON", "rouge": "ROUGE", "l": "L", "r2": "R²", "d2": "D²"}
_NAMED = {"pearson": "Pearson correlation", "spearman": "Spearman correlation"}


def metric_words(metric: object) -> str:
    """A metric's name in words, such as ``JSON F1`` for ``json_f1``; ``score`` if there is none."""
    name = str(metric or "score")
    return _NAMED.get(name) or " ".join(_SPELLED.get(word, word) for word in name.split("_"))


def capitalised(words: str) -> str:
    """The words at the beginning of a sentence; the other letters stay as they are."""
    return words[:1].upper() + words[1:]


def p_value(value: object) -> str:
    """``p = 0.031``, or ``p < 0.001``; ``p < 0.05`` where rounding would hide that it is below; empty if not known."""
    if (p := number(value)) is None:
        return ""
    if p < 0.001:
        return "p < 0.001"
    text = f"p = {p:.3f}"
    return "p < 0.05" if p < 0.05 and text == "p = 0.050" else text


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign, without one if it rounds to zero: ``+3.2``, ``-1.0``, ``0.0``."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def points_text(value: float) -> str:
    """The size of a difference of scores between 0 and 1, such as ``3.0 points``."""
    amount = f"{100 * abs(value):.1f}"
    return f"{amount} point{'' if amount == '1.0' else 's'}"


def change_text(value: float) -> str:
    """``gains 3.0 points`` or ``loses 3.0 points``."""
    return f"{'gains' if value >= 0 else 'loses'} {points_text(value)}"


def difference_text(value: object, *, nats: bool = False) -> str:
    """A difference of scores in points, or of log-losses in ``nats``, with its sign; ``unknown`` if it is not known."""
    finite = number(value)
    return "unknown" if finite is None else signed(finite, 3) if nats else signed(100 * finite)


def uncertainty_text(ends: object, p: object, how: str = "") -> str:
    """``95% interval +0.3 to +4.1, p = 0.024``, in points, with ``how`` it was tested in between."""
    return ", ".join(filter(None, (f"95% interval {between(items(ends), difference_text)}", how, p_value(p))))


def openings_sentence(times: int | None) -> str:
    """A warning about a test that was opened ``times`` before (None if unknown); empty if it never was."""
    if times is None:
        return "The number of earlier openings of this test is unknown, since the ledger cannot be read."
    if times <= 0:
        return ""
    return f"This test was opened {'once' if times == 1 else f'{times} times'} before: interpret its p-values with care."


# References

REFERENCE_NAMES = {
    "tfidf": "TF-IDF with logistic regression",
    "majority": "always the commonest label",
    "constant": "always the same answer",
    "zero_shot": "zero-shot (label words, no training)",
}
"""Names of the references, the most important one first."""


# Arms

_ARMS = {
    "seed_prompt": ("seed prompt", "first prompt, base model"),
    "prompt_only": ("prompt only", "best prompt untuned, base model"),
    "best_prompt": ("best prompt", "winner's prompt, base model"),
    "seed_tuned": ("seed tuned", "first prompt, tuned model"),
    "best_tuned": ("best tuned", "winner's prompt, tuned model"),
    PREVIOUS: ("old bundle", "the bundle that the run started from"),
}
"""Name and description of each arm, in the order of display."""
_FROZEN_NAMES = {"seed_tuned": "seed, frozen", "best_tuned": "best, frozen"}
_LEADING = (PREVIOUS, "seed_prompt", "best_prompt", "prompt_only", "seed_tuned", "best_tuned")
"""Order in which the members of a group give it its name."""


@dataclass(frozen=True)
class ArmGroup:
    """Arms with the same candidate: prompt, weights and decision rule are equal.

    Attributes:
        names: names of the arms in a summary.
        title: name of the group for people.
        meaning: its prompt and weights in words; empty for an unknown arm.
        frozen: whether it uses the base model's weights.
    """

    names: tuple[str, ...]
    title: str
    meaning: str
    frozen: bool

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the group's other arms for people."""
        return tuple(arm_name(name) for name in self.names if arm_name(name) != self.title)

    @property
    def untuned(self) -> bool:
        """Whether the summary calls one of the arms tuned that has the base model's weights."""
        return self.frozen and not _FROZEN_NAMES.keys().isdisjoint(self.names)


def arm_name(name: str) -> str:
    """The name of an arm for people."""
    return _ARMS[name][0] if name in _ARMS else one_line(name, 24)


def arm_groups(arms: Mapping[str, Any]) -> list[ArmGroup]:
    """The groups of arms, in the order of display."""
    ordered = dict.fromkeys((*(name for name in _ARMS if name in arms), *arms))
    return [_group(arms, names) for names in same_arms({name: arms[name] for name in ordered})]


def group_of(arms: Mapping[str, Any], name: str) -> ArmGroup:
    """The group of an arm; for an unknown arm a group with its name alone."""
    match = next((group for group in arm_groups(arms) if name in group.names), None)
    return match or ArmGroup((name,), arm_name(name), _ARMS.get(name, ("", ""))[1], False)


def _group(arms: Mapping[str, Any], names: tuple[str, ...]) -> ArmGroup:
    frozen = all(is_frozen(arms, name) for name in names)
    lead = next(name for name in (*_LEADING, *names) if name in names and is_frozen(arms, name) == frozen)
    title, meaning = arm_name(lead), _ARMS.get(lead, ("", ""))[1]
    if lead == "best_prompt" and previous_ships(arms):
        # The winner, the earlier bundle, has another prompt.
        meaning = "best new prompt, base model"
    group = ArmGroup(names, _FROZEN_NAMES.get(lead, title) if frozen else title, meaning, frozen)
    return replace(group, meaning=f"{meaning.replace('tuned model', 'base model')}: not tuned") if group.untuned else group


def why_untuned(summary: Mapping[str, Any], group: ArmGroup) -> str:
    """Why arms that are called tuned in the summary are not tuned, as the end of a sentence."""
    tried = number(summary.get("prompts_tuned"))
    if "best_tuned" not in group.names and tried:
        # The seed prompt's tuning is an arm in itself, whether it paid off or not.
        return "it was not tuned"
    return "no tuned weights were kept" if tried is None else _why_none(tuned=tried > 0)


def why_frozen(summary: Mapping[str, Any], group: ArmGroup) -> str:
    """The same reason in a few words."""
    return "frozen" if number(summary.get("prompts_tuned")) is None else f"frozen ({why_untuned(summary, group)})"


def _why_none(*, tuned: bool) -> str:
    return "no tuning step paid off" if tuned else "nothing was tuned"


# Gains

Outcome = Literal["same arm", "no difference", "noise", "gain", "loss"]
"""What a gain turned out to be; ``noise`` is a significant difference that numerical noise could cause."""

LEADING = "prompt_given_tuning"
"""The gain that comes first: that of the prompt search on top of tuning."""
NO_DIFFERENCE = "no significant difference"
NOISE = "within the noise of this machine"
SAME_ARM = "the same arm"
READINGS: dict[Outcome, str] = {
    "same arm": SAME_ARM,
    "no difference": NO_DIFFERENCE,
    "noise": NOISE,
    "gain": "a gain",
    "loss": "a loss",
}
"""What a gain turned out to be in a few words."""
_OF_TUNING = ("tuning", "synergy", "synergy_log_loss")
_SYNERGY: dict[Outcome, str] = {"gain": "worth more together", "loss": "they overlap"}


@dataclass(frozen=True)
class GainWords:
    """A gain in words.

    Attributes:
        name: short name.
        meaning: the arms whose difference it is.
        sentence: sentence on its size; empty if it has none.
        same: sentence if both sides are the same candidate; empty if it has none.
    """

    name: str
    meaning: str = ""
    sentence: str = ""
    same: str = ""


_GAINS = {
    LEADING: GainWords(
        "prompt, given tuning",
        "best tuned - seed tuned",
        "on top of tuning, the searched prompt {verb}s {points}",
        "the winner is the tuned seed prompt itself, so the search adds nothing on top of tuning",
    ),
    "tuning": GainWords(
        "tuning alone",
        "seed tuned - seed prompt",
        "tuning with the seed prompt {verb}s {points}",
        "the seed prompt was not tuned, so what tuning alone gains is not known",
    ),
    "both": GainWords(
        "prompt and tuning",
        "best tuned - seed prompt",
        "prompt and tuning together {verb} {points}",
        "the winner is the untuned seed prompt, so nothing is gained",
    ),
    "prompt": GainWords(
        "prompt alone",
        "prompt only - seed prompt",
        "without tuning, the searched prompt {verb}s {points}",
        "without tuning, no prompt was chosen over the seed prompt",
    ),
    "synergy": GainWords("synergy", "what the prompt adds after tuning beyond what it adds before"),
    "synergy_log_loss": GainWords("synergy, log-loss"),
    "over_previous": GainWords("over the old bundle", "best tuned - old bundle"),
}
"""The gains, the first one first."""
_WINNER_FROZEN = {
    LEADING: GainWords(
        "winner over seed tuned",
        "best prompt - seed tuned",
        "over the tuned seed prompt, the winner, which is not tuned, {verb}s {points}",
        "the winner is the untuned seed prompt itself, so the search adds nothing",
    ),
    "both": GainWords(
        "winner over seed prompt",
        "best prompt - seed prompt",
        "the winner, which is not tuned, {verb}s {points} over the seed prompt",
        _GAINS["both"].same,
    ),
}
"""If the winner was not tuned: no prompt was tried on top of tuning."""
_BOTH_FROZEN = {
    LEADING: GainWords(
        "winner over seed prompt",
        "best prompt - seed prompt",
        "over the seed prompt, which was not tuned either, the winner {verb}s {points}",
        # If the winner is the seed prompt, the gain of both says so.
        same="",
    )
}
_SEED_FROZEN = {
    "synergy": GainWords(
        "tuning, winner's prompt", "best tuned - best prompt", "with the winner's prompt, tuning {verb}s {points}"
    ),
    "synergy_log_loss": GainWords("tuning, winner's prompt, log-loss"),
    LEADING: GainWords(
        "winner over seed prompt",
        "best tuned - seed prompt",
        "over the seed prompt, which was not tuned, the tuned winner {verb}s {points}",
        _GAINS[LEADING].same,
    ),
}
"""If the winner was tuned and the seed prompt was not."""
_PREVIOUS_SHIPS = {
    LEADING: GainWords("old bundle over seed tuned", "old bundle - seed tuned", _GAINS[LEADING].sentence, _GAINS[LEADING].same),
    "both": GainWords("old bundle over seed prompt", "old bundle - seed prompt", _GAINS["both"].sentence, _GAINS["both"].same),
}
"""If the bundle that a warm start began with is the winner."""
# In a warm start the winner need not have a searched prompt.
_WARM_START = "against tuning the seed prompt afresh on these rows, starting from the old bundle {verb}s {points}"


def _gain_words(*, winner_frozen: bool, seed_frozen: bool) -> dict[str, GainWords]:
    """The words for each gain by which of the arms named after tuning have the base model's weights."""
    if winner_frozen:
        return {**_GAINS, **_WINNER_FROZEN, **(_BOTH_FROZEN if seed_frozen else {})}
    return {**_GAINS, **(_SEED_FROZEN if seed_frozen else {})}


def gain_words(summary: Mapping[str, Any]) -> dict[str, GainWords]:
    """The words for each gain of a summary, by what was tuned."""
    arms = fields(summary.get("arms"))
    if "best_tuned" in arms and is_frozen(arms, "best_tuned"):
        return _gain_words(winner_frozen=True, seed_frozen="seed_tuned" in arms and is_frozen(arms, "seed_tuned"))
    words = _gain_words(winner_frozen=False, seed_frozen=only_winner_tuned(arms))
    if not previous_ships(arms):
        return words
    seed_frozen = "seed_tuned" in arms and is_frozen(arms, "seed_tuned")
    return {**words, **_PREVIOUS_SHIPS, **({LEADING: _PREVIOUS_SHIPS["both"]} if seed_frozen else {})}


def frozen_first(summary: Mapping[str, Any]) -> bool:
    """Whether the prompt's gain on frozen weights comes before the gain of tuning, which is so if all arms use probes."""
    return fields(fields(summary.get("arms")).get("seed_prompt")).get("readout") == "probe"


def _gains_order(*, frozen_first: bool) -> list[str]:
    """Names of the gains in order of display; with ``frozen_first`` the prompt's gain on frozen weights comes first."""
    return list(dict.fromkeys((*(("prompt", "tuning") if frozen_first else ()), *_GAINS)))


def gains_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The gains of a summary by name, without those that could not be measured."""
    gains = {str(name): fields(gain) for name, gain in fields(summary.get("gains")).items()}
    return {name: gain for name, gain in gains.items() if number(gain.get("value")) is not None}


def has_gains(summary: Mapping[str, Any]) -> bool:
    """Whether there is a gain to show. If all arms have the same candidate, the verdict's first sentence says so."""
    return not all(gain.get("identical") for gain in gains_of(summary).values())


def _repeated(summary: Mapping[str, Any]) -> dict[str, str]:
    """Gains that compare the same candidates as an earlier gain, by the arms of a summary."""
    arms, gains = fields(summary.get("arms")), gains_of(summary)
    same = {name: str(fields(arms.get(name)).get("candidate_id") or name) for name in EVERY_ARM}
    return repeated_gains(same, [name for name in _gains_order(frozen_first=frozen_first(summary)) if name in gains])


def shown_gains(summary: Mapping[str, Any]) -> list[str]:
    """Names of the gains in order of display, without those that repeat another or that could not be measured."""
    gains, arms = gains_of(summary), fields(summary.get("arms"))
    left_out = {*_repeated(summary)}
    if previous_ships(arms) and len({fields(arms.get(name)).get("prompt_id") for name in ("best_prompt", "best_tuned")}) > 1:
        # Tuning and a prompt that is not the winner's do not add up.
        left_out |= {"synergy", "synergy_log_loss"}
    if only_winner_tuned(arms):
        left_out |= {"tuning"}
    elif "seed_tuned" in arms and is_frozen(arms, "seed_tuned"):
        # The seed prompt was not tuned: a gain of zero would say that tuning is of no use.
        left_out |= {name for name, gain in gains.items() if gain.get("identical") and name in _OF_TUNING}
    elif "best_tuned" in arms and is_frozen(arms, "best_tuned"):
        # The seed prompt alone was tuned: the difference of differences is only what its tuning lost.
        left_out |= {"synergy", "synergy_log_loss"}
    order = dict.fromkeys((*_gains_order(frozen_first=frozen_first(summary)), *gains))
    shown = [name for name in order if name in gains and name not in left_out]
    words = gain_words(summary)
    # If nothing was tuned, gains over the seed prompt and over its tuned arm are called the same.
    return list({words[name].name if name in words else name: name for name in shown}.values())


def repeated_text(summary: Mapping[str, Any]) -> str:
    """A note on gains that are left out and the shown gains that they repeat; empty if there are none."""
    words = gain_words(summary)
    named = ((words[name].name, words[first].name) for name, first in _repeated(summary).items())
    text = "; ".join(dict.fromkeys(f"{name} (as {first})" for name, first in named if name != first))
    return f"The same arms, and so not shown again: {text}." if text else ""


def gains_note(summary: Mapping[str, Any]) -> str:
    """How to read the gains."""
    gains = gains_of(summary)
    excepted = f", where it is not {NOISE}" if any(gain.get("within_noise") for gain in gains.values()) else ""
    unit = "points (of log-losses in nats a row)" if any(name.endswith("log_loss") for name in gains) else "points"
    return (
        f"Differences in {unit}, paired row by row. 95% intervals and p-values are corrected for being read together "
        f"(Bonferroni): an interval that leaves out zero is a significant difference{excepted}."
    )


def gain_outcome(gain: Mapping[str, Any]) -> Outcome | None:
    """What a gain turned out to be; None if its value or its p-value is unknown."""
    if gain.get("identical"):
        return "same arm"
    value, p = number(gain.get("value")), number(gain.get("p"))
    if value is None or p is None:
        return None
    if p >= ALPHA:
        return "no difference"
    if gain.get("within_noise"):
        return "noise"
    return "gain" if value > 0 else "loss"


def gain_reading(summary: Mapping[str, Any], name: str) -> str:
    """What a gain turned out to be in a few words; empty if it is not known."""
    outcome = gain_outcome(gains_of(summary)[name])
    if outcome is None:
        return ""
    synergy = name.startswith("synergy") and not only_winner_tuned(fields(summary.get("arms")))
    return (_SYNERGY if synergy and outcome in _SYNERGY else READINGS)[outcome]


def gain_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Name, value in points, interval, p-value and reading of each gain that is shown; log-losses are in nats."""
    rows, gains, words = [], gains_of(summary), gain_words(summary)
    for name in shown_gains(summary):
        gain, nats = gains[name], name.endswith("log_loss")
        ci = None if gain.get("identical") else gain.get("ci")
        interval = interval_text(ci, partial(difference_text, nats=nats))
        p = "" if gain.get("identical") else p_value(gain.get("p")).removeprefix("p ").removeprefix("= ")
        title = words[name].name if name in words else one_line(name, 24)
        rows.append([title, difference_text(gain["value"], nats=nats), interval, p or "-", gain_reading(summary, name)])
    return rows


def gains_sentence(
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
    candidates = candidates or {}
    winner_frozen, seed_frozen = "best_tuned" in frozen, "seed_tuned" in frozen
    words = _gain_words(winner_frozen=winner_frozen, seed_frozen=seed_frozen)
    order = [name for name in _gains_order(frozen_first=frozen_first) if words[name].sentence and name in gains]
    if PREVIOUS in candidates and candidates[PREVIOUS] == candidates["best_tuned"]:
        # The earlier bundle ships: its prompt need not be that of the arm best_prompt.
        order = [name for name in order if name != "synergy"]
    if order and not going_on and all(gains[name].identical for name in order):
        # All of them compare the untuned seed prompt with itself.
        why = _why_none(tuned=tuned)
        return f"The seed prompt ships untuned: no other prompt was chosen and {why}, so there is no gain to report."
    repeated = repeated_gains(candidates, order)
    parts: list[str] = []
    for name in (name for name in order if name not in repeated):
        if gains[name].identical:
            parts += [words[name].same] if words[name].same else []
        else:
            template = _WARM_START if name == LEADING and going_on and not seed_frozen else words[name].sentence
            parts.append(_gain_part(template, gains[name]))
    if winner_frozen and repeated.get("both") == "prompt":
        parts.append(f"what ships is that prompt on frozen weights: {_why_none(tuned=tuned)}")
    # With an untuned winner this would be the gain of tuning with the opposite sign.
    if "synergy" in gains and not gains["synergy"].identical and not winner_frozen and not seed_frozen:
        parts.append(_synergy(gains["synergy"]))
    first = [] if frozen_first else [f"on {counted(n, 'test row')}, {parts.pop(0) if parts else ''}"]
    differing = [name for name, gain in gains.items() if not gain.identical]
    tested = len(differing) - len(repeated_gains(candidates, differing))
    note = " Intervals and p-values are corrected for multiple comparisons (Bonferroni)." if tested > 1 else ""
    return f"{'. '.join(map(capitalised, (*first, *parts)))}.{note}"


def _gain_part(template: str, gain: Gain) -> str:
    size = template.format(verb="gain" if gain.value >= 0 else "lose", points=points_text(gain.value))
    return f"{size} ({uncertainty_text(gain.ci.as_list(), gain.p)}){'' if gain.significant() else f': {unclear(gain)}'}"


def _synergy(gain: Gain) -> str:
    points, uncertainty = points_text(gain.value), uncertainty_text(gain.ci.as_list(), gain.p)
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
    return f"{NOISE}, so no difference is claimed" if gain.p < ALPHA else NO_DIFFERENCE


# Robustness


def robustness_sentences(summary: Mapping[str, Any]) -> list[str]:
    """The scores of the winning prompt in other formats, before and after tuning, and what they show; empty if not measured."""
    robustness, arms = fields(summary.get("robustness")), fields(summary.get("arms"))
    ranges = []
    for side, name in (("base", "base model"), ("tuned", "shipped model" if is_frozen(arms, "best_tuned") else "tuned model")):
        scores = [score for item in items(fields(robustness.get(side)).get("scores")) if (score := number(item)) is not None]
        if not scores:
            return []
        ranges.append(f"{name} {decimal(min(scores))} to {decimal(max(scores))}")
    rows = counted(decimal(robustness.get("n"), 0), "dev row")
    first = f"The winning prompt in {len(scores)} other formats on {rows}: {', '.join(ranges)}."
    sentence = robustness.get("sentence")
    return [first, *([harmless(sentence)] if isinstance(sentence, str) and sentence else [])]
