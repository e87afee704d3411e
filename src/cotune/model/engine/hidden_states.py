"""Hidden states of token sequences; their common prefix runs once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotune.files import content_hash
from cotune.model.adapters.files import BASE
from cotune.model.base import Progress
from cotune.model.engine.engine import Engine
from cotune.model.engine.fallback import plain_layer_states, plain_states
from cotune.model.engine.plan import cut_by_length, plan_pass
from cotune.prompt.reads import Read, by_words, counts, first_read, moved
from cotune.prompt.render import shared_prefix


def last_states(
    model: Engine,
    sequences: Sequence[Sequence[int]],
    layers: Sequence[int | None],
    *,
    adapter: str,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """``[layers, rows, width]``; see :meth:`cotune.model.local.LocalModel.last_states`, which returns one layer."""
    result = np.empty((len(layers), len(sequences), model.model.config.get_text_config().hidden_size), dtype=np.float32)
    if not sequences:
        return result
    length = shared_prefix(sequences) if model.shared else 0
    model.adapters.use(adapter)
    with torch.inference_mode():
        prefix = model.runner.prefix(sequences[0][:length])
        for part, suffixes in _passes(model, sequences, length, progress):
            if model.shared:
                plan = plan_pass(suffixes, prefix=length, device=model.model.device)
                hidden = model.runner.states(plan, prefix, layers)
            else:
                hidden = plain_states(model.model, suffixes, layers)
            ends = torch.tensor([len(s) for s in suffixes]).cumsum(0) - 1
            result[:, part] = hidden[:, ends.to(hidden.device)].float().cpu().numpy()
    return result


def layer_states(
    model: Engine,
    sequences: Sequence[Sequence[int]],
    layers: Sequence[int],
    *,
    reads: Sequence[Read] | None = None,
    adapter: str = BASE,
    progress: Progress | None = None,
    shared: int | None = None,
) -> NDArray[np.float32]:
    """Hidden state at the last token of each id sequence after each of several layers, ``[layers, rows, width]``.

    With ``reads`` of whole rows the mean of the states from there to the end is appended, ``[layers, rows, 2 x width]``; with
    ``reads`` of words the result is ``[layers, words, width]``, one row after the other.

    States are divided by their root mean square, so that a model cut at a layer with a final norm of unit weight gives the
    same. One pass serves all layers and ends after the highest; a common beginning runs once.

    Args:
        sequences: token ids, at least one each.
        layers: each from 1 to the model's depth.
        reads: what is read of each sequence, see :mod:`cotune.prompt.reads`; None reads only the last token.
        progress: called with the number of tokens that run; those whose lower layers are known count in part.
        shared: number of tokens that run once for all sequences; None takes the longest prefix that they share. Give it if the
            sequences are only a part of a request.
    """
    width = model.model.config.get_text_config().hidden_size * (1 if reads is None or by_words(reads) else 2)
    ends = np.cumsum(states_a_row := counts(reads, len(sequences)))
    result = np.empty((len(layers), sum(states_a_row), width), dtype=np.float32)
    # Outside inference mode: weights created in it could not be trained later.
    model.adapters.use(adapter)
    if not sequences:
        return result
    frozen = model.adapters.frozen_layers(adapter)
    length = shared_prefix(sequences) if model.shared else 0
    if reads is not None:
        # Tokens whose mean is taken must run with their row.
        length = min(length, first_read(reads))
    if shared is not None:
        length = min(length, shared)
    with torch.inference_mode():
        prefix = model.runner.prefix(sequences[0][:length], depth=max(layers))
        for part, suffixes in _passes(model, sequences, length, progress, max(layers)):
            own = None if reads is None else [moved(reads[i], length) for i in part]
            if model.shared:
                plan = plan_pass(suffixes, prefix=length, merge=[len(s) for s in suffixes], device=model.model.device)
                states = model.runner.layer_states(plan, prefix, layers, own, frozen=frozen)
            else:
                states = plain_layer_states(model.model, suffixes, layers, own)
            places = np.concatenate([np.arange(ends[i] - states_a_row[i], ends[i]) for i in part])
            result[:, places] = states.cpu().numpy()
    return result


def _passes(
    model: Engine, sequences: Sequence[Sequence[int]], length: int, progress: Progress | None, depth: int | None = None
) -> Iterator[tuple[list[int], list[Sequence[int]]]]:
    """Indices and own tokens of each pass, behind ``length`` shared tokens, which have just run; reports progress.

    Passes for probes run ``depth`` layers, or fewer if the lower ones are known.
    """
    if progress and length:
        progress(length)
    own = [len(s) - length for s in sequences]
    for part in cut_by_length(range(len(sequences)), own.__getitem__, model.settings.batch_tokens):
        suffixes = [sequences[i][length:] for i in part]
        yield part, suffixes
        if progress:
            known = model.runner.edges.began / depth if depth else 0.0
            progress(round((1 - known) * sum(map(len, suffixes))))


def passes_of(sequences: Sequence[Sequence[int]], reads: Sequence[Read], limit: int) -> tuple[int, list[list[int]]]:
    """The passes of :func:`layer_states` for a request: number of tokens that run once, and the indices of each pass.

    A pass that is run alone, with the same number of shared tokens, gives bitwise identical results. ``limit`` is the maximum
    number of own tokens in a pass.
    """
    length = min(shared_prefix(sequences), first_read(reads))
    own = [len(ids) - length for ids in sequences]
    return length, [list(part) for part in cut_by_length(range(len(sequences)), own.__getitem__, limit)]


def states_key(
    model: Engine, sequences: Sequence[Sequence[int]], layers: Sequence[int], *, reads: Sequence[Read] | None, adapter: str
) -> str:
    """Key of the states of sequences in a :class:`cotune.model.engine.state_store.StateStore`: all that could change them.

    Arguments as in :func:`layer_states`.
    """
    asked = {"model": model.fingerprint, "adapter": adapter, "ids": sequences, "reads": reads, "layers": layers}
    return content_hash({**asked, **model.facts()}, 32)
