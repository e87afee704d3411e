"""The prompts of a run and the history of each: origin, scores and tuning."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from cotune.errors import CotuneError, counted
from cotune.plain import count_of, fields, items, number, one_line
from cotune.prompt.prompt import Prompt, demonstrations_note
from cotune.report.html.markup import cut
from cotune.report.html.measure import DevMeasure
from cotune.report.html.plot import Point
from cotune.report.html.sections.record import RunRecord

_MOST_BYTES = 700_000
_MOST_WORDS = 1_500
_HUES = 6
# Each word includes the space behind it: single spaces would match anywhere and split differences.
_WORD = re.compile(r"^\s+|\S+\s*")


@dataclass(frozen=True)
class Score:
    """A measurement on dev.

    Attributes:
        level: score or log-loss, by the page's measure.
        adapter: id of the adapter, or of the base model.
        score: the metric's score, if known.
        log_loss: log-loss in nats per row, if known.
        steps: optimizer steps of the weights; 0 for the base model.
    """

    level: float
    rows: int
    cycle: int
    adapter: str
    score: float | None = None
    log_loss: float | None = None
    steps: int = 0
    stage: str = ""


@dataclass
class PromptFacts:
    """A prompt with its history.

    Attributes:
        operator: operator that made it; empty for initial prompts.
        raced: its measurement in each race.
        tuned: measurements of its adapters, in order.
        dropped: whether a race eliminated it.
        layer: layer of its probe; None for label words and generated answers.
    """

    prompt: Prompt
    source: str = ""
    operator: str = ""
    parents: tuple[str, ...] = ()
    cycle: int = 1
    raced: list[Score] = field(default_factory=list)
    tuned: list[Score] = field(default_factory=list)
    dropped: bool = False
    layer: int | None = None

    @property
    def name(self) -> str:
        """The prompt as one short line, with a note on its demonstrations."""
        return self.short(110)

    def short(self, limit: int) -> str:
        """The prompt as one line of at most ``limit`` characters; a cut text keeps the note on its demonstrations."""
        note = demonstrations_note(self.prompt)
        text = self.prompt.text.replace("\n", " ⏎ ") or "(the bare input)"
        return f"{one_line(text, max(1, limit - len(note) - 1))} {note}" if note else one_line(text, limit)

    @property
    def races(self) -> list[Score]:
        """Its measurements in races, without those of stage ``frozen``, which only serve the comparison with tuning."""
        return [score for score in self.raced if score.stage != "frozen"]

    @property
    def origin(self) -> str:
        """Its origin in words."""
        named = {"user": "yours or drafted", "previous": "the old bundle’s"}
        return named.get(self.source, self.operator.replace("_", " ").replace("+", " + ") or self.source)

    def best(self, measure: DevMeasure) -> Score | None:
        """Its best measurement: after tuning if it was tuned, else in a race."""
        return max(self.tuned or self.races or self.raced, key=lambda s: measure.rank(s.level), default=None)

    @cached_property
    def full_text(self) -> str:
        """Everything that the model is shown except the row, as readable text."""
        prompt = self.prompt
        blocks = [f"[system]\n{prompt.system}"] if prompt.system is not None else []
        if prompt.nearest:
            blocks.append(f"[examples]\nthe {prompt.nearest} nearest to the row, of {len(prompt.demonstrations)}")
        for shown in () if prompt.nearest else prompt.demonstrations:
            row = "\n".join(f"{name}: {text}" for name, text in shown.fields)
            blocks.append(f"[example]\n{row}\n→ {prompt.word(shown.output)}")
        blocks.append((f"[prompt]\n{prompt.text}" if blocks else prompt.text) or "(the bare input)")
        if prompt.label_words:
            words = "\n".join(f"{label} → {word}" for label, word in prompt.label_words if label != word)
            blocks += [f"[label words]\n{words}"] if words else []
        return "\n\n".join(blocks)


@dataclass(frozen=True)
class Prompts:
    """All prompts of a run by id, in order of appearance, with the ids of the seed prompt and the leading one."""

    by_id: Mapping[str, PromptFacts]
    seed: str = ""
    winner: str = ""

    def tag(self, prompt_id: str) -> str:
        """``winner``, ``seed`` or nothing."""
        return "winner" if prompt_id == self.winner else "seed" if prompt_id == self.seed else ""

    def named(self, prompt_id: str, limit: int = 118) -> str:
        """Its tag and name in at most ``limit`` characters; its id if it is not known."""
        tag, facts = self.tag(prompt_id), self.by_id.get(prompt_id)
        tag = f"{tag}: " if tag else ""
        return tag + (facts.short(limit - len(tag)) if facts else one_line(prompt_id, limit - len(tag)))

    def kinds(self, prompt_ids: Iterable[str]) -> list[str]:
        """CSS class of a line for each of the prompts: its tag, or one of six hues, also where a tag comes again."""
        kinds: list[str] = []
        for tag in map(self.tag, prompt_ids):
            others = sum(kind.startswith("other") for kind in kinds)
            kinds.append(tag if tag and tag not in kinds else f"other h{others % _HUES}")
        return kinds


def read_prompts(record: RunRecord) -> Prompts:
    """Collect the prompts from a journal; malformed events are skipped."""
    prompts: dict[str, PromptFacts] = {}
    seed = _collect(record, prompts)
    latest, cycle = "", 1
    for event in record.events:
        kind, value = event.get("kind"), fields(event.get("value"))
        if kind == "race":
            cycle = int(number(value.get("cycle")) or cycle)
            _race(prompts, value, record.dev_measure)
        elif kind == "tuned" and (facts := prompts.get(str(value.get("prompt_id")))):
            if (score := _score(value, record.dev_measure.of(value), value)) is not None:
                score = replace(score, cycle=cycle) if record.by_probe else score
                (facts.raced if score.stage == "frozen" else facts.tuned).append(score)
        elif kind == "write" and value.get("stage") == "confirm" and (facts := prompts.get(str(value.get("prompt_id")))):
            facts.tuned = [_with_answers(score, value) for score in facts.tuned]
        elif kind == "cycle":
            latest = str(value.get("winner"))
    return Prompts(prompts, seed, str(record.confirmed("best_tuned").get("prompt_id") or latest))


def _collect(record: RunRecord, prompts: dict[str, PromptFacts]) -> str:
    seed = ""
    for value in record.values("previous"):
        if (prompt := read_prompt(fields(value.get("was")).get("prompt"))) is not None:
            prompts[prompt.id] = PromptFacts(prompt, "previous")
    for value in record.values("start", "pool", "confirm"):
        for item in items(value.get("prompts")):
            if (prompt := read_prompt(item)) is not None:
                prompts.setdefault(prompt.id, PromptFacts(prompt, "user"))
                seed = seed or prompt.id
        for item in map(fields, items(value.get("proposals"))):
            if (prompt := read_prompt(item.get("prompt"))) is not None:
                cycle = int(number(value.get("cycle")) or 1)
                facts = prompts.setdefault(prompt.id, PromptFacts(prompt, cycle=cycle))
                facts.source, facts.operator = str(item.get("source", "")), str(item.get("operator", ""))
                facts.parents = tuple(map(str, items(item.get("parents"))))
        for arm in map(fields, fields(value.get("arms")).values()):
            if (prompt := read_prompt(arm.get("prompt"))) is not None:
                prompts.setdefault(prompt.id, PromptFacts(prompt))
    return seed


def _race(prompts: Mapping[str, PromptFacts], value: Mapping[str, Any], measure: DevMeasure) -> None:
    named = {"rows": "rows", "score": "scores", "log_loss": "log_losses"}
    for prompt_id, level in measure.of_race(value).items():
        facts = prompts.get(prompt_id)
        measured = _score(value, level, {name: fields(value.get(key)).get(prompt_id) for name, key in named.items()})
        if facts and measured:
            facts.raced.append(measured)
            layer = number(fields(value.get("layers")).get(prompt_id))
            facts.layer = facts.layer if layer is None else int(layer)
    for prompt_id in map(str, items(value.get("dropped"))):
        if prompt_id in prompts:
            prompts[prompt_id].dropped = True


def _score(value: Mapping[str, Any], level: float | None, measured: Mapping[str, Any]) -> Score | None:
    if level is None:
        return None
    rows, cycle, steps = map(count_of, (measured.get("rows"), value.get("cycle"), value.get("steps")))
    adapter, stage = str(value.get("adapter_id", "")), str(value.get("stage", "race"))
    return Score(level, rows, cycle, adapter, number(measured.get("score")), number(measured.get("log_loss")), steps, stage)


def _with_answers(measured: Score, written: Mapping[str, Any]) -> Score:
    """A measurement completed by the score of answers that its adapter generated later for the same rows."""
    same = (measured.adapter, measured.rows) == (str(written.get("adapter_id")), number(written.get("rows")))
    return replace(measured, score=number(written.get("score"))) if same and measured.score is None else measured


def read_prompt(data: object) -> Prompt | None:
    try:
        prompt = Prompt.from_json(fields(data)) if fields(data) else None
        return prompt if prompt and prompt.id else None
    except (CotuneError, TypeError, ValueError, AttributeError):
        return None


def word_diff(before: str, after: str) -> list[list[str]] | None:
    """Difference of two texts by words.

    Returns:
        Pairs of ``=`` (kept), ``-`` (gone) or ``+`` (new) and the piece of text; None if the texts are too long to compare.
    """
    old, new = _WORD.findall(before), _WORD.findall(after)
    if max(len(old), len(new)) > _MOST_WORDS:
        return None
    pieces: list[list[str]] = []
    for step, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if step == "equal":
            pieces.append(["=", "".join(old[a:b])])
            continue
        pieces += [["-", "".join(old[a:b])]] if b > a else []
        pieces += [["+", "".join(new[c:d])]] if d > c else []
    return pieces


def prompt_details(prompts: Prompts, interval: Callable[[Score], Point | None]) -> dict[str, Any]:
    """Data for the page's panel: each prompt's text, scores and difference from its parent, cut to a total size."""
    each = max(600, min(12_000, _MOST_BYTES // (2 * max(1, len(prompts.by_id)))))
    texts = {prompt_id: cut(facts.full_text, each) for prompt_id, facts in prompts.by_id.items()}
    details: dict[str, Any] = {}
    for prompt_id, facts in prompts.by_id.items():
        parent = next((p for p in facts.parents if p in texts), None)
        text, missing = texts[prompt_id]
        details[prompt_id] = {
            "title": facts.name,
            "tag": prompts.tag(prompt_id),
            "text": text,
            "missing": missing,
            "parent": parent,
            "parents": [p for p in facts.parents if p in texts],
            "diff": word_diff(texts[parent][0], text) if parent else None,
            "facts": [
                ["First seen", f"cycle {facts.cycle}" if facts.cycle else "after the test"],
                ["Made by", facts.origin or "–"],
                *([["Read from", f"the state after layer {facts.layer}"]] if facts.layer is not None else []),
                *(
                    [["Shows", counted(facts.prompt.nearest or len(facts.prompt.demonstrations), "worked example")]]
                    if facts.prompt.demonstrations
                    else []
                ),
            ],
            "scores": [
                {
                    "what": _what(s),
                    "adapter": s.adapter,
                    "score": s.score,
                    "ci": interval(s),
                    "rows": s.rows,
                    "log_loss": s.log_loss,
                }
                for s in (*facts.raced, *facts.tuned)
            ],
        }
    return details


def _what(score: Score) -> str:
    if score.stage == "previous":
        return "the old bundle’s weights"
    if score.stage == "frozen":
        return "frozen probe"
    if score.stage == "robustness":
        return "after tuning" if score.steps else "before tuning"
    return f"tuned {counted(score.steps, 'step')}, cycle {score.cycle}" if score.steps else f"race, cycle {score.cycle}"
