"""The page's first section: score, gains, warnings and next steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cotune.errors import counted
from cotune.evaluate.frozen_arms import EVERY_ARM, only_winner_tuned
from cotune.evaluate.words import (
    REFERENCE_NAMES,
    arm_groups,
    capitalised,
    difference_text,
    gain_reading,
    gain_words,
    gains_note,
    gains_of,
    has_gains,
    metric_words,
    openings_sentence,
    p_value,
    repeated_text,
    shown_gains,
    why_frozen,
)
from cotune.plain import amount, aside, between, count_of, decimal, dollars, duration, fields, items, number, shipped
from cotune.prompt.prompt import held_rows
from cotune.report.html.markup import card, data_text, esc, facts_table, figure, percent
from cotune.report.html.plot import Point, difference_row, nice_ticks, padded, strip, strip_row, strips, upright
from cotune.report.html.sections.prompts import PromptFacts, Prompts, Score
from cotune.report.html.sections.record import RunRecord
from cotune.report.terminal.advice import next_steps, parted
from cotune.report.terminal.result import (
    against_test,
    cost_facts,
    difference,
    interval_of,
    of_other_rows,
    previous_parts,
    references_of,
    result_warnings,
    search_end,
    share,
)
from cotune.report.terminal.verdict import headline

_COUNTED = {1: "The arm"} | {n: f"The {word} arms" for n, word in enumerate(("two", "three", "four", "five", "six"), 2)}
_OVERLAP = " Arms answer the same rows, so overlapping intervals can still hide a difference: read the paired gains below."
_MINUS = re.compile(r"(?<=[ (])-(?=[ \d])")
_SHARE = re.compile(r"(?<![\d.])(?<![Ww]ithin )(?<!p [=<] )[01]\.\d{3}(?![\d.]*\d)")
"""Format a score for the headline; a tolerance and a p-value are not scores."""
_OPTION, _WORDS = re.compile(r"--budget \S+$"), re.compile(r"( )")


def verdict_section(record: RunRecord, prompts: Prompts) -> str:
    """The content of the section as markup."""
    return _finished(record) if record.finished else _going_on(record, prompts)


def _finished(record: RunRecord) -> str:
    summary = record.summary
    first, *rest = headline(summary)
    # With references, the second sentence compares the score with methods that need no language model.
    needed, rest = (rest[0], rest[1:]) if rest and references_of(summary) else ("", rest)
    more = "".join(f"<li>{data_text(sentence)}</li>" for sentence in rest)
    return (
        f'<h1 class="headline">{_set(_SHARE.sub(lambda found: f"{percent(float(found[0]))}%", first))}</h1>'
        + (f"<p class=needed>{_set(needed)}</p>" if needed else "")
        + "".join(f"<p class=remark>Warning: {_set(warning)}</p>" for warning in result_warnings(summary))
        + _arms(record)
        + _previous(record)
        + _gains(summary)
        + (f'<details class="reading"><summary>The same in words</summary><ul>{more}</ul></details>' if more else "")
        + '<div class="cards">'
        + _selection(record)
        + _judge(record)
        + _cost(record)
        + _next(record)
        + "</div>"
    )


def _set(sentence: str) -> str:
    """Typography of a sentence: minus signs, and no line break inside TF-IDF."""
    return data_text(_MINUS.sub("−", sentence).replace("TF-IDF", "TF\u2011IDF"))


def _going_on(record: RunRecord, prompts: Prompts) -> str:
    best = _best_so_far(record, prompts)
    where = record.dev_measure.where
    what = f"Nothing has been measured on {where} yet."
    if best:
        score, facts = best
        shown = record.dev_measure.text(score.level, score.rows)
        how = f"after {counted(score.steps, 'step')} of tuning" if score.steps else "on the base model"
        what = f"Best on {where} so far: {esc(shown)} {how}, with “{data_text(facts.name)}”."
    if text := record.value("verdict").get("text"):
        what = f"First verdict {data_text(text)}; a usable bundle is in best. {what}"
    last = max((number(event.get("active_s")) or 0.0 for event in record.events), default=0.0)
    return (
        '<h1 class="headline">This run has not ended yet.</h1>'
        f"<p>{what}</p>"
        f"<p>{counted(len(prompts.by_id), 'prompt')} so far, {esc(duration(last))} of work. Scores on {where} are "
        f"optimistic, since {where} {'choose' if record.by_probe else 'chooses'} the winner; the test split is opened once, at "
        "the end. If the run was stopped, the same <code>cotune run</code> command resumes it.</p>" + _arms(record)
    )


def _best_so_far(record: RunRecord, prompts: Prompts) -> tuple[Score, PromptFacts] | None:
    """The best measurement on dev and its prompt; with probes, that of the lowest log-loss, which chooses the winner."""
    tuned = [(s, facts) for facts in prompts.by_id.values() for s in facts.tuned]
    raced = [(s, facts) for facts in prompts.by_id.values() for s in facts.raced]
    # A candidate that left a race early may have been right on all of its few rows.
    longest = max((score.rows for score, _ in raced), default=0)
    measured = [(score, facts) for score, facts in raced if score.rows == longest]
    if not record.by_probe:
        return max(tuned or measured, key=lambda pair: record.dev_measure.rank(pair[0].level), default=None)
    # A frozen probe is measured on the same held-out rows, and may be better than all tuned weights.
    last = {prompt: fields(event.get("value")).get("log_loss") for prompt, event in record.frozen_held_out.items()}
    tuned += [(s, facts) for s, facts in raced if s.stage == "frozen" and s.log_loss == number(last.get(facts.prompt.id))]
    known = [(loss, place) for place, (s, _) in enumerate(tuned or measured) if (loss := s.log_loss) is not None]
    return (tuned or measured)[min(known)[1]] if known else None


def _arms(record: RunRecord) -> str:
    arms = record.arms
    shown = [(name, arms[name]) for name in EVERY_ARM if name in arms and number(arms[name].get("score")) is not None]
    if not shown:
        return ""
    rows = {name: _arm_ci(arm, record) for name, arm in shown}
    references = references_of(record.summary)
    measured = [(arm, rows[name]) for name, arm in shown] + [(one, interval_of(one)) for one in references.values()]
    ends = [v for one, ci in measured for v in (number(one.get("score")) or 0.0, *(ci or ()))]
    low, high = padded(ends, share=0.05, least=0.1)
    span = (max(0.0, low), min(1.0, high)) if record.metric in ("accuracy", "macro_f1", "weighted_f1") else (low, high)
    grid = "".join(upright(span, tick, "grid") for tick in nice_ticks(*span, 4))

    def line(title: str, what: str, one: Mapping[str, Any], ci: Point | None, kind: str, mark: str) -> str:
        score, ends = number(one.get("score")), between(ci, percent)
        tip = f"{title}: {percent(score)}% ({ends})\nlog-loss {decimal(one.get('log_loss'))}\n"
        drawn = strip(span, score, ci, mark, tip=tip + counted(one.get("n", "?"), "test row"), extra=grid)
        return strip_row(esc(title), what, drawn, percent(score), f"<span>{ends}</span>", kind=kind)

    lines, best = [], shipped(record.summary)
    groups = arm_groups(dict(shown))
    for group in groups:
        arm, meaning = fields(arms.get(group.names[0])), _text(group.meaning)
        if group.untuned:
            meaning = meaning.replace(": not tuned", f", {why_frozen(record.summary, group)}")
        ships = any(fields(arms.get(name)) is best or name == "best_tuned" for name in group.names)
        kind = ("base" if group.frozen else "tuned") + (" lead" if ships else "")
        also = f"; also {', '.join(group.others)}" if group.others else ""
        what = f"{esc(meaning)}{_read_by(arm)}{esc(also)}"
        lines.append(line(group.title, what, arm, rows[group.names[0]], kind, kind))
    for name, one in references.items():
        what = f"reference{of_other_rows(one, best)}"
        lines.append(line(REFERENCE_NAMES[name], what, one, interval_of(one), "reference", "quiet"))
    n = next((arm.get("n") for _, arm in shown if arm.get("n")), "?")
    return figure(
        f"{_COUNTED.get(len(groups), f'The {len(groups)} arms')} on {esc(n)} sealed test rows",
        strips(lines, span),
        f"{esc(capitalised(metric_words(record.metric)))} in percent with 95% intervals. Hollow: base model. Filled: tuned."
        + (_OVERLAP if has_gains(record.summary) else ""),
    )


def _read_by(arm: Mapping[str, Any]) -> str:
    """The readout of an arm, if its summary names it."""
    layer = number(arm.get("layer"))
    probe = "probe" if layer is None else f"probe after layer {layer:.0f}{' with TF-IDF' if arm.get('tfidf') else ''}"
    return {"probe": f", {probe}", "words": ", label words"}.get(str(arm.get("readout")), "")


def _arm_ci(arm: Mapping[str, Any], record: RunRecord) -> Point | None:
    return interval_of(arm) or record.test_interval(number(arm.get("score")) or 0.0, count_of(arm.get("n")))


def _previous(record: RunRecord) -> str:
    """Previous and new bundle on each part of the test, which shows forgetting."""
    parts = previous_parts(record.summary)
    if not parts:
        return ""
    rows = [("", "old", "new", "")]
    rows += [(f"{name} ({esc(part['n'])})", share(part, "old"), share(part, "new"), difference(part)) for name, part in parts]
    remarks = items(fields(record.summary.get("previous")).get("remarks"))
    notes = "".join(f"<p>{data_text(remark)}.</p>" for remark in remarks)
    return figure(
        "Old and new bundle",
        facts_table(rows) + notes,
        "Share of right rows on the same sealed test rows; the old bundle cannot know new labels. Differences are paired; "
        "intervals and p-values are corrected for the parts being read together (Bonferroni).",
    )


def _gains(summary: Mapping[str, Any]) -> str:
    gains, words = gains_of(summary), gain_words(summary)
    # The log-loss has another scale.
    shown = [(name, gains[name]) for name in shown_gains(summary) if name in words and not name.endswith("log_loss")]
    if not shown or not has_gains(summary):
        return ""
    ends = [v for _, gain in shown for v in map(number, (gain["value"], *items(gain.get("ci")))) if v is not None]
    span = padded([0.0, *ends], share=0.05, least=0.05)
    lines = []
    for name, gain in shown:
        title, arms, reading = map(_text, (capitalised(words[name].name), words[name].meaning, gain_reading(summary, name)))
        lines.append(difference_row(title, arms, gain, span, reading))
    loss, loss_note = gains.get("synergy_log_loss", {}), ""
    if loss and not loss.get("identical") and "synergy_log_loss" in shown_gains(summary):
        ceiling = "" if only_winner_tuned(fields(summary.get("arms"))) else ", which no ceiling hides"
        interval = " to ".join(difference_text(end, nats=True) for end in items(loss.get("ci")))
        loss_note = (
            f" {capitalised(words['synergy'].name)} on the log-loss{ceiling}: {difference_text(loss['value'], nats=True)} nats "
            f"({interval}, {p_value(loss.get('p'))})."
        )
    note = f"{gains_note(summary)}{_text(loss_note)} {repeated_text(summary)}".rstrip()
    return figure("What was gained, and by what", strips(lines, span, signed=True), esc(note))


def _text(words: str) -> str:
    """Typography of names and sentences of ours: apostrophes and minus signs."""
    return _MINUS.sub("−", words).replace("'", "’")


def _selection(record: RunRecord) -> str:
    selection = fields(record.summary.get("selection"))
    n = fields(record.summary.get("n"))
    best = shipped(record.summary)
    dev, test, corrected = (number(selection.get(name)) for name in ("dev", "test", "dev_corrected"))
    if dev is None or test is None:
        return ""
    dev_ci = record.dev_interval(dev, count_of(n.get("dev")))
    how, where = ("which chose the winner", "the rows that chose it,")
    if record.by_probe:
        how, where = "by a fit that had not seen them", "dev, by a fit to the other labelled rows,"
    tested = esc(counted(best.get("n", "?"), "sealed test row"))
    rows = [(f"{esc(counted(n.get('dev', '?'), 'dev row'))}, {how}", percent(dev), between(dev_ci, percent))]
    rows += [("the same, corrected for choosing", percent(corrected), "")] if corrected is not None else []
    rows += [(f"<b>{tested}: quote this one</b>", percent(test), between(_arm_ci(best, record), percent))]
    optimism = number(selection.get("optimism")) or 0.0
    opened = number(record.summary.get("test_opened_before", 0))
    ledger = openings_sentence(None if opened is None else int(opened))
    return card(
        "Which score to quote",
        facts_table(rows),
        f"<p>On {where} the winner of {esc(selection.get('candidates', 'many'))} prompts scored {against_test(optimism)}."
        f"{esc(f' {ledger}') if ledger else ''}</p>",
    )


def _judge(record: RunRecord) -> str:
    judge = fields(record.summary.get("judge"))
    if not judge:
        return ""
    agreement = fields(judge.get("agreement"))
    rows = [("model", data_text(judge.get("model"))), ("answers graded", amount(judge.get("rows")))]
    refused = number(judge.get("refused")) or 0
    rows += [("of these without a grade, since its endpoint refused them", amount(refused))] if refused else []
    rows += [("answers graded by hand", esc(agreement.get("n")))] if agreement else []
    for key, name in (("difference", "mean difference from people"), ("correlation", "correlation with people")):
        ends = items(agreement.get(f"{key}_ci"))
        if number(agreement.get(key)) is not None and len(ends) == 2:
            rows.append((name, decimal(agreement[key]) + aside(between(ends))))
    rows += [("tokens", amount(judge.get("tokens")))]
    rows += [("paid for grades", money)] if (money := dollars(judge.get("dollars"))) else []
    alone = "" if agreement else "<p>Nobody’s grades were compared with its own.</p>"
    return card("The judge", facts_table(rows), alone, f"<p>Rubric: {data_text(judge.get('rubric'))}</p>")


def _cost(record: RunRecord) -> str:
    summary = record.summary
    prompts = [summary.get(name, "–") for name in ("prompts_scored", "prompts_tuned")]
    rows = [*cost_facts(summary), ("prompts scored / tuned", " / ".join(map(esc, prompts)))]
    why = search_end(summary)
    return card("What it cost", facts_table(rows), f"<p>{data_text(why)}</p>" if why else "")


def _next(record: RunRecord) -> str:
    steps = next_steps({**record.summary, "out": str(record.folder), "command": record.command})
    listed = "".join(f"<li>{_step(step)}</li>" for step in steps)
    best = fields(record.summary.get("best"))
    held = held_rows(len(items(fields(best.get("prompt")).get("demonstrations"))))
    beside = f"<p>{data_text(held)}</p>" if held and best.get("bundle") else ""
    return card("What to do next", f"<ul>{listed}</ul>", beside)


def _step(step: str) -> str:
    """A next step with its command or option as code; lines do not break after the dashes of an option."""
    what, command = parted(step)
    if not command and (option := _OPTION.search(step)):
        what, command = step[: option.start()].rstrip(), option[0]
    if not command:
        return data_text(step)
    words = "".join(
        f"<span class=word>{esc(word)}</span>" if word.startswith("--") else esc(word) for word in _WORDS.split(command)
    )
    return f"{data_text(what)} <code>{words}</code>"
