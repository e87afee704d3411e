"""Answers rows with the model in this folder: reads JSON values or numbers off its hidden states, without generating them.

    from answer import load

    answer = load()
    answer("a table for 2 in Rome")                        # {"city": "Rome", "guests": 2}
    answer(["a text", "another one"], batch_size=8)        # a list of them
    answer([{"text": "a row with named fields"}])
    answer.log_probs(["a text"])                           # [states, values], in the order of answer.names

Needs torch, transformers, numpy and safetensors, but not cotune, which wrote this folder. ``fields/`` holds the modules of
cotune that turn log-probabilities into an answer.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

Row = str | Mapping[str, Any]


class Asked(NamedTuple):
    """A row's token ids, and the start and end of each part of them whose mean state is read.

    A row that is read as a whole has a single part, beside which the state at its last token is read.
    """

    ids: list[int]
    parts: Sequence[tuple[int, int]]


class FieldReader:
    """Fills rows into the prompt, runs the model, and reads the answer's fields off its states.

    Args:
        model: a decoder whose last hidden states are those that the probe reads.
        tokenizer: its tokenizer.
        template: content of ``template.json``.
        fields: the answer's fields, an object of a class in ``fields/``.
        probe: ``weight`` and ``bias`` of ``probe.safetensors``.
        row_texts: function of ``fields/cells.py``.
        truncate: the module ``fields/truncate.py``, which shortens rows that are too long.
        words: functions of ``fields/words.py`` and ``fields/reads.py`` if each word of a row is read; None if the whole row is.
        terms: TF-IDF of ``terms.py``, whose logits are added to those of the states; None if the states answer alone.

    Attributes:
        names: the values of all fields, in the order of the log-probabilities.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        template: Mapping[str, Any],
        fields: Any,
        probe: Mapping[str, NDArray[Any]],
        row_texts: Callable[[Row, list[str]], dict[str, str]],
        truncate: Any,
        words: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
        terms: Any = None,
    ) -> None:
        self.model, self.tokenizer, self.template, self.fields = model, tokenizer, template, fields
        self.row_texts, self.terms, self._words, self._truncate = row_texts, terms, words, truncate
        self.names: tuple[str, ...] = tuple(fields.names)
        self._weight, self._bias = (probe[name].astype(np.float64) for name in ("weight", "bias"))
        added = tokenizer.added_tokens_decoder.values()
        control = sorted((t.content for t in added if t.special and len(t.content) > 1), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control))) if control else None

    def __call__(self, rows: Row | Sequence[Row], batch_size: int = 16) -> Any:
        """The answer to each row, as a JSON value or a number; a single one for a single row that is not in a list."""
        if isinstance(rows, (str, Mapping)):
            return self([rows], batch_size)[0]
        return self.read(self.log_probs(rows, batch_size), rows)

    def read(self, log_probs: NDArray[np.float64], rows: Sequence[Row]) -> list[Any]:
        """The answers to rows, given their :meth:`log_probs`."""
        return [json.loads(text) for text in self.fields.answers(log_probs, [self._text(row) for row in rows])]

    def log_probs(self, rows: Sequence[Row], batch_size: int = 16) -> NDArray[np.float64]:
        """Log-probabilities of the values of each field, ``[states, values]``.

        A row has one state, or if values are copied from its text one for each of its words and a last one for the whole text.
        Rows of similar length run together, ``batch_size`` at a time.
        """
        asked = [self.asked(row) for row in rows]
        order = sorted(range(len(asked)), key=lambda i: len(asked[i].ids))
        found = {}
        for place in range(0, len(order), batch_size):
            batch = order[place : place + batch_size]
            for i, states in zip(batch, self._states([asked[i] for i in batch]), strict=True):
                found[i] = states.astype(np.float64) @ self._weight.T + self._bias
        logits = np.concatenate([np.zeros((0, len(self.names))), *(found[i] for i in range(len(asked)))])
        if self.terms is not None:
            logits += self.terms.logits([self.row(row) for row in rows])
        ends = np.cumsum(self.fields.sizes)
        return np.concatenate([_log_softmax(part) for part in np.split(logits, ends[:-1], axis=1)], axis=1)

    def row(self, row: Row) -> dict[str, str]:
        """A row's texts by input field."""
        return self.row_texts(row, self.template["fields"])

    def asked(self, row: Row) -> Asked:
        """Token ids of a row up to the position at which the model answers, and what is read of them.

        If words are read, the row's text stands behind the prompt once more, so that their states depend on all of it.
        """
        texts = {name: self._harmless(text) for name, text in self.row(row).items()}
        ids: list[int] = self._ids(self._truncate.whole_text(self.template, texts))
        ids = self._truncate.prompt_ids(self.template, texts, ids, self._ids, lambda text: self._placed(text)["offset_mapping"])
        if self._words is None:
            return Asked(ids, [(min(self.template["start"], len(ids) - 1), len(ids))])
        words_of, words_in_copy = self._words
        text, lead, most = self._text(row), self.template["lead"], self.template["max_tokens"]
        shown = self._harmless(text)
        copy = self._placed(lead + shown)
        own, offsets = copy["input_ids"][:most], copy["offset_mapping"][:most]
        parts = words_in_copy(len(words_of(text)), words_of(shown), offsets, lead=len(lead), before=len(ids))
        return Asked(ids + own, parts)

    def _states(self, batch: Sequence[Asked]) -> Iterator[NDArray[np.float32]]:
        """What the probe reads of each row, ``[states, width]`` or, of whole rows, ``[1, 2 x width]``."""
        tokens = torch.zeros((len(batch), max(len(row.ids) for row in batch)), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for i, row in enumerate(batch):
            tokens[i, : len(row.ids)], mask[i, : len(row.ids)] = torch.tensor(row.ids), 1
        device = self.model.device
        with torch.inference_mode():
            found = self.model(input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False)
        for row, states in zip(batch, found.last_hidden_state.float().cpu().numpy(), strict=True):
            starts, ends = np.array(row.parts).T
            sums = np.concatenate([np.zeros((1, states.shape[1])), np.cumsum(states[: len(row.ids)], axis=0, dtype=np.float64)])
            means = (sums[ends] - sums[starts]) / (ends - starts)[:, None]
            last = states[None, len(row.ids) - 1]
            yield np.concatenate([last, means], axis=1) if self._words is None else means

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=self.template["add_special_tokens"])["input_ids"]
        return found

    def _placed(self, text: str) -> Any:
        return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)

    def _text(self, row: Row) -> str:
        return " ".join(self.row(row).values())

    def _harmless(self, text: str) -> str:
        """A row's text with the tokenizer's control tokens broken up by a space."""
        return text if self._control is None else self._control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def load(
    folder: str | Path | None = None, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> FieldReader:
    """Load the model of a folder.

    Args:
        folder: folder of the export; None for that of this file.
        device: where the model runs.
        dtype: dtype of the model's computation.
    """
    folder = Path(__file__).resolve().parent if folder is None else Path(folder)
    model = AutoModel.from_pretrained(folder / "model", dtype=dtype).eval().to(device)
    template, output = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("template.json", "fields.json"))
    package = f"_exported_{uuid.uuid4().hex}"
    _run(package, folder / "fields" / "__init__.py", [str(folder / "fields")])

    def module(name: str) -> Any:
        return importlib.import_module(f"{package}.{name}")

    tokenizer, probe = AutoTokenizer.from_pretrained(folder / "model"), load_file(folder / "probe.safetensors")
    schema, terms = output.get("read_schema", output["schema"]), None
    if output["type"] == "number":
        fields = module("scale").Scale.from_json(schema)
    elif "copied" not in output:
        fields = module("closed").closed_fields(schema)
    else:
        copied = map(module("output_fields").CopiedField.from_json, output["copied"])
        fields = module("tags").answer_fields(schema, tuple(copied))
    if "chain.bias" in probe:
        fields = module("tags").chained(fields, module("chain").Chain.read(probe))
    words = (module("words").words_of, module("reads").words_in_copy) if fields.words else None
    if (folder / "terms.py").is_file():
        terms = _run(f"{package}_terms", folder / "terms.py").load_terms(folder / "probe.safetensors")
    row_texts = module("cells").row_texts
    return FieldReader(model, tokenizer, template, fields, probe, row_texts, module("truncate"), words, terms)


def _run(name: str, path: Path, parts: list[str] | None = None) -> Any:
    """A Python file as a module of that name, or as a package with these folders. No other code is run."""
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=parts)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Along the last axis, which has at least one value."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
