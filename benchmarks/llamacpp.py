"""How many rows get the same label from a bundle and, through its GGUF export, from llama.cpp.

    python benchmarks/llamacpp.py --bundle BUNDLE --data FILE [--rows 200] [--form gguf] [--model FILE.gguf] [--base FOLDER]
                                  [--server llama-server]

The bundle is exported, and llama.cpp reads the text as rendered. ``scored``: llama.cpp's log-probabilities of the labels, raw
argmax, against the bundle's raw argmax; ``decided``: both with the bundle's decision rule; ``request``: what the exported
request generates, greedily under its grammar and bias, against the bundle's answer. ``--model`` takes another GGUF file of the
same base model below the exported adapter. Of a bundle that answers by a probe, nothing but ``probe`` is told: what the
exported probe says of the states of llama.cpp's own server (``--server``), against the bundle's answer. Needs the extra
``llama``, or for a probe the server alone. Prints one JSON object to stdout, progress to stderr; shares with 95% Wilson
intervals. Exit code 1 where fewer than 98% of the labels scored, or told by the probe, are the same.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotune.bundle import Predictor, load
from cotune.bundle.export.command import export_bundle
from cotune.bundle.export.probe import batch_of
from cotune.bundle.manifest import read_manifest
from cotune.errors import CotuneError, InputError
from cotune.evaluate.stats.intervals import wilson
from cotune.model.engine.trie import label_paths
from cotune.probe.readout import Probe
from cotune.prompt.render import RenderedRow
from measure import machine_facts, say

LEAST = 0.98


@dataclass
class Through:
    """A GGUF model in llama.cpp.

    Attributes:
        model: a ``llama_cpp.Llama`` that keeps all logits.
    """

    model: Any

    @classmethod
    def load(cls, model: Path, adapter: Path | None, positions: int, threads: int) -> Through:
        """Load the files."""
        try:
            from llama_cpp import Llama
        except ImportError as error:
            raise InputError("llama-cpp-python is not installed", hint="Run pip install '.[llama]' (it compiles).") from error
        return cls(
            Llama(
                str(model),
                lora_path=None if adapter is None else str(adapter),
                n_ctx=positions,
                logits_all=True,
                n_threads=threads,
                n_threads_batch=threads,
                verbose=False,
            )
        )

    def ids(self, text: str) -> tuple[int, ...]:
        """A text's token ids, control tokens read as such."""
        return tuple(self.model.tokenize(text.encode(), add_bos=False, special=True))

    def score(self, row: RenderedRow) -> NDArray[np.float64]:
        """Log-probabilities of the labels. The prompt is run once, and of it only what the row before had not."""
        prompt = list(row.prompt_ids)
        known = self.model.input_ids[: self.model.n_tokens]
        same = 0
        while same < min(len(known), len(prompt) - 1) and known[same] == prompt[same]:
            same += 1
        self._run(same, prompt[same:])
        first = self._log_softmax(len(prompt) - 1)
        paths = label_paths(row.completions)
        found = np.zeros(len(paths))
        for i, ids in enumerate(paths):
            self._run(len(prompt), ids[:-1])
            rest = (self._log_softmax(len(prompt) + place)[token] for place, token in enumerate(ids[1:]))
            found[i] = first[ids[0]] + sum(rest)
        self.model.n_tokens = len(prompt)
        return found

    def answer(self, request: dict[str, Any], text: str) -> str:
        """What the exported request generates for another text."""
        from llama_cpp import LlamaGrammar

        found = self.model.create_completion(
            text,
            max_tokens=request["n_predict"],
            temperature=0,
            grammar=LlamaGrammar.from_string(request["grammar"], verbose=False),
            logit_bias=dict(request.get("logit_bias", ())) or None,
        )
        said: str = found["choices"][0]["text"]
        return said

    def _run(self, start: int, ids: Sequence[int]) -> None:
        self.model.n_tokens = start
        if ids:
            self.model.eval(list(ids))

    def _log_softmax(self, place: int) -> NDArray[np.float64]:
        logits = self.model.scores[place].astype(np.float64)
        shifted = logits - logits.max()
        return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def compare(predictor: Predictor, through: Through, request: dict[str, Any], rows: list[dict[str, Any]], gold: str) -> Any:
    """Ask both for every row."""
    fields = [{name: str(row[name]) for name in predictor.input_fields} for row in rows]
    labels, renderer = predictor.labels, predictor.model.renderer
    lead = renderer.lead(predictor.prompt, predictor.input_fields)
    words = {lead + word: label for label, word in zip(labels, predictor.prompt.words(labels), strict=True)}
    say("Scoring with the bundle.")
    wanted = predictor.scorer.score(predictor.prompt, fields, labels, adapter=predictor.adapter_id).log_probs
    found, said, same_ids = np.zeros_like(wanted), [], 0
    start = time.perf_counter()
    for i, (row, rendered) in enumerate(zip(fields, renderer.render(predictor.prompt, fields, labels), strict=True)):
        text = renderer.text(predictor.prompt, row, labels)
        same_ids += through.ids(text) == rendered.prompt_ids
        found[i] = through.score(rendered)
        said.append(words.get(through.answer(request, text), ""))
        if not (i + 1) % 20:
            say(f"{i + 1} of {len(rows)} rows after {time.perf_counter() - start:.0f} s.")
    decide = predictor.decision.predict
    raw, rule = wanted.argmax(1), np.asarray(decide(wanted))
    near = wanted > wanted.max(axis=1, keepdims=True) - 5
    difference = np.abs(found - wanted)[near]
    right = [str(row[gold]) for row in rows]
    return {
        "rows": len(rows),
        "same_ids": share(same_ids, len(rows)),
        "scored": share(int((found.argmax(1) == raw).sum()), len(rows)),
        "decided": share(int((np.asarray(decide(found)) == rule).sum()), len(rows)),
        "request": share(sum(labels[i] == label for i, label in zip(rule, said, strict=True)), len(rows)),
        "difference": {"mean": round(float(difference.mean()), 4), "most": round(float(difference.max()), 4)},
        "accuracy": {
            "bundle": share(sum(labels[i] == label for i, label in zip(rule, right, strict=True)), len(rows)),
            "llama_cpp": share(sum(map(str.__eq__, said, right)), len(rows)),
        },
    }


def probe_answers(
    server: str, files: Sequence[str], probe: Probe, texts: Sequence[str], positions: int, threads: int
) -> list[str]:
    """What a probe says of the states that llama.cpp's own server tells for some texts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    options = [*batch_of(positions).split(), "--threads", str(threads), "--port", url.rpartition(":")[2]]
    command = [server, *files, "--embeddings", "--pooling", "last", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            for _ in range(300):
                if running.poll() is not None:
                    raise CotuneError(f"{server} ended with status {running.returncode}")
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            else:
                raise CotuneError(f"{server} did not start within a minute")
            states = np.stack([_state(f"{url}/embedding", text) for text in texts])
        finally:
            running.terminate()
    return [probe.labels[i] for i in probe.log_probs(states, probe.labels).argmax(axis=1)]


def _state(url: str, text: str) -> NDArray[np.float32]:
    body = json.dumps({"content": text, "embd_normalize": -1}).encode()
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=120) as told:
        (state,) = json.load(told)[0]["embedding"]
    return np.asarray(state, dtype=np.float32)


def share(count: int, n: int) -> dict[str, Any]:
    """A share and its interval."""
    interval = wilson(count, n)
    return {"share": round(count / n, 4), "ci": [round(interval.low, 4), round(interval.high, 4)]}


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with the bundle's input fields and its label")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--form", choices=("gguf", "gguf-merged"), default="gguf")
    parser.add_argument("--model", type=Path, help="another GGUF file of the base model")
    parser.add_argument("--base", type=Path, help="folder of the base model, where it moved")
    parser.add_argument("--server", help="llama.cpp's server, for a bundle that answers by a probe")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    try:
        manifest = read_manifest(given.bundle)
        rows = [json.loads(line) for line in given.data.read_text(encoding="utf-8").rstrip("\n").split("\n")[: given.rows]]
        predictor = load(given.bundle, device="cpu", dtype="float32", threads=given.threads, base=given.base)
        probe, asked = predictor.probe, [{name: str(row[name]) for name in predictor.input_fields} for row in rows]
        if probe is not None and not given.server:
            raise InputError("the bundle answers by a probe, whose states a server tells", where="--server", hint="Name it.")
        with tempfile.TemporaryDirectory() as name:
            say("Exporting.")
            out = export_bundle(given.bundle, Path(name) / "out", given.form, base=given.base)
            adapter = next(out.glob("adapter-*.gguf"), None)
            model = given.model or next(path for path in out.glob("*.gguf") if path != adapter)
            if probe is not None:
                say("Asking the server for states.")
                texts = [predictor.model.renderer.text(predictor.prompt, row, predictor.labels) for row in asked]
                files = ["-m", str(model), *([] if adapter is None else ["--lora", str(adapter)])]
                told = probe_answers(given.server, files, probe, texts, manifest.max_tokens, given.threads)
                same = sum(map(str.__eq__, predictor.predict(asked), told))
                found: dict[str, Any] = {"rows": len(rows), "probe": share(same, len(rows))}
            else:
                through = Through.load(model, adapter, manifest.max_tokens + 64, given.threads)
                request = json.loads((out / "request.json").read_text(encoding="utf-8"))
                found = compare(predictor, through, request, rows, manifest.output_field)
    except (CotuneError, OSError, KeyError) as error:
        say(f"llamacpp: {error}")
        return 2
    about = {"bundle": predictor.bundle_id, "form": given.form, "model": given.model and given.model.name}
    versions = {} if probe is not None else {"llama_cpp_python": version("llama-cpp-python")}
    print(json.dumps({**about, **found, **versions, "machine": machine_facts(predictor.model)}))
    return 0 if min(found[name]["share"] for name in ("scored", "probe") if name in found) >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
