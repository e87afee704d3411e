"""Grammars of answers: a JSON Schema or a plain number, enforced token by token during decoding.

llguidance computes which tokens may come next. On right answers of SNIPS its masks cost on average as much as xgrammar's, and
it compiles a schema several times faster (outlines-core takes seconds for a schema, and 25 times as long for a mask). It has no
dependencies, is MIT licensed, is maintained for use in model servers, and has one wheel for all Python versions from 3.9.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from cotune.errors import InputError
from cotune.files import content_hash
from cotune.model.structured.json_schema import DIGITS, closed_schema, parts_of, with_shortened_bounds
from cotune.task.values.json_value import json_text
from cotune.task.values.schema import schema_problem

DECIMALS = 17
"""Maximum number of decimals of a plain number: enough to write every double between 0.1 and 1 exactly."""
LENGTH = 10_000
"""Upper bound on the characters of the shortest answer, so that an unbounded schema does not take unbounded time."""
_WRITTEN = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": '"\\bfnrt',
}
# Bytes in order of preference: those that end an object, an array, a number, an optional field or a choice come first. The
# digit 0 comes last, since zeros behind an excluded bound could repeat without end.
_ENDING = bytes(dict.fromkeys(b'}],n"1234567890tf[{-.' + bytes(range(256))))


_MOST_TRIES = 2_000
"""Maximum number of prefixes that are tried when the shortest allowed string is searched."""


@cache
def _library_bytes() -> Any:
    """A tokenizer of the library whose tokens are single bytes."""
    import llguidance

    return llguidance.LLTokenizer("byte")


def _problem(schema: Mapping[str, Any]) -> str:
    """Why the library refuses a schema; empty if it accepts it."""
    import llguidance

    return llguidance.LLMatcher.validate_grammar(_source(schema), _library_bytes())


def _source(schema: Mapping[str, Any]) -> str:
    return json_text({"grammars": [{"json_schema": {**with_shortened_bounds(schema), "x-guidance": _WRITTEN}}]})


@dataclass(frozen=True)
class Grammar:
    """A set of allowed answers. Made by :meth:`json` and :meth:`number`; compared by content.

    Attributes:
        source: the grammar in llguidance's format.
        plain: the closed schema as JSON; None for plain numbers.
    """

    source: str
    plain: str | None

    @classmethod
    def json(cls, schema: Mapping[str, Any]) -> Grammar:
        """JSON texts that are valid under a schema, written as ``json.dumps`` does, fields in the schema's order.

        Args:
            schema: draft 2020-12, with keywords that llguidance supports. Objects have the named properties only. Numbers are
                written without exponent, with at most 15 digits before the point unless a bound has more.

        Raises:
            InputError: if the schema is invalid or cannot be enforced; the message names the place.
        """
        if wrong := schema_problem(schema):
            raise InputError(f"this is not a valid JSON Schema ({wrong})", where="schema, #", hint="See json-schema.org.")
        closed = closed_schema(schema)
        if _problem(closed):
            shared = {name: closed[name] for name in ("$defs", "definitions") if name in closed}
            # Name the innermost part that is refused by itself, else the whole schema.
            refused = [(where, why) for where, part in parts_of(closed) if (why := _problem(shared | part))]
            where, why = refused[-1] if refused else ("#", _problem(closed))
            raise InputError(
                f"the schema cannot be enforced ({why.splitlines()[0]})",
                where=f"schema, {where}",
                hint="Remove the named keyword, or list the values in enum.",
            )
        grammar = cls(_source(closed), json_text(closed))
        if grammar.end(b"") is None:
            what = f"the shortest answer has more than {LENGTH:,} characters, or there is none"
            raise InputError(what, where="schema, #", hint="Ask for less in one answer.")
        return grammar

    @classmethod
    def number(cls, *, integer: bool = False) -> Grammar:
        """Numbers in plain digits, such as ``-12.5``; without fractions if ``integer``."""
        fraction = "" if integer else rf"(\.[0-9]{{1,{DECIMALS}}})?"
        regex = rf"-?(0|[1-9][0-9]{{0,{DIGITS - 1}}}){fraction}"
        return cls(json_text({"grammars": [{"lark_grammar": f"start: /{regex}/"}]}), None)

    def behind(self, lead: str) -> str:
        """The source of the grammar of the same answers, each behind a text, so that tokens may reach across the border."""
        if not lead:
            return self.source
        (answer,) = json.loads(self.source)["grammars"]
        return json_text({"grammars": [{"lark_grammar": f"start: {json_text(lead)} @answer"}, {**answer, "name": "answer"}]})

    @cached_property
    def key(self) -> str:
        import llguidance

        return content_hash({"grammar": self.source, "library": llguidance.get_version()}, 20)

    @cached_property
    def _start(self) -> Any:
        import llguidance

        return llguidance.LLMatcher(_library_bytes(), self.source, log_level=0)

    def accepts(self, text: str) -> bool:
        matcher = self._start.deep_copy()
        return bool(matcher.consume_tokens(list(text.encode())) and matcher.is_accepting())

    def end(self, text: bytes) -> bytes | None:
        """A short completion of the beginning of an allowed text; None if none is found."""
        matcher = self._start.deep_copy()
        if not matcher.consume_tokens(list(text)):
            return None
        completion, inside, searched = b"", _quotes(text) % 2 == 1, False
        while not matcher.is_accepting():
            allowed = _allowed(matcher)
            # In a free string, brackets are ordinary characters.
            free = inside and ord("~") in allowed
            order = b'"x' + _ENDING if free else _ENDING
            more = bytes(next(([byte] for byte in order if byte in allowed), []))
            if inside and not free and not searched:
                more, searched = _closed(matcher) or more, True
            elif not inside and ord('"') in allowed:
                names = (name for name in self._required if matcher.validate_tokens(list(name)) == len(name))
                more, searched = next(names, more), False
            if len(completion) > LENGTH or not more or not matcher.consume_tokens(list(more)):
                return None
            completion, inside = completion + more, inside ^ (_quotes(more) % 2 == 1)
        return completion

    @cached_property
    def _required(self) -> list[bytes]:
        """The required properties' names, each as the text that begins its field."""
        parts = parts_of(json.loads(self.plain)) if self.plain is not None else ()
        names = [name for _, part in parts for name in part.get("required", ())]
        return [f"{json_text(name)}: ".encode() for name in dict.fromkeys(names)]


def _quotes(text: bytes) -> int:
    return len(re.findall(rb'"', re.sub(rb"\\.", b"", text)))


def _allowed(matcher: Any) -> set[int]:
    """The bytes that may come next."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return set(np.flatnonzero(np.unpackbits(bits, bitorder="little")[:256]).tolist())


def _closed(matcher: Any) -> bytes:
    """The shortest end of a string with prescribed characters, such as an enumeration's; empty if the search takes too long."""
    waiting = deque([(matcher, b"")])
    for _ in range(_MOST_TRIES):
        if not waiting:
            break
        before, path = waiting.popleft()
        # Copied here and not when it is queued: most of what is queued is never looked at.
        place = before.deep_copy()
        place.consume_tokens(list(path[-1:]))
        for byte in _allowed(place):
            grown = path + bytes([byte])
            if byte == ord('"') and _quotes(grown) == 1:
                return grown
            waiting.append((place, grown))
    return b""
