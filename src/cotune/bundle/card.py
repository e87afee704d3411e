"""The model card of a bundle, in plain Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from cotune.bundle.manifest import ADAPTER, Manifest
from cotune.bundle.rows import example_row
from cotune.bundle.snippets import Ids, code_block, probe_lines, python_block, whole_model_lines
from cotune.errors import counted
from cotune.evaluate.words import (
    arm_groups,
    gain_rows,
    gains_note,
    has_gains,
    metric_words,
    repeated_text,
    robustness_sentences,
)
from cotune.plain import decimal, fields, interval_text, number
from cotune.probe.readout import PROBE, Probe
from cotune.prompt.prompt import held_rows

_ADAPTER = f'"FOLDER/{ADAPTER}"'
_MOST_LABELS = 100


@dataclass(frozen=True)
class Reading:
    """How a bundle's probe reads hidden states.

    Attributes:
        depth: number of layers of the base model.
        epsilon: number added to the mean square of a state before the state is divided by its root.
        ids: how a text becomes token ids.
        tuned: whether the weights are tuned too.
    """

    probe: Probe
    depth: int
    epsilon: float
    ids: Ids
    tuned: bool


def model_card(
    manifest: Manifest,
    metrics: Mapping[str, Any],
    prompt_text: str,
    *,
    endpoint: tuple[str, str | None] | None = None,
    reading: Reading | None = None,
    demonstrations: int = 0,
) -> str:
    """The model card in Markdown.

    Args:
        manifest: manifest of the bundle; its ``files`` are not used.
        metrics: ``arms``, ``gains`` and ``robustness`` as in a run's summary; scores without an interval are left out.
        prompt_text: the text that the model reads, with ``{field}`` in place of a row's fields.
        endpoint: for a model behind an endpoint, its URL and the environment variable with the key, if any.
        demonstrations: number of labelled rows in the prompt.
    """
    base = base_model_name(manifest)
    tuned = manifest.adapter_id != "base" if reading is None else reading.tuned
    parts = [
        f"# {plain(manifest.task)}",
        lead(manifest, tuned=tuned, by_probe=reading is not None),
        "## Use",
        use(manifest, endpoint),
    ]
    if endpoint is not None:
        parts.append(sent_to(endpoint[0]))
    if reading is not None:
        parts += ["## How answers are computed", probe_in_words(reading.probe, reading.depth, f"{ADAPTER}/{PROBE}")]
        parts += _reading(reading, base)
    elif tuned:
        parts += [
            "The adapter is a plain PEFT folder and works without cotune:",
            python_block(*whole_model_lines(plain(base), adapter=_ADAPTER)),
        ]
        parts.append("Give it the text below with the fields filled in. " + _choosing(manifest))
    parts += results(manifest, metrics)
    parts += robustness(metrics)
    parts += ["## What the model reads", code_block("text", prompt_text)]
    parts += [f"**{held}**"] if (held := held_rows(demonstrations)) else []
    parts += ["## Base model", about_base(manifest, base)]
    parts += ["## Limits", limits(manifest, endpoint=endpoint is not None)]
    return "\n\n".join(parts) + "\n"


def sent_to(url: str) -> str:
    """A note on the endpoint that answers."""
    return f"Rows are sent to {plain(url)}, which answers them, but only if you allow it."


def lead(manifest: Manifest, *, tuned: bool, by_probe: bool) -> str:
    """The first paragraph: the bundle's input, answers and parts."""
    fields = ", ".join(f"`{plain(name)}`" for name in manifest.input_fields)
    return (
        f"Reads {fields} and answers with {answers(manifest)}. A prompt"
        + (", a LoRA adapter" if tuned else "")
        + (" and a probe" if by_probe else " and a decision rule")
        + f" for the language model `{plain(base_model_name(manifest))}`, chosen together by cotune"
        + f" {manifest.versions.get('cotune', '')}".rstrip()
        + "."
    )


def answers(manifest: Manifest) -> str:
    """The possible answers in words."""
    if manifest.written is not None:
        return manifest.written.kind.about
    shown = ", ".join(f"`{plain(label)}`" for label in manifest.labels[:_MOST_LABELS])
    more = "" if len(manifest.labels) <= _MOST_LABELS else f" and {len(manifest.labels) - _MOST_LABELS} more"
    return f"one of {counted(len(manifest.labels), 'label')}: {shown}{more}"


def _choosing(manifest: Manifest) -> str:
    """How cotune computes an answer, for users who run the model with another program."""
    if manifest.written is not None:
        held = "" if manifest.written.constraint is None else ", restricted to tokens that can lead to a valid answer"
        return f"cotune generates greedily{held}, up to {counted(manifest.answer_tokens, 'token')}."
    return "cotune does not generate labels: it scores every label and takes the likeliest" + (
        ", after adding the bias in `decision.json`." if manifest.decision.bias else "."
    )


_MEAN = (
    "It is followed by the mean of the states, divided in the same way, of all tokens from the row's first one on; the tokens "
    "before it belong to the prompt and are the same for all rows. "
)


_TERMS = (
    " Before the softmax the logits of TF-IDF are added: logistic regression on the row's words, pairs of words and parts of "
    "words (`terms` in the same file)."
)


_FIELDS = (
    " Here there are several fields, whose values take the place of labels (`labels` in the file, `sizes` of them for each "
    "field in turn): each field has its own softmax. The likeliest value of each goes into the JSON; a number is the mean of "
    "the distribution that the probabilities of being above each threshold describe."
)


def probe_in_words(probe: Probe, depth: int, name: str) -> str:
    """How a probe computes an answer, in words."""
    where = f"layer {probe.layer} of {depth}" if probe.layer < depth else f"the last of its {depth} layers"
    if probe.words:
        return (
            "The model generates nothing. It reads the text below, and behind it the row's text again. Each word of this copy "
            f"has a state: the mean of the outputs of {where} at the word's tokens, each divided by its root mean square. "
            f"The probe (`{name}`) is logistic regression on these {probe.width} numbers. It gives each word a tag, the part "
            "of the answer that it belongs to, if any, and says whether it continues the value of the word before (`labels` in "
            "the file, `sizes` of them for each field in turn). The likeliest tags give the values, which are copied from the "
            "text. Parts with a few possible values are read off the mean over the whole copy, the last of the states."
        )
    return (
        "The model generates nothing. It reads the text below up to its last token; the output of "
        f"{where} there, {probe.width} numbers, is the hidden state. The state is divided by its root mean square. {_MEAN}"
        f"The probe (`{name}`) is multinomial logistic regression on these numbers: each label has a bias and a weight for "
        "each of the numbers. The sum of the products plus the bias is the label's logit. The label with the largest logit is "
        "the answer; a softmax over all logits gives the probabilities."
        + (_FIELDS if probe.sizes else "")
        + (" The layers above need not run." if probe.layer < depth else "")
        + ("" if probe.terms is None else _TERMS)
    )


def _reading(reading: Reading, base: str) -> list[str]:
    """How to compute the same answer with transformers, without cotune."""
    export = "`cotune export FOLDER --to transformers --out OTHER` writes a classifier that runs with transformers alone."
    if reading.probe.sizes:
        return ["`cotune export FOLDER --to transformers --out OTHER` writes a model with Python that runs without cotune."]
    if reading.probe.terms is not None:
        return [export]
    code = python_block(
        'prompt_text = "..."  # the text that the model reads, see below, with the fields filled in',
        *whole_model_lines(plain(base), ", dtype=torch.float32", adapter=_ADAPTER if reading.tuned else ""),
        *probe_lines(f"FOLDER/{ADAPTER}/{PROBE}"),
        "decoder = model.get_decoder()",
        f"decoder.layers, decoder.norm = decoder.layers[:{reading.probe.layer}], torch.nn.Identity()",
        *reading.ids.lines(),
        "with torch.no_grad():",
        "    states = decoder(**ids).last_hidden_state[0]",
        f"states = states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + {reading.epsilon!r})",
        reading.ids.state(),
        "print(labels[int((weight @ state + bias).argmax())])",
    )
    return [f"{export} Without such an export:", code]


def base_model_name(manifest: Manifest) -> str:
    """The base model's name for readers: only the last part of a folder's path, since the path is useless elsewhere."""
    name = manifest.base_model.name
    return PurePath(name).name if PurePath(name).is_absolute() or name.startswith((".", "~")) else name


def use(manifest: Manifest, endpoint: tuple[str, str | None] | None, folder: str = "FOLDER") -> str:
    """How to use the bundle with cotune; ``folder`` is its name in the examples."""
    names = manifest.input_fields
    given_texts = '--input "..."' if len(names) == 1 else " ".join(f'--input {shlex.quote(name)}="..."' for name in names)
    row = example_row(manifest.input_fields)
    url, key = endpoint or (None, None)
    leave = [(option, value) for option, value in (("endpoint", url), ("key_env", key)) if value is not None]
    predict = " ".join([f"cotune predict {folder}", *(f"--{o.replace('_', '-')} {shlex.quote(plain(v))}" for o, v in leave)])
    shares = "--probabilities " if manifest.shown else ""
    given = "".join(f", {option}={plain(value)!r}" for option, value in leave)
    here = "`FOLDER` is the folder of this file; each" if folder == "FOLDER" else "Each"
    parts = (
        f"{here} line of `rows.jsonl` is like `{row}`.",
        code_block("sh", f"{predict} {given_texts}", f"{predict} {shares}< rows.jsonl > answers.jsonl"),
        code_block("python", "import cotune", "", f'bundle = cotune.load("{folder}"{given})', f"bundle.predict([{row}])"),
    )
    return "\n\n".join(parts)


def shown_arms(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The arms that have a score with its interval."""
    arms = {str(name): fields(arm) for name, arm in fields(metrics.get("arms")).items()}
    return {
        name: arm for name, arm in arms.items() if number(arm.get("score")) is not None and interval_text(arm.get("ci")) != "-"
    }


def shipped_arms(manifest: Manifest, arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the arms with the bundle's prompt and weights; ``best_tuned`` comes first if it is one of them."""
    same = [name for name, arm in arms.items() if _is_this(manifest, arm)]
    return sorted(same, key=lambda name: name != "best_tuned")


def results(manifest: Manifest, metrics: Mapping[str, Any]) -> list[str]:
    """The section with the scores of the arms and the gains; empty if there are no scores."""
    arms = shown_arms(metrics)
    if not arms:
        return []
    shipped, rows = set(shipped_arms(manifest, arms)), []
    for group in arm_groups(arms):
        arm, about = arms[group.names[0]], plain(group.meaning or group.title)
        about = about if shipped.isdisjoint(group.names) else f"**{about}** (this bundle)"
        score = f"{decimal(arm['score'])} ({interval_text(arm['ci'])})"
        rows.append((about, score, plain(str(arm.get("n", "?"))), plain(str(arm.get("split", "?")))))
    parts = [
        "## How good it is",
        _table(("what", f"{plain(metric_words(manifest.metric))} (95% interval)", "rows", "split"), rows),
    ]
    if has_gains(metrics):
        gains = [(plain(name), *cells) for name, *cells in gain_rows(metrics)]
        parts.append(_table(("gain", "points", "95% interval", "p", "reading"), gains))
        parts.append(" ".join(filter(None, (gains_note(metrics), plain(repeated_text(metrics))))))
    return parts


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; cells must be safe for it."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def robustness(metrics: Mapping[str, Any]) -> list[str]:
    """How much the score depends on the prompt's format; empty if this was not measured."""
    return [" ".join(map(plain, sentences))] if (sentences := robustness_sentences(metrics)) else []


def _is_this(manifest: Manifest, arm: Mapping[str, Any]) -> bool:
    decision = arm.get("decision")
    same = arm.get("prompt_id") == manifest.prompt_id and arm.get("adapter_id") == manifest.adapter_id
    return same and (not isinstance(decision, Mapping) or dict(decision) == manifest.decision.to_json())


def about_base(manifest: Manifest, base: str) -> str:
    """The base model that the bundle needs."""
    revision = f", revision `{manifest.base_model.revision}`" if manifest.base_model.revision else ""
    return (
        f"`{plain(base)}`{revision}, content hash `{manifest.base_model.fingerprint[:16]}`. The bundle does not load with any"
        " other model. The base model's licence and biases apply to the bundle too."
    )


def limits(manifest: Manifest, *, endpoint: bool = False) -> str:
    """The bundle's limits, as a list; a model behind an ``endpoint`` is asked with whole rows."""
    lines = ["- The scores hold for rows like those it was tested on."]
    if not endpoint:
        lines.append(
            f"- Texts that make the prompt longer than {manifest.max_tokens} tokens lose a part of "
            "their text; such answers are marked."
        )
    if manifest.written is None:
        lines.insert(0, "- It always answers with one of its labels, even if none fits.")
        lines.append("- Probabilities are shares among the labels; check on your own rows how far they can be trusted.")
    elif manifest.written.constraint is None:
        lines.insert(0, "- It always gives an answer, even if there is none; a long answer may be cut.")
    else:
        lines.insert(0, "- It always gives an answer, even if there is none; a valid answer may be wrong.")
        if manifest.fields is not None and manifest.fields.words:
            lines.insert(1, "- It copies values from the text: one that does not stand there word for word is never answered.")
    return "\n".join(lines)


def plain(text: str) -> str:
    """A text made safe for a line, a table cell or a code span of Markdown."""
    return " ".join(text.split()).replace("|", "/").replace("`", "'").replace("<", "‹").replace(">", "›")
