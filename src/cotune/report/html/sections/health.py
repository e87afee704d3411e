"""Data checks, and what is needed to reproduce the run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from cotune.config.paths import IN_MEMORY
from cotune.errors import counted
from cotune.plain import fields, items, number, one_line, shipped
from cotune.report.html.markup import chip, data_text, esc, facts_table, figure, plain_table
from cotune.report.html.sections.prompts import read_prompt
from cotune.report.html.sections.record import RunRecord
from cotune.report.terminal.result import noise_sentence
from cotune.task.reading.yaml_names import is_number

_COUNTS = {
    "train": "train rows used",
    "dev": "dev rows used",
    "test": "test rows used",
    "train_read": "rows read from the train file",
    "dev_read": "rows read from the dev file",
    "test_read": "rows read from the test file",
    "train_rows_in_test": "train rows left out: they repeat test rows",
    "dev_rows_in_test": "dev rows left out: they repeat test rows",
    "dev_rows_in_prompt": "dev rows left out: the prompt of the earlier bundle shows them",
    "train_rows_in_dev": "train rows left out: they repeat dev rows",
    "test_rows_in_train": "test rows that also occur in train",
    "test_rows_in_train_exactly": "of these, letter for letter",
    "replay_read": "old rows read, to be replayed",
    "replay_train": "of these, learnt from again",
    "replay_dev": "of these, held out in dev",
    "replay_rows_in_test": "old rows left out: they repeat test rows, or belong to their groups",
    "replay_rows_repeat_new_ones": "old rows left out: they repeat new rows, or belong to groups in dev",
    "replay_rows_without_label": "old rows left out: their label is not asked for",
    "test_rows_in_replay": "test rows that also occur in the old rows",
}


def health_section(record: RunRecord) -> str:
    """Findings of the data checks."""
    start = record.value("start")
    data = fields(record.summary.get("data"))
    counts = dict(fields(data.get("counts"))) or dict(fields(start.get("n")))
    findings = [fields(item) for item in items(data.get("findings"))]
    neighbours = fields(data.get("neighbours")) or record.value("neighbours")
    if not findings:
        findings = [{"message": text, "severity": ""} for text in items(start.get("checks"))]
        findings += [fields(item) for item in items(neighbours.get("findings"))]
    listed = "".join(f"<li>{_severity(f)}{data_text(f.get('message', ''))}{_examples(f)}</li>" for f in findings)
    if not counts and not findings:
        return "<p class=empty>The data was not checked yet.</p>"
    result = f'<ul class="findings">{listed}</ul>' if listed else "<p>No findings.</p>"
    if truncated := number(record.summary.get("truncated")):
        cut = counted(int(truncated), "row")
        result += (
            f"<p>{cut} lost a part of the text under some prompt: longer than the limit on prompts "
            "(<code>engine.max_tokens</code>).</p>"
        )
    shown = {name: value for name, value in counts.items() if number(value) or name in ("train", "dev", "test")}
    rows = [(_COUNTS.get(name, name.replace("_", " ")), value) for name, value in shown.items()]
    looked_at = "Duplicates, leaks between splits, contradictions, odd inputs and balance are looked at."
    found = figure("What the checks found", result, looked_at)
    detectable = start.get("detectable")
    sizes = figure("Rows", _table(rows), data_text(detectable) if detectable else "")
    return f'<div class="pair">{found}{sizes}</div>{_neighbours(neighbours)}'


def _neighbours(near: Mapping[str, Any]) -> str:
    """Near-duplicate pairs of train and dev rows, the closest first."""
    if why := near.get("skipped"):
        return figure("Paraphrases", f"<p>Not looked for: {data_text(one_line(why, 300))}.</p>")
    pairs = [fields(item) for item in items(near.get("alike"))]
    if not pairs:
        return ""
    return figure(
        "Paraphrases",
        plain_table(("Closeness", "Rows", "Texts", "Labels"), "".join(map(_pair, pairs))),
        f"The {esc(near.get('pairs', '?'))} pairs that are closest by their words were embedded by the model; shown are those "
        "of train and dev with a cosine of at least "
        f"{esc(near.get('threshold', '?'))}. They stay: paraphrases are what real inputs are made of.",
    )


def _pair(pair: Mapping[str, Any]) -> str:
    def column(name: str, limit: int) -> str:
        return "<br>".join(data_text(one_line(item, limit)) for item in items(pair.get(name)))

    closeness, labels = number(pair.get("closeness")), items(pair.get("labels"))
    clash = f" {chip('differ', 'warning')}" if len(set(map(str, labels))) > 1 else ""
    shown = "" if closeness is None else f"{closeness:.2f}"
    return (
        f"<tr><td class=num>{shown}</td><td class=quiet>{column('rows', 40)}</td><td>{column('texts', 160)}</td>"
        f"<td>{column('labels', 40)}{clash}</td></tr>"
    )


def _severity(finding: Mapping[str, Any]) -> str:
    severity = finding.get("severity")
    return f"{chip(severity, 'warning' if severity == 'warning' else '')} " if severity else ""


def _examples(finding: Mapping[str, Any]) -> str:
    ids = [str(i) for i in items(finding.get("examples"))]
    return f'<div class="quiet">rows {data_text(", ".join(ids))}</div>' if ids else ""


def reproduce_section(record: RunRecord) -> str:
    """Command, config, versions, hashes."""
    start, engine = record.value("start"), record.value("engine")
    summary = record.summary
    seed = summary.get("seed", start.get("seed", record.config.get("seed")))
    versions = dict(fields(summary.get("versions")))
    if record.identity.get("cotune"):
        versions.setdefault("cotune", record.identity["cotune"])
    best = shipped(summary)
    hashes = {
        "data": record.identity.get("data"),
        "test rows": record.value("open_test").get("test"),
        "model weights": start.get("model_fingerprint"),
        "winner": best.get("candidate_id"),
        "winner’s prompt": best.get("prompt_id"),
        "winner’s adapter": best.get("adapter_id"),
    }
    machine = [(name, engine.get(name)) for name in ("device", "dtype", "threads")]
    machine.append(("tokens a batch", engine.get("batch_tokens")))
    machine.append(("processor", fields(engine.get("probe")).get("processor")))
    versioned = figure("Versions and machine", _table([("seed", seed), *versions.items(), *machine]))
    hashed = figure("Hashes", _table(hashes.items(), "hashes"), "Of contents, never of names.")
    return f"{_command(record)}<div class=pair>{versioned}{hashed}</div>{_noise(record)}"


def _noise(record: RunRecord) -> str:
    """Numerical noise: how far scores vary on this machine with the batch."""
    noise = fields(record.summary.get("noise")) or record.value("noise")
    if not noise_sentence(noise):
        why = noise.get("skipped")
        return figure("Noise of this machine", f"<p>Not measured: {data_text(why)}.</p>") if why else ""
    shifts = [("largest difference of a log-probability, nats", "largest"), ("mean difference, nats", "mean")]
    facts = [
        *((name, f"{value:.2g}") for name, key in shifts if (value := number(noise.get(key))) is not None),
        ("answers that flip", f"{noise.get('flipped', 0)} of {noise['n']}"),
    ]
    return figure(
        "Noise of this machine",
        _table(facts),
        "The same dev rows, answered by the winner in one batch and in small batches. A gain that is no larger than what "
        "such noise could flip is not called a difference.",
    )


def _table(facts: Iterable[tuple[str, Any]], kind: str = "") -> str:
    return facts_table([(esc(name), esc(value)) for name, value in facts if value not in (None, "")], kind=kind)


def _command(record: RunRecord) -> str:
    extra = [prompt for item in items(record.value("start").get("prompts"))[1:] if (prompt := read_prompt(item))]
    files = [f"prompt-{i}.txt" for i in range(2, 2 + len(extra))]
    command = ["cotune", "run", "task.yaml", *(part for name in files for part in ("--prompt", name)), "--out", "runs/again"]
    shown = _copied("The command", shlex.join(command))
    if record.config:
        shown += _copied("task.yaml", task_yaml(record.config))
    for name, prompt in zip(files, extra, strict=True):
        shown += _copied(name, prompt.text)
    note = "The rows were in memory: write them to files, and name these under data. " if _in_memory(record.config) else ""
    note += "The config as the run resolved it. Under a token budget the same machine gives the same journal, apart from times."
    return figure("Make it again", shown, note)


def _in_memory(config: Mapping[str, Any]) -> bool:
    return IN_MEMORY in fields(config.get("data")).values()


def task_yaml(config: Mapping[str, Any]) -> str:
    """The resolved config of a run as a task file; unset keys are left out."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def quoted(dumper: Dumper, text: str) -> yaml.Node:
        # PyYAML writes 1e3 without quotes, which is read as a number.
        style = "'" if is_number(text) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def given(value: Any, name: str = "") -> Any:
        # In a schema every key means something, an empty one too.
        if not isinstance(value, Mapping) or name == "schema":
            return value
        kept = {key: given(item, key) for key, item in value.items() if item is not None}
        return {key: item for key, item in kept.items() if item != {}}

    Dumper.add_representer(str, quoted)
    return str(yaml.dump(given(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))


def _copied(name: str, text: str) -> str:
    return (
        f'<div class="copy"><div class="copy-head"><b>{esc(name)}</b><button type="button" data-copy hidden>Copy</button></div>'
        f'<pre dir="auto" tabindex="0">{esc(text)}</pre></div>'
    )
