"""Reading a bundle: nothing of it is used before all of it is what its manifest says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotune.bundle.calibration import Calibration
from cotune.bundle.card import base_model_name
from cotune.bundle.hub.fetch import fetch_bundle, is_on_hub
from cotune.bundle.manifest import (
    ADAPTER,
    DECISION,
    MANIFEST,
    METRICS,
    PROMPT,
    Manifest,
    bundle_folder,
    read_json,
    read_manifest,
    verify,
)
from cotune.bundle.predictor import Predictor
from cotune.bundle.remote import remote_predictor
from cotune.embed import Neighbours
from cotune.errors import InputError
from cotune.model.base import ENDPOINT
from cotune.model.loading.folder import FROM_HUB, NotFetchedError
from cotune.model.structured.limits import Writing, grammar_of
from cotune.probe.readout import PROBE
from cotune.prompt.prompt import Prompt
from cotune.task.known import Known
from cotune.task.reading.cells import has_half_character

if TYPE_CHECKING:
    from cotune.model.base import Model
    from cotune.model.hardware.capability import Capability
    from cotune.model.local import LocalModel

PATIENCE_S = 600.0
_HINT = "Copy the bundle again from where it was made."


def load(
    folder: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    base: str | Path | None = None,
    key_env: str | None = None,
    endpoint: str | None = None,
    patience: float = PATIENCE_S,
    progress: Callable[[str], None] | None = None,
    once: bool = False,
) -> Predictor:
    """Load a bundle to predict with.

    Args:
        folder: the bundle, such as ``runs/trec6``, a run's folder, which means the bundle in it, or
            ``hf://org/name@revision``, which is fetched from the hub.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        dtype: ``auto``, ``float32``, ``bfloat16``, ``float16``.
        threads: CPU threads; None takes what the machine has.
        base: folder or name of the base model where it is no longer found under the name in the manifest; it must be the
            same model, byte for byte. ``"hub"`` lets the model that the manifest names be fetched from the hub; a bundle may
            come from anywhere and name a model of any size, so without that only what is on this machine is used.
        key_env: environment variable with the key for the endpoint that answers, where one does. A bundle names it, but only
            you can allow that a key of yours is sent where a bundle says.
        endpoint: URL of that endpoint. A bundle names it, but only you can allow that your rows are sent there; one on this
            machine itself needs no leave.
        patience: seconds that one question to such an endpoint may take, all tries and waits included; a few where something
            else answers in its place.
        progress: told, in a sentence each, what takes time.
        once: whether it answers one row and ends: nothing is prepared then that would pay over many.

    Raises:
        InputError: it is no bundle; a file of it is missing, changed, too many or a link; its parts contradict each other;
            or the base model is not there, another one, or has another chat template.
    """
    return load_several(
        [folder],
        device=device,
        dtype=dtype,
        threads=threads,
        base=base,
        key_env=key_env,
        endpoint=endpoint,
        patience=patience,
        progress=progress,
        once=once,
    )[0]


def load_several(
    folders: Sequence[str | Path],
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    base: str | Path | None = None,
    key_env: str | None = None,
    endpoint: str | None = None,
    patience: float = PATIENCE_S,
    progress: Callable[[str], None] | None = None,
    once: bool = False,
    weights: bool = False,
) -> list[Predictor]:
    """Load bundles; those of one base model share it, and may therefore be used by one thread at a time alone.

    Arguments and errors are those of :func:`load`; with ``weights``, a model behind an endpoint is an error too.
    """
    from cotune.model.hardware.capability import check_capability

    opened = [OpenedBundle.read(folder, progress) for folder in folders]
    models: dict[str, LocalModel] = {}
    predictors = []
    found = None
    for bundle in opened:
        manifest = bundle.manifest
        if ENDPOINT in bundle.saved:
            where = str(bundle.folder / PROMPT)
            if weights:
                name = manifest.base_model.name
                raise InputError(
                    f"the bundle's answers come from {name}, behind an endpoint, and there are no weights to serve",
                    where=where,
                    hint="Ask it with cotune predict, or serve a bundle of a model on this machine.",
                )
            predictors.append(
                remote_predictor(
                    manifest,
                    bundle.prompt,
                    bundle.saved,
                    where,
                    key_env=key_env,
                    endpoint=endpoint,
                    patience=patience,
                    calibration=_calibration(bundle.folder),
                )
            )
            continue
        known = models.get(manifest.base_model.fingerprint)
        if known is None:
            model_folder = base_folder(bundle, base, progress)
            found = found or check_capability(device, dtype, threads)
            known = models[manifest.base_model.fingerprint] = _load_base(bundle, model_folder, found, once=once)
        same = known.settings.max_tokens == manifest.max_tokens
        predictors.append(_predictor(bundle, known if same else known.with_max_tokens(manifest.max_tokens)))
    for model in models.values():
        model.adapters.keep = max(model.adapters.keep, len(opened))
    return predictors


def resolve_bundle(name: str | Path, progress: Callable[[str], None] | None = None) -> Path:
    """A bundle's folder on this machine, of what names one: its folder, its run's, or ``hf://org/name@revision``.

    Raises:
        InputError: it is on the hub and cannot be fetched, or what was fetched is no bundle.
    """
    return fetch_bundle(str(name), progress) if is_on_hub(name) else bundle_folder(name)


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle whose files are what its manifest says.

    Attributes:
        folder: where it lies.
        manifest: what it holds and what it was made with.
        prompt: how it asks.
        saved: all of ``prompt.json``.
    """

    folder: Path
    manifest: Manifest
    prompt: Prompt
    saved: Mapping[str, Any]

    @classmethod
    def read(cls, name: str | Path, progress: Callable[[str], None] | None = None) -> OpenedBundle:
        """Check a bundle's files and read its prompt; the base model is not looked at.

        Args:
            name: the bundle, as :func:`load` takes it.
            progress: told what is fetched from the hub.

        Raises:
            InputError: as :func:`load` says.
        """
        folder = resolve_bundle(name, progress)
        manifest = read_manifest(folder)
        verify(folder, manifest)
        found = cls(folder, manifest, *_read_parts(folder, manifest))
        if manifest.written is not None and ENDPOINT not in found.saved:
            # Found now, it costs nobody the loading of a model.
            grammar_of(manifest.written, f"{folder / MANIFEST}, output.schema")
        return found

    @property
    def known(self) -> Known:
        """What a run that goes on from it is told of the task."""
        return Known(self.manifest.output, self.prompt.always_shown)


def base_folder(bundle: OpenedBundle, base: str | Path | None = None, progress: Callable[[str], None] | None = None) -> Path:
    """Where the base model lies, its bytes checked; ``base`` as in :func:`load`.

    Raises:
        InputError: it is not there, or another one.
    """
    from cotune.model.loading.folder import model_fingerprint

    manifest, where = bundle.manifest, str(bundle.folder)
    name = base_of(manifest, base)
    try:
        model_folder = resolve_base(manifest, base, progress)
    except OSError as error:
        raise InputError(
            f"the bundle's base model cannot be found ({error.strerror or error})",
            where=where,
            hint="If it lies elsewhere, name its folder as the base.",
        ) from error
    except InputError as error:
        hint = _hub_hint(name) if isinstance(error, NotFetchedError) else error.hint
        raise InputError(
            f"the bundle's base model cannot be found: {error.what}",
            where=where,
            hint=f"{hint} If it lies elsewhere, name its folder as the base.".strip(),
        ) from error
    if model_fingerprint(model_folder) != manifest.base_model.fingerprint:
        raise InputError(
            f"the model {name} is not the one that the bundle was made with ({base_model_name(manifest)}, content hash"
            f" {manifest.base_model.fingerprint[:12]})",
            where=where,
            hint="Name the folder of the unchanged model as the base, or run again with this one.",
        )
    return model_folder


def resolve_base(manifest: Manifest, base: str | Path | None = None, progress: Callable[[str], None] | None = None) -> Path:
    """The base model's folder, fetched from the hub only where the user says so; ``base`` as in :func:`load`.

    Raises:
        InputError: it is not there.
    """
    from cotune.model.loading.bundled import resolve_model

    return resolve_model(base_of(manifest, base), progress, fetch=base is not None)


def _hub_hint(name: str) -> str:
    return f"If you want {name} to be fetched, add --base hub (in Python, base='hub')."


def _load_base(bundle: OpenedBundle, folder: Path, found: Capability, *, once: bool) -> LocalModel:
    from cotune.model.engine.settings import EngineSettings, batch_tokens, weight_bytes
    from cotune.model.local import LocalModel

    tokens = batch_tokens(found.memory_bytes, weight_bytes(folder))
    room = 0 if once else found.memory_bytes
    settings = EngineSettings(found.device, found.dtype, found.threads, tokens, bundle.manifest.max_tokens, room)
    return LocalModel.load(folder, settings=settings, name=base_model_name(bundle.manifest), light=True)


def _predictor(bundle: OpenedBundle, model: LocalModel) -> Predictor:
    manifest, folder = bundle.manifest, bundle.folder
    check_rendering(bundle.saved, model, str(folder / PROMPT))
    if bundle.prompt.nearest:
        model.chooser = model.chooser or Neighbours(model)
    if manifest.adapter_id != "base":
        _enter_adapter(folder / ADAPTER, manifest, model)
    return Predictor(
        model,
        bundle.prompt,
        manifest.labels,
        manifest.input_fields,
        decision=manifest.decision,
        adapter_id=manifest.adapter_id,
        bundle_id=manifest.id,
        task=manifest.task,
        writing=None if manifest.written is None else Writing.of(manifest.written, manifest.answer_tokens),
        label_type=manifest.label_type,
        calibration=_calibration(folder),
    )


def _calibration(folder: Path) -> Calibration | None:
    return Calibration.of(read_json(folder / METRICS), str(folder / METRICS))


def _read_parts(folder: Path, manifest: Manifest) -> tuple[Prompt, Mapping[str, Any]]:
    """The prompt and the rest of ``prompt.json``, in agreement with the manifest."""
    where = str(folder / PROMPT)
    saved = read_json(folder / PROMPT)
    if has_half_character(json.dumps(saved, ensure_ascii=False)):
        raise InputError("there is half a character (a lone surrogate) in it", where=where, hint=_HINT)
    data = saved.get("prompt") if isinstance(saved, dict) else None
    if not isinstance(data, dict):
        raise InputError("there is no prompt in it", where=where, hint=_HINT)
    try:
        prompt = Prompt.from_json(data)
        same = isinstance(prompt.system, str | None) and prompt.id == manifest.prompt_id
    except InputError as error:
        raise InputError(error.what, where=where, hint=_HINT) from error
    if not same:
        raise InputError(f"the prompt is not the one that {MANIFEST} names", where=where, hint=_HINT)
    for key, value in (("labels", manifest.labels), ("input_fields", manifest.input_fields)):
        if saved.get(key) != list(value):
            raise InputError(f"its {key} are not those of {MANIFEST}", where=where, hint=_HINT)
    if read_json(folder / DECISION) != manifest.decision.to_json():
        raise InputError(f"the decision rule is not the one that {MANIFEST} names", where=str(folder / DECISION), hint=_HINT)
    return prompt, saved


def check_rendering(saved: Mapping[str, Any], model: Model, where: str) -> None:
    """Refuse a tokenizer that would turn rows into other ids than those that were tuned and tested with.

    Raises:
        InputError: chat template, stop token or longest prompt differ.
    """
    now = {
        "chat_template": getattr(model.tokenizer, "chat_template", None),
        "stop_id": model.renderer.stop_id,
        "max_tokens": model.renderer.max_tokens,
    }
    about = {"chat_template": "chat template", "stop_id": "stop token", "max_tokens": "longest prompt"}
    for key, value in now.items():
        if key not in saved or saved[key] != value:
            raise InputError(
                f"the base model's {about[key]} is not the one that the bundle was made with",
                where=where,
                hint="Use the unchanged base model, and versions of transformers and cotune near those in the manifest.",
            )


def _enter_adapter(folder: Path, manifest: Manifest, model: LocalModel) -> None:
    if model.adapters.register(folder) != manifest.adapter_id:
        raise InputError(f"the adapter is not the one that {MANIFEST} names", where=str(folder), hint=_HINT)
    try:
        model.adapters.use(manifest.adapter_id)
    except InputError as error:
        raise InputError(error.what, where=error.where or str(folder), hint=error.hint or _HINT) from error
    check_probe(model, manifest, folder)


def check_probe(model: LocalModel, manifest: Manifest, folder: Path) -> None:
    """Refuse a registered adapter whose probe is not one of these labels on this model.

    Raises:
        InputError: it is not, or it cannot be read.
    """
    try:
        probe = model.adapters.probe(manifest.adapter_id)
    except InputError as error:
        raise InputError(error.what, where=error.where or str(folder / PROBE), hint=error.hint or _HINT) from error
    if probe is None:
        return
    if set(probe.labels) != set(manifest.labels) or probe.width != model.width or probe.layer > model.depth:
        raise InputError(
            "the probe is not one of these labels on this model",
            where=str(folder / PROBE),
            hint=_HINT,
        )


def base_of(manifest: Manifest, base: str | Path | None = None) -> str:
    """Name or folder of the base model: the one given, else the manifest's, pinned to its commit where it is on the hub."""
    if base is not None and str(base) != FROM_HUB:
        return str(base)
    named = manifest.base_model
    return f"{named.name.partition('@')[0]}@{named.revision}" if named.revision else named.name
