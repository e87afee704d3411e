"""Export of a bundle for transformers, ONNX Runtime, PEFT, vLLM, llama.cpp or MLflow."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cotune.bundle.export.card import export_card
from cotune.bundle.export.check import check_classifier, check_fields, check_graph, check_weights
from cotune.bundle.export.fields import needs_validator, write_fields
from cotune.bundle.export.gguf import GgufExport
from cotune.bundle.export.mlflow_folder import export_mlflow
from cotune.bundle.export.probe import ANSWER, CELLS, CLASSIFY, PIPELINE, TEMPLATE, TERMS, TRUNCATE, ProbePage, write_template
from cotune.bundle.export.request import REQUEST, SCHEMA, Asking
from cotune.bundle.export.weights import copy_model, cut, merge, write_classifier
from cotune.bundle.load import load_several, resolve_base, resolve_bundle
from cotune.bundle.manifest import ADAPTER, DECISION, PROMPT, Manifest, read_manifest
from cotune.bundle.place import atomic_folder, check_new
from cotune.bundle.predictor import Predictor
from cotune.bundle.snippets import EXAMPLE
from cotune.errors import InputError
from cotune.files import expanded, write_json, write_text
from cotune.model.adapters.files import read_settings
from cotune.probe import terms
from cotune.probe.readout import PROBE, Probe
from cotune.prompt import truncate
from cotune.prompt.prompt import held_rows
from cotune.task.reading import cells

Target = Literal["transformers", "onnx", "peft", "merged", "gguf", "gguf-merged", "mlflow"]
TARGETS: tuple[Target, ...] = ("transformers", "onnx", "peft", "merged", "gguf", "gguf-merged", "mlflow")
_CLASSIFIERS: dict[Target, str] = {"transformers": "a classifier of transformers", "onnx": "an ONNX graph"}
BASE, MODEL, CARD = "base", "model", "README.md"


def export_bundle(bundle: str | Path, out: str | Path, to: Target, *, base: str | Path | None = None) -> Path:
    """Export a bundle together with its base model, for use without cotune.

    The formats are:

    - ``peft``: ``base/`` and ``adapter/``.
    - ``merged``: ``model/``, the base model with the adapter added to its weights, in the base model's dtype.
    - ``gguf``: ``base.gguf`` and ``adapter-ID.gguf``. ``gguf-merged``: ``model.gguf``.
    - ``transformers`` and ``onnx``: a classifier that includes the probe; only for bundles that answer by a probe. If a bundle
      reads several fields, ``transformers`` is ``model/`` with Python that reads them, and other formats but ``mlflow`` are
      refused.
    - ``mlflow``: a pyfunc with the bundle, the base model and cotune itself.

    For a bundle that answers by a probe, the model ends after the layer that the probe reads, its final norm has unit weight,
    and the probe is stored next to it. For other bundles there are requests for llama.cpp's server, for vLLM if it supports the
    adapter, and with a single GGUF file a ``Modelfile`` and a request for Ollama. All formats but ``mlflow`` include the
    prompt, the decision rule, the schema if there is one, an example of a rendered prompt, and a page on how to run the model.
    The export is loaded again and must give the same answers as the bundle.

    Args:
        bundle: the bundle's folder, that of its run, or ``hf://org/name@revision``.
        out: a new or empty folder.
        to: the format.
        base: folder or name of the base model if it has moved.

    Raises:
        InputError: the bundle, its base model or ``out`` is wrong, there is no adapter to export, the format does not support
            the bundle, such as one whose model is behind an endpoint, or a required package is not installed.
        CotuneError: the export gives other answers than the bundle.
    """
    folder, out = resolve_bundle(bundle), expanded(out)
    if to not in TARGETS:
        raise InputError(f"unknown format {to!r}", where="--to", hint=f"Use one of {', '.join(TARGETS)}.")
    check_new(out)
    if to == "mlflow":
        return export_mlflow(folder, out, base)
    if to == "onnx":
        from cotune.bundle.export.onnx import check_packages

        check_packages()
    export = _Export.of(folder, to, base)
    with atomic_folder(out) as temporary, tempfile.TemporaryDirectory(dir=temporary, prefix=".cut-") as aside:
        export.cut(temporary, Path(aside)).write(temporary)
    return out


@dataclass(frozen=True)
class _Export:
    """The inputs of an export.

    Attributes:
        predictor: the bundle, loaded in float32 so that an export can only differ from it by the dtype of its weights.
        source: folder of the base model, or of its first layers after :meth:`cut`.
        adapter: folder of the adapter; None if there is none.
    """

    folder: Path
    to: Target
    manifest: Manifest
    predictor: Predictor
    source: Path
    adapter: Path | None
    asking: Asking
    gguf: GgufExport | None

    @classmethod
    def of(cls, folder: Path, to: Target, base: str | Path | None) -> _Export:
        """Open the bundle, and check that the format supports it."""
        manifest = read_manifest(folder)
        (predictor,) = load_several([folder], base=base, device="cpu", dtype="float32")
        adapter = folder / ADAPTER if manifest.has_adapter else None
        _check_form(folder, to, predictor, has_adapter=adapter is not None)
        source = resolve_base(manifest, base)
        asking = Asking.of(predictor)
        gguf = GgufExport.of(predictor, asking, source, adapter) if to.startswith("gguf") else None
        return cls(folder, to, manifest, predictor, source, adapter, asking, gguf)

    def cut(self, out: Path, aside: Path) -> _Export:
        """The inputs with a model, written to ``aside``, that ends after the probe's layer; writes the probe to ``out``."""
        if (probe := self.predictor.probe) is None:
            return self
        source, adapter = cut(self.source, self.adapter, probe.layer, aside)
        (out / PROBE).write_bytes(probe.to_bytes())
        if probe.terms is not None:
            shutil.copyfile(terms.__file__, out / TERMS)
        return replace(self, source=source, adapter=adapter, gguf=None if self.gguf is None else self.gguf.cut(source, adapter))

    def write(self, out: Path) -> None:
        """Write the model, check its answers, and write the files on how to use it."""
        probe = self.predictor.probe
        if self.gguf is not None:
            (self.gguf.write if self.to == "gguf" else self.gguf.write_merged)(out)
        elif probe is not None and self.predictor.fields is not None:
            self._write_fields(probe, out)
        elif probe is not None and self.to in _CLASSIFIERS:
            (self._write_classifier if self.to == "transformers" else self._write_graph)(probe, out)
        elif self.to == "peft":
            self._write_adapter(probe, out)
        else:
            check_weights(self.predictor, out / MODEL, merge(self.source, self.adapter, out / MODEL))
        self._write_page(out)

    def _write_classifier(self, probe: Probe, out: Path) -> None:
        ends = {ids[-1] for ids in _row_ids(self.predictor)}
        dtype = write_classifier(self.source, self.adapter, probe, out, ends, self.asking.ids.start)
        write_template(self.predictor, self.asking, out / TEMPLATE)
        _write_code(out, PIPELINE)
        check_classifier(self.predictor, out, dtype)

    def _write_fields(self, probe: Probe, out: Path) -> None:
        dtype = merge(self.source, self.adapter, out / MODEL)
        more: dict[str, Any] = {"start": self.asking.ids.start}
        if probe.words:
            more = {"lead": self.asking.lead}
        write_template(self.predictor, self.asking, out / TEMPLATE, **more)
        write_fields(self.predictor, out)
        shutil.copyfile(Path(__file__).with_name(ANSWER), out / ANSWER)
        check_fields(self.predictor, out, dtype)

    def _write_graph(self, probe: Probe, out: Path) -> None:
        from cotune.bundle.export.onnx import write_onnx

        prefix_ids = _row_ids(self.predictor)[0][: self.asking.ids.start]
        write_onnx(self.source, self.adapter, probe, out, prefix_ids)
        write_template(self.predictor, self.asking, out / TEMPLATE, labels=list(probe.labels), prefix_ids=list(prefix_ids))
        _write_code(out, CLASSIFY)
        check_graph(self.predictor, out)

    def _write_adapter(self, probe: Probe | None, out: Path) -> None:
        if self.adapter is None:
            raise InputError(
                f"the adapter changes no layer up to layer {probe.layer if probe else ''}, which the probe reads",
                where=str(self.folder),
                hint="Export with --to transformers or --to merged.",
            )
        copy_model(self.source, out / BASE)
        shutil.copytree(self.adapter, out / ADAPTER, ignore=shutil.ignore_patterns(PROBE))
        if probe is not None:
            check_weights(self.predictor, out / BASE, "float32", out / ADAPTER)

    def _write_page(self, out: Path) -> None:
        """Write the prompt, the decision rule, an example, requests if there are any, and the page on how to run the model."""
        manifest, asking, gguf, adapter, probe = self.manifest, self.asking, self.gguf, self.adapter, self.predictor.probe
        shutil.copyfile(self.folder / PROMPT, out / PROMPT)
        write_json(out / DECISION, manifest.decision.to_json())
        example = {
            "prompt_text": asking.text,
            "fields": dict(asking.marks),
            "labels": list(manifest.labels),
            "bundle": manifest.id,
        }
        if probe is not None:
            files = "" if gguf is None else gguf.options(merged=self.to == "gguf-merged")
            validator, depth = needs_validator(self.predictor), self.predictor.model.depth
            card = ProbePage(manifest, self.to, asking, probe, depth, adapter is not None, files, validator).text()
        else:
            words = self.predictor.prompt.words(manifest.labels)
            example |= {"words": list(words)}
            if asking.schema is not None:
                write_json(out / SCHEMA, asking.schema)
            if gguf is None:
                write_json(out / REQUEST, asking.vllm())
            rank = 0 if adapter is None else read_settings(adapter).rank
            card = export_card(manifest, self.to, asking, words=words, rank=rank, gguf=gguf)
        write_json(out / EXAMPLE, example)
        if held := held_rows(len(self.predictor.prompt.demonstrations), "folder"):
            card += f"\n**{held}**\n"
        write_text(out / CARD, card)


def _check_form(folder: Path, to: Target, predictor: Predictor, *, has_adapter: bool) -> None:
    if to in _CLASSIFIERS and predictor.probe is None:
        how = "generation" if predictor.output.kind.written else "label words"
        raise InputError(
            f"the bundle answers by {how}, not by a probe, which {_CLASSIFIERS[to]} does not support",
            where=str(folder),
            hint="Export with --to merged, which also runs with transformers.",
        )
    if predictor.fields is not None and to != "transformers":
        how = "reads several fields of JSON" if predictor.output.kind.by_field else "reads numbers by thresholds"
        how = "copies values from the text by tags that it reads" if predictor.reads_words else how
        raise InputError(
            f"the bundle {how} off hidden states, which --to {to} does not support",
            where=str(folder),
            hint="Export with --to transformers, or run with tune.readout=words, which generates the answer.",
        )
    if to == "peft" and not has_adapter:
        raise InputError(
            "the bundle has no adapter, because the base model won",
            where=str(folder),
            hint="Export with --to merged." if predictor.probe is None else "Export with --to transformers or --to merged.",
        )
    if predictor.prompt.nearest:
        raise InputError(
            "the bundle's prompt shows each row its nearest demonstrations, which exports do not support",
            where=str(folder),
            hint="Use cotune predict or cotune serve, or run with search.nearest_demonstrations=false.",
        )


def _row_ids(predictor: Predictor) -> list[tuple[int, ...]]:
    """Rendered prompts of some different rows."""
    rows = [dict.fromkeys(predictor.input_fields, text) for text in ("a", "Z 7", "#!", "\u7684", "x.\n")]
    return [row.prompt_ids for row in predictor.rendered(rows)]


def _write_code(out: Path, name: str) -> None:
    """Write a Python file of this folder and those that it reads rows by into an export; none needs cotune."""
    shutil.copyfile(Path(__file__).with_name(name), out / name)
    shutil.copyfile(cells.__file__, out / CELLS)
    shutil.copyfile(truncate.__file__, out / TRUNCATE)
