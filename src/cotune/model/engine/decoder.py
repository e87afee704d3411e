"""Decoding behind a shared prefix with continuous batching: finished rows leave the batch, and waiting rows enter.

On a CPU a step of few rows takes as long as reading the weights once, so the batch is as large as memory allows for. Tokens
that a grammar determines are read in one step together with the token before them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cotune.model.base import Progress
from cotune.model.engine.decode_attention import DecodeStep, OwnKeyValues
from cotune.model.engine.plan import fork, plan_pass
from cotune.model.engine.prefix_cache import PrefixState
from cotune.model.engine.row_blocks import as_tensor
from cotune.model.engine.runner import PackedRunner
from cotune.model.engine.sampling import Answer, Chooser

# Most entries of the table of logits.
_LOGITS = 1 << 25


def slots_in_memory(config: Any, bytes_a_number: int, tokens: int, memory: int) -> int:
    """Number of rows of at most ``tokens`` own tokens whose keys and values fit into ``memory`` bytes, at least 1."""
    # Layers may differ: Gemma 4 has larger heads in those that attend to all tokens.
    layers = getattr(config, "per_layer_config", None)
    each = [layers[i] for i in range(config.num_hidden_layers)] if layers else [config] * config.num_hidden_layers
    return max(1, int(memory // (2 * sum(map(_width, each)) * bytes_a_number * tokens)))


def _width(layer: Any) -> int:
    """Width of a layer's keys, by its config."""
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    size = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return int(heads * size)


class Decoder:
    """Generates the answers of one part of a request.

    Args:
        runner: runner of the model, with the adapter set.
        prefix: state of the prefix that all prompts share.
        suffixes: each prompt's own tokens.
        answers: empty answers, filled by :meth:`run`.
        chooser: chooses their tokens.
        slots: most rows at once.
        pass_tokens: most own tokens in a pass over entering prompts.
        progress: called with the number of tokens of each pass and step.
        references: right answers, whose losses are computed in the same passes as the prompts.

    Attributes:
        losses: ``[rows]`` negative log-likelihood of the right answers, in nats; zeros without them.
        entering_s: seconds spent on prompts and right answers.
        tokens: number of tokens that ran.
    """

    def __init__(
        self,
        runner: PackedRunner,
        prefix: PrefixState,
        suffixes: Sequence[Sequence[int]],
        answers: Sequence[Answer],
        chooser: Chooser,
        *,
        slots: int,
        pass_tokens: int,
        progress: Progress | None = None,
        references: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self._references = references
        self.losses = np.zeros(len(suffixes))
        self.entering_s = 0.0
        self._runner, self._prefix, self._suffixes = runner, prefix, suffixes
        self._answers, self._chooser, self._progress = answers, chooser, progress
        self._slots, self._pass_tokens = min(slots, len(suffixes)), pass_tokens
        self._before = prefix.length
        most = max(len(s) + answer.limit for s, answer in zip(suffixes, answers, strict=True))
        self._own = OwnKeyValues(self._slots, most)
        # Long inputs tend to have long answers: start with them, so that they do not run alone at the end.
        begun = [i for i, answer in enumerate(answers) if references or not answer.done]
        self._waiting = sorted(begun, key=lambda i: (len(suffixes[i]), -i))
        self._live: list[int] = []
        self.tokens = 0

    def run(self) -> None:
        while self._waiting or self._live:
            free = self._slots - len(self._live)
            # Wait for several rows: a pass over one or two would cost as much as a step of all.
            if self._waiting and (not self._live or free >= max(1, self._slots // 4)):
                self._enter(free)
            else:
                self._step()
            self._leave()

    def _enter(self, free: int) -> None:
        """Run prompts of waiting rows, as many as have a slot and fit into a pass, and choose their first tokens."""
        started = time.perf_counter()
        rows: list[int] = []
        tokens = 0
        while self._waiting and len(rows) < free:
            row = self._waiting[-1]
            more = (
                len(self._suffixes[row])
                + len(self._answers[row].due())
                + (len(self._references[row]) - 1 if self._references else 0)
            )
            if rows and tokens + more > self._pass_tokens:
                break
            rows.append(self._waiting.pop())
            tokens += more
        device = self._runner.device
        due = [self._answers[row].due() for row in rows]
        # The generated and the right answer both follow the prompt and do not see each other.
        trees = [fork(ids, self._references[row][:-1] if self._references else ()) for row, ids in zip(rows, due, strict=True)]
        suffixes = [self._suffixes[row] for row in rows]
        lengths = [len(suffix) for suffix in suffixes]
        plan = plan_pass(suffixes, prefix=self._before, trees=trees, merge=lengths, device=device)
        ends = plan.last.cpu().numpy()
        kept = [own[: length + len(ids)] for own, length, ids in zip(plan.own_places, lengths, due, strict=True)]
        read = [end + len(ids) for ids, end in zip(due, ends, strict=True)]
        if self._references:
            for ids, end, nodes in zip(due, ends, plan.node_places, strict=True):
                read += [end, *nodes[len(ids) :]]
        hidden, collected = self._runner.hidden(plan, self._prefix, read=torch.tensor(read, device=device), collect=True)
        lengths = [len(places) for places in kept]
        self._own.reserve(max(lengths) + 1)
        first = len(self._live)
        slots = torch.arange(first, first + len(rows)).repeat_interleave(torch.tensor(lengths)).to(device)
        places = torch.cat([torch.arange(length) for length in lengths]).to(device)
        chosen = as_tensor(np.concatenate(kept), device)
        for layer, (keys, values) in collected.items():
            self._own.write(layer, slots, places, keys[chosen], values[chosen])
        if self._references:
            # For each row the states at the end of the prompt and at the right answer's tokens except the last.
            self.losses[rows] = self._runner.answer_losses(hidden[len(rows) :], [self._references[row] for row in rows])
        self.entering_s += time.perf_counter() - started
        self._live += rows
        self._choose(hidden[: len(rows)], rows, tokens)

    def _step(self) -> None:
        due = [self._answers[row].due() for row in self._live]
        lengths, counts = [self._length(row) for row in self._live], [len(ids) for ids in due]
        self._own.reserve(max(length + count for length, count in zip(lengths, counts, strict=True)))
        step = DecodeStep(self._own, lengths, counts, self._before, self._runner.device)
        ids = torch.tensor([token for row in due for token in row], device=self._runner.device)
        hidden = self._runner.step(ids, step.positions, self._prefix, step)
        self._choose(hidden[step.last], self._live, len(ids))

    def _choose(self, states: Tensor, rows: Sequence[int], tokens: int) -> None:
        """Choose the next tokens from each row's last state."""
        writing = [i for i, row in enumerate(rows) if not self._answers[row].done]
        for i in writing:
            self._answers[rows[i]].read()
        for start in range(0, len(writing), most := max(1, _LOGITS // self._runner.vocabulary)):
            part = writing[start : start + most]
            chosen = states[torch.tensor(part).to(states.device)]
            self._chooser.choose(self._runner.logits(chosen), [self._answers[rows[i]] for i in part])
        self.tokens += tokens
        if self._progress:
            self._progress(tokens)

    def _length(self, row: int) -> int:
        """Number of a row's own tokens processed so far."""
        return len(self._suffixes[row]) + self._answers[row].fed

    def _leave(self) -> None:
        """Move the last rows into the slots of finished ones, so that active rows are contiguous."""
        for slot in reversed(range(len(self._live))):
            if not self._answers[self._live[slot]].done:
                continue
            last = len(self._live) - 1
            if slot != last:
                self._own.move(last, slot, self._length(self._live[last]))
                self._live[slot] = self._live[last]
            self._live.pop()
