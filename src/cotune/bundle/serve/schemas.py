"""Models of requests and responses, from which the OpenAPI document is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cotune.task.values.output import OutputType

Cell = str | int | float | bool | list[Any] | dict[str, Any] | None

MOST_MESSAGES, MOST_LOGPROBS = 2048, 20


class Body(BaseModel):
    """Base class of requests. Unknown keys are ignored, since OpenAI's clients send many."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Part(Body):
    """A part of a message's content; only text is supported."""

    type: str
    text: str | None = None


class Message(Body):
    """A message. The user's last message is answered."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[Part], Field(fail_fast=True)] | None = None


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None


class ResponseFormat(Body):
    """``text``, or ``json_object`` for a bundle with JSON answers, which always follow its own schema."""

    type: str


class ChatRequest(Body):
    """A chat whose last user message holds the input.

    The answer is the likeliest label, or is generated greedily for numbers, JSON, and texts without a temperature. Other
    sampling parameters are ignored. The bundle sets the longest answer.
    """

    model: str = Field(description="A bundle's id from /v1/models, or its task's name if only one bundle has it.")
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = Field(None, description="Return the answer's log-probability among the labels.")
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS, description="Also return those of this many best labels.")
    temperature: float | None = Field(None, ge=0, le=2, description="Above 0, a bundle of free text samples its answer.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="Seed of sampling; random if omitted.")
    n: Literal[1] | None = None
    tools: list[Any] | None = Field(None, max_length=0, description="Tools are not supported.")
    response_format: ResponseFormat | None = None


class TopLogprob(BaseModel):
    """A label and its log-probability among the labels, after the decision rule."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(TopLogprob):
    """The answer as a single token, and the best labels."""

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """Log-probabilities of a choice."""

    content: list[Logprob]
    refusal: None = None


class Answer(BaseModel):
    """The assistant's message: the label or the generated answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """The only choice.

    ``finish_reason`` is ``length`` if the answer reached the limit, or was closed before it to fit the schema.
    """

    index: int = 0
    message: Answer
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] = "stop"


class Usage(BaseModel):
    """Number of tokens of the prompt and of the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """The response to a chat."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class EmbeddingRequest(Body):
    """Texts to embed with the base model, without an adapter."""

    model: str = Field(description="The base model's name, or the id of a bundle that uses it.")
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, fail_fast=True)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, description="Must equal the model's width if given.")


class Embedding(BaseModel):
    """A text's vector, as numbers or as little-endian float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Number of tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class OutputCard(BaseModel):
    """The kind of answers, and the JSON Schema of numbers and JSON."""

    type: OutputType
    json_schema: Mapping[str, Any] | None = Field(alias="schema")


class ModelCard(BaseModel):
    """A bundle.

    ``parent`` is the base model's name, ``adapter`` the content hash of its weights or prefix, or ``base`` without an adapter.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["cotune"] = "cotune"
    parent: str
    root: str
    adapter: str
    task: str
    bundle: str
    input_fields: list[str]
    labels: list[str]
    output: OutputCard


class ModelList(BaseModel):
    """The served bundles."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class RowAnswer(BaseModel):
    """A row's answer.

    ``value`` is the parsed answer: a number, a JSON value, or the label or text itself; null if it cannot be parsed.
    ``probabilities`` has every label, or the parts of a JSON answer, and is empty for generated answers. ``confidence`` is the
    probability that a whole JSON answer is right, and null for others. ``truncated`` says whether the row's text was too long
    and lost a part; ``ended`` whether a generated answer ended by itself. If the server runs with ``--unsure``,
    ``answer`` is null for a row that the model cannot decide, and ``possible`` lists its possible labels.
    """

    answer: str | None
    value: Any
    possible: list[str] = []
    probabilities: dict[str, float]
    confidence: float | None = None
    truncated: bool
    ended: bool


class Predicted(RowAnswer):
    """The answer to a single row; ``bundle`` is the id of the bundle."""

    bundle: str


class PredictedRows(BaseModel):
    """Answers in the order of the rows; ``bundle`` is the id of the bundle."""

    bundle: str
    rows: list[RowAnswer]


class Health(BaseModel):
    """The server is running; ``waiting`` is the number of rows and texts that wait for the model."""

    status: Literal["ok"] = "ok"
    bundles: int
    waiting: int


class ErrorDetail(BaseModel):
    """The error, for people (``message``) and for programs (``type``, ``code``, ``param``)."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """An error."""

    error: ErrorDetail
