"""Request formats of an endpoint: building requests, reading answers, and finding the format that a server accepts."""

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
"""Number of first tokens of an answer whose alternatives are kept."""
_LEAST_TOKENS, _MOST_TOKENS = 8, 64
_REFUSED = (400, 404, 422, 500)
"""HTTP statuses for a request that the server does not understand; the client passes on a 500 only in that case."""
_CUT = ("length", "max_tokens")
"""Values of ``finish_reason`` with which servers say that the token limit ended an answer."""
_OF_A_REQUEST = re.compile("response_format|max_tokens|max_completion_tokens|temperature|logprobs|parameter")
"""Words in a refusal which mean that another request format may be accepted."""
FORMS = ("strict", "schema", "inside", "object", "")
"""Ways to enforce a JSON Schema (``response_format``), the strictest first.

Strictly; as far as the server supports it; inside ``json_object`` (llama-cpp-python has no ``json_schema``); as any JSON
object; not at all.
"""


@dataclass(frozen=True)
class RequestFormat:
    """The format of requests to a server.

    Attributes:
        alternatives: number of alternative tokens to return for each token of the answer (``top_logprobs``); 0 asks for the
            text alone.
        limit: name of the limit on the answer's length: ``max_tokens`` or ``max_completion_tokens``.
        tokens: most tokens of an answer.
        greedy: whether the server accepts a temperature; it is then 0 unless another one is given.
        tells_probabilities: whether answers contain probabilities.
        form: how a JSON Schema is enforced; one of :data:`FORMS`.
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
        """The request body; ``schema`` is the JSON Schema of answers that are JSON."""
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
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RequestFormat:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: if a key is missing, unknown or of the wrong type.
        """
        defaults = asdict(cls())
        if set(data) != set(defaults) or not all(isinstance(data[key], type(value)) for key, value in defaults.items()):
            raise ValueError("not a request format")
        found = cls(**data)
        limits = ("max_tokens", "max_completion_tokens")
        if found.limit not in limits or found.form not in FORMS or not 1 <= found.tokens <= 10**6:
            raise ValueError("not a request format")
        return found


@dataclass(frozen=True)
class Said:
    """The parts of an answer that are kept.

    Attributes:
        positions: for each of its first tokens, the alternatives with the chosen one first; empty if the server returns none.
        usage: number of tokens of question and answer.
        cut: whether the token limit ended it (``finish_reason``), so that its end is missing.
    """

    text: str
    positions: tuple[tuple[tuple[str, float], ...], ...]
    usage: Usage
    cut: bool = False

    def to_json(self) -> dict[str, Any]:
        positions = [list(map(list, p)) for p in self.positions]
        return {"text": self.text, "positions": positions, "usage": asdict(self.usage), "cut": self.cut}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Said:
        """Inverse of :meth:`to_json`."""
        positions = tuple(tuple((str(t), float(p)) for t, p in place) for place in data["positions"])
        return cls(data["text"], positions, Usage(**data["usage"]), data["cut"])


def read_said(body: Any, messages: Sequence[Mapping[str, str]]) -> Said:
    """Read an answer.

    Raises:
        ValueError: if it is no chat completion; also ``KeyError``, ``IndexError`` or ``TypeError``.
    """
    # A filtered answer has no text or no message; asking again would cost again without helping.
    choice = body["choices"][0]
    message = choice["message"]
    text = "" if message is None or message["content"] is None else message_text(body)
    usage = Usage.read(body, asked=estimate_tokens(messages), answer=text)
    return Said(text, _positions(choice), usage, choice.get("finish_reason") in _CUT)


def find_way(ask: Callable[[RequestFormat], Said], way: RequestFormat, model: str) -> RequestFormat:
    """Find the request format that a server accepts, by trying them in order while it refuses them as malformed.

    The schema is relaxed before anything else is changed. If a refusal names a parameter, formats with that parameter are
    skipped. A 404 that names only the model means that the model does not exist.

    Args:
        ask: sends a question of the task in a given format; its answer is kept.

    Raises:
        EndpointError: if the server refuses all formats, does not know the model, or cannot be reached.
    """
    other = "max_completion_tokens"
    plain = replace(way, alternatives=0)
    ways = [way, replace(way, alternatives=_FEW_ALTERNATIVES), replace(way, limit=other)] if way.alternatives else []
    # Some models accept only their default temperature.
    ways += [plain, replace(plain, limit=other), replace(plain, limit=other, greedy=False)]
    left = [replace(tried, form=form) for tried in ways for form in FORMS[FORMS.index(way.form) :]]
    while True:
        tried, *left = left
        try:
            return replace(tried, tells_probabilities=bool(ask(tried).positions))
        except EndpointError as error:
            refusal = str(error)
            if error.status == 404 and _no_such(model, refusal):
                told = f"the endpoint has no model {model!r}; check its name ({refusal})"
                raise EndpointError(told, requests=error.requests, lost=error.lost, status=404) from None
            if error.status not in _REFUSED or not left:
                raise
            left = _without_named(refusal, tried, left)


def _no_such(model: str, refusal: str) -> bool:
    """Whether a refusal names the model and nothing else."""
    return (model in refusal or "model_not_found" in refusal) and not _OF_A_REQUEST.search(refusal)


def _without_named(refusal: str, tried: RequestFormat, left: list[RequestFormat]) -> list[RequestFormat]:
    """The formats without the parameter that a refusal names; all if it names none or none would be left."""
    if tried.form and "response_format" in refusal:
        others = [way for way in left if way.form != tried.form]
    elif tried.limit in refusal:
        others = [way for way in left if way.limit != tried.limit]
    else:
        others = [way for way in left if not way.greedy] if "temperature" in refusal else left
    return others or left


def answer_tokens(words: Sequence[str]) -> int:
    """Upper bound of the tokens of a label, for any tokenizer."""
    longest = max(len(word.encode("utf-8", "surrogatepass")) for word in words)
    return min(_MOST_TOKENS, max(_LEAST_TOKENS, 4 + longest // 2))


def _positions(choice: Any) -> tuple[tuple[tuple[str, float], ...], ...]:
    """The alternatives for each token; empty if the server returns none that can be read."""
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
    # Servers write -9999 or minus infinity for a probability of nearly zero.
    return max(-1000.0, min(0.0, found))
