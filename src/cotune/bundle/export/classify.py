"""Answers rows with the model in this folder, using ONNX Runtime.

    from classify import load

    classify = load()
    classify("a text")                                     # {"label": ..., "score": ...}
    classify(["a text", "another one"])                    # a list of them
    classify([{"text": "a row with named fields"}])
    classify.probabilities(["a text"])                     # [rows, labels], in the order of classify.labels

Needs onnxruntime, tokenizers and numpy, and safetensors if there is a ``terms.py``, but not cotune, which wrote this folder.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions
from tokenizers import Tokenizer

Row = str | Mapping[str, Any]
_NAME = re.compile(r"[^\W\d]\w*\Z")
"""What may stand in braces in a prompt."""


class RowClassifier:
    """A classifier that fills rows into the prompt and runs the model.

    Args:
        session: session of the model.
        tokenizer: its tokenizer.
        template: content of ``template.json``.
        terms: TF-IDF of ``terms.py``, whose logits are added to the model's; None if the model answers alone.

    Attributes:
        labels: the labels, in the order of the probabilities.
    """

    def __init__(self, session: InferenceSession, tokenizer: Tokenizer, template: Mapping[str, Any], terms: Any = None) -> None:
        self.session, self.tokenizer, self.template, self.terms = session, tokenizer, template, terms
        self.labels: tuple[str, ...] = tuple(template["labels"])
        self._prefix: list[int] = template["prefix_ids"]
        added = tokenizer.get_added_tokens_decoder().values()
        control = sorted((t.content for t in added if t.special and len(t.content) > 1), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control))) if control else None

    def __call__(self, rows: Row | Sequence[Row], batch_size: int = 32) -> Any:
        """The likeliest label of each row and its probability; a single answer for a single row that is not in a list."""
        if isinstance(rows, (str, Mapping)):
            return self([rows])[0]
        found = self.probabilities(rows, batch_size)
        return [{"label": self.labels[row.argmax()], "score": float(row.max())} for row in found]

    def probabilities(self, rows: Sequence[Row], batch_size: int = 32) -> NDArray[np.float64]:
        """``[rows, labels]``; rows of similar length run together, ``batch_size`` at a time."""
        ids = self.ids(rows)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = np.zeros((len(ids), len(self.labels)))
        for place in range(0, len(order), batch_size):
            part = order[place : place + batch_size]
            logits = self.session.run(["logits"], self.feed([ids[i] for i in part]))[0].astype(np.float64)
            if self.terms is not None:
                logits += self.terms.logits([self.fields(rows[i]) for i in part])
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            found[part] = powers / powers.sum(axis=1, keepdims=True)
        return found

    def fields(self, row: Row) -> dict[str, str]:
        """A row's texts by field."""
        named = {self.template["fields"][0]: row} if isinstance(row, str) else row
        return {name: _shown(_value(named, name)) for name in self.template["fields"]}

    def filled(self, row: Row) -> str:
        """The whole text that the model reads for a row."""
        texts = {name: self._harmless(text) for name, text in self.fields(row).items()}
        return "".join(part if isinstance(part, str) else texts[part["field"]] for part in self.template["pieces"])

    def ids(self, rows: Sequence[Row]) -> list[list[int]]:
        """Token ids of each row, up to the position at which the model answers."""
        texts = [self.filled(row) for row in rows]
        told = self.tokenizer.encode_batch(texts, add_special_tokens=self.template["add_special_tokens"])
        return [each.ids[: len(each.ids) - self.template["beyond"]] for each in told]

    def feed(self, ids: Sequence[list[int]]) -> dict[str, NDArray[np.int64]]:
        """The model's inputs for one batch.

        The model contains the states of the prompt's beginning. If a row's text merges with it into other tokens, these are
        masked and the row is read from its beginning.
        """
        known = len(self._prefix)
        follows = [len(row) > known and row[:known] == self._prefix for row in ids]
        own = [row[known:] if after else row for row, after in zip(ids, follows, strict=True)]
        tokens = np.zeros((len(own), max(map(len, own))), dtype=np.int64)
        mask = np.zeros((len(own), known + tokens.shape[1]), dtype=np.int64)
        for i, (row, after) in enumerate(zip(own, follows, strict=True)):
            tokens[i, : len(row)] = row
            mask[i, 0 if after else known : known + len(row)] = 1
        return {"input_ids": tokens, "attention_mask": mask}

    def _harmless(self, text: str) -> str:
        """A row's text with the tokenizer's control tokens broken up by a space."""
        return text if self._control is None else self._control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def load(
    folder: str | Path | None = None,
    *,
    model: str = "model.onnx",
    threads: int = 0,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> RowClassifier:
    """Load the classifier of a folder.

    Args:
        folder: folder of the model; None for that of this file.
        model: name of the model's file.
        threads: number of threads; 0 for one per core.
        providers: execution providers of ONNX Runtime, in order of preference.
    """
    folder = Path(__file__).resolve().parent if folder is None else Path(folder)
    options = SessionOptions()
    options.intra_op_num_threads = threads
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    template = json.loads((folder / "template.json").read_text(encoding="utf-8"))
    terms = _terms(folder) if (folder / "terms.py").is_file() else None
    return RowClassifier(InferenceSession(str(folder / model), options, providers=list(providers)), tokenizer, template, terms)


def _terms(folder: Path) -> Any:
    """TF-IDF, read by the folder's ``terms.py``. No other code is run."""
    spec = importlib.util.spec_from_file_location("_exported_terms", folder / "terms.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load_terms(folder / "probe.safetensors")


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
