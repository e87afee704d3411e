"""Requests a second of ``cotune serve`` against a server that calls ``generate`` for each request, on the same bundle.

    python benchmarks/serving.py --data FOLDER [--bundle BUNDLE] [--clients 16] [--requests 192] [--rounds 3] [--quick]

Both servers run at once, and take turns round by round, so that the idle one costs nothing and a slow moment of the machine
does not strike one of them alone. Every client sends its next request when it has the answer to the last. Without a bundle one
is made of the base model and a written prompt. Prints one JSON object to stdout, progress to stderr; ``ratio`` is the median
over rounds. Exit code 1 where a request failed or an answer of ``cotune serve`` is not the one of ``cotune predict``.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from cotune.bundle import load, save_bundle
from cotune.bundle.load import base_of
from cotune.bundle.manifest import read_manifest
from cotune.errors import CotuneError, InputError
from cotune.evaluate.decision import RAW
from cotune.model.engine.settings import EngineSettings
from cotune.model.hardware.capability import Capability, check_capability
from cotune.model.loading.bundled import resolve_model
from cotune.model.local import LocalModel
from cotune.task.values.output import label_output
from measure import machine_facts, say
from workloads import read_rows, scoring_work

_WAIT_S = 600


@dataclass
class Round:
    """What a round of requests showed.

    Attributes:
        seconds: from the first request to the last answer.
        answers: by place of the text; None where the request failed.
        latencies: seconds of each request.
    """

    seconds: float
    answers: list[str | None]
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.answers) / self.seconds


def run_round(url: str, model: str, texts: Sequence[str], clients: int) -> Round:
    """Send every text as a chat, so many at once."""
    answers: list[str | None] = [None] * len(texts)
    latencies = [0.0] * len(texts)
    places = iter(range(len(texts)))
    lock = threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=_WAIT_S)
        while True:
            with lock:
                place = next(places, None)
            if place is None:
                connection.close()
                return
            body = json.dumps({"model": model, "messages": [{"role": "user", "content": texts[place]}]})
            began = time.perf_counter()
            try:
                connection.request("POST", "/v1/chat/completions", body)
                reply = connection.getresponse()
                found = json.loads(reply.read())
                if reply.status == 200:
                    answers[place] = found["choices"][0]["message"]["content"]
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                say(f"  a request failed: {type(error).__name__}")
                connection.close()
            latencies[place] = time.perf_counter() - began

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Round(time.perf_counter() - began, answers, latencies)


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A server as a process; what it prints once it is ready."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise CotuneError(f"the server did not start: {' '.join(command[:4])}")
            yield json.loads(line)
        finally:
            process.terminate()


def made_bundle(folder: Path, data: Path, model: str, found: Capability) -> Path:
    """A bundle of the base model with a prompt of about 60 fixed tokens."""
    base = resolve_model(model, say)
    local = LocalModel.load(base, settings=EngineSettings(found.device, found.dtype, found.threads), name=model)
    rows, labels = read_rows(data / "trec6", 8)
    return save_bundle(
        folder,
        task_name="trec6",
        input_fields=("input",),
        output_field="output",
        output=label_output(labels),
        metric="accuracy",
        prompt=scoring_work(local, rows, labels, 60).prompt,
        decision=RAW,
        adapter_folder=None,
        model=local,
        metrics={},
        model_name=str(base),
    )


def compare(bundle: Path, texts: Sequence[str], given: argparse.Namespace, found: Capability) -> dict[str, Any]:
    """Both servers, round by round."""
    say("loading the bundle for the answers to compare with")
    predictor = load(bundle, dtype=found.dtype, threads=found.threads)
    if len(predictor.input_fields) != 1:
        raise InputError("the bundle's task has several input fields", where=str(bundle), hint="Give one with one field.")
    expected = predictor.predict(list(texts))
    base = resolve_model(base_of(read_manifest(bundle)))
    kind = ["--dtype", found.dtype]
    here = Path(__file__).parent
    naive = [sys.executable, str(here / "naive_server.py"), str(bundle), "--base", str(base), "--threads", str(found.threads)]
    serve = [sys.executable, "-m", "cotune.cli", "serve", str(bundle), "--port", "0", "--json"]
    rounds: dict[str, list[Round]] = {"cotune": [], "naive": []}
    with started([*serve, *kind]) as ours, started([*naive, *kind]) as theirs:
        servers = {"cotune": (ours["url"], ours["models"][0]), "naive": (theirs["url"], "any")}
        for name, (url, model) in servers.items():
            say(f"warming {name} up")
            run_round(url, model, texts[: given.clients], given.clients)
        for number in range(given.rounds):
            for name, (url, model) in servers.items():
                done = run_round(url, model, texts, given.clients)
                rounds[name].append(done)
                say(f"round {number + 1}, {name}: {done.rate:.1f} requests/s")
    ratios = [a.rate / b.rate for a, b in zip(rounds["cotune"], rounds["naive"], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "clients": given.clients,
        "requests": len(texts),
        "dtype": found.dtype,
        "threads": found.threads,
        **{name: _told(done, expected) for name, done in rounds.items()},
        "machine": machine_facts(predictor.model),
    }


def _told(rounds: Sequence[Round], expected: Sequence[str]) -> dict[str, Any]:
    latencies = sorted(latency for each in rounds for latency in each.latencies)
    pairs = [pair for each in rounds for pair in zip(each.answers, expected, strict=True)]
    return {
        "requests_per_s": round(statistics.median(each.rate for each in rounds), 2),
        "latency_s": {"p50": round(latencies[len(latencies) // 2], 4), "p95": round(latencies[int(len(latencies) * 0.95)], 4)},
        "failed": sum(answer is None for answer, _ in pairs),
        "other_than_predict": sum(answer is not None and answer != wanted for answer, wanted in pairs),
        "answers": len(pairs),
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds trec6/")
    parser.add_argument("--bundle", type=Path, help="a bundle of one input field; without it one of the base model is made")
    parser.add_argument("--model", default="smollm2-135m", help="base model of the made bundle (smollm2-135m)")
    parser.add_argument("--clients", type=int, default=16, help="requests at once (16)")
    parser.add_argument("--requests", type=int, default=192, help="requests in a round (192)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each server (3)")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16; the same for both")
    parser.add_argument("--quick", action="store_true", help="few requests: shows that it works, not how fast it is")
    given = parser.parse_args(arguments)
    if min(given.clients, given.requests, given.rounds) < 1:
        parser.error("--clients, --requests and --rounds must be 1 or more")
    if given.quick:
        given.clients, given.requests, given.rounds = min(given.clients, 4), min(given.requests, 12), 1
    begun = time.perf_counter()
    try:
        with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
            found = check_capability("auto", given.dtype, None)
            rows, _ = read_rows(given.data / "trec6", given.requests)
            bundle = given.bundle or made_bundle(Path(folder) / "bundle", given.data, given.model, found)
            report = compare(bundle, [row["input"] for row in rows], given, found)
            report |= {"seconds": round(time.perf_counter() - begun, 1)}
    except CotuneError as error:
        say(f"error: {error}")
        return 2
    print(json.dumps(report, indent=1))
    return int(report["cotune"]["failed"] > 0 or report["cotune"]["other_than_predict"] > 0)


if __name__ == "__main__":
    sys.exit(main())
