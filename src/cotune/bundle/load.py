"""Loading a bundle: all files are checked against the manifest before any is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cotune.bundle.calibration import Calibration
from cotune.bundle.card import base_model_name
from cotune.bundle.hub.fetch import fetch_bundle, is_on_hub
from cotune.bundle.manifest import (
    ADAPTER,
    COPY_AGAIN,
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
from cotune.bundle.remote import endpoint_model
from cotune.embed import Neighbours
from cotune.errors import InputError
from cotune.model.adapters.files import BASE
from cotune.model.base import ENDPOINT
from cotune.model.loading.bundled import resolve_model
from cotune.model.loading.folder import FROM_HUB, NotFetchedError, model_fingerprint
from cotune.model.structured.limits import Writing, grammar_of
from cotune.probe.readout import PROBE
from cotune.prompt.prompt import Prompt
from cotune.task.known import Known
from cotune.task.reading.cells import has_half_character

if TYPE_CHECKING:
    from cotune.model.base import Model
    from cotune.model.hardware.capability import Capability
    from cotune.model.local import LocalModel
    from cotune.model.remote.model import RemoteModel

PATIENCE_S = 600.0


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
    """Load a bundle for prediction.

    Args:
        folder: the bundle's folder, a run's folder such as ``runs/trec6``, or ``hf://org/name@revision``, which is fetched from
            the hub.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        dtype: ``auto``, ``float32``, ``bfloat16``, ``float16``.
        threads: number of CPU threads; None uses what the machine allows.
        base: folder or name of the base model if it is no longer found under the name in the manifest; it must be the same
            model, byte for byte. ``"hub"`` allows fetching the named model from the hub; otherwise only models on this machine
            are used, since a bundle from elsewhere may name a model of any size.
        key_env: environment variable with the key for the bundle's endpoint. Required even if the bundle names one, since only
            you can allow sending a key.
        endpoint: URL of that endpoint, likewise; not needed for an endpoint on this machine.
        patience: seconds for one request to such an endpoint, including retries and waits.
        progress: called with a sentence about each slow step.
        once: whether only one row will be answered, so that preparation for many rows is skipped.

    Raises:
        InputError: it is not a bundle; a file is missing, changed, unexpected or a link; its parts contradict each other; or
            the base model is missing, different, or has another chat template.
    """
    bundle = OpenedBundle.read(folder, progress)
    if not bundle.has_endpoint:
        return _load_local([bundle], device, dtype, threads, base, progress, once=once)[0]
    where = str(bundle.folder / PROMPT)
    model = endpoint_model(bundle.manifest, bundle.saved, where, key_env=key_env, endpoint=endpoint, patience=patience)
    return _predictor(bundle, model)


def load_several(
    folders: Sequence[str | Path],
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    base: str | Path | None = None,
) -> list[Predictor]:
    """Load bundles with local models. Those with the same base model share it, and must only be used by one thread at a time.

    Arguments and errors as in :func:`load`; a model behind an endpoint is an error too.
    """
    opened = [OpenedBundle.read(folder) for folder in folders]
    for bundle in opened:
        if bundle.has_endpoint:
            raise InputError(
                f"the bundle's model {bundle.manifest.base_model.name} is behind an endpoint, so there are no weights here",
                where=str(bundle.folder / PROMPT),
                hint="Use cotune predict, or a bundle with a local model.",
            )
    return _load_local(opened, device, dtype, threads, base)


def _load_local(
    bundles: Sequence[OpenedBundle],
    device: str,
    dtype: str,
    threads: int | None,
    base: str | Path | None,
    progress: Callable[[str], None] | None = None,
    *,
    once: bool = False,
) -> list[Predictor]:
    from cotune.model.hardware.capability import check_capability

    models: dict[str, LocalModel] = {}
    predictors = []
    found = None
    for bundle in bundles:
        manifest = bundle.manifest
        known = models.get(manifest.base_model.fingerprint)
        if known is None:
            model_folder = base_folder(bundle, base, progress)
            found = found or check_capability(device, dtype, threads)
            known = models[manifest.base_model.fingerprint] = _load_base(bundle, model_folder, found, once=once)
        same = (known.settings.max_tokens, known.settings.truncate) == (manifest.max_tokens, manifest.truncate)
        local = known if same else known.with_prompts(manifest.max_tokens, manifest.truncate)
        check_rendering(bundle.saved, local, str(bundle.folder / PROMPT))
        predictors.append(_predictor(bundle, local))
    for model in models.values():
        model.adapters.keep = max(model.adapters.keep, len(bundles))
    return predictors


def resolve_bundle(name: str | Path, progress: Callable[[str], None] | None = None) -> Path:
    """The local folder of a bundle given as its folder, its run's folder, or ``hf://org/name@revision``, which is fetched."""
    return fetch_bundle(str(name), progress) if is_on_hub(name) else bundle_folder(name)


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle whose files match its manifest.

    Attributes:
        saved: the content of ``prompt.json``.
    """

    folder: Path
    manifest: Manifest
    prompt: Prompt
    saved: Mapping[str, Any]

    @classmethod
    def read(cls, name: str | Path, progress: Callable[[str], None] | None = None) -> OpenedBundle:
        """Check a bundle's files and read its prompt, without the base model; arguments and errors as in :func:`load`."""
        folder = resolve_bundle(name, progress)
        manifest = read_manifest(folder)
        verify(folder, manifest)
        found = cls(folder, manifest, *_read_parts(folder, manifest))
        # Unsupported schemas are refused here, before the model is loaded.
        found.writing()
        return found

    @property
    def adapter_folder(self) -> Path | None:
        """Folder of its adapter; None if it uses the base model."""
        return None if self.manifest.adapter_id == BASE else self.folder / ADAPTER

    @property
    def has_endpoint(self) -> bool:
        """Whether its model is behind an endpoint, so that there are no weights."""
        return ENDPOINT in self.saved

    @property
    def server(self) -> tuple[str, str | None] | None:
        """URL of that endpoint, and the environment variable with its key; None for a local model."""
        server = self.saved.get(ENDPOINT)
        return (str(server.get("base_url")), server.get("key_env")) if isinstance(server, Mapping) else None

    def writing(self) -> Writing | None:
        """The settings of generated answers; None for labels and fields.

        An endpoint is given the schema instead of a grammar.
        """
        written = self.manifest.written
        if written is None or self.manifest.fields is not None:
            return None
        grammar = None if self.has_endpoint else grammar_of(written, f"{self.folder / MANIFEST}, output.schema")
        return Writing(written, self.manifest.answer_tokens, grammar)

    @property
    def known(self) -> Known:
        """Its output and demonstrations, for a run that starts from it."""
        return Known(self.manifest.output, [dict(shown.fields) for shown in self.prompt.always_shown])


def base_folder(bundle: OpenedBundle, base: str | Path | None = None, progress: Callable[[str], None] | None = None) -> Path:
    """Folder of the base model, with its content checked; arguments and errors as in :func:`load`."""
    manifest, where = bundle.manifest, str(bundle.folder)
    name = base_of(manifest, base)
    try:
        model_folder = resolve_base(manifest, base, progress)
    except (OSError, InputError) as error:
        why, hint = (error.what, error.hint) if isinstance(error, InputError) else (error.strerror or error, "")
        if isinstance(error, NotFetchedError):
            hint = f"To allow fetching {name}, add --base hub (in Python, base='hub')."
        raise InputError(
            f"the bundle's base model cannot be found: {why}",
            where=where,
            hint=f"{hint} If it is elsewhere, give its folder as the base.".strip(),
        ) from error
    if model_fingerprint(model_folder) != manifest.base_model.fingerprint:
        raise InputError(
            f"the model {name} is not the one that the bundle was made with ({base_model_name(manifest)}, content hash"
            f" {manifest.base_model.fingerprint[:12]})",
            where=where,
            hint="Give the folder of the unchanged model as the base, or run again with this one.",
        )
    return model_folder


def resolve_base(manifest: Manifest, base: str | Path | None = None, progress: Callable[[str], None] | None = None) -> Path:
    """Folder of the base model, fetched from the hub only if the user allows it; ``base`` as in :func:`load`."""
    return resolve_model(base_of(manifest, base), progress, fetch=base is not None)


def _load_base(bundle: OpenedBundle, folder: Path, found: Capability, *, once: bool) -> LocalModel:
    from cotune.model.engine.settings import EngineSettings, batch_tokens, weight_bytes
    from cotune.model.local import LocalModel

    tokens = batch_tokens(found.memory_bytes, weight_bytes(folder))
    room = 0 if once else found.memory_bytes
    longest, truncate = bundle.manifest.max_tokens, bundle.manifest.truncate
    settings = EngineSettings(found.device, found.dtype, found.threads, tokens, longest, room, truncate)
    return LocalModel.load(folder, settings=settings, name=base_model_name(bundle.manifest), light=True)


def _predictor(bundle: OpenedBundle, model: LocalModel | RemoteModel) -> Predictor:
    manifest, folder = bundle.manifest, bundle.folder
    local = None if bundle.has_endpoint else cast("LocalModel", model)
    if bundle.prompt.nearest:
        model.chooser = model.chooser or Neighbours(local)
    if local is not None and bundle.adapter_folder is not None:
        if local.adapters.register(bundle.adapter_folder) != manifest.adapter_id:
            raise InputError(f"the adapter is not the one in {MANIFEST}", where=str(bundle.adapter_folder), hint=COPY_AGAIN)
        with _damaged(bundle.adapter_folder):
            local.adapters.use(manifest.adapter_id)
        check_probe(local, manifest, bundle.adapter_folder)
    return Predictor(
        model,
        bundle.prompt,
        manifest.choices,
        manifest.input_fields,
        decision=manifest.decision,
        adapter_id=manifest.adapter_id,
        bundle_id=manifest.id,
        task=manifest.task,
        writing=bundle.writing(),
        label_type=manifest.label_type,
        output=None if manifest.fields is None else manifest.written,
        calibration=Calibration.of(read_json(folder / METRICS), str(folder / METRICS)),
    )


def _read_parts(folder: Path, manifest: Manifest) -> tuple[Prompt, Mapping[str, Any]]:
    """The prompt and the whole content of ``prompt.json``, checked against the manifest."""
    where = str(folder / PROMPT)
    saved = read_json(folder / PROMPT)
    if has_half_character(json.dumps(saved, ensure_ascii=False)):
        raise InputError("the file contains half a character (a lone surrogate)", where=where, hint=COPY_AGAIN)
    data = saved.get("prompt") if isinstance(saved, dict) else None
    if not isinstance(data, dict):
        raise InputError("the file contains no prompt", where=where, hint=COPY_AGAIN)
    try:
        prompt = Prompt.from_json(data)
        same = isinstance(prompt.system, str | None) and prompt.id == manifest.prompt_id
    except InputError as error:
        raise InputError(error.what, where=where, hint=COPY_AGAIN) from error
    if not same:
        raise InputError(f"the prompt is not the one in {MANIFEST}", where=where, hint=COPY_AGAIN)
    for key, value in (("labels", manifest.labels), ("input_fields", manifest.input_fields)):
        if saved.get(key) != list(value):
            raise InputError(f"the {key} are not those in {MANIFEST}", where=where, hint=COPY_AGAIN)
    if read_json(folder / DECISION) != manifest.decision.to_json():
        raise InputError(f"the decision rule is not the one in {MANIFEST}", where=str(folder / DECISION), hint=COPY_AGAIN)
    return prompt, saved


def check_rendering(saved: Mapping[str, Any], model: Model, where: str, *, shorter: bool = False) -> None:
    """Refuse a tokenizer that would produce other token ids than in training and test.

    Args:
        saved: content of the bundle's ``prompt.json``.
        where: path of that file, for errors.
        shorter: whether the model may cut prompts earlier, because a run's longer answers need room among its positions.

    Raises:
        InputError: chat template, stop token or longest prompt differ.
    """
    for key, about, value in (
        ("chat_template", "chat template", getattr(model.tokenizer, "chat_template", None)),
        ("stop_id", "stop token", model.renderer.stop_id),
        ("max_tokens", "longest prompt", model.renderer.max_tokens),
    ):
        same = key in saved and saved[key] == value
        if not same and not (shorter and key == "max_tokens" and value < saved.get(key, 0)):
            raise InputError(
                f"the base model's {about} is not the one that the bundle was made with",
                where=where,
                hint="Use the unchanged base model, with versions of transformers and cotune close to those in the manifest.",
            )


@contextmanager
def _damaged(place: Path) -> Iterator[None]:
    """Name the place in errors that do not, and say how to get an undamaged bundle."""
    try:
        yield
    except InputError as error:
        raise InputError(error.what, where=error.where or str(place), hint=error.hint or COPY_AGAIN) from error


def check_probe(model: LocalModel, manifest: Manifest, folder: Path) -> None:
    """Refuse a registered adapter whose probe does not fit these labels or this model.

    Raises:
        InputError: it does not fit, or cannot be read.
    """
    with _damaged(folder / PROBE):
        probe = model.adapters.probe(manifest.adapter_id)
    if probe is None:
        return
    fields = manifest.fields
    known = set(probe.labels) == set(manifest.labels) if fields is None else probe.labels == fields.names
    if (
        not known
        or probe.sizes != (() if fields is None else fields.sizes)
        or probe.words != (fields is not None and fields.words)
        or probe.width != model.width
        or probe.layer > model.depth
    ):
        raise InputError("the probe does not fit the labels or the model", where=str(folder / PROBE), hint=COPY_AGAIN)


def base_of(manifest: Manifest, base: str | Path | None = None) -> str:
    """Name or folder of the base model: the given one, or the manifest's, pinned to its commit on the hub."""
    if base is not None and str(base) != FROM_HUB:
        return str(base)
    named = manifest.base_model
    return f"{named.name.partition('@')[0]}@{named.revision}" if named.revision else named.name
