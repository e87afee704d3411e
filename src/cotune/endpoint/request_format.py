"""How an endpoint is asked: the request, what is kept of the answer, and which request a server understands."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cotune.endpoint.chat import estimate_tokens, message_text
from cotune.endpoint.errors import EndpointError
from cotune.endpoint.prices import Usage

_MOST_ALTERNATIVES, _FEW_ALTERNATIVES = 20, 5
_POSITIONS = 12
"""Places of an answer whose alternatives are kept."""
_LEAST_TOKENS, _MOST_TOKENS = 8, 64
_REFUSED = (400, 404, 422, 500)
"""What servers answer to a request that they do not understand; of 500, the client lets only that through."""
_CUT = ("length", "max_tokens")
"""How servers call it (``finish_reason``) that the limit ended an answer."""
_OF_A_REQUEST = re.compile("response_format|max_tokens|max_completion_tokens|temperature|logprobs|parameter")
"""What a refusal names where another request may be understood."""
FORMS = ("strict", "schema", "inside", "object", "")
"""How an answer is held to a JSON Schema (``response_format``), the firmest first: to all of it, as far as the server can, to
it inside ``json_object`` (llama-cpp-python knows no ``json_schema``), to be an object at all, or not."""


@dataclass(frozen=True)
class RequestFormat:
    """What requests to a server look like.

    Attributes:
        alternatives: tokens asked for at each place of the answer (``top_logprobs``); 0 asks for the text alone.
        limit: what the server calls the longest answer, ``max_tokens`` or ``max_completion_tokens``.
        tokens: of the answer at most.
        greedy: whether the server takes a temperature, which then is 0 where no other is asked for.
        tells_probabilities: whether answers come with probabilities.
        form: one of :data:`FORMS`: what of a JSON Schema the server is asked to keep to.
    """

    alternatives: int = _MOST_ALTERNATIVES
    limit: str = "max_tokens"
    tokens: int = _LEAST_TOKENS
    greedy: bool = True
    tells_probabilities: bool = True
    form: str = ""

    def body(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        schema: Mapping[str, Any] | None = None,
        *,
        temperature: float = 0,
    ) -> dict[str, Any]:
        """The request; ``schema`` is what answers that are JSON must fit."""
        body: dict[str, Any] = {"model": model, "messages": [dict(m) for m in messages], self.limit: self.tokens}
        if self.greedy:
            body["temperature"] = temperature
        if self.alternatives:
            body |= {"logprobs": True, "top_logprobs": self.alternatives}
        if self.form == "object":
            body["response_format"] = {"type": "json_object"}
        elif self.form == "inside" and schema is not None:
            body["response_format"] = {"type": "json_object", "schema": dict(schema)}
        elif self.form and schema is not None:
            held = {"name": "answer", "schema": dict(schema), "strict": self.form == "strict"}
            body["response_format"] = {"type": "json_schema", "json_schema": held}
        return body

    def to_json(self) -> dict[str, Any]:
        """For journal and bundle."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RequestFormat:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: a key is missing, unknown or of the wrong kind.
        """
        kinds = {
            "alternatives": int,
            "limit": str,
            "tokens": int,
            "greedy": bool,
            "tells_probabilities": bool,
            "form": str,
        }
        data = {"form": "", **data}
        if set(data) != set(kinds) or not all(isinstance(data[key], kind) for key, kind in kinds.items()):
            raise ValueError("not a way to ask")
        found = cls(**data)
        limits = ("max_tokens", "max_completion_tokens")
        if found.limit not in limits or found.form not in FORMS or not 1 <= found.tokens <= 10**6:
            raise ValueError("not a way to ask")
        return found


@dataclass(frozen=True)
class Said:
    """What is kept of an answer.

    Attributes:
        text: of the message.
        positions: of its first places, the tokens that could have stood there, the chosen one first; empty where none are told.
        usage: tokens of question and answer.
        cut: whether the limit ended it (``finish_reason``), so that its end is missing.
    """

    text: str
    positions: tuple[tuple[tuple[str, float], ...], ...]
    usage: Usage
    cut: bool = False

    def to_json(self) -> dict[str, Any]:
        """For the answers on disk."""
        positions = [list(map(list, p)) for p in self.positions]
        return {"text": self.text, "positions": positions, "usage": asdict(self.usage), "cut": self.cut}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Said:
        """Inverse of :meth:`to_json`."""
        positions = tuple(tuple((str(t), float(p)) for t, p in place) for place in data["positions"])
        # Answers that earlier versions kept do not say.
        return cls(data["text"], positions, Usage(**data["usage"]), bool(data.get("cut", False)))


def read_said(body: Any, messages: Sequence[Mapping[str, str]]) -> Said:
    """Take an answer apart.

    Raises:
        ValueError: it is no chat completion; or ``KeyError``, ``IndexError``, ``TypeError``.
    """
    # A server that filters an answer says nothing at all; asking again would only cost again.
    choice = body["choices"][0]
    text = "" if choice["message"].get("content", "") is None else message_text(body)
    usage = Usage.read(body, asked=estimate_tokens(messages), answer=text)
    return Said(text, _positions(choice), usage, choice.get("finish_reason") in _CUT)


def find_way(ask: Callable[[RequestFormat], Said], way: RequestFormat, model: str) -> RequestFormat:
    """Which request a server understands: tried one after the other, as long as it refuses them as malformed.

    A schema is asked for less firmly before anything else is changed. Where a refusal names what it is about, no other request
    that has it is tried; a 404 that names the model alone means that there is none of that name, however it is asked.

    Args:
        ask: puts a question of the task, whose answer is not lost.
        way: what to begin with.
        model: its name there.

    Raises:
        EndpointError: it refuses all, does not know the model, or cannot be asked.
    """
    other = "max_completion_tokens"
    plain = replace(way, alternatives=0)
    ways = [way, replace(way, alternatives=_FEW_ALTERNATIVES), replace(way, limit=other)] if way.alternatives else []
    # Some models take no temperature but their own.
    ways += [plain, replace(plain, limit=other), replace(plain, limit=other, greedy=False)]
    left = [replace(tried, form=form) for tried in ways for form in FORMS[FORMS.index(way.form) :]]
    while True:
        tried, *left = left
        try:
            return replace(tried, tells_probabilities=bool(ask(tried).positions))
        except EndpointError as error:
            refusal = str(error)
            if error.status == 404 and _no_such(model, refusal):
                told = f"the endpoint knows no model {model!r}; check its name ({refusal})"
                raise EndpointError(told, requests=error.requests, lost=error.lost, status=404) from None
            if error.status not in _REFUSED or not left:
                raise
            left = _without_named(refusal, tried, left)


def _no_such(model: str, refusal: str) -> bool:
    """Whether a refusal is about the model and nothing else."""
    return (model in refusal or "model_not_found" in refusal) and not _OF_A_REQUEST.search(refusal)


def _without_named(refusal: str, tried: RequestFormat, left: list[RequestFormat]) -> list[RequestFormat]:
    """The ways that lack what a refusal names; all where it names nothing, or nothing would be left."""
    if tried.form and "response_format" in refusal:
        others = [way for way in left if way.form != tried.form]
    elif tried.limit in refusal:
        others = [way for way in left if way.limit != tried.limit]
    else:
        others = [way for way in left if not way.greedy] if "temperature" in refusal else left
    return others or left


def answer_tokens(words: Sequence[str]) -> int:
    """Tokens that a label may need, whatever the tokenizer."""
    return min(_MOST_TOKENS, max(_LEAST_TOKENS, 4 + max(map(len, words)) // 2))


def _positions(choice: Any) -> tuple[tuple[tuple[str, float], ...], ...]:
    """What could have stood at each place; nothing where the server tells nothing that can be read."""
    try:
        content = choice["logprobs"]["content"]
        return tuple(_alternatives(place) for place in content[:_POSITIONS])
    except (KeyError, TypeError, ValueError, IndexError):
        return ()


def _alternatives(place: Any) -> tuple[tuple[str, float], ...]:
    chosen = (str(place["token"]), _number(place["logprob"]))
    others = {str(item["token"]): _number(item["logprob"]) for item in place.get("top_logprobs") or ()}
    others.pop(chosen[0], None)
    return (chosen, *others.items())


def _number(value: Any) -> float:
    found = float(value)
    if found != found:
        raise ValueError("not a number")
    # Servers write -9999 or minus infinity for next to nothing.
    return max(-1000.0, min(0.0, found))
