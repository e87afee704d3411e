"""``/v1/embeddings``: vectors of the base model."""

from __future__ import annotations

import base64

from starlette.responses import Response

from cotune.bundle.rows import checked_row
from cotune.bundle.serve.errors import ApiError
from cotune.bundle.serve.exchange import Exchange, json_response, parsed
from cotune.bundle.serve.schemas import Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage
from cotune.embed.standardize import Vectors


async def embeddings(exchange: Exchange) -> Response:
    """Embed a text or a list of them."""
    asked, texts = await exchange.taken(lambda sent: _asked(exchange, sent))
    found = await exchange.answered(exchange.shelf.embedding(asked.model), texts)
    width = len(found[0].vector)
    if asked.dimensions not in (None, width):
        raise ApiError(400, f"The model's vectors have {width} numbers.", code="unsupported", param="dimensions")
    tokens = sum(each.tokens for each in found)
    coded = asked.encoding_format == "base64"
    return json_response(
        EmbeddingResponse(
            data=[Embedding(index=i, embedding=_coded(each.vector, coded)) for i, each in enumerate(found)],
            model=asked.model,
            usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
        )
    )


def _asked(exchange: Exchange, sent: bytearray) -> tuple[EmbeddingRequest, list[str]]:
    """The request without its texts, and the texts."""
    asked = parsed(EmbeddingRequest.model_validate_json, sent)
    given = [asked.input] if isinstance(asked.input, str) else asked.input
    return asked.model_copy(update={"input": ""}), exchange.checked(
        given, lambda place, text: checked_row(text, ("input",), f"text {place + 1}")["input"]
    )


def _coded(vector: Vectors, coded: bool) -> list[float] | str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if coded else [float(each) for each in vector]
