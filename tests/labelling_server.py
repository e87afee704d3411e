"""A model that answers over HTTP: names what the row is about, better the more the prompt says, and fails as it is told to."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from chat_server import Handler, Reply, send

WORDS = {
    "fruit": ("apple", "pear", "plum", "fig"),
    "animal": ("cat", "dog", "cow", "hen"),
    "tool": ("saw", "axe", "drill", "file"),
}
USAGE = {"prompt_tokens": 50, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 20}}


def meant(text: str) -> str | None:
    """The label that a row is about: that of the last known word."""
    places = {label: max(text.rfind(word) for word in words) for label, words in WORDS.items()}
    label = max(places, key=lambda name: places[name])
    return label if places[label] >= 0 else None


def labelling(
    *, probabilities: bool = True, says: Callable[[str], str] = str, faults: Sequence[Reply] = (), every: int = 7
) -> Reply:
    """A reply for all requests; each ``every``-th is one of the faults in turn.

    A prompt that lists the labels is answered rightly; others are wrong on a third of the rows, always the same ones.

    Args:
        probabilities: whether alternatives are told.
        says: how a label is said.
        faults: what happens instead of an answer.
        every: how often.
    """
    numbers, waiting = itertools.count(1), itertools.cycle(faults or (send(200, b""),))

    def reply(handler: Handler) -> None:
        if faults and next(numbers) % every == 0:
            next(waiting)(handler)
            return
        body = handler.request_body
        text = "\n".join(message["content"] for message in body["messages"])
        label = meant(body["messages"][-1]["content"]) or "fruit"
        listed = all(name in text for name in WORDS)
        chance = hashlib.sha256(text.encode()).digest()[0] / 256
        if not listed and chance < 1 / 3:
            label = list(WORDS)[(list(WORDS).index(label) + 1) % len(WORDS)]
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": says(label)}}
        if probabilities and body.get("logprobs"):
            sure = 0.5 + 0.4 * (1 - chance)
            others = [(name, (1 - sure) / 2) for name in WORDS if name != label]
            top = [{"token": t[:3], "logprob": math.log(p)} for t, p in [(label, sure), *others]]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        send(200, json.dumps({"choices": [choice], "usage": USAGE}).encode())(handler)

    return reply
