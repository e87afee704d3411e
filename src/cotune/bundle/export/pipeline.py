"""Answers rows with the classifier in this folder: transformers' text-classification pipeline, with the prompt filled in.

    from pipeline import load

    classify = load()
    classify(["a text", "another one"], batch_size=8)      # [{"label": ..., "score": ...}, ...]
    classify({"text": "a row with named fields"})
    classify("a text", top_k=None)                         # every label with its probability

Needs torch and transformers, but not cotune, which wrote this folder.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, TextClassificationPipeline


class RowClassification(TextClassificationPipeline):  # type: ignore[misc]
    """A text-classification pipeline that takes rows (a text or a mapping of input fields) and fills them into the prompt.

    Attributes:
        template: the prompt's constant parts, with the positions of a row's fields between them.
        row_texts: function of ``cells.py``.
        truncate: the module ``truncate.py``, which shortens rows that are too long.
        terms: TF-IDF of ``terms.py``, whose logits are added to the model's; None if the model answers alone.
    """

    template: dict[str, Any]
    row_texts: Callable[[Any, list[str]], dict[str, str]]
    truncate: Any
    terms: Any = None

    def __call__(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """The likeliest label of each row with its probability, or all with ``top_k=None``; an empty list for an empty one."""
        return super().__call__(inputs, *args, **options) if not isinstance(inputs, list) or inputs else []

    def fields(self, row: str | dict[str, Any]) -> dict[str, str]:
        """A row's texts by field."""
        return self.row_texts(row, self.template["fields"])

    def prompt_ids(self, row: str | dict[str, Any], **options: Any) -> list[int]:
        """Token ids of a row, up to the position at which the model answers, shortened as in the bundle."""
        texts = {name: self._harmless(text) for name, text in self.fields(row).items()}

        def encode(text: str) -> list[int]:
            ids: list[int] = self.tokenizer(text, add_special_tokens=self.template["add_special_tokens"], **options)[
                "input_ids"
            ]
            return ids

        def spans(text: str) -> Any:
            return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]

        ids = encode(self.truncate.whole_text(self.template, texts))
        found: list[int] = self.truncate.prompt_ids(self.template, texts, ids, encode, spans)
        return found

    def _harmless(self, text: str) -> str:
        """A row's text with the tokenizer's control tokens broken up by a space."""
        added = self.tokenizer.added_tokens_decoder.values()
        control = sorted((t.content for t in added if t.special and len(t.content) > 1), key=len, reverse=True)
        pattern = "|".join(map(re.escape, control))
        return re.sub(pattern, lambda match: f"{match[0][0]} {match[0][1:]}", text) if pattern else text

    def check_model_type(self, supported_models: Any) -> None:
        """Accept any model: transformers logs an error for a class that it does not list, such as that of ``pooled.py``."""

    def preprocess(self, inputs: str | dict[str, Any], **options: Any) -> dict[str, torch.Tensor]:
        """The model's inputs for a row."""
        kept = torch.tensor([self.prompt_ids(inputs, **options)])
        found = {"input_ids": kept, "attention_mask": torch.ones_like(kept)}
        if self.terms is not None:
            found["terms"] = torch.tensor(self.terms.logits([self.fields(inputs)]), dtype=torch.float32)
        return found

    def _forward(self, model_inputs: Any) -> Any:
        terms = model_inputs.pop("terms", None)
        found = super()._forward(model_inputs)
        if terms is not None:
            found.logits = found.logits + terms.to(found.logits)
        return found


def _module(folder: Path, name: str) -> Any:
    """The Python file of that name in the folder, imported. No other code is run."""
    spec = importlib.util.spec_from_file_location(f"_exported_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(folder: str | Path | None = None, *, dtype: torch.dtype = torch.float32, **options: Any) -> RowClassification:
    """Load the pipeline of a folder.

    Args:
        folder: folder of the model; None for that of this file.
        dtype: dtype of the computation.
        options: further options of the pipeline, such as ``device`` and ``batch_size``.
    """
    folder = Path(__file__).resolve().parent if folder is None else Path(folder)
    model = _module(folder, "pooled").PooledForSequenceClassification.from_pretrained(folder, dtype=dtype)
    found = RowClassification(model=model.eval(), tokenizer=AutoTokenizer.from_pretrained(folder), **options)
    found.template = json.loads((folder / "template.json").read_text(encoding="utf-8"))
    found.row_texts, found.truncate = _module(folder, "cells").row_texts, _module(folder, "truncate")
    if (folder / "terms.py").is_file():
        found.terms = _module(folder, "terms").load_terms(folder / "probe.safetensors")
    return found
