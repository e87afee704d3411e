"""Decoding behind a shared prefix: rows that are finished leave the batch, and waiting rows enter.

On a CPU a step of few rows takes as long as reading the weights once, so the batch is as large as memory allows for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cotune.model.choosing import Answer, Chooser
from cotune.model.decode_attention import DecodeStep, OwnKeyValues
from cotune.model.packed import plan_pass
from cotune.model.protocol import Progress
from cotune.model.runner import PackedRunner, PrefixState

# Numbers in the table of logits that is held at once.
_LOGITS = 1 << 25


def slots_in_memory(config: Any, bytes_a_number: int, tokens: int, memory: int) -> int:
    """Rows of so many own tokens whose keys and values fit into memory, at least 1.

    Args:
        config: the text model's configuration.
        bytes_a_number: of the model's number type.
        tokens: of its own that a row can have.
        memory: bytes.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return max(1, int(memory // (2 * config.num_hidden_layers * heads * size * bytes_a_number * tokens)))


class Decoder:
    """Writes the answers of one request's part.

    Args:
        runner: of the model, the adapter in it.
        prefix: state of what all prompts share.
        suffixes: each prompt's own tokens.
        answers: fresh ones, filled by :meth:`run`.
        chooser: chooses their tokens.
        slots: rows in flight at most.
        pass_tokens: own tokens in a pass over entering prompts.
        progress: told the tokens of each pass and step.
    """

    def __init__(
        self,
        runner: PackedRunner,
        prefix: PrefixState | None,
        suffixes: Sequence[Sequence[int]],
        answers: Sequence[Answer],
        chooser: Chooser,
        *,
        slots: int,
        pass_tokens: int,
        progress: Progress | None = None,
    ) -> None:
        self._runner, self._prefix, self._suffixes = runner, prefix, suffixes
        self._answers, self._chooser, self._progress = answers, chooser, progress
        self._slots, self._pass_tokens = min(slots, len(suffixes)), pass_tokens
        self._before = prefix.length if prefix else 0
        most = max(len(s) + answer.limit for s, answer in zip(suffixes, answers, strict=True))
        self._own = OwnKeyValues(self._slots, most)
        # Long inputs tend to have long answers: begun first, they do not run on alone at the end.
        self._waiting = sorted(range(len(suffixes)), key=lambda i: (len(suffixes[i]), -i))
        self._live: list[int] = []
        self._newest: list[int] = []
        self._lengths: list[int] = []

    def run(self) -> None:
        """Until all answers are done."""
        while self._waiting or self._live:
            free = self._slots - len(self._live)
            # A pass over one or two entering rows would cost as much as a step of all.
            if self._waiting and (not self._live or free >= max(1, self._slots // 4)):
                self._enter(free)
            else:
                self._step()
            self._leave()

    def _enter(self, free: int) -> None:
        """Run prompts of waiting rows, as many as have a place and fit into a pass, and choose their first tokens."""
        rows: list[int] = []
        tokens = 0
        while self._waiting and len(rows) < free:
            length = len(self._suffixes[self._waiting[-1]])
            if rows and tokens + length > self._pass_tokens:
                break
            rows.append(self._waiting.pop())
            tokens += length
        suffixes = [self._suffixes[row] for row in rows]
        device = self._runner.device
        plan = plan_pass(suffixes, prefix=self._before, device=device)
        hidden, collected = self._runner.hidden(plan, self._prefix, collect=True)
        lengths = [len(suffix) for suffix in suffixes]
        self._own.reserve(max(lengths) + 1)
        first = len(self._live)
        counts = torch.tensor(lengths)
        slots = torch.arange(first, first + len(rows)).repeat_interleave(counts).to(device)
        places = torch.cat([torch.arange(length) for length in lengths]).to(device)
        for layer, (keys, values) in collected.items():
            self._own.write(layer, slots, places, keys, values)
        self._live += rows
        self._lengths += lengths
        self._newest += self._choose(hidden[plan.last], rows)
        if self._progress:
            self._progress(tokens)

    def _step(self) -> None:
        device = self._runner.device
        longest = max(self._lengths)
        self._own.reserve(longest + 1)
        lengths = torch.tensor(self._lengths, device=device)
        slots = torch.arange(len(self._lengths), device=device)
        step = DecodeStep(self._own, slots, lengths, longest, min(self._lengths), self._before)
        ids = torch.tensor(self._newest, device=device)
        hidden = self._runner.step(ids, lengths + self._before, self._prefix, step)
        self._lengths = [length + 1 for length in self._lengths]
        self._newest = self._choose(hidden, self._live)
        if self._progress:
            self._progress(len(self._live))

    def _choose(self, states: Tensor, rows: Sequence[int]) -> list[int]:
        chosen: list[int] = []
        start = 0
        while start < len(rows):
            part = slice(start, start + max(1, _LOGITS // self._runner.vocabulary))
            chosen += self._chooser.choose(self._runner.logits(states[part]), [self._answers[row] for row in rows[part]])
            start = part.stop
        return chosen

    def _leave(self) -> None:
        """Give finished rows' slots to the last ones, so that the live ones stay together."""
        for slot in reversed(range(len(self._live))):
            if not self._answers[self._live[slot]].done:
                continue
            last = len(self._live) - 1
            if slot != last:
                self._own.move(last, slot, self._lengths[last])
            for column in (self._live, self._newest, self._lengths):
                column[slot] = column[last]
                column.pop()
