"""A request for answers in free text, for numbers or JSON: cut into parts, answered from the cache or by the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from cotune.errors import DivergedError, InputError
from cotune.files import content_hash
from cotune.model.choosing import Answer, Chooser
from cotune.model.decoder import Decoder, slots_in_memory
from cotune.model.engine_facts import engine_facts
from cotune.model.generations import Generations, Sampling
from cotune.model.grammar import Grammar
from cotune.model.machine import device_memory, give_back_memory, out_of_memory
from cotune.model.plain_generation import plain_generate
from cotune.model.protocol import Progress
from cotune.model.token_grammar import TokenGrammar
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import shared_prefix

if TYPE_CHECKING:
    from cotune.model.local import LocalModel

# Rows whose answers are kept together: a killed run loses no more.
_PART = 256
# Of all memory, what the keys and values of rows in flight may take.
_SHARE_OF_MEMORY = 0.125


def generate(
    model: LocalModel,
    prompt: Prompt,
    rows: Sequence[Mapping[str, str]],
    *,
    adapter: str,
    limit: int,
    grammar: Grammar | None,
    sampling: Sampling,
    progress: Progress | None,
) -> Generations:
    """See :meth:`cotune.model.local.LocalModel.generate`."""
    if limit < 1:
        raise InputError("an answer needs at least one token", where="limit", mend="Give 1 or more.")
    if sampling.temperature < 0 or not np.isfinite(sampling.temperature) or sampling.seed < 0:
        raise InputError("temperature and seed must be 0 or more", where="sampling")
    rendered = model.renderer.render_answers(prompt, rows, None)
    if not rendered:
        return Generations((), (), ())
    prompts = [row.prompt_ids for row in rendered]
    longest = model.longest_sequence
    if longest is not None and max(map(len, prompts)) + limit > longest:
        raise InputError(
            f"a prompt of {max(map(len, prompts))} tokens and an answer of {limit} are more than the model's {longest}",
            where="limit",
            mend="Lower the limit or engine.max_tokens.",
        )
    lead = model.renderer.lead(prompt, tuple(rows[0]))
    held = None
    if grammar is not None:
        held = TokenGrammar(grammar, model.token_table, lead=lead, limit=limit)
    chooser = Chooser(model.stop_ids, sampling, held, ahead=model.shared)
    if not model.shared and model.adapters.trained_prefix(adapter) is not None:
        raise InputError("answers are not written behind a trained prefix on this architecture", mend="Use tune.method=lora.")
    answers: dict[int, Answer] = {}
    tokens = cached = plain = 0
    for covered, group in model.by_coverage(adapter, prompts):
        shared = prompts[group[0]][: shared_prefix([prompts[i] for i in group])] if model.shared else ()
        prefix = model.kept_prefix(adapter, shared, covered)
        own = len(prefix) - covered
        tokens += own
        for start in range(0, len(group), _PART):
            places = group[start : start + _PART]
            part = [prompts[i] for i in places]
            key = content_hash(
                {
                    "model": model.fingerprint,
                    "adapter": adapter,
                    "prefix": prefix,
                    "suffixes": [ids[len(prefix) :] for ids in part],
                    "decoding": [limit, sampling.temperature, sampling.seed, sorted(chooser.stops)],
                    "grammar": None if grammar is None else [grammar.key, lead],
                    **engine_facts(model),
                },
                40,
            )
            found = model.cache.get(key) if model.cache else None
            told = 0
            if found is not None:
                done, cost = _unpack(found[0]), found[1]
                cached += len(part)
            else:
                try:
                    done, cost, told = _write(model, adapter, prefix, part, limit, chooser, progress)
                except DivergedError as error:
                    raise DivergedError(f"generation with prompt {prompt.id} and adapter {adapter}: {error}") from error
                if model.cache:
                    model.cache.put(key, _pack(done), cost)
            answers.update(zip(places, done, strict=True))
            tokens += cost
            plain += sum(len(ids) + answer.fed for ids, answer in zip(part, done, strict=True))
            if progress and cost > told:
                progress(cost - told)
    written = [answers[i] for i in range(len(prompts))]
    return Generations(
        tuple(model.renderer.read(a.ids, lead) if held is None else held.read(a.ids) for a in written),
        tuple(tuple(answer.ids) for answer in written),
        tuple(answer.ended for answer in written),
        tokens=tokens,
        tokens_saved=max(0, plain - tokens),
        truncated=sum(row.truncated for row in rendered),
        cached=cached,
    )


def _write(
    model: LocalModel,
    adapter: str,
    prefix_ids: tuple[int, ...],
    prompts: Sequence[tuple[int, ...]],
    limit: int,
    chooser: Chooser,
    progress: Progress | None,
) -> tuple[list[Answer], int, int]:
    """Answers to a part of a request, the tokens run, the prefix aside, and how many of them ``progress`` was told."""
    model.adapters.use(adapter)
    if not model.shared:
        answers = [chooser.start(ids, limit) for ids in prompts]
        return answers, plain_generate(model.model, prompts, answers, chooser), 0
    suffixes = [ids[len(prefix_ids) :] for ids in prompts]
    slots = slots_in_memory(
        model.model.config.get_text_config(),
        next(model.model.parameters()).element_size(),
        max(map(len, suffixes)) + limit,
        int(_SHARE_OF_MEMORY * device_memory(model.runner.device)),
    )
    told: list[int] = []
    tell = _telling(progress, told)
    while True:
        answers = [chooser.start(ids, limit) for ids in prompts]
        try:
            with torch.inference_mode():
                prefix = model.prefix_state(adapter, prefix_ids)
                decoder = Decoder(
                    model.runner,
                    prefix,
                    suffixes,
                    answers,
                    chooser,
                    slots=slots,
                    pass_tokens=model.settings.batch_tokens,
                    progress=tell,
                )
                decoder.run()
            return answers, decoder.tokens, sum(told)
        except RuntimeError as error:
            if not out_of_memory(error) or slots == 1:
                raise
        give_back_memory(model.runner.device)
        slots = max(1, min(slots, len(prompts)) // 2)
        # What ran in vain is not told twice.
        tell = None


def _telling(progress: Progress | None, told: list[int]) -> Progress | None:
    if progress is None:
        return None

    def tell(tokens: int) -> None:
        told.append(tokens)
        progress(tokens)

    return tell


def _pack(answers: Sequence[Answer]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """As numbers: whether it ended, how many of its tokens were read, then the ids, padded by -1."""
    longest = max(len(answer.ids) for answer in answers)
    table = np.full((len(answers), 2 + longest), -1.0)
    for line, answer in zip(table, answers, strict=True):
        line[:2] = answer.ended, answer.fed
        line[2 : 2 + len(answer.ids)] = answer.ids
    return table


def _unpack(table: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[Answer]:
    answers = []
    for ended, fed, *ids in table.tolist():
        kept = [int(token) for token in ids if token >= 0]
        answers.append(Answer(len(kept), ids=kept, ended=bool(ended), done=True, fed=int(fed)))
    return answers
