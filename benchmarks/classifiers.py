"""Rows a second of a bundle's exported classifiers beside ``cotune predict``, and whether they give the same labels.

    python benchmarks/classifiers.py --bundle BUNDLE --data FILE [--rows 200] [--single 20] [--repeats 5] [--batch-size 32]
                                     [--threads 1] [--work FOLDER] [--base FOLDER]

``predict``: the bundle in float32. ``onnx``: ``cotune export --to onnx`` through its ``classify.py``. ``onnx_int8``: the same
after onnxruntime's dynamic quantisation of all layers' matrices to 8 bits; ``onnx_int8_partly``: of all but those that read the
widest states, the second ones of the feed-forward parts. ``transformers``: ``cotune export --to transformers`` through its
``pipeline.py``, in float32. Each answers all rows in one call, and then the first ``--single`` rows in a call
each; rounds go A B C D A B C D, and a ratio is one within a round. Exports lie in ``--work``; those of the same bundle are
taken from there. Needs the extra ``onnx``. Prints one JSON object to stdout, progress to stderr; shares with 95% Wilson
intervals. Exit code 1 where a classifier in float32 gives another label.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cotune.bundle import Predictor, load
from cotune.bundle.export.command import EXAMPLE, Target, export_bundle
from cotune.bundle.export.probe import ONNX
from cotune.errors import CotuneError, InputError
from cotune.evaluate.stats.intervals import wilson
from measure import interleaved, machine_facts, say, summary

INT8, PARTLY = "model-int8.onnx", "model-int8-partly.onnx"
FORMS: tuple[Target, ...] = ("onnx", "transformers")

Rows = list[dict[str, str]]
Answerer = Callable[[Rows], list[str]]


def exported(bundle: Path, bundle_id: str, form: Target, work: Path, base: Path | None) -> Path:
    """The folder of an export, written where it is not there yet."""
    out = work / form
    if out.is_dir() and json.loads((out / EXAMPLE).read_text(encoding="utf-8"))["bundle"] == bundle_id:
        return out
    say(f"Exporting to {form}.")
    return export_bundle(bundle, out, form, base=base)


def quantise(folder: Path) -> None:
    """Write a folder's model with matrices of 8 bits beside it, all of them and all but the widest."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(folder / ONNX).graph
    widths = {each.name: each.dims[0] for each in graph.initializer if len(each.dims) == 2}
    products = {node.name: widths[node.input[1]] for node in graph.node if node.op_type == "MatMul" and node.input[1] in widths}
    widest = [name for name, width in products.items() if width == max(products.values())]
    for name, spared in ((INT8, []), (PARTLY, widest)):
        if not (folder / name).is_file():
            say(f"Writing {name}.")
            quantize_dynamic(
                folder / ONNX,
                folder / name,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=spared,
            )


def answerers(predictor: Predictor, folders: Mapping[Target, Path], batch_size: int, threads: int) -> dict[str, Answerer]:
    """Each way to answer rows, by name."""
    from cotune.bundle.export.classify import RowClassifier
    from cotune.bundle.export.classify import load as load_graph

    def by_graph(classify: RowClassifier) -> Answerer:
        return lambda rows: [each["label"] for each in classify(rows, batch_size)]

    spec = importlib.util.spec_from_file_location("pipeline", folders["transformers"] / "pipeline.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pipe = module.load()
    return {
        "predict": lambda rows: [str(answer) for answer in predictor.predict(rows)],
        "onnx": by_graph(load_graph(folders["onnx"], threads=threads)),
        "onnx_int8": by_graph(load_graph(folders["onnx"], model=INT8, threads=threads)),
        "onnx_int8_partly": by_graph(load_graph(folders["onnx"], model=PARTLY, threads=threads)),
        "transformers": lambda rows: [each["label"] for each in pipe(rows, batch_size=batch_size)],
    }


def timed(works: dict[str, Callable[[], object]], rows: int, repeats: int) -> dict[str, Any]:
    """Seconds of each way, rows a second at the median, and the ratio to ``predict`` in the same round."""
    seconds = interleaved(works, repeats, torch.device("cpu"))
    found = {}
    for name, runs in seconds.items():
        ratios = [base / own for base, own in zip(seconds["predict"], runs, strict=True)]
        found[name] = {
            "rows_per_s": round(rows / statistics.median(runs), 2),
            "against_predict": {
                "median": round(statistics.median(ratios), 3),
                "least": round(min(ratios), 3),
                "most": round(max(ratios), 3),
            },
            "seconds": summary(runs),
        }
    return found


def compare(ways: dict[str, Answerer], rows: Rows, single: int, repeats: int) -> dict[str, Any]:
    """Same labels, and speeds in one call and row by row."""
    told = {name: answer(rows) for name, answer in ways.items()}
    same = {name: sum(map(str.__eq__, told["predict"], said)) for name, said in told.items() if name != "predict"}
    say("Timing all rows in one call.")
    together = timed({name: partial(answer, rows) for name, answer in ways.items()}, len(rows), repeats)
    say("Timing a call a row.")
    few = rows[:single]
    alone = timed({name: partial(row_by_row, answer, few) for name, answer in ways.items()}, len(few), repeats)
    return {
        "same_label": {name: {"rows": count, **share(count, len(rows))} for name, count in same.items()},
        "one_call": together,
        "a_call_a_row": alone,
    }


def row_by_row(answer: Answerer, rows: Rows) -> None:
    """A call a row."""
    for row in rows:
        answer([row])


def share(count: int, n: int) -> dict[str, Any]:
    """A share and its interval."""
    interval = wilson(count, n)
    return {"share": round(count / n, 4), "ci": [round(interval.low, 4), round(interval.high, 4)]}


def read_rows(path: Path, fields: Sequence[str], count: int) -> Rows:
    """The first rows of a file of JSON lines."""
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")[:count]
    return [{name: str(row[name]) for name in fields} for row in map(json.loads, lines)]


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with the bundle's input fields")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--single", type=int, default=20, help="rows that are answered in a call each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where the exports lie; None throws them away")
    parser.add_argument("--base", type=Path, help="folder of the base model, where it moved")
    given = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as aside:
            predictor = load(given.bundle, device="cpu", dtype="float32", threads=given.threads, base=given.base)
            rows = read_rows(given.data, predictor.input_fields, given.rows)
            if not rows:
                raise InputError("the file holds no rows", where=str(given.data), hint="Give rows as JSON lines.")
            work, bundle_id = given.work or Path(aside), predictor.bundle_id
            folders = {form: exported(given.bundle, bundle_id, form, work, given.base) for form in FORMS}
            quantise(folders["onnx"])
            rendered = predictor.model.renderer.render(predictor.prompt, rows, predictor.labels)
            tokens = {"prompt": rendered[0].start, "mean": round(statistics.mean(len(row.prompt_ids) for row in rendered), 1)}
            ways = answerers(
                predictor, {str(form): folder for form, folder in folders.items()}, given.batch_size, given.threads
            )
            found = compare(ways, rows, given.single, given.repeats)
            bytes_of = {name: (folders["onnx"] / name).stat().st_size for name in (ONNX, INT8, PARTLY)}
    except (CotuneError, OSError, KeyError) as error:
        say(f"classifiers: {error}")
        return 2
    about = {"bundle": bundle_id, "rows": len(rows), "tokens": tokens, "batch_size": given.batch_size, "bytes": bytes_of}
    versions = {name: version(name) for name in ("onnxruntime", "onnxscript")}
    print(json.dumps({**about, **found, **versions, "machine": machine_facts(predictor.model)}))  # type: ignore[arg-type]
    return 0 if all(found["same_label"][form]["rows"] == len(rows) for form in FORMS) else 1


if __name__ == "__main__":
    sys.exit(main())
