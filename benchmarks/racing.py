"""Does racing through tuning pay? Ways to spend the same tokens on prompts and weights, compared on the same test rows.

    python benchmarks/racing.py --data FOLDER --out FOLDER [--sets trec6 sms_spam] [--rows 64 500] [--seeds 0 1 2]
        [--cells ...] [--steps 64] [--dev N] [--test 250] [--device cpu] [--most N]

A cell is one way, on one set, with one number of labelled rows and one seed. All cells of a set, a size and a seed have the
same rows and the same tokens for everything up to the decision (embedding, scoring and training count alike): as many as
``--steps`` optimizer steps of the seed prompt take. Everything is decided on dev; the test is opened once a cell, for what it
chose and for the same weights under eight wordings that no cell tunes on or races. The ways:

    seed        tune the seed prompt
    winner      race prompts on the base model, tune the best
    race        race, tune three of them (seed, bare input, best) a little each, tune on the best of these
    cycles      as race, with a second cycle: mutate, race under the tuned weights, tune the challenger against the winner
    shown       tune the seed prompt with demonstrations in it
    shown_steps the same for as many steps as ``seed`` takes: more tokens
    nearest_steps
                tune the seed prompt with those train rows in it that lie nearest to each row, for as many steps
    untuned     the seed prompt on the base model
    shown_untuned, nearest_untuned
                the same with demonstrations

Checks on dev are paid from the tokens, so many labelled rows need more ``--steps``, or fewer ``--dev`` rows. A way whose tokens
end before the first step hands in its prompt untuned. None meets a train row more than eight times, as in a run by default, and
what it then has left it leaves.

Every finished cell is a line of OUT/results.jsonl; a cell that was killed goes on where it was. ``racing_table.py`` reads them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cells import add_result, by_row, open_context, read_results, task_of
from cotune.cycle.answer_search.trial import open_trial
from cotune.cycle.budget.budget import Budget
from cotune.cycle.candidate import Candidate
from cotune.evaluate.decision import RAW
from cotune.evaluate.packing import pack_rows
from cotune.files import content_hash
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.loading.by_name import open_model
from cotune.model.local import LocalModel
from cotune.prompt.bank import seed_prompt, starting_bank
from cotune.prompt.prompt import Prompt
from cotune.task.task import Task
from measure import say
from racing_ways import POOL, WAYS, Bench

WORDINGS = 8


def wordings(task: Task) -> list[Prompt]:
    """Eight ways to ask that no pool holds: the end of the bank, in words for the labels that all cells learn."""
    words = seed_prompt(task).label_words
    bank = {p.id: p for p in (prompt.edit(label_words=words) for prompt in starting_bank(task)[POOL:])}
    return list(bank.values())[-WORDINGS:]


def run_cell(model: LocalModel, task: Task, cell: dict[str, Any], out: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One cell: decide on dev, then open the test once."""
    started = time.monotonic()
    family = out / "work" / f"{cell['set']}-{cell['rows']}-{cell['seed']}"
    folder = family / cell["cell"]
    folder.mkdir(parents=True, exist_ok=True)
    # Weights are shared by the cells of a family: a run's checkpoint goes by its content, whoever trains it.
    context = open_context(task, model, folder, family, cell["seed"])
    bench = Bench(context, task, cell["seed"], given.steps)
    context.spending.costs.budget = Budget("tokens", given.steps * open_trial(context, bench.asked).run.tokens_per_step)
    chosen = WAYS[cell["cell"]](bench)
    decided = dict(context.spending.account.counts)
    candidate = chosen.candidate
    asked = [Candidate(prompt, candidate.adapter, RAW) for prompt in wordings(task)]
    opened = task.test.open({"arm": candidate.id, **{f"wording {i}": c.id for i, c in enumerate(asked)}})
    rows = opened.examples_for(candidate.id)
    judged = context.answers.judge(
        context.answers.scores(candidate.prompt, candidate.adapter, rows, "test"), rows, candidate.decision
    )
    some = np.random.default_rng([cell["seed"], 30]).permutation(len(rows))[: given.wording_rows]
    part = [opened.examples_for(asked[0].id)[i] for i in sorted(some)]
    other = [
        context.answers.judge(context.answers.scores(c.prompt, c.adapter, part, "wording"), part, c.decision) for c in asked
    ]
    return {
        **cell,
        "steps_paid": given.steps,
        "budget": round(context.spending.budget.amount),
        "tokens": sum(decided[name] for name in ("tokens_scored", "tokens_trained", "tokens_embedded")),
        "tokens_trained": decided["tokens_trained"],
        "n": {"train": len(task.train), "dev": len(task.dev), "test": len(rows), "wording_rows": len(part)},
        "steps": candidate.steps,
        "prompt": candidate.prompt.text,
        "demonstrations": candidate.prompt.nearest or len(candidate.prompt.demonstrations),
        "decision": candidate.decision.kind,
        "dev": round(chosen.evaluation.score, 4),
        "test": round(judged.score, 4),
        "log_loss": round(judged.log_loss, 4),
        **by_row(rows, judged),
        "wording_row_ids": [content_hash(list(row.fields.values()), 8) for row in part],
        "wordings": [pack_rows(found.correct) for found in other],
        "wording_scores": [round(float(found.correct.mean()), 4) for found in other],
        "seconds": round(time.monotonic() - started, 1),
    }


def wanted_cells(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """In the order in which they are run: a whole set and size first, seed by seed."""
    for name in given.sets:
        for rows in given.rows:
            for seed in given.seeds:
                for cell in given.cells:
                    yield {"set": name, "rows": rows, "seed": seed, "cell": cell}


def _name(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[key] for key in ("set", "rows", "seed", "cell"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="results, and what is needed to go on")
    parser.add_argument("--sets", nargs="+", default=["trec6", "sms_spam"])
    parser.add_argument("--rows", nargs="+", type=int, default=[64])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--steps", type=int, default=64, help="the budget, in optimizer steps of the seed prompt")
    parser.add_argument("--test", type=int, default=250, help="test rows")
    parser.add_argument("--dev", type=int, help="labelled rows to choose on; 30%% of them where not given")
    parser.add_argument("--wording-rows", type=int, default=40, help="test rows under each other wording")
    parser.add_argument("--max-tokens", type=int, default=1024, help="longest prompt; longer rows lose their end")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--most", type=int, default=10**6, help="cells that this call runs at most")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    done = {_name(cell) for cell in read_results(given.out)}
    missing = [cell for cell in wanted_cells(given) if _name(cell) not in done]
    if not missing:
        say("nothing is missing")
        return 0
    model = open_model(given.model, device=given.device, dtype=given.dtype).with_max_tokens(given.max_tokens)
    model.cache = ScoreCache(given.out / "scores.sqlite")
    for cell in missing[: given.most]:
        task = task_of(given.data, cell["set"], cell["rows"], cell["seed"], given.test, given.dev)
        found = run_cell(model, task, cell, given.out, given)
        found |= {"device": model.settings.device, "dtype": model.settings.dtype}
        add_result(given.out, found)
        keys = ("set", "rows", "seed", "cell", "steps", "tokens", "dev", "test", "log_loss", "seconds")
        say(" ".join(f"{key}={found[key]}" for key in keys))
        left = [c for c in missing if _name(c)[:3] == _name(cell)[:3]]
        if cell == left[-1]:
            shutil.rmtree(given.out / "work" / "-".join(map(str, _name(cell)[:3])) / "checkpoints", ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
