"""Requests for generated answers (text, numbers or JSON): split into parts, answered from the cache or by the engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cotune.errors import DivergedError, InputError
from cotune.model.adapters.files import BASE
from cotune.model.base import GREEDY, AnswerLosses, Generations, Progress, Sampling
from cotune.model.engine.decoder import Decoder, slots_in_memory
from cotune.model.engine.engine import Engine
from cotune.model.engine.fallback import plain_generate
from cotune.model.engine.sampling import Answer, Chooser
from cotune.model.hardware.allocator import return_freed_memory
from cotune.model.hardware.machine import device_memory, halve_until_it_fits
from cotune.model.structured.grammar import Grammar
from cotune.model.structured.token_grammar import TokenGrammar
from cotune.prompt.prompt import Prompt

# Number of rows whose answers are cached together; a killed run loses at most these.
_PART = 256
# Number of rows whose keys and values take so much memory that the freed memory of other passes is returned first.
_MANY = 32
# Share of memory for the keys and values of the rows that run at once.
_SHARE_OF_MEMORY = 0.125
# Upper limit on a CPU: 153 rows at once took 108 s and 3.3 GiB for what 256 at once did in 103 s and 4.7 GiB.
_ENOUGH = 1 << 30


def generate(
    model: Engine,
    prompt: Prompt,
    rows: Sequence[Mapping[str, str]],
    *,
    adapter: str = BASE,
    limit: int,
    grammar: Grammar | None = None,
    sampling: Sampling = GREEDY,
    progress: Progress | None = None,
    references: Sequence[str] | None = None,
) -> Generations:
    """Generate an answer to each row.

    Args:
        rows: input fields of each row.
        limit: maximum number of tokens of an answer, including the stop token.
        grammar: constraint on answers; every answer then belongs to it, even if the limit ends it.
        sampling: greedy, or a temperature and a seed.
        progress: called with the tokens of each finished part.
        references: reference answers whose likelihood is computed in the same passes, so that prompts run once for both.

    Raises:
        InputError: prompt and limit exceed the model's positions, the grammar allows no answer in ``limit`` tokens or does not
            support this tokenizer, or ``references`` is given without the shared-prefix engine.
        DivergedError: a logit is not a number or infinite.
    """
    _check_request(model, limit, sampling, reads_references=references is not None)
    rendered = model.renderer.render_answers(prompt, rows, references)
    if not rendered:
        return Generations((), (), ())
    prompts = [row.prompt_ids for row in rendered]
    model.check_positions(rendered, limit)
    lead = model.renderer.lead(prompt, tuple(rows[0]))
    held = None
    if grammar is not None:
        held = TokenGrammar(grammar, model.token_table, lead=lead, limit=limit)
    chooser = Chooser(model.stop_ids, sampling, held, ahead=model.shared)
    written: list[Answer] = []
    losses = np.zeros(len(rendered))
    entering = 0.0
    prefix = model.request_prefix(adapter, prompts)
    tokens, cached, plain = len(prefix), 0, 0
    for start in range(0, len(prompts), _PART):
        part = prompts[start : start + _PART]
        right = None if references is None else [row.completions[0] for row in rendered[start : start + _PART]]
        key = model.request_key(
            adapter,
            prefix,
            [ids[len(prefix) :] for ids in part],
            decoding=[limit, sampling.temperature, sampling.seed, sorted(chooser.stops)],
            grammar=None if grammar is None else [grammar.key, lead],
            references=right,
        )
        hit = model.cache.get(key) if model.cache else None
        if hit is not None:
            done = _unpack(hit[0], hit[1])
            cached += len(part)
            if progress:
                progress(done.tokens)
        else:
            try:
                done = _write(model, adapter, prefix, part, limit, chooser, progress, right)
            except DivergedError as error:
                raise DivergedError(f"generation with prompt {prompt.id} and adapter {adapter}: {error}") from error
            if model.cache:
                model.cache.put(key, _pack(done), done.tokens)
        written += done.answers
        losses[start : start + _PART] = done.losses
        tokens += done.tokens
        entering += done.entering_s
        plain += sum(len(ids) + answer.fed for ids, answer in zip(part, done.answers, strict=True))
        plain += sum(len(ids) - 1 for ids in right or ())
    lengths = np.array([len(row.completions[0]) if references is not None else 0 for row in rendered], dtype=np.int64)
    return Generations(
        tuple(model.renderer.read(a.ids, lead) if held is None else held.read(a.ids) for a in written),
        tuple(tuple(answer.ids) for answer in written),
        tuple(answer.ended for answer in written),
        tokens=tokens,
        tokens_saved=max(0, plain - tokens),
        truncated=sum(row.truncated for row in rendered),
        cached=cached,
        reference_losses=None if references is None else AnswerLosses(losses, lengths),
        entering_s=entering,
        written=sum(answer.fed for answer in written),
    )


def _check_request(model: Engine, limit: int, sampling: Sampling, *, reads_references: bool) -> None:
    if limit < 1:
        raise InputError("an answer needs at least one token", where="limit", hint="Give 1 or more.")
    if sampling.temperature < 0 or not np.isfinite(sampling.temperature) or sampling.seed < 0:
        raise InputError("temperature and seed must be 0 or more", where="sampling")
    if reads_references and not model.shared:
        raise InputError("losses of right answers need the shared-prefix engine during generation", hint="Use answer_losses.")


@dataclass(frozen=True)
class _Part:
    """Results of a part of a request.

    Attributes:
        losses: losses of the right answers; zeros if none were given.
        tokens: number of tokens processed, without the prefix.
        entering_s: seconds spent on prompts, their shared prefix and right answers.
    """

    answers: list[Answer]
    losses: NDArray[np.float64]
    tokens: int
    entering_s: float = 0.0


def _write(
    model: Engine,
    adapter: str,
    prefix_ids: tuple[int, ...],
    prompts: Sequence[tuple[int, ...]],
    limit: int,
    chooser: Chooser,
    progress: Progress | None,
    references: Sequence[Sequence[int]] | None,
) -> _Part:
    """Generate the answers to a part of a request."""
    model.adapters.use(adapter)
    if not model.shared:
        answers = [chooser.start(ids, limit) for ids in prompts]
        tokens = plain_generate(model.model, prompts, answers, chooser)
        if progress:
            progress(tokens)
        return _Part(answers, np.zeros(len(answers)), tokens)
    suffixes = [ids[len(prefix_ids) :] for ids in prompts]
    slots = slots_in_memory(
        model.model.config.get_text_config(),
        next(model.model.parameters()).element_size(),
        max(map(len, suffixes)) + limit,
        room_for_rows(model.runner.device, device_memory(model.runner.device)),
    )
    if len(prompts) >= _MANY:
        return_freed_memory()
    reported = 0

    def generate(slots: int) -> _Part:
        answers = [chooser.start(ids, limit) for ids in prompts]
        ran = 0

        def tell(tokens: int) -> None:
            nonlocal ran, reported
            ran += tokens
            # The tokens of a failed attempt are not reported again by the next one.
            if progress and ran > reported:
                progress(ran - reported)
                reported = ran

        started = time.perf_counter()
        with torch.inference_mode():
            prefix = model.prefix_state(adapter, prefix_ids)
            prefix_s = time.perf_counter() - started
            decoder = Decoder(
                model.runner,
                prefix,
                suffixes,
                answers,
                chooser,
                slots=slots,
                pass_tokens=model.settings.batch_tokens,
                progress=tell,
                references=references,
            )
            decoder.run()
        if not np.isfinite(decoder.losses).all():
            raise DivergedError("losses of right answers are not finite")
        return _Part(answers, decoder.losses, decoder.tokens, prefix_s + decoder.entering_s)

    return halve_until_it_fits(generate, min(slots, len(prompts)), model.runner.device)


def room_for_rows(device: torch.device | str, memory: int) -> int:
    """Bytes of a device's memory for the keys and values of the rows that run at once."""
    room = int(_SHARE_OF_MEMORY * memory)
    return min(room, _ENOUGH) if torch.device(device).type == "cpu" else room


def _pack(part: _Part) -> NDArray[np.float64]:
    """An answer as numbers for the cache: ended, tokens read, loss of the right answer, then the ids, padded by -1."""
    longest = max(len(answer.ids) for answer in part.answers)
    table = np.full((len(part.answers), 3 + longest), -1.0)
    for line, answer, loss in zip(table, part.answers, part.losses, strict=True):
        line[:3] = answer.ended, answer.fed, loss
        line[3 : 3 + len(answer.ids)] = answer.ids
    return table


def _unpack(table: NDArray[np.float64], tokens: int) -> _Part:
    answers = []
    for ended, fed, _, *ids in table.tolist():
        kept = [int(token) for token in ids if token >= 0]
        answers.append(Answer(len(kept), ids=kept, ended=bool(ended), done=True, fed=int(fed)))
    return _Part(answers, table[:, 2], tokens)
