"""A model behind an OpenAI-compatible endpoint: scores labels and writes when asked; it can neither be tuned nor seen into."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotune.endpoint import AnswerCache, Endpoint, Prices, Reply, Usage, estimate_tokens
from cotune.endpoint.chat import CHAT
from cotune.endpoint.client import Client
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
from cotune.model.remote.label_answers import label_log_probs, match_label, named_log_probs
from cotune.prompt.messages import Chooser, settled, turns_of
from cotune.prompt.prompt import Prompt

if TYPE_CHECKING:
    from cotune.model.structured.grammar import Grammar

LONGEST = 10_000_000
"""Tokens of the longest prompt, as a bundle's manifest has it: how long one may be, only the server knows."""


class RemoteModel:
    """Asks an endpoint, one chat completion a row, many at once, and nothing twice.

    Where the server tells the alternatives of each token, they become probabilities of the labels
    (:func:`cotune.model.remote.label_answers.label_log_probs`); else the label that the answer names is all there is. An answer
    is on disk before it is used. What was used once in a run is free when it is used again.

    Args:
        client: who asks.
        way: what requests look like.
        answers: where answers are kept; None keeps none.
        prices: of its tokens; None where money does not count.
        patience: seconds that one question may take, all tries included, before the run stops.
        schema: what answers that are JSON must fit; the server is asked to keep to it, as far as it can.
        temperature: of answers; 0 asks for the likeliest one.

    Attributes:
        chooser: asked where a prompt shows each row other demonstrations; None refuses such prompts.
        capabilities: it scores labels and writes.
    """

    capabilities = Capabilities(generation=True)

    def __init__(
        self,
        client: Client,
        *,
        way: RequestFormat,
        answers: AnswerCache | None = None,
        prices: Prices | None = None,
        patience: float = 600.0,
        schema: Mapping[str, Any] | None = None,
        temperature: float = 0,
    ) -> None:
        self.schema, self.temperature = schema, temperature
        self.client, self.way, self.answers, self.prices, self.patience = client, way, answers, prices, patience
        self.chooser: Chooser | None = None
        self._used: set[str] = set()

    @property
    def endpoint(self) -> Endpoint:
        """Whom it asks."""
        return self.client.endpoint

    @property
    def name(self) -> str:
        """As the config names it."""
        return REMOTE + self.endpoint.model

    @property
    def fingerprint(self) -> str:
        """Content hash of where it is and what it is called there: all that is known of it."""
        return content_hash(self.endpoint.identity, 64)

    @property
    def tells_probabilities(self) -> bool:
        """Whether scores are probabilities, or only say which label was named."""
        return self.way.tells_probabilities

    @property
    def answer_tokens(self) -> int:
        """Tokens that an answer may have."""
        return self.way.tokens

    def saved(self, prompt: Prompt, fields: Sequence[str], labels: Sequence[str]) -> SavedModel:
        """What a bundle keeps: whom to ask, and in which way; see :class:`cotune.model.base.ModelBackend`. Never a key."""
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
        """Find out which requests the server understands, by a question of the task whose answer is kept.

        Raises:
            EndpointError: it understands none, or cannot be asked.
        """
        return self.settle_with(self.messages(prompt, [row], labels)[0])

    def settle_with(self, messages: Sequence[Mapping[str, str]]) -> RequestFormat:
        """The same by any question.

        Raises:
            EndpointError: it understands none, or cannot be asked.
        """

        def ask(way: RequestFormat) -> Said:
            self.way = way
            if (found := self.kept([messages])[0]) is not None:
                return found
            # One question at a time: a refusal here is no failure of the run.
            said = self.client.post(CHAT, self._body(messages), lambda b: read_said(b, messages), patience=self.patience).value
            self._keep(self._key(messages), said)
            return said

        self.way = find_way(ask, self.way, self.endpoint.model)
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

        Args:
            prompt: how to ask.
            rows: input fields of each row, sent whole.
            labels: the answers to choose from.
            adapter: :data:`BASE`; there is no other.
            top: without meaning here: an answer costs the same however many labels are told of.
            progress: told the tokens of each answer that came.

        Raises:
            EndpointError: a question got no answer; those that others got are on disk.
            InputError: an answer cannot be written to disk, or another adapter is asked for.
        """
        self._only_base(adapter)
        words = prompt.words(labels)
        said, new = self.say(self.messages(prompt, rows, labels), progress=progress)
        found = [self._judged(answer, words) for answer in said]
        usage = sum((answer.usage for answer in new), Usage())
        return LabelScores(
            np.array([scores for scores, _ in found]).reshape(len(rows), len(labels)),
            tokens=usage.total,
            cached=len(rows) - len(new),
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
        """What the endpoint writes to each row, as it came; it may be cut, or be no value of the task's.

        Args:
            prompt: how to ask.
            rows: input fields of each row, sent whole.
            adapter: :data:`BASE`; there is no other.
            limit: without meaning here, as are ``grammar`` and ``sampling``: :attr:`way` and :attr:`schema` say it all.
            grammar: see above.
            sampling: see above.
            progress: told the tokens of each answer that came.

        Raises:
            EndpointError: a question got no answer; those that others got are on disk.
            InputError: an answer cannot be written to disk, or another adapter is asked for.
        """
        self._only_base(adapter)
        said, new = self.say(self.messages(prompt, rows, ()), progress=progress)
        usage = sum((answer.usage for answer in new), Usage())
        return Generations(
            tuple(answer.text.strip() for answer in said),
            ((),) * len(rows),
            tuple(not answer.cut for answer in said),
            usage.total,
            cached=len(rows) - len(new),
            cost=self.prices.cost(usage) if self.prices else 0.0,
        )

    def messages(self, prompt: Prompt, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> list[list[dict[str, str]]]:
        """What is sent for each row.

        Raises:
            CotuneError: the prompt shows each row other demonstrations, and there is no :attr:`chooser`.
        """
        if not prompt.nearest:
            return [turns_of(prompt, row, labels).messages for row in rows]
        own = settled(prompt, rows, self.chooser)
        return [turns_of(shown, row, labels).messages for row, (shown, _) in zip(rows, own, strict=True)]

    def say(
        self, questions: Sequence[Sequence[Mapping[str, str]]], *, progress: Progress | None = None
    ) -> tuple[list[Said], list[Said]]:
        """Answers to questions in chat messages, and those of them that this run had not used before.

        Raises:
            EndpointError: a question got no answer.
        """
        keys = [self._key(messages) for messages in questions]
        found = self._kept(keys)
        missing = {key: messages for key, messages in zip(keys, questions, strict=True) if key not in found}
        self._ask(missing, found, progress)
        new = [found[key] for key in dict.fromkeys(keys) if key not in self._used]
        self._used.update(keys)
        return [found[key] for key in keys], new

    def kept(self, questions: Sequence[Sequence[Mapping[str, str]]]) -> list[Said | None]:
        """Answers on disk; None where there is none. Nothing is asked."""
        keys = [self._key(messages) for messages in questions]
        found = self._kept(keys)
        return [found.get(key) for key in keys]

    def row_tokens(self, prompt: Prompt, rows: Sequence[Mapping[str, str]], labels: Sequence[str]) -> float:
        """About how many tokens a row costs, question and answer together; nothing is asked."""
        asked = [estimate_tokens(messages) for messages in self.messages(prompt, rows, labels)]
        return sum(asked) / max(1, len(asked)) + self.way.tokens / 2

    def _ask(
        self, missing: Mapping[str, Sequence[Mapping[str, str]]], found: dict[str, Said], progress: Progress | None
    ) -> None:
        keys, turn = list(missing), threading.Lock()

        def received(number: int, reply: Reply[Any]) -> None:
            said = read_said(reply.value, missing[keys[number]])
            self._keep(keys[number], said)
            with turn:
                found[keys[number]] = said
                if progress:
                    progress(said.usage.total)

        def checked(body: Any) -> Any:
            read_said(body, ())
            return body

        if missing:
            bodies = [self._body(messages) for messages in missing.values()]
            self.client.post_all(CHAT, bodies, checked, patience=self.patience, received=received)

    def _kept(self, keys: Sequence[str]) -> dict[str, Said]:
        found = {}
        for key in dict.fromkeys(keys) if self.answers is not None else ():
            if (kept := self.answers.get(key)) is not None:  # type: ignore[union-attr]
                found[key] = Said.from_json(kept)
        return found

    def _keep(self, key: str, said: Said) -> None:
        if self.answers is not None:
            self.answers.put(key, said.to_json())

    def _body(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        return self.way.body(self.endpoint.model, messages, self.schema, temperature=self.temperature)

    def _only_base(self, adapter: str) -> None:
        if adapter != BASE:
            raise InputError(f"the model {self.name} answers elsewhere and takes no adapter {adapter!r}", where="model")

    def _judged(self, said: Said, words: Sequence[str]) -> tuple[NDArray[np.float64], bool]:
        """Scores of the labels, and whether the answer spoke for any."""
        if self.tells_probabilities and said.positions:
            found = label_log_probs(said.positions, words)
            if found is not None:
                return found, True
        label = match_label(said.text, words, cut=said.cut)
        return named_log_probs(label, len(words)), label is not None

    def _key(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Everything that could change an answer. Label words that matter stand in the messages."""
        return content_hash({"endpoint": self.endpoint.identity, "request": self._body(messages)}, 40)


def _as_asked(model: RemoteModel) -> AskedModel:
    """Checked by mypy: it is all that the protocol asks for."""
    return model
