"""The sections of the config for language models behind OpenAI-compatible endpoints."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StrictBool, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from cotune.config.types import Count, Name, Number, Section

NO_PART_OF_THE_ANSWER = ("key_env", "timeout", "concurrency", "patience")
"""Keys of these sections that may change when a run is resumed, because they do not affect the answers."""

JUDGE = "judge"
"""Name of the judge's metric in ``cotune.task.metrics.metric.METRICS``."""

Price = Annotated[Number, Field(ge=0)]


def _endpoint_url(value: str) -> str:
    try:
        url = urlsplit(value)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise PydanticCustomError("url", "must be a URL such as http://127.0.0.1:8080/v1")
    if "@" in url.netloc or url.query or url.fragment:
        # The config is stored in the run's folder.
        raise PydanticCustomError("url", "must not contain a user, key or query; key_env names the variable with the key")
    return value


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise PydanticCustomError(
            "variable", "takes the NAME of an environment variable that holds the key, such as OPENAI_API_KEY, not the key"
        )
    return value


class EndpointSection(Section):
    """The endpoint of a language model; unused if ``base_url`` is None.

    Attributes:
        base_url: such as ``http://127.0.0.1:8080/v1``.
        key_env: environment variable that holds the key; None asks without one.
        timeout: seconds per request.
        input_price: US dollars per million tokens of questions; None without a price.
        output_price: the same for answers.
        cached_price: the same for the cached part of questions; None takes ``input_price``.
    """

    base_url: Annotated[StrictStr, AfterValidator(_endpoint_url)] | None = None
    key_env: Annotated[StrictStr, AfterValidator(_variable)] | None = None
    timeout: Annotated[Number, Field(gt=0)] = 60.0
    input_price: Price | None = None
    output_price: Price | None = None
    cached_price: Price | None = None

    @model_validator(mode="after")
    def _prices_go_together(self) -> EndpointSection:
        if (self.input_price is None) != (self.output_price is None) or (
            self.cached_price is not None and self.input_price is None
        ):
            raise PydanticCustomError("prices", "give both input_price and output_price, or neither; cached_price needs both")
        return self


class NamedEndpoint(EndpointSection):
    """An endpoint of another model than the run's.

    Attributes:
        model: name of the model there.
    """

    model: Name | None = None

    @model_validator(mode="after")
    def _model_goes_with_url(self) -> NamedEndpoint:
        if (self.base_url is None) != (self.model is None):
            raise PydanticCustomError("endpoint", "base_url and model must be given together")
        return self


class BoundedEndpoint(NamedEndpoint):
    """An endpoint with limits on its use.

    Attributes:
        calls: maximum number of requests in a run, including repeated ones.
        tokens: maximum number of tokens of questions and answers in a run.
    """

    calls: Count = 16
    tokens: Count = 50_000


class ProposerConfig(BoundedEndpoint):
    """A language model that rewrites instructions."""

    @model_validator(mode="after")
    def _model_goes_with_url(self) -> ProposerConfig:
        if self.base_url is not None and self.model is None:
            raise PydanticCustomError("endpoint", "base_url needs model, the model's name at that address")
        if self.model is not None and self.base_url is None:
            raise PydanticCustomError(
                "endpoint",
                "model needs base_url: serve the model, for example with llama.cpp's or vLLM's OpenAI server, and give "
                "proposer.base_url",
            )
        keys = ("key_env", "input_price")
        if self.base_url is None and (vain := [name for name in keys if getattr(self, name) is not None]):
            raise PydanticCustomError("endpoint", "{what} has no effect without base_url", {"what": vain[0]})
        return self


class TeacherConfig(BoundedEndpoint):
    """A language model that answers unlabelled rows.

    Attributes:
        sample: labelled train rows that it also answers, to measure its agreement with them.
        concurrency: maximum number of simultaneous requests.
    """

    calls: Count = 2_000
    tokens: Count = 1_000_000
    sample: Count = 50
    concurrency: Count = 8


class JudgeConfig(NamedEndpoint):
    """A language model that grades generated answers if ``metric`` is ``judge``.

    Attributes:
        rubric: what a grade from 0 to 1 means; None takes ``cotune.evaluate.judge.RUBRIC``.
        agreement: file of answers graded by people, to compare the judge with; None skips the comparison.
        concurrency: maximum number of simultaneous requests.
        patience: seconds for one question, including retries and waits, before the run stops.
        answer_tokens: maximum number of tokens of a reply. Reasoning models need more.
    """

    rubric: Name | None = None
    agreement: Name | None = None
    concurrency: Count = 8
    patience: Annotated[Number, Field(gt=0)] = 600.0
    answer_tokens: Count = 64


class ModelEndpoint(EndpointSection):
    """The endpoint of the model if ``model`` is ``openai:NAME``.

    Attributes:
        concurrency: maximum number of simultaneous requests; the actual number adapts to the server.
        patience: seconds for one question, including retries and waits, before the run stops.
        probabilities: whether to request probabilities from the server; without them only answers are used.
        answer_tokens: maximum number of tokens of an answer; None derives it from the labels. Reasoning models need more.
        embeddings: embedding model at the same endpoint for comparing prompts; None uses character n-grams.
    """

    concurrency: Count = 8
    patience: Annotated[Number, Field(gt=0)] = 600.0
    probabilities: StrictBool = True
    answer_tokens: Count | None = None
    embeddings: Name | None = None
