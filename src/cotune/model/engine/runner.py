"""Runs packed passes on a transformers causal language model: prefix states, hidden states and logits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from cotune.model.engine.attention import (
    ATTENTION_NAME,
    PLAIN_ATTENTION,
    Pass,
    running,
    shared_prefix_attention,
    use_plain_attention,
)
from cotune.model.engine.cpu_attention import KeyValue
from cotune.model.engine.decode_attention import DecodeStep
from cotune.model.engine.edge_states import EdgeStates
from cotune.model.engine.plan import PackedPlan, padded_count, plan_pass
from cotune.model.engine.prefix_cache import NO_PREFIX, PrefixState
from cotune.model.hardware.shared_cpus import SharedCpus
from cotune.model.layers.cut import (
    cut_decoder,
    depth_of,
    entering,
    layer_outputs,
    layers_of,
    means,
    norm_epsilon,
    pooled,
    read_layers,
    unit_rms,
)
from cotune.model.loading.minimal_llama import LightLlama
from cotune.prompt.reads import Read, by_words

_log = logging.getLogger(__name__)

# Most rows of logits in memory: a vocabulary of 50,000 in fp32 is 0.2 MB a row.
_LOGIT_ROWS = 512


def install_attention() -> None:
    """Register :data:`ATTENTION_NAME` with transformers. Further calls do nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, shared_prefix_attention)


class PackedRunner:
    """Packed passes over one loaded model. The caller sets gradient mode and adapter.

    Args:
        model: a ``transformers`` causal language model (not its peft wrapper), in evaluation mode.

    Attributes:
        logit_scale: factor of the head's products.
        cpus: adapts the number of threads before each pass; None keeps it.
        edges: states below tuned windows, from which later passes of the same rows begin; keeps none by default.
    """

    def __init__(self, model: Any) -> None:
        if not isinstance(model, LightLlama):
            install_attention()
        self.model = model
        self.device: torch.device = model.device
        self._decoder = model.get_decoder()
        self.vocabulary = int(self._head.weight.shape[0])
        config = model.config.get_text_config()
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.logit_scale: float = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        self._epsilon = norm_epsilon(model)
        self.depth = depth_of(model)
        self._parts: dict[tuple[int, int], Any] = {}
        self.edges = EdgeStates()
        self.cpus: SharedCpus | None = None

    @property
    def _head(self) -> Any:
        # Looked up on each call, since another layer may have replaced it.
        return self.model.get_output_embeddings()

    def prefix(self, ids: Sequence[int], depth: int | None = None) -> PrefixState:
        """Compute the state of a prefix. ``depth`` layers run; None for all."""
        if not ids:
            return NO_PREFIX
        length = len(ids)
        padding = padded_count(length, self.device) - length
        # Attention is causal in the order of tokens, so tokens at the end change nothing before them. Their positions are 0,
        # since a model may know no more positions than the prefix has tokens.
        positions = torch.tensor([*range(length), *[0] * padding], device=self.device)
        current = Pass(None, collect=True, read=positions[:0])
        self._run(torch.tensor([*ids, *[0] * padding], device=self.device), positions, current, depth=depth)
        return PrefixState(tuple(ids), {layer: (k[:length], v[:length]) for layer, (k, v) in current.collected.items()})

    def hidden(
        self,
        plan: PackedPlan,
        prefix: PrefixState = NO_PREFIX,
        past: dict[int, KeyValue] | None = None,
        *,
        read: Tensor | None = None,
        collect: bool = False,
    ) -> tuple[Tensor, dict[int, KeyValue]]:
        """Hidden states ``[places, width]`` of a pass, and its keys and values if ``collect`` is set.

        Args:
            prefix: state of the shared prefix; :data:`NO_PREFIX` if it is empty or runs in this pass.
            past: keys and values of the rows' earlier own tokens.
            read: ``[places]`` positions whose states are returned (without repetition if gradients are needed); the last layer
                skips the others. None gives all, ``[tokens, width]``.
            collect: whether to return keys and values by layer.
        """
        current = Pass(plan, prefix.layers, past, collect, read=read)
        hidden: Tensor = self._run(plan.ids, plan.positions, current).last_hidden_state[0]
        chosen = hidden[: plan.tokens] if read is None else hidden.index_select(0, read)
        keys = {layer: (k[: plan.tokens], v[: plan.tokens]) for layer, (k, v) in current.collected.items()}
        return chosen, keys

    def layer_states(
        self,
        plan: PackedPlan,
        prefix: PrefixState,
        layers: Sequence[int],
        reads: Sequence[Read] | None = None,
        *,
        frozen: int = 0,
    ) -> Tensor:
        """States of each row, or of its words, of one pass after each of several layers, ``[layers, states, width]`` in fp32.

        They are divided by their root mean square. The pass ends after the highest of the layers. It begins at the edge of the
        adapter's window if the states of the same pass are known there (:attr:`edges`).

        Args:
            prefix: state of the shared prefix, at least as deep as the highest layer.
            layers: each from 1 to the model's depth.
            reads: what is read of each row, at positions after the prefix. Of a whole row this is the state at the last token
                beside the mean, ``[layers, rows, 2 x width]``; of words ``[layers, words, width]``. None gives the state at the
                last token alone.
            frozen: number of leading layers that have the base model's weights.
        """
        last, first, states = max(layers), 0, None
        edges = self.edges.worth(frozen, last)
        if frozen in edges and frozen < min(layers) and (states := self.edges.get(frozen, prefix, plan)) is not None:
            first, edges = frozen, ()
        self.edges.began = first
        part, numbers = self._part(first, last), [number - first for number in layers]
        current = Pass(plan, prefix.layers, read=plan.last if reads is None else None)
        with (
            layer_outputs(part, numbers, lambda found: self._row_states(plan, found[0], reads)) as outputs,
            layer_outputs(part, edges, lambda found: found[0, : plan.tokens].clone()) as below,
            _entering(part, plan, states),
        ):
            self._run(plan.ids, plan.positions, current, depth=last, first=first)
        for edge, found in below.items():
            self.edges.put(edge, prefix, plan, found)
        return torch.stack([outputs[number] for number in numbers])

    def _row_states(self, plan: PackedPlan, states: Tensor, reads: Sequence[Read] | None) -> Tensor:
        if reads is None:
            return unit_rms(states.index_select(0, plan.last), self._epsilon)
        unit, rows = unit_rms(states, self._epsilon), [plan.head + places for places in plan.own_places]
        if by_words(reads):
            return means(unit, [places[slice(*word)] for places, words in zip(rows, reads, strict=True) for word in words])
        return pooled(unit, plan.last, [places[read:] for places, read in zip(rows, reads, strict=True)])

    def states(self, plan: PackedPlan, prefix: PrefixState, layers: Sequence[int | None]) -> Tensor:
        """Hidden states of one pass after each number of layers, ``[layers, tokens, width]``; None for after the final norm."""
        output = self._run(plan.ids, plan.positions, Pass(plan, prefix.layers), layers)
        return read_layers(output, layers)[:, 0, : plan.tokens]

    def edge(self, plan: PackedPlan, prefix: PrefixState, depth: int, *, frozen: int = 0) -> Tensor:
        """Raw hidden states ``[tokens, width]`` of all tokens of a pass after ``depth`` layers, the input of a window.

        ``frozen`` is the number of leading layers that have the base model's weights.
        """
        shared = depth <= frozen
        if shared and (known := self.edges.get(depth, prefix, plan)) is not None:
            return known
        hidden: Tensor = self._run(plan.ids, plan.positions, Pass(plan, prefix.layers), depth=depth).last_hidden_state[0]
        found = hidden[: plan.tokens]
        if shared:
            self.edges.put(depth, prefix, plan, found)
        return found

    def window(
        self, plan: PackedPlan, first: int, last: int, edge: Tensor | None, reads: Sequence[Read] | None = None
    ) -> Tensor:
        """States ``[rows, width]`` of each row, or of its words, after ``last`` layers, running only those from ``first`` up.

        Args:
            plan: the layout, with the whole shared prefix as its head.
            first: layers below the window; 0 runs from the token ids.
            last: layer that is read.
            edge: ``[tokens, width]`` states of all tokens of the plan, without its padding, after ``first`` layers; None if
                ``first`` is 0.
            reads: as for :meth:`layer_states`.

        Returns:
            fp32, divided by their root mean square.
        """
        part = self._part(first, last)
        current = Pass(plan, read=plan.last if reads is None else None, last=layers_of(part)[-1])
        with running(current), _entering(part, plan, edge):
            hidden = part(input_ids=plan.ids[None], position_ids=plan.positions[None], use_cache=False).last_hidden_state[0]
        return self._row_states(plan, hidden, reads)

    def step(self, ids: Tensor, positions: Tensor, prefix: PrefixState, step: DecodeStep) -> Tensor:
        """Hidden states ``[tokens, width]`` of a decoding step over the rows' newest tokens."""
        output = self._run(ids, positions, Pass(None, prefix.layers, step=step))
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits in fp32 ``[places, vocabulary]`` of hidden states ``[places, width]``."""
        logits: Tensor = self._head(hidden).float()
        if self.logit_scale != 1:
            logits = logits * self.logit_scale
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

    def log_probs(self, hidden: Tensor, places: Tensor, tokens: Tensor) -> Tensor:
        """Log-probability of ``tokens[i]`` at state ``hidden[places[i]]``, places non-decreasing.

        Logits of each state are computed once.
        """
        pieces = []
        for start in range(0, hidden.shape[0], _LOGIT_ROWS):
            rows = slice(*torch.searchsorted(places, torch.tensor([start, start + _LOGIT_ROWS], device=places.device)))
            here = places[rows] - start
            pieces.append(self._log_softmax(hidden[start : start + _LOGIT_ROWS])[here, tokens[rows]])
        return torch.cat(pieces)

    def answer_losses(self, hidden: Tensor, answers: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """``[rows]`` summed negative log-likelihoods of answers' token ids.

        ``hidden`` holds the state before each token of each row's answer, one row after the other.
        """
        tokens = torch.tensor([token for ids in answers for token in ids], device=hidden.device)
        log_probs = self.log_probs(hidden, torch.arange(len(tokens), device=hidden.device), tokens).cpu().double().numpy()
        starts = np.concatenate([[0], np.cumsum([len(ids) for ids in answers])[:-1]])
        losses: NDArray[np.float64] = -np.add.reduceat(log_probs, starts)
        return losses

    def _log_softmax(self, hidden: Tensor) -> Tensor:
        if self._softcap is None and self.logit_scale == 1:
            # One kernel reads the head's own dtype and writes fp32: half the memory traffic of a copy in fp32.
            return torch.log_softmax(self._head(hidden), dim=-1, dtype=torch.float32)
        return torch.log_softmax(self.logits(hidden), dim=-1)

    def _part(self, first: int, last: int) -> Any:
        """A decoder of some of the layers, sharing the model's modules."""
        self._before_pass()
        if (first, last) not in self._parts:
            self._parts[first, last] = cut_decoder(self._decoder, first, last)
        return self._parts[first, last]

    def _before_pass(self) -> None:
        if self.cpus is not None:
            self.cpus.check()
        config = self.model.config.get_text_config()
        if config._attn_implementation != ATTENTION_NAME:
            setattr(self.model, PLAIN_ATTENTION, config._attn_implementation)
            self.model.set_attn_implementation(ATTENTION_NAME)

    def _run(
        self,
        ids: Tensor,
        positions: Tensor,
        current: Pass,
        layers: Sequence[int | None] = (None,),
        depth: int | None = None,
        first: int = 0,
    ) -> Any:
        self._before_pass()
        decoder = self._decoder if depth is None else self._part(first, depth)
        current.last = layers_of(decoder)[-1] if depth is not None else None
        with running(current):
            return decoder(
                input_ids=ids[None],
                position_ids=positions[None],
                use_cache=False,
                output_hidden_states=any(layer is not None for layer in layers),
            )


def _entering(part: Any, plan: PackedPlan, edge: Tensor | None) -> AbstractContextManager[None]:
    """Give a part of the decoder the states ``[tokens, width]`` below it; None if it runs from the token ids."""
    if edge is None:
        return nullcontext()
    return entering(part, (pad(edge, (0, 0, 0, plan.padding)) if plan.padding else edge)[None])


def self_check(model: Any) -> float:
    """Largest difference between packed and plain logits on a few random tokens, relative to the plain logits' spread.

    Run once after loading, to detect architectures that packed passes do not support.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    draw = torch.randint(0, vocabulary, (10,), generator=generator).tolist()
    prefix, suffixes = draw[:5], [draw[5:7], draw[7:10]]
    runner = PackedRunner(model)
    use_plain_attention(model)
    with torch.inference_mode():
        plain = [
            model(torch.tensor([[*prefix, *suffix]], device=model.device), use_cache=False).logits[0, -1].float()
            for suffix in suffixes
        ]
        plan = plan_pass(suffixes, prefix=len(prefix), device=model.device)
        hidden, _ = runner.hidden(plan, runner.prefix(prefix), read=plan.last)
        packed = runner.logits(hidden)
    return max(float((a - b).abs().max() / a.std().clamp_min(1e-6)) for a, b in zip(packed, plain, strict=True))


def fits(model: Any, dtype: str) -> bool:
    """Whether packed passes give a model's own logits, within the precision of its dtype; see :func:`self_check`."""
    try:
        return self_check(model) <= (0.02 if dtype == "float32" else 0.3)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        _log.info("shared-prefix engine refused: %s", error)
        return False
