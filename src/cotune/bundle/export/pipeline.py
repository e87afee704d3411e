"""Answers rows with the classifier in this folder: transformers' text-classification pipeline, with the prompt filled in.

    from pipeline import load

    classify = load()
    classify(["a text", "another one"], batch_size=8)      # [{"label": ..., "score": ...}, ...]
    classify({"text": "a row with named fields"})
    classify("a text", top_k=None)                         # every label with its probability

Needs torch and transformers, but not cotune, which wrote this folder.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import hashlib
import importlib.util
import json
import math
import re
import sys
import unicodedata
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, TextClassificationPipeline

_NAME = re.compile(r"[^\W\d]\w*\Z")
"""What may stand in braces in a prompt."""


class RowClassification(TextClassificationPipeline):  # type: ignore[misc]
    """A text-classification pipeline that takes rows (a text or a mapping of input fields) and fills them into the prompt.

    Attributes:
        template: the prompt's constant parts, with the positions of a row's fields between them.
        terms: TF-IDF of ``terms.py``, whose logits are added to the model's; None if the model answers alone.
    """

    template: dict[str, Any]
    terms: Any = None

    def fields(self, row: str | dict[str, Any]) -> dict[str, str]:
        """A row's texts by field."""
        named = {self.template["fields"][0]: row} if isinstance(row, str) else row
        return {name: _shown(_value(named, name)) for name in self.template["fields"]}

    def filled(self, row: str | dict[str, Any]) -> str:
        """The whole text that the model reads for a row."""
        texts = {name: self._harmless(text) for name, text in self.fields(row).items()}
        return "".join(part if isinstance(part, str) else texts[part["field"]] for part in self.template["pieces"])

    def _harmless(self, text: str) -> str:
        """A row's text with the tokenizer's control tokens broken up by a space."""
        added = self.tokenizer.added_tokens_decoder.values()
        control = sorted((t.content for t in added if t.special and len(t.content) > 1), key=len, reverse=True)
        pattern = "|".join(map(re.escape, control))
        return re.sub(pattern, lambda match: f"{match[0][0]} {match[0][1:]}", text) if pattern else text

    def check_model_type(self, supported_models: Any) -> None:
        """Accept any model: transformers logs an error for a class that it does not list, such as that of ``pooled.py``."""

    def preprocess(self, inputs: str | dict[str, Any], **options: Any) -> dict[str, torch.Tensor]:
        """Token ids of a row, up to the position at which the model answers."""
        ids = self.tokenizer(self.filled(inputs), add_special_tokens=self.template["add_special_tokens"], **options)[
            "input_ids"
        ]
        kept = torch.tensor([ids[: len(ids) - self.template["beyond"]]])
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
    if (folder / "terms.py").is_file():
        found.terms = _module(folder, "terms").load_terms(folder / "probe.safetensors")
    return found


def _value(row: Mapping[str, Any], field: str) -> Any:
    """A row's value of a field, under its name or the header that it was made from: ``My text`` for ``My_text``."""
    if field in row:
        return row[field]
    alike = []
    for header in row:
        whole = unicodedata.normalize("NFKC", str(header)).strip()
        plain = re.sub(r"\W+", "_", whole).strip("_")
        # The names of headers that resemble each other, or that have no letter, end in a hash.
        marked = f"{plain or 'text'}_{hashlib.sha256(whole.encode(errors='surrogatepass')).hexdigest()[:6]}"
        if field == _named(marked):
            return row[header]
        if field == _named(plain) and not _NAME.match(str(header)):
            alike.append(header)
    return row[alike[0] if len(alike) == 1 else field]


def _named(text: str) -> str:
    return text if _NAME.match(text) else f"_{text}"


def _shown(value: Any) -> str:
    """The text of a value as the bundle shows it: none if it is missing, a list as ``a, b``, an object as JSON."""
    if _is_array(value):
        value = value.tolist()
    if isinstance(value, (list, tuple)) and not any(isinstance(v, (list, tuple, dict)) or _is_array(v) for v in value):
        return ", ".join(item if isinstance(item, str) else _single(item) or "null" for item in value) or "none"
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    return _single(value)


def _is_array(value: Any) -> bool:
    return type(value).__module__ == "numpy" and value.shape != ()


def _single(value: Any) -> str:
    """The text of a value that is no list or object; empty for None, NaN and a frame's missing value."""
    if isinstance(value, enum.Enum):
        value = value.value
    kind = type(value).__name__
    if type(value).__module__ == "numpy":
        if kind == "datetime64":
            return str(value)
        # As a double, 0.1 in single precision would become 0.10000000149011612.
        value = float(str(value)) if kind in ("float16", "float32") else value.item()
    if value is None or kind in ("NAType", "NaTType"):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    if isinstance(value, decimal.Decimal):
        return "" if value.is_nan() else format(value, "f")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (str, int, uuid.UUID)):
        return str(value)
    raise TypeError(f"a value of type {kind} cannot be converted to text")


def _plain(value: Any) -> Any:
    """A value for JSON, in which dates and the like are texts."""
    if type(value).__module__ == "numpy":
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else _single(value) or None
