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

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions
from tokenizers import Tokenizer

Row = str | Mapping[str, Any]


class RowClassifier:
    """A classifier that fills rows into the prompt and runs the model.

    Args:
        session: session of the model.
        tokenizer: its tokenizer.
        template: content of ``template.json``.
        row_texts: function of ``cells.py``.
        truncate: the module ``truncate.py``, which shortens rows that are too long.
        terms: TF-IDF of ``terms.py``, whose logits are added to the model's; None if the model answers alone.

    Attributes:
        labels: the labels, in the order of the probabilities.
    """

    def __init__(
        self,
        session: InferenceSession,
        tokenizer: Tokenizer,
        template: Mapping[str, Any],
        row_texts: Callable[[Row, list[str]], dict[str, str]],
        truncate: Any,
        terms: Any = None,
    ) -> None:
        self.session, self.tokenizer, self.template = session, tokenizer, template
        self.row_texts, self.terms, self._truncate = row_texts, terms, truncate
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
        return self.row_texts(row, self.template["fields"])

    def ids(self, rows: Sequence[Row]) -> list[list[int]]:
        """Token ids of each row, up to the position at which the model answers, shortened as in the bundle."""
        texts = [{name: self._harmless(text) for name, text in self.fields(row).items()} for row in rows]
        special = self.template["add_special_tokens"]

        def encode(text: str) -> list[int]:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=special).ids
            return ids

        def spans(text: str) -> Any:
            return self.tokenizer.encode(text, add_special_tokens=False).offsets

        whole = [self._truncate.whole_text(self.template, own) for own in texts]
        encoded = self.tokenizer.encode_batch(whole, add_special_tokens=special)
        return [
            self._truncate.prompt_ids(self.template, own, each.ids, encode, spans)
            for own, each in zip(texts, encoded, strict=True)
        ]

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
    terms = None
    if (folder / "terms.py").is_file():
        terms = _module(folder, "terms").load_terms(folder / "probe.safetensors")
    session = InferenceSession(str(folder / model), options, providers=list(providers))
    row_texts, truncate = _module(folder, "cells").row_texts, _module(folder, "truncate")
    return RowClassifier(session, tokenizer, template, row_texts, truncate, terms)


def _module(folder: Path, name: str) -> Any:
    """The Python file of that name in the folder, imported. No other code is run."""
    spec = importlib.util.spec_from_file_location(f"_exported_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
