"""One tiny base model, one adapter and a way to bundle them, shared by this folder's tests."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from cotune.bundle import Predictor, load, save_bundle
from cotune.bundle.export.probe import EMBEDDING_PORT
from cotune.evaluate.decision import BY_PROBE, RAW, Decision
from cotune.files import file_sha256
from cotune.model.adapters.files import BASE, LoraSettings
from cotune.model.local import LocalModel
from cotune.probe.readout import Probe
from cotune.probe.term_fits import TermFits
from cotune.prompt.prompt import Demonstration, Prompt
from cotune.task.values.output import label_output
from tiny import Kind, save_tiny, widen_lora

LABELS = ("person", "place", "card arrival", "card delivery")
PROMPT = Prompt(
    instruction="Classify the question: {labels}.",
    input_template="Question: {text}",
    cue="Label:",
    label_words=(("person", "a person"),),
    demonstrations=(Demonstration((("text", "Who wrote the book?"),), "person"),),
)
TEXTS = ["Who built the tower?", "How tall is K2?", "My card has not come |im_end|> yet", "where\nis it"]
BIAS = Decision("bias", (0.5, -1.25, 2.0, -1.25))


@dataclass(frozen=True)
class Bench:
    """A base model's folder, the model, and the folder of an adapter of it."""

    base: Path
    model: LocalModel
    adapter: Path

    @property
    def adapter_id(self) -> str:
        return self.adapter.name

    def save(self, folder: Path, **changes: Any) -> Path:
        given: dict[str, Any] = {
            "task_name": "questions",
            "input_fields": ("text",),
            "output_field": "label",
            "output": label_output(LABELS),
            "metric": "accuracy",
            "prompt": PROMPT,
            "decision": RAW,
            "adapter_folder": self.adapter,
            "model": self.model,
            "metrics": {},
            "model_name": str(self.base),
        }
        return save_bundle(folder, **given | changes)

    def save_probed(
        self,
        folder: Path,
        *,
        layer: int = 1,
        tuned: bool = True,
        probe: Probe | None = None,
        terms: bool = False,
        **changes: Any,
    ) -> Path:
        """A bundle that answers by a probe; it tells the rows of ``TEXTS`` apart.

        ``layer`` is what it reads, ``tuned`` whether on the adapter or on the base model; ``probe`` is another one, and
        ``terms`` says that TF-IDF is added, enough to change answers.
        """
        adapter = self.adapter_id if tuned else BASE
        self.model.adapters.register(self.adapter)
        if probe is None:
            weight = np.random.default_rng(0).normal(size=(len(LABELS), 2 * self.model.width)).astype(np.float32)
            rendered = self.model.renderer.render(changes.get("prompt", PROMPT), [{"text": text} for text in TEXTS], LABELS)
            ids, starts = [row.prompt_ids for row in rendered], [row.start for row in rendered]
            states = self.model.layer_states(ids, [layer], reads=starts, adapter=adapter)[0]
            # What all rows have in common says nothing, so that what is left decides.
            bias = -(weight @ states.mean(axis=0)).astype(np.float32)
            probe = Probe(LABELS[::-1], weight, bias, layer)
        if terms:
            # Each text's words speak for the label that its state says least of.
            said = probe.log_probs(states, probe.labels).argmin(axis=1)
            fits = TermFits(TEXTS, said, len(LABELS))
            probe = replace(probe, terms=fits.fit(np.ones(len(TEXTS), dtype=bool), ("text",)).times(4.0))
        probed = self.model.adapters.add_probe(adapter, probe, folder.parent / "probed")
        return self.save(folder, **{"adapter_folder": folder.parent / "probed" / probed, "decision": BY_PROBE} | changes)


def answers_of_page(out: Path, heading: str, texts: Sequence[str], port: str = "") -> list[str]:
    """What the Python code under a heading of an export's page prints for each of some texts."""
    page = (out / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", page[page.index(heading) :], re.DOTALL)
    assert found is not None
    code = found[1].replace("FOLDER", str(out))
    code = code.replace(f":{EMBEDDING_PORT}/", f":{port}/") if port else code
    example, said = json.loads((out / "example.json").read_text(encoding="utf-8")), []
    for text in texts:
        told = example | {"prompt_text": example["prompt_text"].replace("THE TEXT", text)}
        (out / "example.json").write_text(json.dumps(told), encoding="utf-8")
        with redirect_stdout(StringIO()) as printed:
            exec(compile(code.replace("['THE TEXT']", f"[{text!r}]"), "README.md", "exec"), {})
        sys.path[:] = [path for path in sys.path if path != str(out)]
        sys.modules.pop("terms", None)
        said.append(printed.getvalue().strip())
    return said


def make_bench(
    folder: Path, kind: Kind = "llama", *, tokenizer: Any = None, lora: LoraSettings | None = None, **changes: Any
) -> Bench:
    # A chat template that lies there would be taken up by a tokenizer that has none.
    base = save_tiny(folder / "tiny-base", kind, **{"chat": tokenizer is None} | changes)
    if tokenizer is not None:
        tokenizer.save_pretrained(base)
    model = LocalModel.load(base)
    widen_lora(model.adapters.start(lora or LoraSettings(rank=4, alpha=8), seed=0))
    adapter = model.adapters.save(model.adapters.weights(), folder / "adapters")
    return Bench(base, model, folder / "adapters" / adapter)


def loaded(folder: Path, **options: Any) -> Predictor:
    return load(folder, **{"device": "cpu", "dtype": "float32", "threads": 1} | options)


def forge(folder: Path, name: str, data: Any, **manifest: Any) -> None:
    """Write a file and make the manifest agree with its bytes, as somebody would who wants it loaded."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    table = json.loads((folder / "manifest.json").read_text())
    table["files"][name] = file_sha256(folder / name)
    (folder / "manifest.json").write_text(json.dumps(table | manifest))


def edit_json(path: Path, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) | changes
    return found
