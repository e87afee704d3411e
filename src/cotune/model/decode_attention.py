"""Attention of one decoding step: each row's newest token to the shared prefix and to the row's own earlier tokens.

Own keys and values lie in buffers that are allocated ahead and grow by half, so that a step writes its tokens and copies
nothing. The prefix lies there once: the queries of all rows that use a key-value head are one long query to it, and both parts
share one softmax.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cotune.model.attention import KeyValue
from cotune.model.cpu_attention import attend

_FIRST_GROWTH = 32


class OwnKeyValues:
    """Keys and values of the rows' own tokens by layer, each ``[slots, key-value heads, capacity, head size]``.

    Args:
        slots: rows that have a place.
        most: tokens that a row can have at most.
    """

    def __init__(self, slots: int, most: int) -> None:
        self.slots, self.most = slots, most
        self.capacity = 0
        self._layers: dict[int, KeyValue] = {}

    def reserve(self, width: int) -> None:
        """Make room for so many tokens a row; what is written stays."""
        if width <= self.capacity:
            return
        self.capacity = min(self.most, max(width + _FIRST_GROWTH, self.capacity * 3 // 2))
        for layer, pair in self._layers.items():
            self._layers[layer] = (self._grown(pair[0]), self._grown(pair[1]))

    def _grown(self, old: Tensor) -> Tensor:
        new = old.new_zeros(old.shape[0], old.shape[1], self.capacity, old.shape[3])
        new[:, :, : old.shape[2]] = old
        return new

    def write(self, layer: int, slots: Tensor, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put tokens, ``[tokens, heads, size]``, at their slots and places."""
        if layer not in self._layers:
            # Zeros, since what was never written is multiplied by a weight of 0.
            self._layers[layer] = (self._empty(keys), self._empty(values))
        kept_keys, kept_values = self._layers[layer]
        kept_keys[slots, :, places] = keys
        kept_values[slots, :, places] = values

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.slots, like.shape[1], self.capacity, like.shape[2])

    def read(self, layer: int, rows: int, width: int) -> KeyValue:
        """Keys and values of the first rows and tokens; no copy."""
        keys, values = self._layers[layer]
        return keys[:rows, :, :width], values[:rows, :, :width]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row to another slot."""
        for keys, values in self._layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]


@dataclass
class DecodeStep:
    """One token of each row, in the order of their slots.

    Attributes:
        own: the rows' earlier tokens.
        slots: ``[rows]`` numbers from 0 on.
        lengths: ``[rows]`` how many own tokens stand before.
        longest: the largest of them.
        shortest: the smallest of them.
        prefix: length of the shared prefix.
    """

    own: OwnKeyValues
    slots: Tensor
    lengths: Tensor
    longest: int
    shortest: int
    prefix: int
    _masks: dict[tuple[int | None, int], Tensor | None] = field(default_factory=dict)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, prefix: KeyValue | None, scale: float, window: int | None
    ) -> Tensor:
        """``[rows, heads, size]`` in and out; keys and values with their own number of heads, written to ``own``."""
        rows, all_heads, size = q.shape
        heads = k.shape[1]
        group = all_heads // heads
        self.own.write(layer, self.slots, self.lengths, k, v)
        keys, values = self.own.read(layer, rows, self.longest + 1)
        queries = q.reshape(rows, heads, group, size)
        if window is not None and self.prefix + self.longest < window:
            window = None
        start = self._first(window)
        before = self.prefix - start if prefix is not None else 0
        part = tuple(x[start:].transpose(0, 1) for x in prefix) if prefix is not None and before else None
        if q.device.type == "cpu" and q.dtype != torch.float32 and window is None and size == v.shape[-1]:
            out = self._merged(queries, keys, values, part, scale)
        else:
            out = self._dense(queries.float() * scale, keys, values, part, self._mask(window, before))
        return out.reshape(rows, all_heads, -1)

    def _dense(
        self, queries: Tensor, keys: Tensor, values: Tensor, prefix: tuple[Tensor, ...] | None, mask: Tensor | None
    ) -> Tensor:
        """Scores of both parts side by side, in fp32 as the scaled queries are; any window and device."""
        rows, heads, group, size = queries.shape
        scores = torch.matmul(queries, keys.float().transpose(-1, -2))
        before = 0
        if prefix is not None:
            before = prefix[0].shape[1]
            long = queries.transpose(0, 1).reshape(heads, rows * group, size)
            to_prefix = torch.matmul(long, prefix[0].float().transpose(-1, -2))
            scores = torch.cat([to_prefix.view(heads, rows, group, before).transpose(0, 1), scores], dim=-1)
        if mask is not None:
            scores.masked_fill_(mask, -torch.inf)
        weights = torch.softmax(scores, dim=-1).to(values.dtype)
        out = torch.matmul(weights[..., before:], values)
        if prefix is not None:
            long = weights[..., :before].transpose(0, 1).reshape(heads, rows * group, before)
            out = out + torch.matmul(long, prefix[1]).view(heads, rows, group, -1).transpose(0, 1)
        return out

    def _merged(self, queries: Tensor, keys: Tensor, values: Tensor, prefix: tuple[Tensor, ...] | None, scale: float) -> Tensor:
        """Both parts apart, merged by log-sum-exp: the kernel keeps scores in fp32, where products would round them."""
        rows, heads, group, size = queries.shape
        hidden = self._mask(None, 0)
        mask = None
        if hidden is not None:
            mask = torch.zeros(hidden.shape, dtype=queries.dtype).masked_fill_(hidden, -torch.inf)
            mask = mask.expand(-1, -1, group, -1).contiguous()
        out, lse = attend(queries, keys, values, scale, mask)
        if prefix is None:
            return out
        long = queries.transpose(0, 1).reshape(1, heads, rows * group, size)
        long_out, long_lse = attend(long, prefix[0][None], prefix[1][None], scale)
        out_prefix = long_out.view(heads, rows, group, size).transpose(0, 1)
        lse_prefix = long_lse.view(heads, rows, group).transpose(0, 1)
        share = torch.sigmoid(lse_prefix - lse).unsqueeze(-1)
        return torch.lerp(out.float(), out_prefix.float(), share).to(out.dtype)

    def _first(self, window: int | None) -> int:
        """The first prefix token that any row sees."""
        return 0 if window is None else min(self.prefix, max(0, self.prefix + self.shortest - window + 1))

    def _mask(self, window: int | None, before: int) -> Tensor | None:
        """``[rows, 1, 1, prefix and own]`` what a row does not see: others' width, and what its window has left."""
        key = (window, before)
        if key not in self._masks:
            if window is None and self.longest == self.shortest:
                self._masks[key] = None
            else:
                own = torch.arange(self.longest + 1, device=self.lengths.device)
                places = torch.cat([torch.arange(-before, 0, device=self.lengths.device), own])
                ends = self.lengths[:, None]
                hidden = places > ends
                if window is not None:
                    hidden |= places <= ends - window
                self._masks[key] = hidden[:, None, None]
        return self._masks[key]
