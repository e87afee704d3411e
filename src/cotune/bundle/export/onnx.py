"""A cut model and its probe as one ONNX graph, which contains the states of the prompt's beginning as constants."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cotune.bundle.export.probe import ONNX, TOKENIZER
from cotune.bundle.export.weights import merged
from cotune.errors import InputError
from cotune.model.engine.attention import use_plain_attention
from cotune.probe.readout import Probe

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class PrefixedClassifier(torch.nn.Module):
    """The exported module: reads rows after the prompt's beginning, whose keys and values are constants.

    Args:
        model: a transformers causal language model whose last hidden state the probe reads.
        probe: the probe; logits are in the order of its labels.
        prefix_ids: tokens that all rows begin with, which run once at construction; may be empty.
    """

    def __init__(self, model: Any, probe: Probe, prefix_ids: Sequence[int]) -> None:
        super().__init__()
        self.model, self.known = model, len(prefix_ids)
        self.score = torch.nn.Linear(probe.weight.shape[1], len(probe.labels))
        self.score.weight = torch.nn.Parameter(torch.from_numpy(probe.weight.copy()))
        self.score.bias = torch.nn.Parameter(torch.from_numpy(probe.bias.copy()))
        with torch.no_grad():
            prefix = _prefix_states(model, prefix_ids) if prefix_ids else []
        self.depth = len(prefix)
        for layer, (keys, values) in enumerate(prefix):
            self.register_buffer(f"keys_{layer}", keys.clone())
            self.register_buffer(f"values_{layer}", values.clone())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits ``[rows, labels]``.

        Args:
            input_ids: ``[rows, longest]`` token ids after the prefix, padded on the right; all token ids of a row that does not
                begin with the prefix.
            attention_mask: ``[rows, prefix + longest]``; 1 over the prefix, or 0 for a row that does not begin with it.
        """
        from transformers import DynamicCache

        own = attention_mask[:, self.known :]
        given: dict[str, Any] = {"use_cache": False}
        if self.depth:
            cache = DynamicCache()
            for layer in range(self.depth):
                pair = self.get_buffer(f"keys_{layer}"), self.get_buffer(f"values_{layer}")
                cache.update(*(part.expand(own.shape[0], -1, -1, -1) for part in pair), layer)
            given = {_cache_argument(self.model): cache}
        states = self.model.get_decoder()(input_ids=input_ids, attention_mask=attention_mask, **given).last_hidden_state
        places, ends = torch.arange(own.shape[1])[None], own.sum(1, keepdim=True) - 1
        at_end = places == ends
        state = (states * at_end[..., None].to(states.dtype)).sum(1)
        # The mean excludes the prompt's beginning, wherever it is.
        first = self.known * (1 - attention_mask[:, :1]) if self.known else torch.zeros_like(ends)
        taken = (((places >= first) & own.bool()) | at_end).to(states.dtype)[..., None]
        mean = (states * taken).sum(1) / taken.sum(1)
        logits: torch.Tensor = self.score(torch.cat([state, mean], dim=1))
        return logits


def _prefix_states(model: Any, ids: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values ``[1, heads, tokens, width]`` of each layer for ``ids``, computed with the model's own cache.

    Raises:
        InputError: if the model has no cache of keys and values.
    """
    from transformers import DynamicCache

    use_plain_attention(model)
    mask = torch.ones(1, len(ids), dtype=torch.long, device=model.device)
    # A cache without sliding windows keeps every token.
    cache = DynamicCache()
    arguments = {"attention_mask": mask, "use_cache": True, _cache_argument(model): cache}
    try:
        model.get_decoder()(input_ids=torch.tensor([list(ids)], device=model.device), **arguments)
        return [(layer.keys, layer.values) for layer in cache.layers]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            "the model keeps no keys and values of the prompt's beginning, which the graph needs",
            where="--to onnx",
            hint="Export with --to transformers.",
        ) from error


def _cache_argument(model: Any) -> str:
    """The name depends on the release of transformers."""
    names = inspect.signature(model.get_decoder().forward).parameters
    return "past_key_values" if "past_key_values" in names else "cache"


def check_packages() -> None:
    """Check that the packages that the export needs are installed; raises an :class:`InputError` if one is missing."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise InputError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            where="--to onnx",
            hint="Install what it needs with: pip install 'cotune[onnx]'.",
        )


def write_onnx(source: Path, adapter: Path | None, probe: Probe, target: Path, prefix_ids: Sequence[int]) -> None:
    """Write a cut model with an adapter added and its probe as :data:`ONNX`, and its tokenizer, all in float32.

    Args:
        source: a model that :func:`~cotune.bundle.export.weights.cut` wrote.
        probe: logits are in the order of its labels.
        prefix_ids: tokens that rows begin with.

    Raises:
        InputError: the graph cannot be written for models of this type.
    """
    from transformers import AutoTokenizer

    model, _ = merged(source, adapter)
    # Declare the relation of the two lengths, so that the exporter does not guess it from the example.
    rows, longest = torch.export.Dim("rows"), torch.export.Dim("longest")
    known = len(prefix_ids)
    example = (torch.ones(3, 5, dtype=torch.long), torch.ones(3, known + 5, dtype=torch.long))
    shapes = ({0: rows, 1: longest}, {0: rows, 1: longest + known if known else longest})
    try:
        with _quiet():
            program = torch.onnx.export(
                PrefixedClassifier(model, probe, prefix_ids).eval(),
                example,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise InputError(
            f"torch cannot export models of the type {model.config.model_type!r} to ONNX",
            where="--to onnx",
            hint="Export with --to transformers.",
        ) from error
    assert program is not None
    _forget_origins(program.model)
    program.save(target / ONNX)
    AutoTokenizer.from_pretrained(source, local_files_only=True).backend_tokenizer.save(str(target / TOKENIZER))


def _forget_origins(model: Any) -> None:
    """Remove the source locations of nodes, which contain paths of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages for its developers."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
