"""A grammar in terms of a tokenizer's tokens: which may come next, and how an answer is completed within the limit."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.errors import CotuneError, InputError
from cotune.model.structured.grammar import Grammar

# Bytes that may be needed to complete an answer.
_NEEDED = range(0x20, 0x7F)
# Tokens of single bytes in SentencePiece vocabularies.
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class TokenTable:
    """The bytes of each token, and the tokens of any bytes. Created once for each tokenizer.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        vocabulary: width of the model's logits; ids that the tokenizer does not have are never allowed.

    Attributes:
        library: the tokenizer in llguidance's format.
        bytes: the bytes of each token; None for control tokens.
        writable_bits: whether each token writes anything, as packed bits.

    Raises:
        InputError: if the tokenizer has no token for some ASCII character.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        import llguidance.hf

        hint = "Use a model whose tokenizer falls back to bytes."
        try:
            self.library = llguidance.hf.from_tokenizer(tokenizer, n_vocab=max(vocabulary, len(tokenizer)))
        except (ValueError, RuntimeError) as error:
            raise InputError(f"generation cannot be constrained with this tokenizer ({error})", hint=hint) from error
        self.vocabulary = vocabulary
        self.bytes: list[bytes | None] = [
            None if self.library.is_special_token(i) else self.library.decode_bytes([i]) or None
            for i in range(min(len(tokenizer), vocabulary))
        ]
        writable = np.zeros(vocabulary, dtype=bool)
        self._ids: dict[bytes, int] = {}
        names = map(str, tokenizer.convert_ids_to_tokens(list(range(len(self.bytes)))))
        is_byte = [_BYTE.fullmatch(name) is not None for name in names]
        # Models know a byte's own token from rare characters only, so it comes behind another token of the same text.
        for i in sorted(range(len(self.bytes)), key=is_byte.__getitem__):
            text = self.bytes[i]
            if text is not None:
                self._ids.setdefault(text, i)
                writable[i] = True
        self.writable_bits = np.packbits(writable, bitorder="little")
        self._longest = max(map(len, self._ids), default=0)
        if any(bytes([byte]) not in self._ids for byte in _NEEDED):
            raise InputError("generation cannot be constrained: the tokenizer lacks tokens for some characters", hint=hint)

    def encode(self, text: bytes) -> list[int] | None:
        """Tokens of a text, each as long as possible; None if the text cannot be encoded in this way."""
        ids, start = [], 0
        while start < len(text):
            for size in range(min(self._longest, len(text) - start), 0, -1):
                token = self._ids.get(text[start : start + size])
                if token is not None:
                    ids.append(token)
                    start += size
                    break
            else:
                return None
        return ids

    def text(self, ids: Sequence[int]) -> str:
        return b"".join(self.bytes[i] or b"" for i in ids).decode("utf-8", errors="replace")


class TokenGrammar:
    """A grammar ready to constrain answers.

    Args:
        lead: text before every answer (see ``Renderer.lead``).
        limit: maximum number of tokens of an answer.

    Raises:
        InputError: if the shortest answer is longer than the limit, or the library refuses the grammar.
    """

    def __init__(self, grammar: Grammar, table: TokenTable, *, lead: str, limit: int) -> None:
        import llguidance

        self.grammar, self.table, self.lead, self.limit = grammar, table, lead, limit
        end = self._end(b"")
        if end is None:
            raise InputError(
                "the shortest answer that the grammar allows cannot be written with this tokenizer", where="output"
            )
        least = len(end)
        if least > limit:
            raise InputError(
                f"the shortest answer that the grammar allows takes {least} tokens and the limit is {limit}",
                where="output",
                hint=f"Raise the limit to {least} or more.",
            )
        self._matcher = llguidance.LLMatcher(table.library, grammar.behind(lead), log_level=0)
        if self._matcher.is_error():
            raise InputError(f"the grammar is refused ({self._matcher.get_error()})", where="output")

    def read(self, ids: Sequence[int]) -> str:
        """The text of tokens, without the lead."""
        return self.table.text(ids).removeprefix(self.lead)

    def start(self) -> GrammarWalk:
        return GrammarWalk(self, self._matcher.deep_copy())

    def ended(self, ids: Sequence[int]) -> list[int]:
        """The longest part of an answer that can be completed within the limit, followed by its completion."""
        pieces = [self.table.bytes[token] or b"" for token in ids]
        for kept in range(len(ids), -1, -1):
            end = self._end(b"".join(pieces[:kept]))
            if end is not None and kept + len(end) <= self.limit:
                return [*ids[:kept], *end]
        raise CotuneError("the shortest answer is longer than the limit")

    def _end(self, text: bytes) -> list[int] | None:
        lead = self.lead.encode()
        end = self.grammar.end(text[len(lead) :])
        return None if end is None else self.table.encode(lead[len(text) :] + end)


class GrammarWalk:
    """The state of the grammar during generation of one answer."""

    def __init__(self, owner: TokenGrammar, matcher: Any) -> None:
        self._table, self._matcher = owner.table, matcher
        self._next: NDArray[np.uint8] | None = None

    @property
    def may_stop(self) -> bool:
        return bool(self._matcher.is_accepting())

    @property
    def must_stop(self) -> bool:
        return self.may_stop and bool(self._matcher.is_stopped())

    def allowed(self, stops: Collection[int]) -> NDArray[np.bool_]:
        """``[vocabulary]`` mask of the tokens that may come next, including stop tokens if the answer is complete."""
        allowed = np.unpackbits(self._bits(), bitorder="little")[: self._table.vocabulary].view(bool)
        allowed[list(stops)] = self.may_stop
        return allowed

    def allows(self, token: int, stops: Collection[int]) -> bool:
        """Whether a token may come next; an entry of :meth:`allowed`."""
        if token in stops:
            return self.may_stop
        return bool(self._bits()[token >> 3] >> (token & 7) & 1)

    def only(self, stops: Collection[int]) -> int | None:
        """The token that must come next; None if several may, or none."""
        bits = self._bits()
        places = np.flatnonzero(bits)
        if len(places) != 1 or self.may_stop:
            return None
        byte = int(bits[places[0]])
        token = int(places[0]) * 8 + byte.bit_length() - 1
        return token if byte & (byte - 1) == 0 and token not in stops else None

    def _bits(self) -> NDArray[np.uint8]:
        """Packed bits of the tokens that write something and may come next; cached until the next token."""
        if self._next is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            writable = self._table.writable_bits
            self._next = bits[: len(writable)] & writable
        return self._next

    def push(self, token: int) -> None:
        """Append a token, which must be an allowed one."""
        self._next = None
        if not self._matcher.consume_token(token):
            raise CotuneError(f"the grammar library failed ({self._matcher.get_error()})")
