"""The model card of a repository on the hub: metadata and page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cotune.bundle.card import (
    about_base,
    base_model_name,
    lead,
    limits,
    plain,
    results,
    robustness,
    sent_to,
    shipped_arms,
    shown_arms,
    use,
)
from cotune.bundle.export.command import Target
from cotune.bundle.export.probe import classifier_parts
from cotune.bundle.export.weights import POOLED
from cotune.bundle.hub.fetch import BUNDLE_FOLDER, SCHEME
from cotune.bundle.load import OpenedBundle
from cotune.bundle.manifest import ADAPTER, CARD, DATA, MANIFEST, METRICS, Manifest, read_json
from cotune.bundle.snippets import Ids, code_block, longest_first, python_block, whole_model_lines
from cotune.errors import counted
from cotune.model.loading.bundled import BUNDLED_MODEL
from cotune.plain import fields

EXPORT_PAGE = "EXPORT.md"
"""How to run the exported files without cotune."""
_BUNDLED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_ASKED = "Hello, can you help me with this?"
AT_THE_TOP: dict[Target | None, str] = {
    "transformers": "a sequence classifier of transformers, with the probe as its layer `score`",
    "merged": "`model/`: the base model with the adapter added to its weights",
    "peft": "`base/` and `adapter/`: the base model and its PEFT adapter, as far as answers need them",
}
"""Files at the top of a repository, by the format of the exported model."""


@dataclass(frozen=True)
class HubCard:
    """Writes a repository's ``README.md``.

    Attributes:
        repository: ``org/name``.
        form: format of the exported model; None for the bundle alone.
        licence: licence of the base model as the hub spells it; None if not known.
        text: the prompt for a row whose fields contain their marks; None without an export.
        marks: input fields with the text that stands for each in ``text``.
        ids: how a text becomes token ids for an exported classifier; None without one.
        terms: whether the bundle adds TF-IDF to the exported model.
    """

    repository: str
    bundle: OpenedBundle
    form: Target | None
    licence: str | None
    text: str | None
    marks: Mapping[str, str]
    ids: Ids | None
    terms: bool

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        return fields(read_json(self.bundle.folder / METRICS))

    def page(self) -> str:
        """The card in Markdown, after the hub's YAML."""
        manifest, by_probe = self.manifest, self.manifest.decision.kind == "probe"
        parts = [
            f"---\n{self.head()}\n---",
            f"# {plain(manifest.task)}",
            lead(manifest, tuned=manifest.has_adapter, by_probe=by_probe),
            "## Contents",
            self._contents(),
            self._rows(),
            "## Use",
            "With cotune, which fetches the bundle, checks the hash of each file and caches it:",
            use(manifest, self.bundle.server, f"{SCHEME}{self.repository}"),
            f"`{SCHEME}{self.repository}@REVISION` refers to a commit, a branch or a tag; only a commit never changes. "
            + self._fetching(),
            *self._transformers(),
            *self._peft(),
            *results(manifest, self.metrics),
            *robustness(self.metrics),
            *self._data(),
        ]
        if self.text is not None:
            parts += ["## What the model reads", code_block("text", self.text)]
        parts += ["## Base model", about_base(manifest, base_model_name(manifest)), self._licence()]
        parts += ["## Limits", limits(manifest, endpoint=self.bundle.server is not None)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def head(self) -> str:
        """The card's metadata as YAML, the scores with their intervals as ``model-index``."""
        from huggingface_hub import ModelCardData

        classifier, scores = self.form == "transformers", self._scores()
        found = ModelCardData(
            license=self.licence,
            base_model=self._base_on_hub(),
            library_name="transformers" if classifier else None,
            pipeline_tag="text-classification" if classifier else None,
            tags=["cotune", *(["lora"] if self.manifest.has_adapter else [])],
            widget=[{"text": self._asked(), "example_title": "The whole prompt"}] if classifier and self.text else None,
            model_name=self.repository.partition("/")[2] if scores else None,
            eval_results=scores or None,
        )
        return str(found.to_yaml())

    def _scores(self) -> list[Any]:
        from huggingface_hub import EvalResult

        arms = shown_arms(self.metrics)
        hashes = self._hashes()
        found = []
        for name in shipped_arms(self.manifest, arms)[:1]:
            arm = arms[name]
            low, high = arm["ci"]
            found.append(
                EvalResult(
                    task_type="text-classification" if self.manifest.written is None else "text-generation",
                    dataset_name=self.manifest.task,
                    dataset_type="private",
                    dataset_split=str(arm.get("split", "test")),
                    dataset_revision=hashes.get("test"),
                    dataset_args=hashes or None,
                    metric_type=self.manifest.metric,
                    metric_value=arm["score"],
                    metric_name=f"{self.manifest.metric} (95% interval {low} to {high}, {arm.get('n', '?')} rows)",
                    metric_args={"ci": list(arm["ci"]), "n": arm.get("n")},
                )
            )
        return found

    def _hashes(self) -> dict[str, str]:
        return {name: str(value) for name, value in fields(self.metrics.get(DATA)).items()}

    def _data(self) -> list[str]:
        names = {"rows": "all rows with their splits, fields, labels and metric", "test": "the test rows"}
        lines = [f"| {names.get(name, plain(name))} | `{plain(value)}` |" for name, value in self._hashes().items()]
        return ["## Data", "\n".join(["| content hash of | |", "|---|---|", *lines])] if lines else []

    def _base_on_hub(self) -> str | None:
        name = self.manifest.base_model.name
        if name.lower() == BUNDLED_MODEL:
            return _BUNDLED_ON_HUB
        return None if self.bundle.has_endpoint or Path(name).is_absolute() else name.partition("@")[0]

    def _asked(self) -> str:
        text = self.text or ""
        for _, mark in longest_first(self.marks):
            text = text.replace(mark, _ASKED)
        return text

    def _contents(self) -> str:
        lines = [f"| `{BUNDLE_FOLDER}/` | the bundle for cotune, with the hash of each file in `{MANIFEST}` |"]
        if self.form is not None:
            page = f"[{EXPORT_PAGE}]({EXPORT_PAGE}) explains how to run it, where `FOLDER` is a copy of this repository"
            code = f", with its class in `{POOLED}`" if self.form == "transformers" else ""
            lines.insert(0, f"| the other files | {AT_THE_TOP[self.form]}{code}; {page} |")
        if self.manifest.has_adapter:
            lines.append(f"| `{BUNDLE_FOLDER}/{ADAPTER}/` | a PEFT adapter of the whole base model |")
        return "\n".join(["| where | what |", "|---|---|", *lines])

    def _rows(self) -> str:
        if not (rows := len(self.bundle.prompt.demonstrations)):
            return "The prompt contains no rows of the training data."
        return (
            f"**The prompt contains {counted(rows, 'row')} of the training data, word for word.** Everyone who can read "
            "this repository can read them."
        )

    def _fetching(self) -> str:
        name = self.manifest.base_model.name
        if (server := self.bundle.server) is not None:
            return sent_to(server[0])
        if name.lower() == BUNDLED_MODEL:
            return "The base model is included in cotune."
        if Path(name).is_absolute():
            return "`--base FOLDER` (in Python `base=`) gives the folder of the base model."
        return '`--base hub` (in Python `base="hub"`) allows fetching the base model from the hub.'

    def _transformers(self) -> list[str]:
        if self.ids is None:
            return []
        name = self.repository
        filled, told, alone = classifier_parts(self.marks, self.ids, terms=self.terms, repository=name, said=_ASKED)
        told += " `revision=` pins a commit whose code you have read. The widget on this page runs no code."
        return ["With transformers alone:", filled, told, alone]

    def _peft(self) -> list[str]:
        if not self.manifest.has_adapter or self.form is None:
            return []
        base = self._base_on_hub() or base_model_name(self.manifest)
        adapter = f'"{self.repository}", subfolder="{BUNDLE_FOLDER}/{ADAPTER}"'
        note = f"[The bundle's README]({BUNDLE_FOLDER}/{CARD}) explains how the answer is computed."
        if self.manifest.base_model.name.lower() == BUNDLED_MODEL:
            note = f"It was tuned on the 4-bit version of `{base}` that is included in cotune. {note}"
        return ["The adapter with PEFT:", python_block(*whole_model_lines(plain(base), adapter=adapter)), note]

    def _licence(self) -> str:
        if self.licence is None:
            return "The base model's licence is not known here; it applies to this repository too."
        return f"The base model's licence, `{plain(self.licence)}`, applies to this repository too."
