"""What an answer may look like: a JSON Schema or a plain number, kept token by token while decoding.

llguidance says which tokens may come next: along gold answers of SNIPS its masks cost on average what xgrammar's do, a schema
is ready several times sooner (outlines-core takes seconds, and 25 times as long for a mask), and it depends on nothing, neither
torch nor numpy, is MIT licensed, kept up by those who serve models with it, and has one wheel for all Pythons from 3.9 on. What
it does not know is how to end in time: :mod:`cotune.model.structured.json_terms` does, so that an answer parses and validates
even where the token limit cuts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cotune.files import content_hash
from cotune.model.structured.json_schema import DIGITS, number_term, term_of
from cotune.model.structured.json_terms import DECIMALS, Term
from cotune.task.values.json_value import json_text

_WRITTEN = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": '"\\bfnrt',
}


@dataclass(frozen=True)
class Grammar:
    """A set of texts that answers are held to. Made by :meth:`json` and :meth:`number`; equal by content.

    Attributes:
        source: the library's own form of it.
        plain: the schema without references and notes; None for plain numbers.
        term: the same texts, for ends.
    """

    source: str
    plain: str | None
    term: Term = field(compare=False, repr=False)

    @classmethod
    def json(cls, schema: Mapping[str, Any]) -> Grammar:
        """JSON texts that are valid under a schema, written as ``json.dumps`` does, fields in the schema's order.

        Args:
            schema: draft 2020-12: types, ``enum``, ``const``, ``anyOf``, ``properties``, ``required``, ``items``, bounds of
                lengths and numbers, references inside the schema. Objects hold named properties alone. Numbers are written
                without exponent, in up to 15 digits before the point and 17 behind it.

        Raises:
            InputError: the schema is broken or uses another keyword; names the place.
        """
        term, plain = term_of(schema)
        wrapped = {"grammars": [{"json_schema": plain | {"x-guidance": _WRITTEN}}]}
        return cls(json_text(wrapped), json_text(plain), term)

    @classmethod
    def number(cls, *, integer: bool = False) -> Grammar:
        """Numbers in plain digits, such as ``-12.5``.

        Args:
            integer: without a fraction.
        """
        term = number_term(integer=integer)
        fraction = "" if integer else rf"(\.[0-9]{{1,{DECIMALS}}})?"
        regex = rf"-?(0|[1-9][0-9]{{0,{DIGITS - 1}}}){fraction}"
        return cls(json_text({"grammars": [{"lark_grammar": f"start: /{regex}/"}]}), None, term)

    @cached_property
    def key(self) -> str:
        """Content hash, part of cache keys."""
        import llguidance

        return content_hash({"grammar": self.source, "library": llguidance.get_version()}, 20)
