"""Writing a bundle atomically."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cotune.bundle.card import Reading, model_card
from cotune.bundle.manifest import (
    ADAPTER,
    CARD,
    DECISION,
    MANIFEST,
    METRICS,
    PROMPT,
    BaseModel,
    Manifest,
    list_files,
    read_manifest,
    verify,
)
from cotune.bundle.place import atomic_folder
from cotune.bundle.snippets import Ids
from cotune.errors import InputError
from cotune.evaluate.decision import Decision
from cotune.files import expanded, file_sha256, load_json, write_json, write_text
from cotune.model.adapters.files import CONFIG, adapter_content_id, adapter_files, is_bare_probe
from cotune.model.adapters.slots import BASE
from cotune.model.layers.cut import norm_epsilon
from cotune.model.loading.bundled import BUNDLED_MODEL
from cotune.probe.readout import load_probe
from cotune.prompt.prompt import Prompt
from cotune.task.values.output import Output
from cotune.version import versions

if TYPE_CHECKING:
    from cotune.model.base import ModelBackend, SavedModel, Scorer
    from cotune.model.local import LocalModel


def save_bundle(
    folder: Path,
    *,
    task_name: str,
    input_fields: Sequence[str],
    output_field: str,
    output: Output,
    metric: str,
    prompt: Prompt,
    decision: Decision,
    adapter_folder: Path | None,
    model: ModelBackend,
    metrics: Mapping[str, Any],
    model_name: str,
    answer_tokens: int = 0,
) -> Path:
    """Write a bundle for :func:`cotune.bundle.load`. An older bundle in the folder is replaced atomically.

    Args:
        folder: target folder; its parent is created.
        output_field: name of the label column.
        output: type of the answers; labels in the order of the decision's bias.
        adapter_folder: an adapter's PEFT folder, with its probe if there is one, or a folder with a probe alone; copied
            unchanged. None for the base model.
        model: the model; for one behind an endpoint the bundle stores its address.
        metrics: for ``metrics.json`` and the card: ``arms`` and ``gains`` as in a run's summary.
        model_name: the user's name of the model; a folder is stored as an absolute path.
        answer_tokens: maximum length of a generated answer.

    Raises:
        InputError: ``folder`` contains something else, the adapter folder has no adapter, or the disk is full or not writable;
            an older bundle is unchanged.
        ValueError: the metrics contain NaN, or the decision does not fit the labels.
    """
    labels = output.labels
    if decision.bias and len(decision.bias) != len(labels):
        raise ValueError(f"a bias of {len(decision.bias)} numbers does not fit {len(labels)} labels")
    _check_free(folder)
    saved = model.saved(prompt, input_fields, labels)
    manifest = Manifest(
        task=task_name,
        files={},
        base_model=_base_model(model, model_name) if saved.server is None else BaseModel(model.name, model.fingerprint),
        adapter_id=BASE if adapter_folder is None else adapter_content_id(adapter_folder),
        prompt_id=prompt.id,
        decision=decision,
        labels=labels,
        input_fields=tuple(input_fields),
        output_field=output_field,
        metric=metric,
        max_tokens=saved.longest,
        truncate=saved.truncate,
        versions=versions("torch", "transformers", "peft"),
        written=output if output.kind.written else None,
        answer_tokens=answer_tokens,
        label_type=output.label_type,
    )
    card = _card(manifest, metrics, saved, prompt, adapter_folder, model)
    with atomic_folder(folder) as temporary:
        asked = {"prompt": prompt.to_json(), "labels": list(labels), "input_fields": list(input_fields), **saved.asking}
        write_json(temporary / PROMPT, asked)
        write_json(temporary / DECISION, decision.to_json())
        write_json(temporary / METRICS, dict(metrics))
        write_text(temporary / CARD, card)
        if adapter_folder is not None:
            _copy_adapter(adapter_folder, temporary / ADAPTER)
        files = {name: file_sha256(temporary / name) for name in sorted(list_files(temporary))}
        write_json(temporary / MANIFEST, manifest.to_json() | {"files": files})
        verify(temporary, read_manifest(temporary))
    return folder


def _card(
    manifest: Manifest, metrics: Mapping[str, Any], saved: SavedModel, prompt: Prompt, adapter: Path | None, model: ModelBackend
) -> str:
    """The model card, with what it needs to know about the prompt and the probe."""
    text, stock = saved.text, len(prompt.demonstrations)
    if prompt.nearest:
        text = f"(each row is shown the {prompt.nearest} most similar of {stock} examples; here the text of one row)\n{text}"
    # Only a local model has adapters.
    reading = None if adapter is None else _reading(manifest, adapter, prompt, cast("LocalModel", model))
    return model_card(manifest, metrics, text, endpoint=saved.server, reading=reading, demonstrations=stock)


def _reading(manifest: Manifest, folder: Path, prompt: Prompt, model: LocalModel) -> Reading | None:
    """Description of the probe in an adapter's folder; None if there is none."""
    if (probe := load_probe(folder)) is None:
        return None
    ids = Ids.of(model.renderer, prompt, manifest.input_fields, manifest.choices)
    return Reading(probe, model.depth, norm_epsilon(model.model), ids, tuned=not is_bare_probe(folder))


def _check_free(folder: Path) -> None:
    """Refuse to replace anything that is not a bundle, or that contains other files."""
    hint = "Move it away or choose another folder."
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError("this exists and is not a folder", where=str(folder), hint=hint)
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        known = {MANIFEST, *read_manifest(folder).files}
        foreign = sorted(list_files(folder) - known)
    except InputError as error:
        raise InputError("the folder already exists and is not a bundle", where=str(folder), hint=hint) from error
    if foreign:
        raise InputError("the file is not part of the bundle that would be replaced", where=str(folder / foreign[0]), hint=hint)


def _copy_adapter(source: Path, target: Path) -> None:
    target.mkdir()
    for name in adapter_files(source):
        copy = _copy_config if name == CONFIG else shutil.copyfile
        copy(source / name, target / name)


def _copy_config(source: Path, target: Path) -> None:
    config = load_json(source)
    base = config.get("base_model_name_or_path")
    if isinstance(base, str) and (expanded(base).is_absolute() or Path(base).exists()):
        # A local path is useless on other machines, and PEFT does not need it.
        write_json(target, config | {"base_model_name_or_path": None})
    else:
        shutil.copyfile(source, target)


def _base_model(model: Scorer, name: str) -> BaseModel:
    if name.strip().lower() == BUNDLED_MODEL:
        return BaseModel(BUNDLED_MODEL, model.fingerprint)
    path = expanded(name)
    if path.exists():
        return BaseModel(str(path.absolute()), model.fingerprint)
    return BaseModel(name, model.fingerprint, _revision(name))


def _revision(name: str) -> str | None:
    """The commit of a hub model from the local cache or its name; None if unknown."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository, _, wanted = name.partition("@")
    try:
        found = try_to_load_from_cache(repository, "config.json", revision=wanted or None)
    except HFValidationError:
        return wanted or None
    if isinstance(found, str) and Path(found).parent.parent.name == "snapshots":
        return Path(found).parent.name
    return wanted or None
