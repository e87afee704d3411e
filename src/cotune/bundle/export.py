"""A bundle in the form that other programs take: an adapter beside its base model, or one model; for PEFT or llama.cpp."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from cotune.bundle.export_card import export_card
from cotune.bundle.export_check import check_weights
from cotune.bundle.export_gguf import GgufExport
from cotune.bundle.export_head import in_words
from cotune.bundle.export_request import REQUEST, SCHEMA, Asking
from cotune.bundle.export_weights import copy_model, merge
from cotune.bundle.load import load, resolve_base
from cotune.bundle.manifest import ADAPTER, DECISION, PROMPT, read_manifest
from cotune.bundle.place import atomic_folder
from cotune.errors import InputError
from cotune.files import write_json, write_text
from cotune.probe.readout import PROBE

Target = Literal["peft", "merged", "gguf", "gguf-merged"]
TARGETS: tuple[Target, ...] = ("peft", "merged", "gguf", "gguf-merged")
BASE, MODEL, EXAMPLE, CARD = "base", "model", "example.json", "README.md"


def export_bundle(bundle: str | Path, out: str | Path, to: Target, *, base: str | Path | None = None) -> Path:
    """Write a bundle for use outside of cotune, with the very base model that it was tuned on.

    ``peft`` holds ``base/`` and ``adapter/``; ``merged`` holds ``model/``, the base model with the adapter added to its
    weights, in the base model's own number type. ``gguf`` holds ``base.gguf`` and ``adapter-ID.gguf``, ``gguf-merged`` holds
    ``model.gguf``; both with a request for llama.cpp's server and, where all is in one file, a ``Modelfile`` and a request for
    Ollama. The others hold a request for vLLM where it takes the adapter. All hold the prompt, the decision rule, the schema of
    answers that have one, the classification head of a bundle that has one, an example of what the model reads, and a page that
    says how to launch it. What was written is loaded again and has to answer as the bundle does.

    Args:
        bundle: the bundle's folder.
        out: a folder that is not there yet, or is empty.
        to: which form.
        base: folder or name of the base model where it moved.

    Returns:
        ``out``.

    Raises:
        InputError: the bundle, its base model or ``out`` is wrong, there is no adapter to export, or the form cannot hold it.
        CotuneError: what was written does not answer as the bundle does.
    """
    folder, out = Path(bundle).expanduser(), Path(out).expanduser()
    if to not in TARGETS:
        raise InputError(f"unknown form {to!r}", where="--to", mend=f"Use one of {', '.join(TARGETS)}.")
    from cotune.model.adapter_folder import is_prefix, read_settings
    from cotune.model.trained_prefix import load_prefix

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            "there is something in that place already", where=str(out), mend="Name a folder that is not there yet."
        )
    manifest = read_manifest(folder)
    # In fp32, so that what is compared below differs by the stored weights alone.
    predictor = load(folder, base=base, device="cpu", dtype="float32")
    if to == "peft" and manifest.adapter_id == "base":
        raise InputError("the bundle has no adapter: the base model won", where=str(folder), mend="Export with --to merged.")
    if predictor.prompt.nearest:
        raise InputError(
            "the bundle's prompt shows each row the demonstrations most like it, which no exported file can find",
            where=str(folder),
            mend="Use cotune predict or cotune serve, or run with search.nearest_demonstrations=false.",
        )
    adapter = None if manifest.adapter_id == "base" else folder / ADAPTER
    trained = load_prefix(adapter) if adapter is not None and is_prefix(adapter) else None
    if to != "peft" and trained is not None:
        raise InputError(
            "a trained prefix cannot be added to a model's weights, and GGUF has no form for it"
            if to.startswith("gguf")
            else "a trained prefix cannot be added to a model's weights",
            where=str(folder),
            mend="Export with --to peft.",
        )
    source = resolve_base(manifest, base)
    bundle_id = manifest.id
    predictor, manifest, head = in_words(predictor, manifest)
    asking = Asking.of(predictor, manifest)
    gguf = GgufExport.of(predictor, manifest, asking, source, adapter, head) if to.startswith("gguf") else None
    with atomic_folder(out) as temporary:
        if gguf is not None:
            (gguf.write if to == "gguf" else gguf.write_merged)(temporary)
        elif to == "peft":
            copy_model(source, temporary / BASE)
            shutil.copytree(folder / ADAPTER, temporary / ADAPTER, ignore=shutil.ignore_patterns(PROBE))
        else:
            dtype = merge(source, adapter, temporary / MODEL)
            check_weights(predictor, manifest, temporary / MODEL, dtype, head)
        shutil.copyfile(folder / PROMPT, temporary / PROMPT)
        if head is not None:
            shutil.copyfile(folder / ADAPTER / PROBE, temporary / PROBE)
        write_json(temporary / DECISION, manifest.decision.to_json())
        if asking.schema is not None:
            write_json(temporary / SCHEMA, asking.schema)
        if gguf is None and trained is None:
            write_json(temporary / REQUEST, asking.vllm())
        words = predictor.prompt.words(manifest.labels)
        told = {"prompt_text": asking.text, "labels": list(manifest.labels), "words": list(words), "bundle": bundle_id}
        write_json(temporary / EXAMPLE, told)
        stands_for = None if trained is None else len(trained.ids)
        rank = read_settings(adapter).rank if adapter is not None and trained is None else 0
        card = export_card(
            manifest,
            to,
            asking,
            bundle_id=bundle_id,
            words=words,
            stands_for=stands_for,
            rank=rank,
            gguf=gguf,
            head=head,
        )
        write_text(temporary / CARD, card)
    return out
