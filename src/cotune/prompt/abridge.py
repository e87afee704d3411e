"""Abridge very long texts: a middle part that does not fit into a prompt need not be tokenized."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from cotune.prompt.truncate import ENDING

_LETTERS_AND_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SPACES = str.maketrans("Ġ▁", "  ")
_NEIGHBOURS = re.compile("(?=([A-Za-z0-9][A-Za-z0-9 ]))")
# A lookahead of more than one character could depend on a distant end of the text.
_LOOKS_FAR = re.compile(r"\(\?(?:=|<|!(?!\\S\)))")
_NORMALIZERS, _SPLITTERS = ("NFC", "NFKC", "Prepend"), ("ByteLevel", "Digits", "Metaspace")
# Number of characters to search for a border.
_WINDOW = 1024
# Characters to begin with, for each token that is wanted: of the beginning, and of the ending, of which fewer are wanted.
_HEAD, _TAIL = 8, 2


class Abridger:
    """Removes the middle of texts that are far too long for a prompt, without changing the tokens of the rest.

    Byte-pair encoding joins neighbours only to what is in the vocabulary. So two characters that are adjacent in no entry of it
    form a border that no token crosses: "e" and " " before a letter in most vocabularies, two digits in many. A text that is
    cut at such borders has the same tokens before the first cut and after the last one, whatever was between.

    Args:
        tokenizer: a fast Hugging Face tokenizer. Texts are not abridged for tokenizers other than byte-pair encoding, or with
            unknown ways of splitting.
        tokens: maximum length of a prompt.
    """

    def __init__(self, tokenizer: Any, tokens: int) -> None:
        self._tokenizer, self._tokens = tokenizer, tokens
        self.least = 16 * tokens + _WINDOW

    def abridged(self, text: str) -> str:
        """The text without its middle, keeping more than ``tokens`` tokens of its beginning, and a share of that of its end.

        The share is :data:`cotune.prompt.truncate.ENDING`.

        A text that is not long, or has no borders, is returned unchanged.
        """
        if len(text) < self.least or self._joined is None:
            return text
        head = self._head(text)
        if head is None:
            return text
        tail = self._tail(text, head)
        return text if tail is None else text[:head] + text[tail:]

    def _head(self, text: str) -> int | None:
        """End of a beginning with more than enough tokens."""
        start = _HEAD * self._tokens
        while start < len(text) // 2:
            end = next(self._borders(text, start), None)
            if end is not None:
                ids = self._tokenizer(text[:end], add_special_tokens=False)["input_ids"]
                if len(ids) > self._tokens:
                    return end
            start *= 2
        return None

    def _tail(self, text: str, head: int) -> int | None:
        """Start of an ending with more than enough tokens, which also has a border to the beginning."""
        length = _TAIL * self._tokens
        while length < len(text) // 4:
            for start in self._borders(text, len(text) - length):
                if self._parts(text[head - 1], text[start : start + 2]):
                    if len(self._tokenizer(text[start:], add_special_tokens=False)["input_ids"]) > self._tokens * ENDING:
                        return start
                    break
            length *= 4
        return None

    def _borders(self, text: str, start: int) -> Iterator[int]:
        """Positions that no token crosses."""
        for place in range(start, min(start + _WINDOW, len(text) - 1)):
            # Characters after an apostrophe may be split off together.
            if self._parts(text[place - 1], text[place : place + 2]) and "'" not in text[place - 3 : place]:
                yield place

    def _parts(self, left: str, right: str) -> bool:
        joined, alphabet = self._joined or set(), self._alphabet
        if left not in alphabet or (right[0] == " " and right[1] not in _LETTERS_AND_DIGITS[:52]):
            return False
        return right[0] in alphabet and left + right[0] not in joined

    @cached_property
    def _alphabet(self) -> frozenset[str]:
        """Letters, digits and the space, if they are tokens by themselves; unknown characters may be dropped or merged."""
        vocabulary = self._tokenizer.get_vocab()
        space = {" "} if any(mark in vocabulary for mark in "Ġ▁ ") else set()
        return frozenset(each for each in _LETTERS_AND_DIGITS if each in vocabulary) | space

    @cached_property
    def _joined(self) -> set[str] | None:
        """Pairs of characters that are adjacent within a token; None for an unknown kind of tokenizer."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None or not _is_known(json.loads(backend.to_str())):
            return None
        return set(_NEIGHBOURS.findall("\n".join(self._tokenizer.get_vocab()).translate(_SPACES)))


def _is_known(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer, given as JSON, only merges within its vocabulary and looks ahead at most one character."""
    model: dict[str, Any] = tokenizer["model"]
    plain = not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    parts = [*_parts_of(tokenizer["normalizer"], "normalizers"), *_parts_of(tokenizer["pre_tokenizer"], "pretokenizers")]
    return plain and model["type"] == "BPE" and all(_is_local(part) for part in parts)


def _parts_of(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return [inner for each in part[key] for inner in _parts_of(each, key)] if part["type"] == "Sequence" else [part]


def _is_local(part: dict[str, Any]) -> bool:
    kind, pattern = part["type"], part.get("pattern", {})
    if kind == "Replace":
        return bool(pattern == {"String": " "})
    if kind == "Split":
        if "String" in pattern:
            return not set(pattern["String"]) & set(_LETTERS_AND_DIGITS)
        return _LOOKS_FAR.search(pattern["Regex"]) is None
    return kind in (*_NORMALIZERS, *_SPLITTERS)
