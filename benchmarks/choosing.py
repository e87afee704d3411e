"""Which rule chooses best among tuned prompts on few dev rows? What ``racing.py`` tuned, judged on rows that no cell has seen.

    python benchmarks/choosing.py --data FOLDER --out RACING_OUT [--rows 300] [--model NAME] [--most N]

Each cell of ``racing.py`` chose one prompt and one adapter on dev. Here every set, size and seed has what its cells chose as
its candidates, the tuned seed prompt first, and each rule picks one of them by the same dev rows. The picks are judged on
further rows of the set's train file; no test row is read. A family whose folder is gone is passed over. Rules:

    metric          the best metric, ties by the log-loss
    loss            the least log-loss
    tied            the best metric; of those within a standard error of it, the least log-loss
    metric_se       the seed prompt, but where another's metric is better by more than a standard error of the difference
    loss_se         the same by the log-loss
    both_se         where another is better by more than a standard error in the one and no worse in the other
    seed            the seed prompt

Prints one JSON object: for each rule the mean accuracy and log-loss over families, and what it gives more than ``metric``, with
standard errors over families. What was measured is kept in RACING_OUT/choosing.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cells import add_result, open_context, read_results, task_of
from cotune.config import config_from_data
from cotune.config.task import Task
from cotune.cycle.answer_search.trial import measure
from cotune.cycle.journal import read_journal
from cotune.evaluate.packing import pack_rows, unpack_rows
from cotune.model.engine.score_cache import ScoreCache
from cotune.model.loading.by_name import open_model
from cotune.model.local import LocalModel
from cotune.prompt.bank import bare_prompt, seed_prompt
from cotune.prompt.prompt import Prompt
from cotune.task.example import Example
from measure import say

JUDGED = "choosing.jsonl"

Candidate = dict[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """What a cell chose on dev; ``correct`` are the dev rows that it got right, packed."""

    cell: str
    prompt: Prompt
    adapter: str
    steps: int
    correct: str


def candidates_of(folder: Path, task: Task) -> list[Chosen]:
    """What the cells of a family chose, the seed prompt's first, none twice."""
    found: dict[tuple[str, str], Chosen] = {}
    cells = sorted(
        (path.name for path in folder.iterdir() if (path / "journal.jsonl").is_file()), key=lambda name: name != "seed"
    )
    for cell in cells:
        prompts = {prompt.id: prompt for prompt in (seed_prompt(task), bare_prompt(task))}
        tuned = []
        for event in read_journal(folder / cell / "journal.jsonl"):
            if event["kind"] == "pool":
                drawn = (Prompt.from_json(proposal["prompt"]) for proposal in event["value"]["proposals"])
                prompts |= {prompt.id: prompt for prompt in drawn}
            elif event["kind"] == "tuned":
                tuned.append(event["value"])
        if tuned:
            best = max(tuned, key=lambda value: (value["score"], -value["log_loss"]))
            name = best["prompt_id"], best["adapter_id"]
            found.setdefault(name, Chosen(cell, prompts[name[0]], name[1], best["steps"], best["correct"]))
    return list(found.values())


def judge_family(model: LocalModel, task: Task, seed: int, folder: Path, rows: Sequence[Example]) -> list[Candidate]:
    """Every candidate of a family on dev and on rows that no cell has seen.

    Raises:
        SystemExit: dev is not what the cells had.
    """
    with tempfile.TemporaryDirectory() as journal:
        context = open_context(task, model, Path(journal), folder, seed)
        found = []
        for chosen in candidates_of(folder, task):
            prompt, adapter = chosen.prompt, chosen.adapter
            model.adapters.register(folder / "adapters" / adapter)
            dev = measure(context, prompt, adapter, chosen.steps, "choose")
            if pack_rows(dev.evaluation.correct) != chosen.correct:
                raise SystemExit(f"{folder}: on dev {chosen.cell} does not get right what it got right when it was chosen")
            judged = context.answers.judge(
                context.answers.scores(prompt, adapter, rows, "choose"), rows, dev.candidate.decision
            )
            found.append(
                {
                    "cell": chosen.cell,
                    "seed_prompt": prompt.id == seed_prompt(task).id,
                    "dev": chosen.correct,
                    "dev_losses": [round(float(loss), 4) for loss in dev.evaluation.log_losses],
                    "score": round(judged.score, 4),
                    "log_loss": round(judged.log_loss, 4),
                }
            )
    return found


def unseen_rows(data: Path, cell: dict[str, Any], task: Task, count: int) -> tuple[Example, ...]:
    """Rows of the train file that are not among the labelled ones, nor say what they say."""
    source = str(data / cell["set"] / "train.jsonl")
    drawn = config_from_data(source, input="input", output="output", overrides=["limit.dev=1"], seed=1000 + cell["seed"])
    everyone = Task.from_config(drawn).train
    known = {_words(row) for row in (*task.train, *task.dev)}
    order = np.random.default_rng([cell["seed"], 50]).permutation(len(everyone))
    fresh = (everyone[i] for i in order if _words(everyone[i]) not in known and everyone[i].output in task.labels)
    return tuple(row for row, _ in zip(fresh, range(count), strict=False))


def _words(row: Example) -> str:
    return " ".join(" ".join(row.fields.values()).lower().split())


# Rules ----------------------------------------------------------------------------------------------------------------


def _error(one: Floats, other: Floats) -> float:
    """Standard error of a mean paired difference."""
    return float(np.std(other - one, ddof=1) / np.sqrt(len(one)))


def _by_metric(correct: Floats, losses: Floats) -> int:
    return max(range(len(correct)), key=lambda i: (correct[i].mean(), -losses[i].mean()))


def _by_loss(correct: Floats, losses: Floats) -> int:
    return int(np.argmin(losses.mean(axis=1)))


def _tied(correct: Floats, losses: Floats) -> int:
    best = _by_metric(correct, losses)
    ahead = correct[best].mean() - correct.mean(axis=1)
    tied = [i for i in range(len(correct)) if ahead[i] <= _error(correct[i], correct[best])]
    return min(tied, key=lambda i: losses[i].mean())


def _metric_se(correct: Floats, losses: Floats) -> int:
    best = _by_metric(correct, losses)
    return best if correct[best].mean() - correct[0].mean() > _error(correct[0], correct[best]) else 0


def _loss_se(correct: Floats, losses: Floats) -> int:
    best = _by_loss(correct, losses)
    return best if losses[0].mean() - losses[best].mean() > _error(losses[0], losses[best]) else 0


def _both_se(correct: Floats, losses: Floats) -> int:
    best = _by_metric(correct, losses)
    ahead, less = correct[best].mean() - correct[0].mean(), losses[0].mean() - losses[best].mean()
    clear = ahead > _error(correct[0], correct[best]) or less > _error(losses[0], losses[best])
    return best if clear and ahead >= 0 and less >= 0 else 0


RULES: dict[str, Callable[[Floats, Floats], int]] = {
    "metric": _by_metric,
    "loss": _by_loss,
    "tied": _tied,
    "metric_se": _metric_se,
    "loss_se": _loss_se,
    "both_se": _both_se,
    "seed": lambda correct, losses: 0,
}


def choose(candidates: Sequence[Candidate], rule: str) -> Candidate:
    """What a rule picks; the tuned seed prompt stands first."""
    correct = np.stack([unpack_rows(c["dev"]) for c in candidates]).astype(np.float64)
    losses = np.array([c["dev_losses"] for c in candidates], dtype=np.float64)
    return candidates[RULES[rule](correct, losses)]


def summary(families: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each set and size, and over all, what each rule gives."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for family in families:
        groups.setdefault(f"{family['set']}, {family['rows']} rows", []).append(family)
    return {name: _rules(members) for name, members in (*groups.items(), ("all", list(families)))}


def _rules(families: Sequence[dict[str, Any]]) -> dict[str, Any]:
    picks = {rule: [choose(family["candidates"], rule) for family in families] for rule in RULES}
    table = {rule: np.array([(c["score"], c["log_loss"]) for c in chosen]) for rule, chosen in picks.items()}
    found: dict[str, Any] = {"families": len(families)}
    for rule, values in table.items():
        more = values - table["metric"]
        errors = more.std(axis=0, ddof=1) / np.sqrt(len(more)) if len(more) > 1 else np.zeros(2)
        found[rule] = {
            "score": round(float(values[:, 0].mean()), 4),
            "log_loss": round(float(values[:, 1].mean()), 4),
            "score_more": [round(float(more[:, 0].mean()), 4), round(float(errors[0]), 4)],
            "log_loss_more": [round(float(more[:, 1].mean()), 4), round(float(errors[1]), 4)],
            "seed_prompts": sum(bool(c["seed_prompt"]) for c in picks[rule]),
        }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the families that are missing and print what the rules give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, nargs="+", required=True, help="where racing.py wrote")
    parser.add_argument("--rows", type=int, default=300, help="rows that judge")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--max-tokens", type=int, default=1024, help="as in racing.py")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--most", type=int, default=10**6, help="families that this call judges at most")
    given = parser.parse_args(arguments)
    families, left, model = [], given.most, None
    for out in given.out:
        done = {json.dumps(family["family"]): family for family in read_results(out, JUDGED)}
        for cell in read_results(out):
            name = [cell["set"], cell["rows"], cell["seed"]]
            folder = out / "work" / "-".join(map(str, name))
            if cell["cell"] != "seed" or not folder.is_dir() or (json.dumps(name) not in done and left <= 0):
                continue
            if (found := done.get(json.dumps(name))) is None:
                left -= 1
                if model is None:
                    model = open_model(given.model, device=given.device, dtype=given.dtype).with_max_tokens(given.max_tokens)
                model.cache = ScoreCache(out / "scores.sqlite")
                sizes = cell["n"]
                task = task_of(given.data, *name, sizes["test"], sizes["dev"])
                rows = unseen_rows(given.data, cell, task, given.rows)
                say(f"{folder.name}: {len(rows)} rows")
                keys = {"set": name[0], "rows": name[1], "seed": name[2], "n": len(rows)}
                found = {"family": name, **keys, "candidates": judge_family(model, task, cell["seed"], folder, rows)}
                add_result(out, found, JUDGED)
            families.append(found)
    if not families:
        say("there is no family to judge: run racing.py first")
        return 1
    print(json.dumps(summary(families), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
