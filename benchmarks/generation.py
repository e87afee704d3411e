"""How fast answers are written: the engine's decoder against Hugging Face ``generate`` at its own best batch size.

    python benchmarks/generation.py --data FOLDER [--repeats 3] [--quick] [--model NAME] [--dtype TYPE]

Commands of FOLDER/snips behind a prompt of 100 shared tokens. Answers are as long as the gold ones, as a tuned model's would
be: both sides write greedily and are cut at the same length a row (``generation_vs_transformers``), or all at the longest
(``generation_vs_transformers_equal_lengths``: nothing is gained by rows that leave early). Prints one JSON object to stdout,
progress to stderr. Ratios are seconds of ``generate`` over the engine's, medians of interleaved runs, from token ids to token
ids, the engine with the run of its prefix. Exit code 1 where, in fp32, the two do not write the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch

from cotune.errors import CotuneError, InputError
from cotune.model.adapters.slots import BASE
from cotune.model.base import GREEDY
from cotune.model.engine.attention import use_plain_attention
from cotune.model.engine.decoder import Decoder, slots_in_memory
from cotune.model.engine.sampling import Chooser
from cotune.model.engine.settings import EngineSettings
from cotune.model.hardware.capability import check_capability
from cotune.model.hardware.machine import device_memory
from cotune.model.layers.packed_weights import plain_products
from cotune.model.loading.bundled import resolve_model
from cotune.model.local import LocalModel
from cotune.model.structured.grammar import Grammar
from cotune.model.structured.token_grammar import TokenGrammar
from cotune.prompt.render import shared_prefix
from cotune.task.values.json_value import json_text
from cotune.task.values.output import Output
from measure import best_of, interleaved, machine_facts, say, summary
from workloads import scoring_work

KEYS = ("generation_vs_transformers", "generation_vs_transformers_equal_lengths", "mask_microseconds")
SAME = 0.95
# In fp32 two tokens can be as likely as each other up to rounding, so not every answer need be the same to its end.

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """How much a run does.

    Attributes:
        rows: that are answered.
        trial_rows: on which ``generate`` finds its best batch size.
        batch_sizes: that are tried.
        longest: tokens of an answer at most.
    """

    rows: int = 96
    trial_rows: int = 64
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    longest: int = 64


QUICK = Sizes(8, 4, (2, 4), 6)


@dataclass(frozen=True)
class Work:
    """Prompts, and how many tokens each answer gets."""

    prompts: list[Ids]
    lengths: list[int]
    prefix: int
    gold: list[str]


def read_work(local: LocalModel, folder: Path, sizes: Sizes) -> Work:
    """A seeded draw of commands, with their gold answers' lengths.

    Raises:
        InputError: ``train.jsonl`` is missing or is not what it should be.
    """
    try:
        rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").split("\n") if line.strip()]
        pairs = [({"input": str(row["input"])}, str(row["output"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the benchmark's data cannot be read ({error})",
            where=str(folder),
            hint='It takes train.jsonl with the keys "input" and "output" in each line.',
        ) from error
    order = np.random.default_rng(0).permutation(len(pairs))[: sizes.rows]
    chosen, gold = [pairs[i][0] for i in order], [pairs[i][1] for i in order]
    prompt = scoring_work(local, chosen, ("yes", "no"), 100).prompt
    rendered = local.renderer.render_answers(prompt, chosen, gold)
    prompts = [row.prompt_ids for row in rendered]
    return Work(prompts, [min(sizes.longest, len(row.completions[0])) for row in rendered], shared_prefix(prompts), gold)


def by_transformers(local: LocalModel, work: Work, places: Sequence[int], batch_rows: int) -> dict[int, list[int]]:
    """Greedy answers by ``generate`` in left-padded batches of prompts of like length."""
    use_plain_attention(local.model)
    order = sorted(places, key=lambda place: len(work.prompts[place]))
    written: dict[int, list[int]] = {}
    for start in range(0, len(order), batch_rows):
        part = order[start : start + batch_rows]
        longest = max(len(work.prompts[i]) for i in part)
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for line, i in enumerate(part):
            ids[line, longest - len(work.prompts[i]) :] = torch.tensor(work.prompts[i])
            mask[line, longest - len(work.prompts[i]) :] = 1
        ends = torch.tensor([longest + work.lengths[i] for i in part], device=local.runner.device)

        def finished(found: torch.Tensor, _: Any, ends: torch.Tensor = ends) -> torch.Tensor:
            return ends <= found.shape[1]

        with torch.inference_mode(), plain_products(local.model):
            out = local.model.generate(
                ids.to(local.runner.device),
                attention_mask=mask.to(local.runner.device),
                max_new_tokens=max(work.lengths[i] for i in part),
                do_sample=False,
                eos_token_id=[local.runner.vocabulary + 1],
                pad_token_id=0,
                stopping_criteria=[finished],
            )
        for line, i in enumerate(part):
            written[i] = out[line, longest : longest + work.lengths[i]].tolist()
    return written


def by_engine(local: LocalModel, work: Work) -> dict[int, list[int]]:
    """The same by the engine, its prefix run anew."""
    local._prefixes.clear()
    local.adapters.use(BASE)
    chooser = Chooser({local.runner.vocabulary + 1}, GREEDY, None)
    answers = [chooser.start(ids, length) for ids, length in zip(work.prompts, work.lengths, strict=True)]
    suffixes = [ids[work.prefix :] for ids in work.prompts]
    slots = slots_in_memory(
        local.model.config.get_text_config(),
        next(local.model.parameters()).element_size(),
        max(map(len, suffixes)) + max(work.lengths),
        device_memory(local.settings.device) // 8,
    )
    with torch.inference_mode():
        prefix = local.prefix_state(BASE, work.prompts[0][: work.prefix])
        passes = local.settings.batch_tokens
        Decoder(local.runner, prefix, suffixes, answers, chooser, slots=slots, pass_tokens=passes).run()
    return {i: answer.ids for i, answer in enumerate(answers)}


def compare(local: LocalModel, work: Work, sizes: Sizes, repeats: int) -> tuple[float, dict[str, Any]]:
    """How many times as long ``generate`` takes, and the facts behind it."""
    places = list(range(len(work.prompts)))
    trial = places[: sizes.trial_rows]
    by_transformers(local, work, trial[:2], 2)
    name, trials = best_of(
        {str(size): (lambda size=size: by_transformers(local, work, trial, size)) for size in sizes.batch_sizes},
        local.runner.device,
    )
    kept: dict[str, dict[int, list[int]]] = {}
    by_engine(local, work)
    seconds = interleaved(
        {
            "engine": lambda: kept.update(engine=by_engine(local, work)),
            "baseline": lambda: kept.update(baseline=by_transformers(local, work, places, int(name))),
        },
        repeats,
        local.runner.device,
    )
    same = [kept["engine"][i] == kept["baseline"][i] for i in places]
    middle = {side: statistics.median(values) for side, values in seconds.items()}
    return middle["baseline"] / middle["engine"], {
        "prefix": work.prefix,
        "rows": len(places),
        "prompt_tokens": round(statistics.mean(map(len, work.prompts)), 2),
        "answer_tokens": round(statistics.mean(work.lengths), 2),
        "longest_answer": max(work.lengths),
        "baseline_batch_rows": int(name),
        "baseline_trials": trials,
        "engine": summary(seconds["engine"]),
        "baseline": summary(seconds["baseline"]),
        "engine_tokens_per_second": round(sum(work.lengths) / middle["engine"], 1),
        "baseline_tokens_per_second": round(sum(work.lengths) / middle["baseline"], 1),
        "same_answers": round(float(np.mean(same)), 4),
    }


def mask_time(local: LocalModel, work: Work) -> tuple[float, dict[str, Any]]:
    """Median microseconds in which a grammar says what may come next and takes a token in, along gold answers."""
    values = [json.loads(text) for text in work.gold]
    slots = sorted({name for value in values for name in value["slots"]})
    named = {name: {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]} for name in slots}
    schema = {
        "type": "object",
        "properties": {
            "intent": {"enum": sorted({value["intent"] for value in values})},
            "slots": {"type": "object", "properties": named},
        },
        "required": ["intent", "slots"],
    }
    output = Output("json", schema_text=json_text(schema))
    held = TokenGrammar(Grammar.json(schema), local.token_table, lead="", limit=1000)
    seconds = []
    for text in work.gold:
        walk = held.start()
        for token in local.token_table.encode(output.canonical(text).encode()) or ():
            start = time.perf_counter()
            walk.allowed(local.stop_ids)
            walk.push(token)
            seconds.append(time.perf_counter() - start)
    found = [1e6 * value for value in seconds]
    return statistics.median(found), {"tokens": len(found), "worst": round(max(found), 1), "slots": len(slots)}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds snips/")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of both sides (3)")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, not how fast it is")
    parser.add_argument("--model", default="smollm2-135m", help="bundled model, folder or hub id (smollm2-135m)")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, or auto for what is faster here (auto)")
    given = parser.parse_args(arguments)
    if given.repeats < 1:
        parser.error("--repeats must be 1 or more")
    start = time.perf_counter()
    sizes = QUICK if given.quick else Sizes()
    results: dict[str, float] = {}
    details: dict[str, Any] = {}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = check_capability("auto", given.dtype)
            local = LocalModel.load(
                resolve_model(given.model, say), settings=EngineSettings(found.device, found.dtype, found.threads)
            )
            if not local.shared:
                raise InputError("the shared-prefix engine does not fit this model", where=given.model)
            machine = machine_facts(local)
            work = read_work(local, given.data / "snips", sizes)
            equal = Work(work.prompts, [max(work.lengths)] * len(work.lengths), work.prefix, work.gold)
            for key, one in zip(KEYS[:2], (work, equal), strict=True):
                say(f"{key} ...")
                results[key], details[key] = compare(local, one, sizes, given.repeats)
                say(f"  {results[key]:.4g}")
            results[KEYS[2]], details[KEYS[2]] = mask_time(local, work)
    except CotuneError as error:
        say(f"error: {error}")
        return 2
    same = min(details[key]["same_answers"] for key in KEYS[:2])
    report = {
        **{key: float(f"{results[key]:.5g}") for key in KEYS},
        "same_answers": same,
        "machine": machine,
        "repeats": given.repeats,
        "quick": given.quick,
        "details": details,
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(report, indent=1))
    if found.dtype == "float32" and same < SAME:
        say(f"error: {1 - same:.0%} of the answers differ from those of transformers in fp32")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
