"""A bundle in the form that other programs take: a PEFT adapter beside its base model, or one merged model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cotune.bundle.export_card import export_card
from cotune.bundle.load import base_of, load
from cotune.bundle.manifest import ADAPTER, DECISION, PROMPT, Manifest, read_manifest
from cotune.bundle.place import atomic_folder
from cotune.bundle.predictor import Predictor
from cotune.errors import CotuneError, InputError
from cotune.files import write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Target = Literal["peft", "merged"]
TARGETS: tuple[Target, ...] = ("peft", "merged")
BASE, MODEL, EXAMPLE, CARD = "base", "model", "example.json", "README.md"

# Weights are stored in the base model's number type; rounding moves log-probabilities by about this much in bfloat16.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.6, "float16": 0.15}
_PROBE_TEXTS = ("Where is it?", "It does not work, please help.", "a", "12 of 30 were right, and nobody knew why that was so.")


def export_bundle(bundle: str | Path, out: str | Path, to: Target, *, base: str | Path | None = None) -> Path:
    """Write a bundle for use outside of cotune, with the very base model that it was tuned on.

    ``peft`` holds ``base/`` and ``adapter/``; ``merged`` holds ``model/``, the base model with the adapter added to its
    weights, in the base model's own number type. Both hold the prompt, the decision rule, an example of what the model reads,
    and a page that says how to launch it. What was written is loaded again and has to answer as the bundle does.

    Args:
        bundle: the bundle's folder.
        out: a folder that is not there yet, or is empty.
        to: which form.
        base: folder or name of the base model where it moved.

    Returns:
        ``out``.

    Raises:
        InputError: the bundle, its base model or ``out`` is wrong, or there is no adapter to export.
        CotuneError: what was written does not answer as the bundle does.
    """
    folder, out = Path(bundle).expanduser(), Path(out).expanduser()
    if to not in TARGETS:
        raise InputError(f"unknown form {to!r}", where="--to", mend=f"Use {' or '.join(TARGETS)}.")
    from cotune.model.adapters import is_prefix
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
    has_adapter = manifest.adapter_id != "base"
    trained = load_prefix(folder / ADAPTER) if has_adapter and is_prefix(folder / ADAPTER) else None
    if to == "merged" and trained is not None:
        raise InputError(
            "a trained prefix cannot be added to a model's weights", where=str(folder), mend="Export with --to peft."
        )
    source = _base_folder(manifest, base)
    with atomic_folder(out) as temporary:
        if to == "peft":
            _copy_model(source, temporary / BASE)
            shutil.copytree(folder / ADAPTER, temporary / ADAPTER)
        else:
            _copy_model(source, temporary / MODEL)
            dtype = _merge(source, folder / ADAPTER if manifest.adapter_id != "base" else None, temporary / MODEL)
            _check(predictor, manifest, temporary / MODEL, dtype)
        for name in (PROMPT, DECISION):
            shutil.copyfile(folder / name, temporary / name)
        text = _example_text(predictor)
        write_json(temporary / EXAMPLE, {"prompt_text": text, "labels": list(manifest.labels), "bundle": manifest.id})
        stands_for = None if trained is None else len(trained.ids)
        card = export_card(manifest, to, text, chat=predictor.model.renderer.chat, stands_for=stands_for)
        write_text(temporary / CARD, card)
    return out


def _base_folder(manifest: Manifest, base: str | Path | None) -> Path:
    from cotune.model.bundled import resolve_model

    return resolve_model(base_of(manifest, base))


def _copy_model(source: Path, target: Path) -> None:
    """The model's own files: what a folder holds besides them is nobody's business elsewhere."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if (
            path.is_file()
            and path.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt")
            and "cotune" not in path.name
        ):
            shutil.copyfile(path, target / path.name)


def _merge(source: Path, adapter: Path | None, target: Path) -> str:
    """Add the adapter to the weights in fp32 and store them in the base model's number type, which is returned."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from cotune.model.adapters import read_settings
    from cotune.model.trained_prefix import WEIGHTS

    stored = AutoModelForCausalLM.from_pretrained(source, dtype="auto", local_files_only=True, use_safetensors=True)
    dtype = stored.dtype
    model: PreTrainedModel = stored.float()
    if adapter is not None:
        settings = read_settings(adapter)
        weights = load_file(adapter / WEIGHTS)
        modules = dict(model.named_modules())
        with torch.no_grad():
            for name, down in weights.items():
                if not name.endswith(".lora_A.weight"):
                    continue
                up = weights[name.replace(".lora_A.", ".lora_B.")]
                place = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                modules[place].weight += (settings.alpha / settings.rank) * (up.float() @ down.float())
    for path in target.glob("*.safetensors*"):
        path.unlink()
    model.to(dtype).save_pretrained(target, max_shard_size="4GB")
    return str(dtype).removeprefix("torch.")


def _check(predictor: Predictor, manifest: Manifest, merged: Path, dtype: str) -> None:
    """Refuse to hand over weights that answer otherwise than the bundle."""
    from cotune.model.local import EngineSettings, LocalModel

    settings = EngineSettings("cpu", "float32", max_tokens=manifest.max_tokens)
    other = LocalModel.load(merged, settings=settings)
    rows = [dict.fromkeys(manifest.input_fields, text) for text in _PROBE_TEXTS]
    # Written answers part for good where one token does, so the likelihood of fixed ones is compared.
    asked = (predictor.prompt, rows, manifest.labels or _PROBE_TEXTS)
    wanted = predictor.model.score(*asked, adapter=predictor.adapter_id).log_probs
    found = other.score(*asked).log_probs
    # Relative to the best label: how unlikely a very unlikely label is matters to nobody.
    near = wanted > wanted.max(axis=1, keepdims=True) - 5
    difference = float(np.abs(np.where(near, found - wanted, 0.0)).max())
    if not difference <= _TOLERANCE.get(dtype, 1.0):
        raise CotuneError(
            f"the merged weights answer otherwise than the bundle: log-probabilities differ by {difference:.3f} nats at most; "
            "nothing was written"
        )


def _example_text(predictor: Predictor) -> str:
    return predictor.model.renderer.text(
        predictor.prompt, {name: f"THE {name.upper()}" for name in predictor.input_fields}, predictor.labels
    )
