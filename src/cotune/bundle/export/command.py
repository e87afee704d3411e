"""Exporting a bundle for transformers, ONNX Runtime, PEFT, vLLM, llama.cpp or MLflow."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from cotune.bundle.export.card import export_card
from cotune.bundle.export.check import check_classifier, check_graph, check_weights
from cotune.bundle.export.gguf import GgufExport
from cotune.bundle.export.mlflow_folder import export_mlflow
from cotune.bundle.export.probe import CLASSIFY, PIPELINE, TEMPLATE, ProbePage, probe_of, write_template
from cotune.bundle.export.request import REQUEST, SCHEMA, Asking
from cotune.bundle.export.weights import copy_model, cut, merge, write_classifier
from cotune.bundle.load import load, resolve_base, resolve_bundle
from cotune.bundle.manifest import ADAPTER, DECISION, PROMPT, read_manifest
from cotune.bundle.place import atomic_folder
from cotune.bundle.predictor import Predictor
from cotune.errors import InputError
from cotune.files import write_json, write_text
from cotune.probe.readout import PROBE
from cotune.prompt.prompt import held_rows

if TYPE_CHECKING:
    from cotune.model.local import LocalModel

Target = Literal["transformers", "onnx", "peft", "merged", "gguf", "gguf-merged", "mlflow"]
TARGETS: tuple[Target, ...] = ("transformers", "onnx", "peft", "merged", "gguf", "gguf-merged", "mlflow")
_CLASSIFIERS: dict[Target, str] = {"transformers": "transformers' classifiers have", "onnx": "an ONNX graph of one pass has"}
BASE, MODEL, EXAMPLE, CARD = "base", "model", "example.json", "README.md"


def export_bundle(bundle: str | Path, out: str | Path, to: Target, *, base: str | Path | None = None) -> Path:
    """Export a bundle for use outside of cotune, together with its base model.

    ``peft`` holds ``base/`` and ``adapter/``; ``merged`` holds ``model/``, the base model with the adapter added to its
    weights, in the base model's own number type. ``gguf`` holds ``base.gguf`` and ``adapter-ID.gguf``, ``gguf-merged`` holds
    ``model.gguf``. For a bundle that answers by a probe, the model ends after the layer that is read, its final norm has unit
    weight, and the probe is stored next to it; ``transformers`` and ``onnx``, only for such bundles, are classifiers that
    include the probe. For other bundles there are requests for llama.cpp's server, for vLLM if it supports the adapter, and for
    a single GGUF file a ``Modelfile`` and a request for Ollama. All include the prompt, the decision rule, the schema if there
    is one, an example of a rendered prompt, and a page on how to launch the model. ``mlflow``, for all bundles, is a pyfunc of
    bundle, base model and cotune itself. The export is loaded again and must answer as the bundle does.

    Args:
        bundle: the bundle's folder, that of its run, or ``hf://org/name@revision``.
        out: a new or empty folder.
        to: the format.
        base: folder or name of the base model if it moved.

    Returns:
        ``out``.

    Raises:
        InputError: the bundle, its base model or ``out`` is wrong, there is no adapter to export, the format does not support
            the bundle, or a required package is not installed.
        CotuneError: the export does not answer as the bundle does.
    """
    folder, out = resolve_bundle(bundle), Path(out).expanduser()
    if to not in TARGETS:
        raise InputError(f"unknown form {to!r}", where="--to", hint=f"Use one of {', '.join(TARGETS)}.")
    from cotune.model.adapters.files import is_bare_probe, is_prefix, read_settings
    from cotune.model.adapters.prefix import load_prefix

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            "there is something in that place already", where=str(out), hint="Name a folder that is not there yet."
        )
    if to == "mlflow":
        return export_mlflow(folder, out, base)
    if to == "onnx":
        from cotune.bundle.export.onnx import check_packages, write_onnx

        check_packages()
    manifest = read_manifest(folder)
    # In fp32, so that the comparison below only depends on the stored weights.
    predictor = load(folder, base=base, device="cpu", dtype="float32")
    probe = probe_of(predictor)
    adapter = None if manifest.adapter_id == "base" or is_bare_probe(folder / ADAPTER) else folder / ADAPTER
    if to in _CLASSIFIERS and probe is None:
        how = "its labels' words" if manifest.written is None else "what the model writes"
        raise InputError(
            f"the bundle answers by {how}, not by a probe, and {_CLASSIFIERS[to]} no place for that",
            where=str(folder),
            hint="Export with --to merged, which transformers runs too.",
        )
    if to == "peft" and adapter is None:
        raise InputError(
            "the bundle has no adapter: the base model won",
            where=str(folder),
            hint="Export with --to merged." if probe is None else "Export with --to transformers or --to merged.",
        )
    if predictor.prompt.nearest:
        raise InputError(
            "the bundle's prompt shows each row the demonstrations most like it, which no exported file can find",
            where=str(folder),
            hint="Use cotune predict or cotune serve, or run with search.nearest_demonstrations=false.",
        )
    trained = load_prefix(adapter) if adapter is not None and is_prefix(adapter) else None
    if to != "peft" and trained is not None:
        raise InputError(
            "a trained prefix cannot be added to a model's weights, and GGUF has no form for it"
            if to.startswith("gguf")
            else "a trained prefix cannot be added to a model's weights",
            where=str(folder),
            hint="Export with --to peft.",
        )
    source = resolve_base(manifest, base)
    asking = Asking.of(predictor, manifest)
    gguf = GgufExport.of(predictor, manifest, asking, source, adapter, probe) if to.startswith("gguf") else None
    stands_for = None if trained is None else len(trained.ids)
    with atomic_folder(out) as temporary, tempfile.TemporaryDirectory(dir=temporary, prefix=".cut-") as aside:
        if probe is not None:
            source, adapter = cut(source, adapter, probe.layer, Path(aside))
            gguf = None if gguf is None else gguf.cut(source, adapter)
            (temporary / PROBE).write_bytes(probe.to_bytes())
        if gguf is not None:
            (gguf.write if to == "gguf" else gguf.write_merged)(temporary)
        elif to == "transformers":
            assert probe is not None
            dtype = write_classifier(source, adapter, probe, temporary, {ids[-1] for ids in _row_ids(predictor)}, asking.start)
            write_template(predictor, asking, temporary / TEMPLATE)
            shutil.copyfile(Path(__file__).with_name("pipeline.py"), temporary / PIPELINE)
            check_classifier(predictor, manifest, temporary, dtype)
        elif to == "onnx":
            assert probe is not None
            prefix_ids = _row_ids(predictor)[0][: asking.start]
            write_onnx(source, adapter, probe, temporary, prefix_ids)
            write_template(predictor, asking, temporary / TEMPLATE, labels=list(probe.labels), prefix_ids=list(prefix_ids))
            shutil.copyfile(Path(__file__).with_name(CLASSIFY), temporary / CLASSIFY)
            check_graph(predictor, manifest, temporary)
        elif to == "peft":
            if adapter is None:
                raise InputError(
                    f"the adapter changes nothing up to layer {probe.layer if probe else ''}, which the probe reads",
                    where=str(folder),
                    hint="Export with --to transformers or --to merged.",
                )
            copy_model(source, temporary / BASE)
            shutil.copytree(adapter, temporary / ADAPTER, ignore=shutil.ignore_patterns(PROBE))
            if probe is not None:
                check_weights(predictor, manifest, temporary / BASE, "float32", probe, temporary / ADAPTER)
        else:
            dtype = merge(source, adapter, temporary / MODEL)
            check_weights(predictor, manifest, temporary / MODEL, dtype, probe)
        shutil.copyfile(folder / PROMPT, temporary / PROMPT)
        write_json(temporary / DECISION, manifest.decision.to_json())
        told = {"prompt_text": asking.text, "labels": list(manifest.labels), "bundle": manifest.id}
        if probe is not None:
            files = "" if gguf is None else gguf.options(merged=to == "gguf-merged")
            depth = cast("LocalModel", predictor.model).depth
            card = ProbePage(manifest, to, asking, probe, depth, adapter is not None, stands_for, files).text()
        else:
            words = predictor.prompt.words(manifest.labels)
            told |= {"words": list(words)}
            if asking.schema is not None:
                write_json(temporary / SCHEMA, asking.schema)
            if gguf is None and trained is None:
                write_json(temporary / REQUEST, asking.vllm())
            rank = read_settings(adapter).rank if adapter is not None and trained is None else 0
            card = export_card(manifest, to, asking, words=words, stands_for=stands_for, rank=rank, gguf=gguf)
        write_json(temporary / EXAMPLE, told)
        if held := held_rows(len(predictor.prompt.demonstrations), "folder"):
            card += f"\n**{held}**\n"
        write_text(temporary / CARD, card)
    return out


def _row_ids(predictor: Predictor) -> list[tuple[int, ...]]:
    """Rendered prompts of some different rows."""
    rows = [dict.fromkeys(predictor.input_fields, text) for text in ("a", "Z 7", "#!", "\u7684", "x.\n")]
    return [row.prompt_ids for row in predictor.model.renderer.render(predictor.prompt, rows, predictor.labels)]
