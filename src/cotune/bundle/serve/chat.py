"""``/v1/chat/completions``: the answer is the assistant's message."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter
from starlette.responses import Response

from cotune.bundle.predictor import Predictor
from cotune.bundle.rows import checked_row, example_row
from cotune.bundle.serve.errors import ApiError
from cotune.bundle.serve.exchange import Exchange, json_response, parsed
from cotune.bundle.serve.kind import Kind
from cotune.bundle.serve.schemas import Answer, ChatRequest, ChatResponse, Choice, Logprob, Logprobs, Message, TopLogprob, Usage
from cotune.bundle.serve.shelf import Served, Shelf
from cotune.bundle.serve.work import Answered, Draw
from cotune.errors import InputError

# Smallest temperature: below it sampling is greedy in effect, and the division would overflow.
_LEAST_TEMPERATURE = 1e-6
_FIELDS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


async def chat(exchange: Exchange) -> Response:
    """Answer a chat, as one response or a stream of server-sent events."""
    asked, served, row = await exchange.taken(lambda sent: _asked(sent, exchange.shelf))
    kind, item = _work(asked, served, row)
    (found,) = await exchange.answered(kind, [item])
    whole = _response(served.id, found, asked.top_logprobs or 0)
    if not asked.stream:
        return json_response(whole)
    usage = bool(asked.stream_options and asked.stream_options.include_usage)
    # The answer is already complete, so all events are sent at once.
    events = "".join(f"data: {event}\n\n" for event in _events(whole, usage=usage))
    return Response(events, media_type="text/event-stream")


def _asked(sent: bytearray, shelf: Shelf) -> tuple[ChatRequest, Served, dict[str, str]]:
    """The request without its messages, the bundle, and the row to answer."""
    asked = parsed(ChatRequest.model_validate_json, sent)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true.", code="invalid_body", param="top_logprobs")
    served = shelf.find(asked.model)
    _check_format(asked, served.predictor)
    row = fields_of(last_text(asked.messages), served.predictor.input_fields)
    return asked.model_copy(update={"messages": []}), served, row


def _work(asked: ChatRequest, served: Served, row: dict[str, str]) -> tuple[Kind, Any]:
    """The work and item for a request."""
    temperature = asked.temperature or 0.0
    if served.drawn is not None and temperature >= _LEAST_TEMPERATURE:
        return served.drawn, Draw(row, temperature, None if asked.seed is None else asked.seed % 2**63)
    return served.full if asked.logprobs else served.best, row


def _check_format(asked: ChatRequest, predictor: Predictor) -> None:
    """Refuse what the bundle does not support: JSON format for other answers, or log-probabilities of generated answers."""
    kind = predictor.output.kind
    if asked.response_format is not None and asked.response_format.type not in kind.response_formats:
        raise ApiError(400, f"This bundle answers with {kind.reply}.", code="unsupported", param="response_format")
    if asked.logprobs and not predictor.chooses_label:
        raise ApiError(400, "Only labels have log-probabilities.", code="unsupported", param="logprobs")


def last_text(messages: Sequence[Message]) -> str:
    """The text of the user's last message; an :class:`ApiError` if there is none, or it contains anything but text."""
    place, message = next(((i, m) for i, m in reversed(list(enumerate(messages))) if m.role == "user"), (0, None))
    if message is None:
        raise ApiError(400, "There is no user message to answer.", code="invalid_body", param="messages")
    if isinstance(message.content, list):
        if any(part.type != "text" or part.text is None for part in message.content):
            raise ApiError(
                400,
                "Only texts are supported, no images, sounds or files.",
                code="unsupported",
                param=f"messages.{place}.content",
            )
        return "".join(part.text or "" for part in message.content)
    return message.content or ""


def fields_of(text: str, input_fields: Sequence[str]) -> dict[str, str]:
    """The row in a message: the text itself for a single field, or a JSON object of several fields."""
    where = "the last user message"
    if len(input_fields) == 1:
        return checked_row(text, input_fields, where)
    try:
        row = _FIELDS.validate_json(text)
    except ValueError:
        raise InputError(
            "this is not a JSON object of texts",
            where=where,
            hint=f"The task has {len(input_fields)} input fields; write {example_row(input_fields)}.",
        ) from None
    return checked_row(row, input_fields, where)


def _response(model: str, found: Answered, top: int) -> ChatResponse:
    prediction = found.prediction
    logprobs = None
    if prediction.probabilities:
        best = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
        tops = [_top(*item) for item in best[:top]]
        chosen = _top(prediction.answer, prediction.probabilities[prediction.answer])
        logprobs = Logprobs(content=[Logprob(**chosen.model_dump(), top_logprobs=tops)])
    return ChatResponse(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=model,
        choices=[
            Choice(
                message=Answer(content=prediction.answer),
                logprobs=logprobs,
                finish_reason="stop" if prediction.ended else "length",
            )
        ],
        usage=Usage(
            prompt_tokens=found.prompt_tokens,
            completion_tokens=found.completion_tokens,
            total_tokens=found.prompt_tokens + found.completion_tokens,
        ),
    )


def _top(label: str, probability: float) -> TopLogprob:
    # The lowest double, for a label whose probability rounds to zero.
    return TopLogprob(token=label, logprob=math.log(max(probability, 5e-324)), bytes=list(label.encode()))


def _events(whole: ChatResponse, *, usage: bool) -> Iterator[str]:
    """Chunks as JSON, then the end marker."""
    choice = whole.choices[0]
    logprobs = choice.logprobs.model_dump() if choice.logprobs else None

    def chunk(choices: list[dict[str, Any]], spent: dict[str, Any] | None = None) -> str:
        about = {"id": whole.id, "object": "chat.completion.chunk", "created": whole.created, "model": whole.model}
        table = {**about, "choices": choices, **({"usage": spent} if usage else {})}
        return json.dumps(table, ensure_ascii=False, allow_nan=False)

    def delta(what: dict[str, Any], end: str | None = None, logprobs: Any = None) -> str:
        return chunk([{"index": 0, "delta": what, "logprobs": logprobs, "finish_reason": end}])

    yield delta({"role": "assistant", "content": ""})
    yield delta({"content": choice.message.content}, logprobs=logprobs)
    yield delta({}, choice.finish_reason)
    if usage:
        yield chunk([], whole.usage.model_dump())
    yield "[DONE]"
