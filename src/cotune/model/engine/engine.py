"""The engine that all requests to a local model share: weights, adapters, renderer, kept prefixes and settings."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from cotune.errors import InputError
from cotune.files import content_hash
from cotune.model.adapters.slots import BASE, AdapterSlot
from cotune.model.base import EVERYTHING, SavedModel
from cotune.model.engine.attention import ATTENTION_NAME, use_plain_attention
from cotune.model.engine.prefix_cache import PrefixState, PrefixStates
from cotune.model.engine.runner import PackedRunner, fits
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.engine.settings import ENGINE_VERSION, EngineSettings
from cotune.model.hardware.capability import free_memory
from cotune.model.layers.cut import cuts_fit, through_norm
from cotune.model.layers.fused_layers import make_lean
from cotune.model.layers.packed_weights import prepack
from cotune.model.structured.token_grammar import TokenTable
from cotune.prompt.messages import Chooser
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import UNLIKE, RenderedRow, Renderer, shared_prefix
from cotune.prompt.truncate import Truncation
from cotune.version import __version__

if TYPE_CHECKING:
    from cotune.endpoint import Prices

_log = logging.getLogger(__name__)


class Engine:
    """A loaded causal language model with the state that requests share; :class:`cotune.model.local.LocalModel` adds these.

    Args:
        model: the loaded model, in evaluation mode.
        fingerprint: content hash of the model's files; part of every cache key.
        cache: cache of scores; None for none.
        name: name of the model as the user gave it, for cards and messages.
        shared: whether the shared-prefix engine fits this architecture; None to check.

    Attributes:
        shared: whether the shared-prefix engine fits this architecture; otherwise plain batches are used.
        prepacked: whether frozen weights are prepacked in the processor's own layout.
        prices: None: a local model costs time only.
    """

    capabilities = EVERYTHING
    prices: Prices | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        fingerprint: str,
        settings: EngineSettings | None = None,
        cache: ScoreCache | None = None,
        name: str = "",
        shared: bool | None = None,
    ) -> None:
        self.settings = settings or EngineSettings()
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        self.model = model
        self.name = name
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.cache = cache
        self.renderer = self._new_renderer()
        self.runner = PackedRunner(model)
        make_lean(model)
        free = self.settings.memory_bytes
        self.prepacked = prepack(model, free_memory(self.settings.device) if free is None else free) > 0
        self.adapters = AdapterSlot(model)
        self._prefixes = PrefixStates(self._read_prefix)
        self.shared = fits(model, self.settings.dtype) if shared is None else shared
        if not self.shared:
            _log.warning(
                "the shared-prefix engine does not fit this architecture (%s); plain batches are used, which is slower",
                type(model).__name__,
            )

    @property
    def chooser(self) -> Chooser | None:
        """The renderer's value."""
        return self.renderer.chooser

    @chooser.setter
    def chooser(self, chooser: Chooser | None) -> None:
        self.renderer.chooser = chooser

    def close(self) -> None:
        """Close the cache of scores; the model goes on without it."""
        if self.cache is not None:
            self.cache.close()

    def saved(self, prompt: Prompt, fields: Sequence[str], labels: Sequence[str]) -> SavedModel:
        """Everything that determines a row's token ids, for bundles; see :class:`ModelBackend`."""
        asking = {
            "chat_template": getattr(self.tokenizer, "chat_template", None),
            "stop_id": self.renderer.stop_id,
            "max_tokens": self.renderer.max_tokens,
        }
        shown = {name: f"{{{name}}}" for name in fields}
        return SavedModel(
            asking, self.renderer.text(prompt, shown, labels), self.settings.max_tokens, truncate=self.settings.truncate
        )

    def facts(self) -> dict[str, str | int]:
        """Facts about machine and engine that can change results; part of every cache key."""
        device = self.settings.device
        # Instruction sets differ in the order of sums, so the same threads give slightly different numbers.
        cuda = device.startswith("cuda")
        processor = torch.cuda.get_device_name(torch.device(device)) if cuda else torch.backends.cpu.get_cpu_capability()
        return {
            "device": device,
            "processor": processor,
            "dtype": self.settings.dtype,
            # Not their present number, which may be lower while other programs run: a resumed run must find what it stored.
            "threads": self.settings.threads or torch.get_num_threads(),
            "kernel": ATTENTION_NAME if self.shared else "plain",
            "products": "prepacked" if self.prepacked else "plain",
            "engine": f"{__version__}/{ENGINE_VERSION}/{torch.__version__}",
        }

    def _read_prefix(self, adapter: str, ids: Sequence[int]) -> PrefixState:
        self.adapters.use(adapter)
        probe = self.adapters.probe(adapter)
        return self.runner.prefix(ids, None if probe is None else probe.layer)

    def with_max_tokens(self, max_tokens: int) -> Self:
        """The same loaded model with another limit on the length of prompts; weights, adapters and kept prefixes are shared."""
        return self.with_prompts(max_tokens, self.settings.truncate)

    def with_prompts(self, max_tokens: int, truncate: Truncation) -> Self:
        """Like :meth:`with_max_tokens`, with another way of shortening rows too."""
        other = copy.copy(self)
        other.settings = replace(self.settings, max_tokens=max_tokens, truncate=truncate)
        other.renderer = other._new_renderer()
        other.renderer.chooser = self.renderer.chooser
        return other

    def request_prefix(self, adapter: str, prompts: Sequence[tuple[int, ...]], most: int | None = None) -> tuple[int, ...]:
        """Token ids that run once for all prompts of a request: the longest kept prefix of theirs, else all that they share.

        Empty without the shared-prefix engine. ``most`` is the maximum number of tokens; None for no maximum.
        """
        if not self.shared:
            return ()
        return self._prefixes.longest_kept(adapter, prompts[0][: shared_prefix(prompts)][:most])

    def keep_prefix(self, prompt: Prompt, fields: Sequence[str], labels: Sequence[str], *, adapter: str = BASE) -> int:
        """Run the common beginning of all rows of a prompt and keep its state permanently, for requests of a few rows.

        Otherwise a request's prefix is the common beginning of its own rows (nearly everything for a single row), and only the
        last few prefixes are kept. Returns the length of the prefix in tokens.

        Args:
            fields: names of a row's input fields.
            labels: all labels; none for generated answers.
        """
        if not self.shared:
            return 0
        rows = [dict.fromkeys(fields, text) for text in UNLIKE]
        renderer = self.renderer
        rendered = renderer.render(prompt, rows, labels) if labels else renderer.render_answers(prompt, rows, None)
        sequences = [row.prompt_ids for row in rendered]
        ids = sequences[0][: shared_prefix(sequences)]
        self.adapters.use(adapter)
        with torch.inference_mode():
            self._prefixes.keep(adapter, ids)
        return len(ids)

    def request_key(self, adapter: str, prefix: Sequence[int], suffixes: Sequence[Sequence[int]], **settings: Any) -> str:
        """Cache key of a part of a request: a hash of everything that could change its results.

        ``prefix`` are the token ids that run once, ``suffixes`` each row's own; ``settings`` say what is computed.
        """
        asked = {"model": self.fingerprint, "adapter": adapter, "prefix": prefix, "suffixes": suffixes}
        return content_hash({**asked, **settings, **self.facts()}, 40)

    def prefix_state(self, adapter: str, ids: tuple[int, ...]) -> PrefixState:
        """The state of a prefix under an adapter, up to the layer of its probe; computed if not cached."""
        return self._prefixes.get(adapter, ids)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: those of the chat template, the tokenizer, and the model's generation config."""
        named = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        several = named if isinstance(named, list) else [] if named is None else [named]
        ids = {self.renderer.stop_id, self.tokenizer.eos_token_id, *several} - {None}
        return tuple(sorted(ids))

    @cached_property
    def token_table(self) -> TokenTable:
        """The bytes of the tokenizer's tokens, which grammars need."""
        return TokenTable(getattr(self.tokenizer, "whole", self.tokenizer), self.model.get_output_embeddings().weight.shape[0])

    @property
    def longest_sequence(self) -> int | None:
        """Number of positions of the model; None if its config does not say."""
        limit: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit

    def check_positions(self, rows: Sequence[RenderedRow], limit: int = 0) -> None:
        """Check that the model has positions for prompts with their completions, or with ``limit`` generated tokens.

        Raises:
            InputError: a prompt and an answer are more tokens than the model has positions.
        """
        longest = self.longest_sequence
        for row in rows:
            prompt, answer = len(row.prompt_ids), max([limit, *map(len, row.completions)])
            if longest is not None and prompt + answer > longest:
                raise InputError(
                    f"a prompt of {prompt} tokens and an answer of {answer} are more than the model's {longest} positions",
                    where="engine.max_tokens",
                    hint="Lower it, or leave out rows with such long answers.",
                )

    def _new_renderer(self) -> Renderer:
        wanted = self.settings.max_tokens
        longest = min(wanted, (self.longest_sequence or wanted) - 32)
        return Renderer(self.tokenizer, max_tokens=longest, truncate=self.settings.truncate)

    @property
    def depth(self) -> int:
        return self.runner.depth

    @cached_property
    def reads_layers(self) -> bool:
        """Whether states between the layers can be read; see :func:`cotune.model.layers.cut.cuts_fit`."""
        use_plain_attention(self.model)
        return cuts_fit(self.model)

    @property
    def width(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[1])

    def output_vectors(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """``[tokens, width]`` weights that map a last hidden state, divided by its root mean square, to the tokens' logits.

        They include the scale of the final norm and, if it centres states, the centring, but not its bias or a soft cap on
        logits.
        """
        head = self.model.get_output_embeddings().weight
        with torch.inference_mode():
            rows = through_norm(self.model.get_decoder(), head[torch.tensor(list(tokens), device=head.device)].float())
        vectors: NDArray[np.float32] = (rows * self.runner.logit_scale).cpu().numpy()
        return vectors

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])

    def token_vectors(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Input embeddings of some tokens, ``[tokens, width]``."""
        rows = self.model.get_input_embeddings().weight[torch.from_numpy(tokens).to(self.model.device)]
        vectors: NDArray[np.float32] = rows.detach().float().cpu().numpy()
        return vectors
