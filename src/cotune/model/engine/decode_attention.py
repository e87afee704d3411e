"""Attention of one decoding step: each row's newest tokens to the shared prefix and to the row's own tokens.

Own keys and values are kept in preallocated buffers that grow by half, so that a step copies nothing. The prefix is stored
once: the queries of all rows for a key-value head form one long query to it, and both parts share one softmax.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cotune.model.engine.cpu_attention import KeyValue, attend

_FIRST_GROWTH = 32


class OwnKeyValues:
    """Keys and values by layer of up to ``most`` own tokens of each row, ``[slots, key-value heads, capacity, head size]``."""

    def __init__(self, slots: int, most: int) -> None:
        self.slots, self.most = slots, most
        self.capacity = 0
        self._layers: dict[int, KeyValue] = {}

    def reserve(self, width: int) -> None:
        """Grow the buffers to a number of tokens per row, keeping their content."""
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
        """Write tokens, ``[tokens, heads, size]``, to their slots and positions."""
        if layer not in self._layers:
            # Zeros, since unwritten entries are multiplied by a weight of 0 and must be finite.
            self._layers[layer] = (self._empty(keys), self._empty(values))
        kept_keys, kept_values = self._layers[layer]
        kept_keys[slots, :, places] = keys
        kept_values[slots, :, places] = values

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.slots, like.shape[1], self.capacity, like.shape[2])

    def read(self, layer: int, rows: int, width: int) -> KeyValue:
        """Views of the keys and values of the first rows and tokens."""
        keys, values = self._layers[layer]
        return keys[:rows, :, :width], values[:rows, :, :width]

    def move(self, source: int, target: int, length: int) -> None:
        for keys, values in self._layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]


class DecodeStep:
    """Attention of each row's new tokens (usually one), in the order of the rows' slots.

    Args:
        own: the rows' earlier tokens.
        lengths: number of earlier own tokens of each row.
        counts: number of new tokens of each row.
        prefix: length of the shared prefix.

    Attributes:
        positions: ``[tokens]`` position of each new token in its row's whole sequence.
        last: ``[rows]`` index of each row's last token.
    """

    def __init__(
        self, own: OwnKeyValues, lengths: Sequence[int], counts: Sequence[int], prefix: int, device: torch.device | str = "cpu"
    ) -> None:
        self._own, self._prefix, self._rows = own, prefix, len(lengths)
        new, before = torch.tensor(counts), torch.tensor(lengths)
        slots = torch.arange(self._rows).repeat_interleave(new)
        ends = new.cumsum(0)
        offsets = torch.arange(len(slots)) - (ends - new).repeat_interleave(new)
        self._slots = slots.to(device)
        self._places = (before.repeat_interleave(new) + offsets).to(device)
        self.positions = self._places + prefix
        self.last = (ends - 1).to(device)
        self._longest = max(length + count for length, count in zip(lengths, counts, strict=True)) - 1
        self._shortest = min(lengths)
        self._width = max(counts)
        if self._width > 1:
            # Shorter rows are padded by their last token.
            steps = torch.minimum(torch.arange(self._width), new[:, None] - 1)
            self._padded_index = ((ends - new)[:, None] + steps).flatten().to(device)
            self._unpadded_index = (slots * self._width + offsets).to(device)
        self._masks: dict[tuple[int | None, int], Tensor | None] = {}

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, prefix: KeyValue | None, scale: float, window: int | None
    ) -> Tensor:
        """``[tokens, heads, size]`` in and out; keys and values, with their own number of heads, are written to the buffers."""
        tokens, all_heads, size = q.shape
        heads = k.shape[1]
        self._own.write(layer, self._slots, self._places, k, v)
        keys, values = self._own.read(layer, self._rows, self._longest + 1)
        queries = q.reshape(tokens, heads, all_heads // heads, size)
        if window is not None and self._prefix + self._longest < window:
            window = None
        start = self._first(window)
        before = self._prefix - start if prefix is not None else 0
        part = tuple(x[start:].transpose(0, 1) for x in prefix) if prefix is not None and before else None
        if q.device.type == "cpu" and window is None and size == v.shape[-1]:
            out = self._merged(queries, keys, values, part, scale)
        else:
            out = self._dense(queries.float() * scale, keys, values, part, self._mask(window, before))
        return out.reshape(tokens, all_heads, -1)

    def _dense(
        self, queries: Tensor, keys: Tensor, values: Tensor, prefix: tuple[Tensor, ...] | None, mask: Tensor | None
    ) -> Tensor:
        """Concatenate the scores of both parts in fp32; for any window and device."""
        tokens, heads, group, size = queries.shape
        scores = torch.matmul(self._padded(queries), keys.float().transpose(-1, -2))
        before = 0
        if prefix is not None:
            before = prefix[0].shape[1]
            long = queries.transpose(0, 1).reshape(heads, tokens * group, size)
            to_prefix = torch.matmul(long, prefix[0].float().transpose(-1, -2))
            scores = torch.cat([self._padded(to_prefix.view(heads, tokens, group, before).transpose(0, 1)), scores], dim=-1)
        if mask is not None:
            scores.masked_fill_(mask if self._width == 1 else mask.repeat_interleave(group, 2), -torch.inf)
        weights = torch.softmax(scores, dim=-1).to(values.dtype)
        out = self._unpadded(torch.matmul(weights[..., before:], values), group)
        if prefix is not None:
            long = self._unpadded(weights[..., :before], group).transpose(0, 1).reshape(heads, tokens * group, before)
            out = out + torch.matmul(long, prefix[1]).view(heads, tokens, group, -1).transpose(0, 1)
        return out

    def _merged(self, queries: Tensor, keys: Tensor, values: Tensor, prefix: tuple[Tensor, ...] | None, scale: float) -> Tensor:
        """Compute both parts separately and merge them by log-sum-exp, so that the prefix part has no padding."""
        tokens, heads, group, size = queries.shape
        out, lse = attend(self._padded(queries), keys, values, scale, self._additive(group))
        out, lse = self._unpadded(out, group), self._unpadded(lse.unsqueeze(-1), group)
        if prefix is None:
            return out
        long = queries.transpose(0, 1).reshape(1, heads, tokens * group, size)
        long_out, long_lse = attend(long, prefix[0][None], prefix[1][None], scale)
        out_prefix = long_out.view(heads, tokens, group, size).transpose(0, 1)
        lse_prefix = long_lse.view(heads, tokens, group, 1).transpose(0, 1)
        share = torch.sigmoid(lse_prefix - lse)
        return torch.lerp(out.float(), out_prefix.float(), share).to(out.dtype)

    def _padded(self, x: Tensor) -> Tensor:
        """``[tokens, heads, group, size]`` to ``[rows, heads, width x group, size]``."""
        if self._width == 1:
            return x
        _, heads, group, size = x.shape
        wide = x.index_select(0, self._padded_index).view(self._rows, self._width, heads, group, size)
        return wide.transpose(1, 2).reshape(self._rows, heads, self._width * group, size)

    def _unpadded(self, x: Tensor, group: int) -> Tensor:
        """Inverse of :meth:`_padded`."""
        if self._width == 1:
            return x
        rows, heads, _, size = x.shape
        wide = x.reshape(rows, heads, self._width, group, size).transpose(1, 2)
        return wide.reshape(rows * self._width, heads, group, size).index_select(0, self._unpadded_index)

    def _first(self, window: int | None) -> int:
        """The first prefix token that any row sees."""
        return 0 if window is None else min(self._prefix, max(0, self._prefix + self._shortest - window + 1))

    def _additive(self, group: int) -> Tensor | None:
        """Additive mask among own tokens, the same for all layers."""
        key = (None, -1)
        if key not in self._masks:
            hidden = self._mask(None, 0)
            mask = None
            if hidden is not None:
                mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf).repeat_interleave(group, 2)
            self._masks[key] = mask
        return self._masks[key]

    def _mask(self, window: int | None, before: int) -> Tensor | None:
        """``[rows, 1, width, prefix and own]`` mask of what a token does not see: padding, and tokens outside its window."""
        key = (window, before)
        if key not in self._masks:
            if window is None and self._longest == self._shortest:
                self._masks[key] = None
            else:
                device = self._places.device
                places = torch.cat([torch.arange(-before, 0, device=device), torch.arange(self._longest + 1, device=device)])
                ends = self._places if self._width == 1 else self._places[self._padded_index]
                ends = ends.view(self._rows, self._width, 1)
                hidden = places > ends
                if window is not None:
                    hidden |= places <= ends - window
                self._masks[key] = hidden[:, None]
        return self._masks[key]
