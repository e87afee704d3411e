"""What rows gain that a teacher writes for the labels which a probe confuses most: frozen probes with and without them.

    python benchmarks/written_rows.py --data FOLDER [--set trec6] [--rows 64] [--draws 2] [--teacher URL --model NAME]

All rows are drawn from the train file: 64 of them are labelled, 600 judge, no test row is looked at. As in a run with
``teacher.write``, the seed prompt's cross-fitted probe tells which labels are confused, the teacher writes, and what repeats a
row is refused. Then the probe is fitted to all labelled rows, and to these and the written ones. ``teacher`` is the endpoint
that is named. ``real`` is a teacher without fault: a server in this process, which answers with rows of the train file that
nobody has seen, and with their right labels, so that it tells what such rows can gain at best. ``random`` are as many unseen
rows, whatever their labels. Prints one JSON object: by teacher and draw the rows kept and refused, accuracy and log-loss
``without`` and ``having`` written rows on the rows that judge, held-out log-loss of both on the labelled rows, as a run sees
it, whether the run would learn from them (``used``), and a few of the rows.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from cells import open_context, task_of
from cotune.config import RunConfig, config_from_data
from cotune.cycle.context import RunContext
from cotune.cycle.probe_search.fits import PromptFit, fit_prompt
from cotune.cycle.probe_search.policy import parts_of
from cotune.cycle.probe_search.splits import Split, labelled_rows, splits_of
from cotune.cycle.probe_search.trial import Trials
from cotune.cycle.teaching.write import with_written, write_rows
from cotune.cycle.teaching.writing import ROWS, Draft
from cotune.evaluate.responses import label_indices
from cotune.model.hardware.machine import processor_name
from cotune.model.loading.by_name import open_model
from cotune.model.local import LocalModel
from cotune.probe.cross_fitting import tempered
from cotune.prompt.bank import seed_prompt
from cotune.task.example import Example
from cotune.task.task import Task
from measure import say

_LABEL = re.compile(r'^Rows of ("(?:[^"\\]|\\.)*"):$', re.MULTILINE)


@contextmanager
def real_rows(rows: Sequence[Example], task: Task) -> Iterator[str]:
    """Serves rows that nobody has seen, each once, as a teacher's answers; yields the base URL."""
    left = list(rows)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = []
            for label in map(json.loads, _LABEL.findall(body["messages"][-1]["content"])):
                for row in [row for row in left if row.output == label][: ROWS // 2]:
                    left.remove(row)
                    said.append({**row.fields, task.output_field: label})
            text = json.dumps({"rows": said})
            answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def judged(context: RunContext, trials: Trials, fit: PromptFit, splits: Sequence[Split]) -> tuple[float, float]:
    """Accuracy and log-loss of a prompt's frozen probe on what is held out from each split."""
    tables = [trials.log_probs(trials.frozen(fit, split.learn), split.held, "judge") for split in splits]
    table = np.concatenate(tables)
    truth = label_indices([row for split in splits for row in split.held], context.task)
    losses = -tempered(table, fit.found.temperature)[np.arange(len(truth)), truth]
    return round(float((table.argmax(axis=1) == truth).mean()), 4), round(float(losses.mean()), 4)


def measured(
    task: Task,
    judge: Sequence[Example],
    model: LocalModel,
    config: RunConfig,
    out: Path,
    given: Sequence[Example] | None = None,
) -> dict[str, Any]:
    """One draw with one teacher, or with rows that are ``given`` instead."""
    context = open_context(task, model, out, out, config.seed)
    embedding, trials, _ = parts_of(context, config)
    rows, prompt = labelled_rows(context), seed_prompt(task)
    fit = fit_prompt(context, prompt, rows, embedding.states(prompt, "base", rows, "race"), embedding.layers)
    splits = splits_of(context)
    drafts = tuple(Draft(row, ()) for row in given) if given is not None else write_rows(context, config, fit, splits)
    value = next((event["value"] for event in context.journal.events if event["kind"] == "written_rows"), {})
    told = {name: value[name] for name in ("asked", "refused", "tokens", "seconds", "failed", "skipped") if name in value}
    told["kept"] = len(drafts)
    whole = [Split(rows, tuple(judge))]
    for name, written in (("without", ()), ("having", drafts)):
        accuracy, loss = judged(context, trials, fit, with_written(whole, written))
        held = judged(context, trials, fit, with_written(splits, written))[1]
        told[name] = {"accuracy": accuracy, "log_loss": loss, "held_out_log_loss": held}
    told["used"] = bool(drafts) and told["having"]["held_out_log_loss"] < told["without"]["held_out_log_loss"]
    told["rows"] = [[*draft.row.fields.values(), draft.row.output] for draft in drafts][:8]
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each draw with each teacher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the classification sets")
    parser.add_argument("--set", default="trec6")
    parser.add_argument("--base", default="smollm2-135m", help="the model that is probed")
    parser.add_argument("--teacher", help="base URL of an endpoint")
    parser.add_argument("--model", default="writer", help="its model's name there")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--judge", type=int, default=600)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--write", type=float, default=1.0)
    given = parser.parse_args(arguments)
    model = open_model(given.base)
    found: dict[str, Any] = {}
    for draw in range(given.draws):
        # All of them labelled, so that those which judge and those of the faultless teacher come from the same file.
        everyone = labelled_of(given.data, given.set, draw)
        judge, unseen = everyone[: given.judge], everyone[given.judge : given.judge + 1500]
        task = task_of(given.data, given.set, given.rows, draw, 20)
        mine = {row.text for row in (*task.train, *task.dev)}
        judge, unseen = ([row for row in part if row.text not in mine] for part in (judge, unseen))
        with real_rows(unseen, task) as real:
            for name, url in (("real", real), ("random", real), ("teacher", given.teacher)):
                if url is None:
                    continue
                others = unseen[-int(given.write * len(task.train)) :] if name == "random" else None
                settings = [f"teacher.base_url={url}", f"teacher.model={given.model}", f"teacher.write={given.write}"]
                settings += ["teacher.concurrency=1", "teacher.timeout=300"]
                config = config_from_data("rows.csv", input="input", output="output", overrides=settings, seed=draw)
                with tempfile.TemporaryDirectory() as folder:
                    told = measured(task, judge, model, config, Path(folder), others)
                say(f"{name}, draw {draw}: {told}")
                found.setdefault(name, []).append(told)
    print(json.dumps({**found, "machine": processor_name()}, indent=1))
    return 0


def labelled_of(data: Path, name: str, seed: int) -> tuple[Example, ...]:
    """2,500 rows of a set's train file, drawn by the seed."""
    task = task_of(data, name, 2500, seed + 1000, 20, 1)
    rows = (*task.train, *task.dev)
    return tuple(rows[i] for i in np.random.default_rng([seed, 3]).permutation(len(rows)))


if __name__ == "__main__":
    sys.exit(main())
