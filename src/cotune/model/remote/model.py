"""A model behind an OpenAI-compatible endpoint, which scores labels and generates, without access to hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotune.endpoint import AnswerCache, Endpoint, EndpointError, Prices, Usage, estimate_tokens
from cotune.endpoint.chat import CHAT
from cotune.endpoint.client import Client
from cotune.endpoint.refusals import too_many_refused
from cotune.endpoint.request_format import RequestFormat, Said, find_way, read_said
from cotune.endpoint.server import REMOTE
from cotune.errors import InputError
from cotune.files import content_hash
from cotune.model.adapters.slots import BASE
from cotune.model.base import (
    ENDPOINT,
    GREEDY,
    AskedModel,
    Capabilities,
    Generations,
    LabelScores,
    Progress,
    Sampling,
    SavedModel,
)
from cotune.model.remote.label_answers import label_log_probs, match_label, named_log_probs, spoken
from cotune.prompt.messages import Chooser, settled, turns_of
from cotune.prompt.prompt import Prompt

if TYPE_CHECKING:
    from cotune.model.structured.grammar import Grammar

LONGEST = 10_000_000
"""Placeholder in a manifest for the longest prompt, which only the server knows."""


class RemoteModel:
    """Sends an endpoint one chat completion request per row, concurrently, and never the same one twice.

    If the server returns the alternatives of each token, they become label probabilities
    (:func:`cotune.model.remote.label_answers.label_log_probs`); otherwise only the named label is known. An answer is on disk
    before it is used, and reused answers are free.

    Args:
        way: request format.
        patience: seconds for one question, including retries, before the run stops.
        schema: JSON Schema of the answers, which the server is asked to follow.
        keeps_on: whether a question that the server refuses for its content, as a filter does, counts as answered with an
            empty text, so that one row does not end a run; only for a small part of a request's questions.

    Attributes:
        chooser: chooses nearest demonstrations; without one, prompts that need them are refused.
        capabilities: scoring and generation, by requests.
    """

    capabilities = Capabilities(generation=True, endpoint=True)

    def __init__(
        self,
        client: Client,
        *,
        way: RequestFormat,
        answers: AnswerCache | None = None,
        prices: Prices | None = None,
        patience: float = 600.0,
        schema: Mapping[str, Any] | None = None,
        keeps_on: bool = False,
    ) -> None:
        self.client, self.way, self.answers, self.prices = client, way, answers, prices
        self.schema, self.patience, self.keeps_on = schema, patience, keeps_on
        self.chooser: Chooser | None = None
        self._used: set[str] = set()
        self._fetched: dict[str, Said] = {}

    @property
    def endpoint(self) -> Endpoint:
        return self.client.endpoint

    @property
    def name(self) -> str:
        return REMOTE + self.endpoint.model

    @property
    def fingerprint(self) -> str:
        """Content hash of its address and name, the only known facts."""
        return content_hash(self.endpoint.identity, 64)

    @property
    def tells_probabilities(self) -> bool:
        """Whether scores are probabilities, or only say which label was named."""
        return self.way.tells_probabilities

    @property
    def answer_tokens(self) -> int:
        return self.way.tokens

    def close(self) -> None:
        self.client.close()
        if self.answers is not None:
            self.answers.close()

    def saved(self, prompt: Prompt, fields: Sequence[str], labels: Sequence[str]) -> SavedModel:
        """Address and request format for a bundle, never a key; see :class:`cotune.model.base.ModelBackend`."""
        endpoint = self.endpoint
        asking = {
            "base_url": endpoint.base_url,
            "model": endpoint.model,
            "key_env": endpoint.key_env,
            "timeout": endpoint.timeout,
            "way": self.way.to_json(),
        }
        messages = self.messages(prompt, [{name: f"{{{name}}}" for name in fields}], labels)[0]
        text = "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)
        return SavedModel({ENDPOINT: asking}, text, LONGEST, (endpoint.base_url, endpoint.key_env))

    def settle(self, prompt: Prompt, row: Mapping[str, str], labels: Sequence[str]) -> RequestFormat:
        """Find a request format that the server understands, by a question of the task whose answer is stored.

        Raises:
            EndpointError: the server understands none, or cannot be asked.
        """
        messages, before = self.messages(prompt, [row], labels)[0], self.way

        def ask(way: RequestFormat) -> Said:
            self.way = way
            key = self._key(messages)
            if kept := self._kept([key]):
                return kept[key]
            # Questions are sent one at a time, because a refusal here is not a failure of the run.
            said = self.client.post(CHAT, self._body(messages), lambda b: read_said(b, messages), patience=self.patience).value
            self._keep(key, said)
            return said

        try:
            self.way = find_way(ask, before, self.endpoint.model)
        except EndpointError:
            # The question may be refused for its content; the next one begins with the same format again.
            self.way = before
            raise
        return self.way

    def score(
        self,
        prompt: Prompt,
        rows: Sequence[Mapping[str, str]],
        labels: Sequence[str],
        *,
        adapter: str = BASE,
        top: int | None = None,
        progress: Progress | None = None,
    ) -> LabelScores:
        """Log-probabilities of the labels for each row, among the labels.

        Rows are not shortened. ``adapter`` must be :data:`BASE`, and ``top`` is ignored, because an answer costs the same for
        any number of labels. ``progress`` is called with the tokens of each answer.

        Raises:
            EndpointError: a question got no answer; answers to others are on disk.
            InputError: an answer cannot be written to disk, or another adapter is asked for.
        """
        self._only_base(adapter)
        words = prompt.words(labels)
        said, new, kept = self.say(self.messages(prompt, rows, labels), progress=progress)
        found = [self._judged(answer, words) for answer in said]
        usage = sum((answer.usage for answer in new), Usage())
        return LabelScores(
            np.array([scores for scores, _ in found]).reshape(len(rows), len(labels)),
            tokens=usage.total,
            cached=kept,
            cost=self.prices.cost(usage) if self.prices else 0.0,
            unmatched=sum(not named for _, named in found),
        )

    def generate(
        self,
        prompt: Prompt,
        rows: Sequence[Mapping[str, str]],
        *,
        adapter: str = BASE,
        limit: int = 0,
        grammar: Grammar | None = None,
        sampling: Sampling = GREEDY,
        progress: Progress | None = None,
    ) -> Generations:
        """The endpoint's answer to each row, without its ``<think>`` marks; it may be cut or invalid.

        Rows are not shortened. ``adapter`` must be :data:`BASE`; ``limit``, ``grammar`` and ``sampling`` are ignored, since
        :attr:`way` and :attr:`schema` decide. ``progress`` is called with the tokens of each answer.

        Raises:
            EndpointError: a question got no answer; answers to others are on disk.
            InputError: an answer cannot be written to disk, or another adapter is asked for.
        """
        self._only_base(adapter)
        said, new, kept = self.say(self.messages(prompt, rows, ()), progress=progress)
        usage = sum((answer.usage for answer in new), Usage())
        return Generations(
            tuple(spoken(answer.text) for answer in said),
            ((),) * len(rows),
            tuple(not answer.cut for answer in said),
            tokens=usage.total,
            cached=kept,
            cost=self.prices.cost(usage) if self.prices else 0.0,
        )

    def messages(self, prompt: Prompt, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> list[list[dict[str, str]]]:
        """The messages for each row.

        Raises:
            CotuneError: the prompt has nearest demonstrations, and there is no :attr:`chooser`.
        """
        own = [prompt] * len(rows) if not prompt.nearest else [shown for shown, _ in settled(prompt, rows, self.chooser)]
        turns = [turns_of(shown, row, labels) for row, shown in zip(rows, own, strict=True)]
        # Some servers refuse an empty system message.
        return [replace(made, system=made.system or None).messages for made in turns]

    def fetch(self, prompt: Prompt, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> list[EndpointError | None]:
        """Get the answers that are then free for :meth:`score` and :meth:`generate`, until the next call.

        Unlike those, it keeps the answers to other rows if one has none.

        Returns:
            For each row None, or why it has no answer: the server refused this row, or a failure ended all requests, after
            which no further row was asked.
        """
        keys, self._fetched, missing = self._known(self.messages(prompt, rows, labels))
        refused: dict[str, EndpointError] = {}
        failure: EndpointError | None = None
        try:
            self._ask(missing, self._fetched, None, refused)
        except EndpointError as error:
            failure = error
        return [None if key in self._fetched else refused.get(key, failure) for key in keys]

    def say(
        self, questions: Sequence[Sequence[Mapping[str, str]]], *, progress: Progress | None = None
    ) -> tuple[list[Said], list[Said], int]:
        """Answers to questions, those among them that this run had not used before, and how many were on disk already.

        After a kill, answers may be on disk that the run has not used: they were paid for, and took no time.

        Raises:
            EndpointError: a question got no answer.
        """
        keys, found, missing = self._known(questions)
        kept = sum(key in found for key in keys)
        refused: dict[str, EndpointError] = {}
        self._ask(missing, found, progress, refused if self.keeps_on else None)
        asked = len(set(keys))
        if too_many_refused(len(refused), asked) or (len(refused) == asked > 0 and not self._used):
            # Then it is not about rows.
            raise next(iter(refused.values()))
        for key in refused:
            # Kept, so that a resumed run scores the row alike.
            found[key] = Said("", (), Usage())
            self._keep(key, found[key])
        new = [found[key] for key in dict.fromkeys(keys) if key not in self._used]
        self._used.update(keys)
        return [found[key] for key in keys], new, kept

    def row_tokens(self, prompt: Prompt, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> float:
        """Estimated tokens of a row, question and answer together; sends nothing."""
        asked = [estimate_tokens(messages) for messages in self.messages(prompt, rows, labels)]
        return sum(asked) / max(1, len(asked)) + self.way.tokens / 2

    def _ask(
        self,
        missing: Mapping[str, Sequence[Mapping[str, str]]],
        found: dict[str, Said],
        progress: Progress | None,
        refusals: dict[str, EndpointError] | None = None,
    ) -> None:
        """Add the answers to ``found``, and refusals to ``refusals``; without that, a refusal is raised."""

        def read(key: str, body: Any) -> Said:
            return read_said(body, missing[key])

        def received(key: str, said: Said) -> None:
            self._keep(key, said)
            found[key] = said
            if progress:
                progress(said.usage.total)

        if missing:
            bodies = {key: self._body(messages) for key, messages in missing.items()}
            aside = None if refusals is None else refusals.__setitem__
            self.client.post_all(CHAT, bodies, read, patience=self.patience, received=received, refused=aside)

    def _known(
        self, questions: Sequence[Sequence[Mapping[str, str]]]
    ) -> tuple[list[str], dict[str, Said], dict[str, Sequence[Mapping[str, str]]]]:
        """The keys of questions, the answers that are known, and the other questions."""
        keys = [self._key(messages) for messages in questions]
        found = self._kept(keys)
        return keys, found, {key: messages for key, messages in zip(keys, questions, strict=True) if key not in found}

    def _kept(self, keys: Sequence[str]) -> dict[str, Said]:
        found = {key: self._fetched[key] for key in keys if key in self._fetched}
        for key in dict.fromkeys(keys) if self.answers is not None else ():
            if (kept := self.answers.get(key)) is not None:  # type: ignore[union-attr]
                found[key] = Said.from_json(kept)
        return found

    def _keep(self, key: str, said: Said) -> None:
        if self.answers is not None:
            self.answers.put(key, said.to_json())

    def _body(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        return self.way.body(self.endpoint.model, messages, self.schema)

    def _only_base(self, adapter: str) -> None:
        if adapter != BASE:
            raise InputError(
                f"the model {self.name} answers behind an endpoint and takes no adapter {adapter!r}", where="model"
            )

    def _judged(self, said: Said, words: Sequence[str]) -> tuple[NDArray[np.float64], bool]:
        """Scores of the labels, and whether the answer named any."""
        label = match_label(said.text, words, cut=said.cut)
        if self.tells_probabilities and said.positions:
            found = label_log_probs(said.positions, words, label)
            if found is not None:
                return found, True
        return named_log_probs(label, len(words)), label is not None

    def _key(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Everything that could change an answer. Relevant label words are in the messages."""
        return content_hash({"endpoint": self.endpoint.identity, "request": self._body(messages)}, 40)


def _as_asked(model: RemoteModel) -> AskedModel:
    """Checked by mypy against the protocol."""
    return model
