"""The part of the config that names a language model which rewrites instructions."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from cotune.config_types import Count, Name, Number, Section


def _endpoint_url(value: str) -> str:
    try:
        url = urlsplit(value)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise PydanticCustomError("url", "must be a URL such as http://127.0.0.1:8080/v1")
    if "@" in url.netloc or url.query or url.fragment:
        # The config is written into the run's folder.
        raise PydanticCustomError("url", "must hold no user, key or query; key_env names the variable that holds the key")
    return value


class ProposerConfig(Section):
    """A language model behind an OpenAI-compatible endpoint; none where ``base_url`` is None.

    Attributes:
        base_url: such as ``http://127.0.0.1:8080/v1``.
        model: its name there.
        key_env: environment variable that holds the key; None asks without one.
        calls: requests of the whole run at most, repeated ones included.
        tokens: of questions and answers of the whole run at most.
        timeout: seconds that one request may take.
    """

    base_url: Annotated[StrictStr, AfterValidator(_endpoint_url)] | None = None
    model: Name | None = None
    key_env: Annotated[StrictStr, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    calls: Count = 16
    tokens: Count = 50_000
    timeout: Annotated[Number, Field(gt=0)] = 60.0

    @model_validator(mode="after")
    def _model_goes_with_url(self) -> ProposerConfig:
        if (self.base_url is None) != (self.model is None):
            raise PydanticCustomError("proposer", "a proposer needs both base_url and model")
        return self
