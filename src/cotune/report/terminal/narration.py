"""A run's journal in sentences: a line for each event, and the state that a live view shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cotune.errors import CotuneError, counted
from cotune.evaluate.frozen_arms import EVERY_ARM
from cotune.evaluate.words import REFERENCE_NAMES, ArmGroup, group_of, why_frozen
from cotune.plain import amount, aside, between, decimal, duration, ends_of, fields, items, number, one_line, splits_text
from cotune.prompt.prompt import Prompt, demonstrations_note
from cotune.report.terminal.steps import ALONE, Line, Value, cycle_of, generic, news

_SOURCES = {
    "seed": "drafted",
    "user": "to start from",
    "bank": "from the bank",
    "bare": "with the row alone",
    "edit": "edited",
    "demonstrations": "with demonstrations",
    "crossover": "crossed",
    "rewrite": "rewritten",
    "previous": "of the old bundle",
}
"""Sources of prompts, as words behind a number."""

_STAGES = {
    "length": "looking how far rows must be read",
    "race": "racing prompts",
    "tune": "tuning",
    "embed": "embedding",
    "judge": "judging on held-out rows",
    "verdict": "fitting the first probe",
    "better": "saving a better bundle",
    "final": "tuning on all labelled rows",
    "judged": "fitting the probes of the arms",
    "confirm": "confirming on dev",
    "test": "scoring the test split",
    "rewrite": "asking the proposer",
    "neighbours": "looking for paraphrases",
    "noise": "measuring this machine's noise",
    "robustness": "trying other formats of the winning prompt",
}


@dataclass
class Story:
    """Follows a run's events: words each one and keeps the current state. Malformed events do not make it raise.

    Attributes:
        task: name of the task; empty before the start event.
        budget: budget from the run's start event.
        best: the best on dev so far: score, log-loss (each None if not known) and a description of the prompt.
        trail: the successive best scores; log-losses if no scores are known or if they decide.
        measure: what ``best`` was measured by; the first race by probes is ``cross-fitted``, later candidates are ``held out``.
        by_probe: whether the search is by probes, so that held-out log-loss decides.
        verdict: the first verdict in short; empty before it.
    """

    task: str = ""
    budget: str = ""
    cycle: int = 0
    best: tuple[float | None, float | None, str] | None = None
    trail: list[float] = field(default_factory=list)
    measure: str = "best dev"
    by_probe: bool = False
    verdict: str = ""
    _judged: list[float] = field(default_factory=list)
    _deepest: int = 0
    _prompts: dict[str, tuple[str, str]] = field(default_factory=dict)
    _frozen: set[tuple[str, str, int, float | None]] = field(default_factory=set)
    _arms: dict[str, Any] = field(default_factory=dict)
    _tested: set[str] = field(default_factory=set)
    _tried: bool = False
    _dev: int | None = None
    _labelled: int | None = None
    _every: bool = True
    _trail_rows: int | None = None
    _cut: set[bool] = field(default_factory=set)

    def tell(self, event: Mapping[str, Any]) -> list[Line]:
        """Take in an event; returns its lines, often none."""
        kind, value = str(event.get("kind", "?")), event.get("value")
        record = fields(value)
        if (cycle := number(record.get("cycle"))) is not None:
            self.cycle = max(self.cycle, int(cycle))
        if kind in ALONE:
            return ALONE[kind](record)
        teller = _TELLERS.get(kind)
        if teller is None:
            return [] if kind in _SILENT else [Line(generic(kind, value))]
        return teller(self, record)

    def prompt(self, prompt_id: object, limit: int = 60) -> str:
        """Describe a prompt by its text if it is known, else by its id; a cut text keeps the note on its demonstrations."""
        text, note = self._prompts.get(str(prompt_id), ("", ""))
        if not text:
            return one_line(prompt_id if prompt_id else "a prompt", limit)
        return f"“{one_line(text, max(1, limit - len(note)))}{note}”"

    def learn(self, data: object) -> None:
        """Remember the text of a prompt from its JSON object."""
        with suppress(CotuneError, TypeError, ValueError, AttributeError):
            prompt = Prompt.from_json(fields(data))
            note = demonstrations_note(prompt)
            shown = ("[+system text] " if prompt.system else "") + prompt.text
            self._prompts[prompt.id] = shown, f" {note}" if note else ""

    def arm(self, group: ArmGroup) -> str:
        """An arm's name, with a note if it is called tuned but was not tuned."""
        why = why_frozen({"prompts_tuned": int(self._tried)}, group)
        return group.title + (f", {why}" if group.untuned else "")

    def saw_score(self, value: Value) -> bool:
        """Whether a measurement on dev is the best so far; ties, and measurements without a score, go by log-loss."""
        score, loss = number(value.get("score")), number(value.get("log_loss"))
        if score is None and loss is None:
            return False
        if self.best is not None:
            if _rank(score, loss) <= _rank(*self.best[:2]):
                return False
            if self.best[0] is None and score is not None:
                self.trail.clear()
        level = loss if score is None else score
        if level is not None and (not self.trail or score is None or score > self.trail[-1]):
            self.trail.append(level)
        self.best = (score, loss, self.prompt(value.get("prompt_id"), 160))
        return True

    def saw_loss(self, value: Value, rows: int | None, measure: str) -> bool:
        """Record a measurement with the least log-loss as the best so far; returns whether it has a log-loss."""
        loss = number(value.get("log_loss"))
        if loss is None:
            return False
        if (rows, measure) != (self._trail_rows, self.measure):
            # Losses on different rows, or by fits to different parts of them, cannot be compared.
            self.trail.clear()
        self._trail_rows, self.measure = rows, measure
        self.trail.append(loss)
        self.best = (number(value.get("score")), loss, self.prompt(value.get("prompt_id"), 160))
        return True


def stage_name(stage: str) -> str:
    """Name of a stage of the run for people."""
    return _STAGES.get(stage, one_line(stage, 30))


def measured(value: Value) -> str:
    """Format score and log-loss as ``0.931, log-loss 0.312``; an unknown one is left out."""
    score, loss = number(value.get("score")), number(value.get("log_loss"))
    parts = ([] if score is None else [decimal(score)]) + ([] if loss is None else [f"log-loss {loss:.3f}"])
    return ", ".join(parts) or "-"


def _rank(score: float | None, loss: float | None) -> tuple[float, float]:
    return -math.inf if score is None else score, -math.inf if loss is None else -loss


def _start(story: Story, value: Value) -> list[Line]:
    for prompt in items(value.get("prompts")):
        story.learn(prompt)
    story.task = one_line(value.get("task") or "task", 40)
    story.budget = one_line(value.get("budget") or "", 30)
    train, dev = (number(fields(value.get("n")).get(split)) for split in ("train", "dev"))
    story._dev = None if dev is None else int(dev)
    story._labelled = None if train is None or dev is None else int(train + dev)
    rows = splits_text(value.get("n"))
    machine = " ".join(one_line(value[key], 30) for key in ("device", "dtype") if value.get(key))
    if threads := number(value.get("threads")):
        machine += f"{', ' if machine else ''}{counted(int(threads), 'thread')}"
    parts = [
        story.task + (f": {one_line(rows, 80)} rows" if rows else ""),
        one_line(value.get("model") or "", 60) + (f" on {one_line(machine, 60)}" if machine else ""),
        f"budget {story.budget}" if story.budget else "",
        f"seed {one_line(value['seed'], 20)}" if value.get("seed") is not None else "",
    ]
    guess, detectable = (one_line(value.get(name) or "", 300) for name in ("output", "detectable"))
    head = Line(" · ".join(part for part in parts if part.strip()), "news")
    checks = [one_line(text, 300) for text in items(value.get("checks"))]
    # The guess is listed among the checks too.
    lines = [guess, *(f"data: {text}" for text in checks if text != guess), detectable]
    return [head, *(Line(line) for line in lines if line)]


def _previous(story: Story, value: Value) -> list[Line]:
    story.learn(value.get("prompt"))
    story.learn(fields(value.get("was")).get("prompt"))
    added, replay = len(items(value.get("new_labels"))), fields(value.get("replay"))
    grown = f", {counted(added, 'new label')}" if added else ""
    rows = ""
    if kept := number(replay.get("replay_train")):
        rows = f", {counted(int(kept), 'old row')} to learn from and {amount(replay.get('replay_dev'))} to choose on"
    bundle = f"{one_line(value.get('task') or '', 40)} ({one_line(value.get('bundle'), 16)})"
    labels = counted(len(items(value.get("labels"))), "label")
    head = Line(f"starting from the bundle {bundle} with its {labels}{grown}{rows}", "news")
    return [head, *(Line(one_line(remark, 300)) for remark in items(value.get("remarks")))]


def _plan(story: Story, value: Value) -> list[Line]:
    return [Line(one_line(line, 400)) for line in items(value.get("text"))]


def _pool(story: Story, value: Value) -> list[Line]:
    proposals = [fields(item) for item in items(value.get("proposals"))]
    for proposal in proposals:
        story.learn(proposal.get("prompt"))
    sources = Counter(one_line(p.get("source"), 24) for p in proposals if p.get("source"))
    parts = [f"{count} {_SOURCES.get(source, source)}" for source, count in sources.most_common(5)]
    dropped = number(value.get("near_duplicates"))
    gone = f", {counted(int(dropped), 'near-duplicate')} dropped" if dropped else ""
    return [Line(f"{cycle_of(value)}{counted(len(proposals), 'prompt')} to try{aside(', '.join(parts))}{gone}")]


def _epochs(story: Story, value: Value) -> list[Line]:
    epochs, planned = number(value.get("epochs")), number(value.get("planned"))
    if epochs is None or planned is None or epochs <= planned:
        return []
    return [Line(f"the search has left budget: {counted(f'{epochs:g}', 'epoch')} on all labelled rows instead of {planned:g}")]


def _race(story: Story, value: Value) -> list[Line]:
    best = fields(value.get("best"))
    if "layers" in value:
        return _probe_race(story, value, best)
    ranking, dropped = items(value.get("ranking")), items(value.get("dropped"))
    winner = best.get("prompt_id") or (ranking[0] if ranking else None)
    is_best = story.saw_score({**best, "prompt_id": winner})
    under = f"on the {'base' if value.get('adapter_id') in (None, 'base') else 'tuned'} model"
    early = f", {len(dropped)} dropped early" if dropped else ""
    head = f"{cycle_of(value)}{counted(len(ranking), 'prompt')} raced {under}{early}"
    return [Line(f"{head}: best {measured(best)} with {story.prompt(winner, 48)}", "news" if is_best else "note", is_best)]


def _probe_race(story: Story, value: Value, best: Value) -> list[Line]:
    story.by_probe = True
    ranking, dropped = items(value.get("ranking")), items(value.get("dropped"))
    rows = max((int(layer) for item in fields(value.get("rows")).values() if (layer := number(item)) is not None), default=0)
    story._labelled = story._labelled or rows or None
    # Later races select prompts for tuning; their winners are not the best before they are tuned.
    is_best = story.best is None and story.saw_loss(best, rows, "cross-fitted")
    on = counted(rows, "labelled row") + (f", {len(dropped)} clearly worse" if dropped else "")
    head = f"{cycle_of(value)}{counted(len(ranking), 'prompt')} raced by frozen probes on {on}"
    text = f"{head}: best cross-fitted {measured(best)}{_after(best)} with {story.prompt(best.get('prompt_id'), 48)}"
    return [Line(text, "news" if is_best else "note", is_best)]


def _after(value: Value) -> str:
    """Format a layer as `` after layer 20``; empty without a layer."""
    layer = number(value.get("layer"))
    return "" if layer is None else f" after layer {layer:.0f}"


def _embed(story: Story, value: Value) -> list[Line]:
    story._deepest = max([story._deepest, *(int(number(layer) or 0) for layer in items(value.get("layers")))])
    # One event for each prompt and round, too many to show.
    return _scored(story, value)


def _length(story: Story, value: Value) -> list[Line]:
    if value.get("text") and not (value.get("kept") and value.get("row") is None):
        # It says that rows are cut, so that no further line need do so.
        story._cut |= {False, True}
    return news(value)


def _layers(story: Story, value: Value) -> list[Line]:
    deepest = number(value.get("deepest"))
    if deepest is None or deepest >= story._deepest:
        return []
    story._deepest = int(deepest)
    return [Line(f"{cycle_of(value)}passes end after layer {deepest:.0f} from now on: no leading prompt is read from above")]


def _further(story: Story, value: Value) -> list[Line]:
    rows, every = (int(number(value.get(name)) or 0) for name in ("rows", "of"))
    if story._labelled is not None:
        story._labelled += rows
    story._every = rows == every
    return news(value)


def _better(story: Story, value: Value) -> list[Line]:
    score, rows = number(value.get("score")), number(value.get("n"))
    if score is None or rows is None:
        return []
    earlier = fields(value.get("before"))
    before, old = f"; before: {measured(earlier)}" if earlier else "", number(earlier.get("score"))
    on = f"on {counted(int(rows), 'labelled row')} held out from it"
    # Its log-loss decides, and its score may be lower.
    better = "a better bundle by log-loss" if old is not None and old > score else "a better bundle"
    return [Line(f"{better} is in best: {measured(value)} {on}{before}")]


def _verdict(story: Story, value: Value) -> list[Line]:
    score, seconds, layer, tfidf = (number(value.get(name)) for name in ("score", "seconds", "layer", "tfidf"))
    text = one_line(value.get("text") or f"cross-fitted {decimal(score, 2)}", 300)
    interval = aside(between(ends_of(value.get("ci")), partial(decimal, digits=2)))
    parts = [f"{decimal(score, 2)}{interval}" + ("" if layer is None else f" by a probe after layer {layer:.0f}")]
    parts += [f"TF-IDF {tfidf:.2f}"] if tfidf is not None else []
    parts += [f"known after {duration(seconds)}"] if seconds is not None else []
    story.verdict = "; ".join(parts)
    return [Line(f"first verdict {text}; a usable bundle (prompt and read-out) is in best", "verdict")]


def _reference(story: Story, value: Value) -> list[Line]:
    name = REFERENCE_NAMES.get(str(value.get("name")), "a reference")
    if value.get("skipped"):
        return [Line(f"test, {name}: not measured, {one_line(value['skipped'], 160)}")]
    return [_tested(name, value)]


def _tested(name: str, value: Value) -> Line:
    rows = f" on {counted(one_line(value['n'], 12), 'test row')}" if value.get("n") is not None else ""
    return Line(f"test, {name}: {measured(value)}{rows}", "news")


def _scored(story: Story, value: Value) -> list[Line]:
    cut, on_test = number(value.get("truncated")), value.get("stage") == "test"
    # Scoring is too frequent to show; report truncated rows once before the test and once on it.
    if not cut or on_test in story._cut:
        return []
    story._cut.add(on_test)
    rows, name = f"{cut:.0f} of {one_line(value.get('rows'), 12)} {'test ' if on_test else ''}rows", value.get("prompt_id")
    return [Line(f"{rows} were longer than engine.max_tokens allows and lost a part of the text, with {story.prompt(name)}")]


def _entrants(story: Story, value: Value) -> list[Line]:
    ids = items(value.get("prompt_ids"))
    names = ", ".join(story.prompt(prompt_id, 36) for prompt_id in ids[:6]) + (", …" if len(ids) > 6 else "")
    return [Line(f"{cycle_of(value)}{counted(len(ids), 'prompt')} to be tuned" + (f": {names}" if names else ""))]


def _train(story: Story, value: Value) -> list[Line]:
    name = story.prompt(value.get("prompt_id"), 48)
    steps = one_line(value["steps"], 12) if value.get("steps") is not None else "?"
    if value.get("failed"):
        return [Line(f"training failed at step {steps} with {name}: {one_line(value['failed'], 160)}", "failure")]
    tokens, seconds = number(value.get("tokens")), number(value.get("seconds"))
    cost = f", {amount(tokens)} tokens" if tokens is not None else ""
    cost += f" in {duration(seconds)}" if seconds else ""
    head = f"trained to step {steps}"
    if (window := ends_of(value.get("window"))) is not None:
        # Names of labels are rows too.
        rows = counted(value.get("rows"), "row")
        head = f"tuned layers {window[0] + 1:.0f} to {window[1]:.0f} on {rows}, {counted(steps, 'step')},"
    return [Line(f"{head} with {name}: loss {decimal(value.get('loss'))}{cost}")]


def _probed(story: Story, value: Value) -> list[Line]:
    """A probe on frozen or tuned weights, scored on held-out rows."""
    story.by_probe = True
    loss, rows = number(value.get("log_loss")), number(value.get("rows"))
    frozen = value.get("stage") == "frozen"
    is_best = not frozen and loss is not None and all(loss < other for other in story._judged)
    is_best = is_best and story.saw_loss(value, None if rows is None else int(rows), "held out")
    story._judged += [] if loss is None else [loss]
    story._tried = story._tried or not frozen
    # Also for frozen probes: the splits are those of tuning, not the folds of the race, whose scores are higher with few rows.
    held = f"held-out {measured(value)}" + ("" if rows is None else f" on {counted(int(rows), 'labelled row')}")
    name = story.prompt(value.get("prompt_id"), 48)
    if frozen:
        key = (str(value.get("prompt_id")), str(value.get("adapter_id")), story.cycle, rows)
        if key in story._frozen:
            # The same probe fitted with further rows, such as names of labels, and judged on the same ones: the next event
            # compares the two.
            return []
        story._frozen.add(key)
        return [Line(f"frozen probe{_after(value)}: {held} with {name}")]
    steps = f" for {counted(one_line(value['steps'], 12), 'step')}" if value.get("steps") is not None else ""
    return [_candidate(f"tuned{steps}: {held}, by a probe{_after(value)}, with {name}", best=is_best)]


def _candidate(text: str, *, best: bool) -> Line:
    return Line(text + (": best so far" if best else ""), "news" if best else "note", best)


def _tuned(story: Story, value: Value) -> list[Line]:
    if "readout" in value:
        return _probed(story, value)
    story._tried = story._tried or bool(number(value.get("steps")))
    is_best = story.saw_score(value)
    steps = f" after {counted(one_line(value['steps'], 12), 'step')}" if value.get("steps") is not None else ""
    text = f"{cycle_of(value)}tuned{steps}, dev {measured(value)} with {story.prompt(value.get('prompt_id'), 48)}"
    return [_candidate(text, best=is_best)]


def _cycle_end(story: Story, value: Value) -> list[Line]:
    reached = measured({"score": value.get("dev_score"), "log_loss": value.get("dev_log_loss")})
    steps = number(value.get("steps"))
    after = f" after {counted(int(steps), 'step')}" if steps else ""
    where = "held-out" if story.by_probe else "dev"
    return [Line(f"{cycle_of(value)}ends at {where} {reached}{after} with {story.prompt(value.get('winner'), 48)}", "news")]


def _confirm(story: Story, value: Value) -> list[Line]:
    dev = fields(value.get("dev"))
    story._arms = dict(fields(value.get("arms")))
    names = dict.fromkeys(name for name in ("best_tuned", *EVERY_ARM) if name in dev)
    groups = dict.fromkeys(group_of(story._arms, name) for name in names)
    arms = [f"{story.arm(group)} {measured(fields(dev[group.names[0]]))}" for group in groups if group.names[0] in dev]
    on = "dev" if story._dev is None else counted(story._dev, "dev row")
    rows = (
        "all labelled rows" if story._labelled is None else f"{'all ' * story._every}{counted(story._labelled, 'labelled row')}"
    )
    fitted = f"arms fitted to {rows}; on {on}, by fits that had not seen them"
    what = fitted if story.by_probe else f"confirmed on {'all of dev' if story._dev is None else f'all {on}'}"
    return [Line(what + (f": {'; '.join(arms)}" if arms else ""))]


def _cut(story: Story, value: Value) -> list[Line]:
    if "rows" in value and "cycle" not in value:
        # The number of rows of train and dev in use is reported by the first race.
        story._dev = story._labelled = None
    return news(value)


def _open_test(story: Story, value: Value) -> list[Line]:
    arms = fields(value.get("arms"))
    own = [candidate for name, candidate in arms.items() if not name.startswith("reference_")]
    beside = len(arms) - len(own)
    references = f" and {counted(beside, 'reference')}" if beside else ""
    # Two arms may share prompt and weights, which are scored once.
    for_arms = f", for {counted(len(set(map(str, own))), 'arm')} (a prompt with weights each){references}" if arms else ""
    return [Line(f"the test rows, sealed until now, are scored once{for_arms}", "news")]


def _arm(story: Story, value: Value) -> list[Line]:
    name = str(value.get("name") or "arm")
    group = group_of(story._arms, name)
    if story._tested & set(group.names):
        return []
    story._tested.add(name)
    return [_tested(story.arm(group), value)]


_TELLERS: dict[str, Callable[[Story, Value], list[Line]]] = {
    "start": _start,
    "previous": _previous,
    "plan": _plan,
    "epochs": _epochs,
    "pool": _pool,
    "score": _scored,
    "write": _scored,
    "embed": _embed,
    "length": _length,
    "layers": _layers,
    "cut": _cut,
    "read_on": _cut,
    "verdict": _verdict,
    "further": _further,
    "better": _better,
    "reference": _reference,
    "race": _race,
    "entrants": _entrants,
    "train": _train,
    "tuned": _tuned,
    "cycle": _cycle_end,
    "confirm": _confirm,
    "open_test": _open_test,
    "arm": _arm,
}
_SILENT = {"clock", "probe", "finish", "places", "look", "test_room", "workers"}
