"""The README of an export with a probe: how answers are computed, with Python code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotune.bundle.card import answers, base_model_name, probe_in_words
from cotune.bundle.export.fields import CODE, FIELDS
from cotune.bundle.export.request import REQUEST, Asking
from cotune.bundle.export.weights import POOLED
from cotune.bundle.manifest import Manifest
from cotune.bundle.predictor import Predictor
from cotune.bundle.snippets import (
    EXAMPLE,
    Ids,
    code_block,
    filled_lines,
    model_lines,
    probe_lines,
    prompt_lines,
    python_block,
    row_code,
)
from cotune.errors import counted
from cotune.files import write_json
from cotune.probe.readout import PROBE, Probe

EMBEDDING_PORT = 8081
"""Port of the server for states in the README's example of llama.cpp."""
PIPELINE, CLASSIFY, TEMPLATE = "pipeline.py", "classify.py", "template.json"
"""Files of a classifier: Python for transformers and for ONNX, and the prompt's constant parts."""
ANSWER = "answer.py"
"""Python for transformers that reads the values of several fields."""
ONNX, TOKENIZER = "model.onnx", "tokenizer.json"
CELLS, TRUNCATE = "cells.py", "truncate.py"
"""Texts of a row's fields, and shortening of those that are too long, for both of these files."""
TERMS = "terms.py"
"""Computes TF-IDF, if the bundle adds it to the probe."""


def batch_of(tokens: int) -> str:
    """Options for llama.cpp's server to read a text of that many tokens in one batch, which pooled states need."""
    return f"-c {tokens} -b {tokens} -ub {tokens} -np 1"


def write_template(predictor: Predictor, asking: Asking, target: Path, **more: Any) -> None:
    """Write a prompt's constant parts, with the fields between them and ``more``, for the Python file of an export."""
    fields = predictor.input_fields
    # The markers must not occur in the prompt itself, where they would be taken for a field.
    marks: dict[str, str] = {}
    number = 0
    while not marks or any(mark in asking.text for mark in marks.values()):
        marks, number = {name: f"FIELD {number} {i} HERE" for i, name in enumerate(fields)}, number + 1
    whole = predictor.model.renderer.text(predictor.prompt, marks, predictor.labels)
    fields_at = {mark: {"field": name} for name, mark in marks.items()}
    parts = re.split(f"({'|'.join(fields_at)})", whole)
    about = {"fields": list(fields), "pieces": [fields_at.get(part, part) for part in parts if part]}
    about |= {"add_special_tokens": asking.ids.special, "beyond": asking.ids.beyond}
    renderer = predictor.model.renderer
    about |= {"max_tokens": renderer.max_tokens, "truncate": renderer.truncate, "ends": renderer.ends}
    write_json(target, about | more)


@dataclass(frozen=True)
class ProbePage:
    """Writes ``README.md`` for an export.

    Attributes:
        depth: number of layers of the whole base model.
        adapter: whether there is an adapter besides the base model.
        files: options with which llama.cpp loads the model; empty for other formats.
        validator: whether answers need the package jsonschema_rs.
    """

    manifest: Manifest
    to: str
    asking: Asking
    probe: Probe
    depth: int
    adapter: bool
    files: str = ""
    validator: bool = False

    def text(self) -> str:
        """The README in Markdown."""
        manifest = self.manifest
        parts = [
            f"# {manifest.task}, exported",
            f"From the cotune bundle `{manifest.id}`: {', '.join(manifest.input_fields)} in, {self._out()} out. The base model "
            f"is {base_model_name(manifest)}.",
            "## How answers are computed",
            probe_in_words(self.probe, self.depth, PROBE) + " " + self._model(),
            *self.asking.shown(),
            self._long_rows(),
            "## Run it",
            *self._run(),
        ]
        return "\n\n".join(parts) + "\n"

    def _long_rows(self) -> str:
        lost = f"If the whole text is longer than {self.manifest.max_tokens} tokens, the row loses a part of it"
        if self.manifest.fields is not None:
            return f"{lost}, as in cotune."
        if (program := {"transformers": PIPELINE, "onnx": CLASSIFY}.get(self.to)) is not None:
            return f"{lost}, as in cotune. `{program}` does that by `{TRUNCATE}`; the model by itself reads whole rows."
        return f"{lost} in cotune. The code below reads whole rows, so shorten such rows before."

    def _out(self) -> str:
        if self.manifest.fields is not None:
            return answers(self.manifest)
        return f"one of {len(self.manifest.labels)} labels"

    def _model(self) -> str:
        added = ", with the adapter added to its weights" if self.adapter else ""
        ends = f", cut after layer {self.probe.layer}" if self.probe.layer < self.depth else ""
        if self.to == "onnx":
            return f"`{ONNX}` is the base model{added}{ends}, with the probe, in float32; it outputs the logits."
        where = {
            "peft": "`base/` is the base model",
            "merged": f"`model/` is the base model{added}",
            "transformers": f"{'This folder' if self.manifest.fields is None else '`model/`'} is the base model{added}",
        }.get(self.to, f"The GGUF file is the base model{added if self.to == 'gguf-merged' else ''}")
        state = "so that its last hidden state is what the probe reads"
        told = f"{where}{ends}, and its final norm has unit weight, {state}."
        if self.to == "transformers" and self.manifest.fields is None:
            return f"{told} The probe is its layer `score`; `id2label` has the labels."
        return f"{told} Text generated by it is meaningless."

    def _run(self) -> tuple[str, ...]:
        if self.manifest.fields is not None:
            return self._fields()
        if self.to == "transformers":
            return (
                f"`{PIPELINE}` in this folder is transformers' text-classification pipeline with the prompt filled in. Give it "
                "a text or a row, or a list of them, with `batch_size=` and `device=` as usual.",
                *classifier_parts(self.asking.marks, self.asking.ids, terms=self.probe.terms is not None),
            )
        if self.to == "onnx":
            return self._onnx()
        if self.to == "merged":
            model = model_lines("AutoModel", '"FOLDER/model"', ", dtype=torch.float32")
            return "With transformers:", self._read(model, "model(**ids).last_hidden_state[0]")
        if self.to == "peft":
            model = model_lines("AutoModelForCausalLM", '"FOLDER/base"', ", dtype=torch.float32", adapter='"FOLDER/adapter"')
            states = "model(**ids, output_hidden_states=True).hidden_states[-1][0]"
            return "With transformers and PEFT:", self._read(model, states)
        return self._llama()

    def _fields(self) -> tuple[str, ...]:
        """How to run :data:`ANSWER`, the only code for several fields."""
        packages = ["torch", "transformers", "numpy", "safetensors", *(["jsonschema-rs"] if self.validator else [])]
        return (
            code_block("sh", f"pip install {' '.join(packages)}"),
            f"`{ANSWER}` fills rows into the prompt, runs the model and reads the answers. Give it a text or a row, or a list "
            "of them, with `batch_size=`; `load` takes `device=` and `dtype=`. `answer.log_probs(rows)` returns "
            "log-probabilities of all values, in the order of `answer.names`, for each "
            + ("word, and then for the whole row." if self.probe.words else "row."),
            python_block(
                'sys.path.insert(0, "FOLDER")',
                "from answer import load",
                "",
                'answer = load("FOLDER")',
                f"print(answer([{row_code(self.asking.marks)}])[0])  # put your own row here",
            ),
            f"`{FIELDS}` describes the answers. `{CODE}/` contains the modules of cotune that make them from log-probabilities"
            + ("; they need jsonschema-rs for the keywords of this schema." if self.validator else "; they need numpy alone."),
        )

    def _read(self, model: Sequence[str], states: str) -> str:
        return python_block(
            *self._terms_import(),
            *prompt_lines(self.asking.marks),
            *probe_lines(f"FOLDER/{PROBE}"),
            *model,
            *self.asking.ids.lines(),
            "with torch.no_grad():",
            f"    states = {states}",
            self.asking.ids.state(),
            *self._answer("(weight @ state + bias).numpy()"),
        )

    def _terms_import(self) -> list[str]:
        """Python that makes :data:`TERMS` importable, if there is TF-IDF."""
        return [] if self.probe.terms is None else ['sys.path.insert(0, "FOLDER")', "from terms import load_terms", ""]

    def _answer(self, logits: str) -> list[str]:
        """Python that prints the label with the largest of ``logits``, to which those of TF-IDF are added."""
        if self.probe.terms is None:
            return [f"print(labels[int({logits}.argmax())])"]
        row = row_code(self.asking.marks)
        terms = f'load_terms("FOLDER/{PROBE}").logits([{row}])[0]  # the row itself, not the whole text'
        return [f"logits = {logits}", f"logits = logits + {terms}", "print(labels[int(logits.argmax())])"]

    def _llama(self) -> tuple[str, ...]:
        if self.asking.ids.beyond:
            return (
                "llama.cpp reads the whole text, and this model's tokenizer merges its end with the answer, so that llama.cpp "
                "cannot compute the state. Export with `--to merged` or `--to transformers`.",
            )
        options = f"--embeddings --pooling none {batch_of(self.manifest.max_tokens)} --port {EMBEDDING_PORT}"
        return (
            "A llama.cpp server that returns states instead of generating, and their product with the probe's weights:",
            code_block("sh", f"llama-server {self.files} {options}"),
            python_block(
                *self._terms_import(),
                *prompt_lines(self.asking.marks),
                *probe_lines(f"FOLDER/{PROBE}", "numpy"),
                'asked = json.dumps({"content": prompt_text, "embd_normalize": -1}).encode()',
                f'request = Request("http://127.0.0.1:{EMBEDDING_PORT}/embedding", asked, '
                '{"Content-Type": "application/json"})',
                "with urlopen(request) as told:",
                '    states = numpy.array(json.load(told)[0]["embedding"])',
                self.asking.ids.state("numpy.concatenate", "axis"),
                *self._answer("(weight @ state + bias)"),
            ),
            f"`{REQUEST}` is such a request for the text above. Programs that only generate, such as Ollama's `/api/generate`, "
            "cannot use a probe.",
        )

    def _onnx(self) -> tuple[str, ...]:
        known, marks = self.asking.ids.start, self.asking.marks
        beyond = f"[: -{self.asking.ids.beyond}]" if self.asking.ids.beyond else ""
        plain = python_block(
            *prompt_lines(marks),
            f'labels = json.load(open("FOLDER/{TEMPLATE}", encoding="utf-8"))["labels"]',
            f'tokenizer = Tokenizer.from_file("FOLDER/{TOKENIZER}")',
            f"ids = tokenizer.encode(prompt_text, add_special_tokens={self.asking.ids.special}).ids{beyond}",
            f"own, mask = numpy.array([ids[{known or ''}:]]), numpy.ones((1, len(ids)), dtype=numpy.int64)",
            'inputs = {"input_ids": own, "attention_mask": mask}',
            f'(logits,) = InferenceSession("FOLDER/{ONNX}").run(["logits"], inputs)',
            "print(labels[logits[0].argmax()])",
        )
        prefix = (
            f"All rows begin with the same {counted(known, 'token')}, `prefix_ids` in `{TEMPLATE}`. Their keys and values are "
            "constants in the graph, so that they are not computed again. If a row's text merges with them into other tokens, "
            f"give all ids of the row in `input_ids`, with a mask of 0 for the first {known}."
        )
        inputs = (
            "| name | shape | |",
            "|---|---|---|",
            f"| `input_ids`, int64 | rows x longest | token ids{' after `prefix_ids`' if known else ''}, padded on the right |",
            f"| `attention_mask`, int64 | rows x {f'({known} + longest)' if known else 'longest'} | 1 for each token"
            f"{', `prefix_ids` included' if known else ''}, 0 for padding |",
            f"| `logits`, float32 | rows x {len(self.probe.labels)} | in the order of `labels` in `{TEMPLATE}` |",
        )
        return (
            "With ONNX Runtime; neither torch nor transformers is needed:",
            code_block("sh", f"pip install onnxruntime tokenizers{' safetensors' if self.probe.terms is not None else ''}"),
            f"`{CLASSIFY}` in this folder fills rows into the prompt, with `{CELLS}` beside it. Give it a text or a row, "
            "or a list of them; `classify.probabilities` returns the probabilities of all labels.",
            python_block(*filled_lines("classify", row_code(marks))),
            "The graph by itself, for any language that ONNX Runtime supports." + _alone(terms=self.probe.terms is not None),
            "\n".join(inputs),
            *([prefix] if known else []),
            plain,
        )


def classifier_parts(
    marks: Mapping[str, str], ids: Ids, *, terms: bool, repository: str = "", said: str | None = None
) -> tuple[str, str, str]:
    """Code that runs an exported classifier by :data:`PIPELINE`, a paragraph, and code for transformers alone.

    Args:
        terms: whether the bundle adds TF-IDF to the probe.
        repository: name of the classifier on the hub; empty for a folder.
        said: text of the shown row, as in :func:`row_code`.
    """
    row, auto, remote = row_code(marks, said), "AutoModelForSequenceClassification", ", trust_remote_code=True"
    if repository:
        filled = [f'folder = snapshot_download("{repository}")', *filled_lines("pipeline", row, "folder")]
        prompt = prompt_lines(marks, said, f'hf_hub_download("{repository}", "{EXAMPLE}")')
    else:
        filled, prompt = filled_lines("pipeline", row), prompt_lines(marks, said)
    return (
        python_block(*filled),
        f"The classifier's class is in `{POOLED}`, since those of transformers read only the last token. transformers runs "
        "that file if `trust_remote_code=True` allows it; its input is the whole text that the model reads."
        + _alone(terms=terms),
        python_block(
            *prompt,
            *model_lines(auto, f'"{repository or "FOLDER"}"', remote),
            *ids.lines(),
            "with torch.no_grad():",
            "    logits = model(**ids).logits[0]",
            "print(model.config.id2label[int(logits.argmax())])",
        ),
    )


def _alone(*, terms: bool) -> str:
    """A note on code that leaves out TF-IDF; empty if there is none."""
    return f" It leaves out TF-IDF, which `{TERMS}` computes, so some answers differ." if terms else ""
