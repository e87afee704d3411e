"""The manifest of a bundle: its files with hashes, and the check of a folder against it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from cotune.errors import InputError
from cotune.evaluate.decision import Decision
from cotune.files import content_hash, expanded, file_sha256, inside, load_json
from cotune.probe.readout import PROBE
from cotune.prompt.truncate import TRUNCATIONS, Truncation
from cotune.run_files import BUNDLE, JOURNAL
from cotune.task.metrics.user import names_user_metric
from cotune.task.output_columns import listed_columns
from cotune.task.reading.cells import has_half_character
from cotune.task.values.label_type import LABEL_TYPES, LabelType
from cotune.task.values.output import Output, label_output
from cotune.task.values.output_fields import AnswerFields
from cotune.version import __version__

FORMAT, WRITTEN_FORMAT = 3, 2
"""Format of bundles for labels, and for generated answers."""
MANIFEST, PROMPT, DECISION, METRICS, CARD, ADAPTER = (
    "manifest.json",
    "prompt.json",
    "decision.json",
    "metrics.json",
    "README.md",
    "adapter",
)
DATA = "data"
"""Key in the metrics of the content hashes of all rows (``rows``) and of the test (``test``)."""
NEEDED = (PROMPT, DECISION, METRICS, CARD)
ADAPTER_FILES = (f"{ADAPTER}/adapter_config.json", f"{ADAPTER}/adapter_model.safetensors")
LARGEST_JSON = 16 * 2**20

ENDINGS = (".json", ".md", ".safetensors")
"""Endings of files that a bundle may contain."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_VERSION = re.compile(r"[A-Za-z0-9.+_-]{1,40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_ENTRIES = 1000
_LONGEST_TEXT = 100_000
COPY_AGAIN = "Copy the bundle again from where it was made."
"""Hint for a damaged bundle."""


@dataclass(frozen=True)
class BaseModel:
    """The model that a bundle was made with.

    Attributes:
        name: the bundled model's name, a folder, or a hub id.
        fingerprint: content hash of its files, see :func:`cotune.model.loading.folder.model_fingerprint`.
        revision: commit on the hub; None for anything else.
    """

    name: str
    fingerprint: str
    revision: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Content and provenance of a bundle.

    Attributes:
        files: relative POSIX name to sha256 of every file but the manifest itself.
        adapter_id: content hash of the adapter, or ``base`` if there is none.
        prompt_id: content hash of the prompt.
        labels: all labels, in the order of the decision's bias; empty for generated answers.
        input_fields: input fields of a row.
        max_tokens: longest prompt in tokens.
        truncate: what a row of a longer prompt loses of its text.
        written: the output for generated answers and those of several fields; None for labels.
        answer_tokens: maximum length of a generated answer; 0 for fields.
        label_type: type of the labels in the data: texts, numbers or truth values.
    """

    task: str
    files: Mapping[str, str]
    base_model: BaseModel
    adapter_id: str
    prompt_id: str
    decision: Decision
    labels: tuple[str, ...]
    input_fields: tuple[str, ...]
    output_field: str
    metric: str
    max_tokens: int
    versions: Mapping[str, str]
    truncate: Truncation = "end"
    written: Output | None = None
    answer_tokens: int = 0
    label_type: LabelType = "text"

    @property
    def output(self) -> Output:
        return self.written or label_output(self.labels, self.label_type)

    @property
    def fields(self) -> AnswerFields | None:
        """The fields that a probe reads; None for labels and generated answers."""
        return self.written.fields if self.written is not None and self.decision.kind == "probe" else None

    @property
    def choices(self) -> tuple[str, ...]:
        """What scores are given to: the labels, or the names of the fields' values; empty for generated answers."""
        return self.labels if self.fields is None else self.fields.names

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of the probabilities of an answer; empty for generated answers, which have none."""
        return self.labels if self.fields is None else self.fields.shown

    @property
    def has_adapter(self) -> bool:
        """Whether its folder has the weights of a PEFT adapter, and not only a probe."""
        return not set(ADAPTER_FILES).isdisjoint(self.files)

    @property
    def output_columns(self) -> tuple[str, ...]:
        """The columns that the training rows had instead of one of JSON objects; empty if they had one output column."""
        columns, properties = listed_columns(self.output_field), (self.output.schema or {}).get("properties", {})
        return columns if properties and properties.keys() <= {*columns} else ()

    @property
    def named_metric(self) -> str | None:
        """The metric's name; None for a function of the user, whose file is not in the bundle."""
        return None if names_user_metric(self.metric) else self.metric

    @cached_property
    def id(self) -> str:
        """Content hash of the whole manifest, 16 hex digits: bundles with one id are the same bundle."""
        return content_hash(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` turns back into an equal manifest."""
        said: dict[str, Any] = {"labels": list(self.labels)}
        if self.label_type != "text":
            said["label_type"] = self.label_type
        engine: dict[str, Any] = {"max_tokens": self.max_tokens}
        if self.truncate != "end":
            engine["truncate"] = self.truncate
        if self.written is not None:
            said = {"output": self.written.to_json()}
            engine["answer_tokens"] = self.answer_tokens
        return {
            "format": FORMAT if self.written is None else WRITTEN_FORMAT,
            "task": self.task,
            "files": dict(sorted(self.files.items())),
            "base_model": asdict(self.base_model),
            "adapter_id": self.adapter_id,
            "prompt_id": self.prompt_id,
            "decision": self.decision.to_json(),
            **said,
            "input_fields": list(self.input_fields),
            "output_field": self.output_field,
            "metric": self.metric,
            "engine": engine,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, data: Any, where: str = MANIFEST) -> Manifest:
        """Inverse of :meth:`to_json`.

        Raises:
            InputError: keys are missing, unknown or of the wrong type, or the format is another.
        """
        table = _Keys(data, where)
        if (version := table.take("format", int)) not in (FORMAT, WRITTEN_FORMAT):
            raise InputError(
                f"the bundle was made by {_made_by(data)} in format {version}, and cotune {__version__} reads format {FORMAT} "
                f"(labels) and {WRITTEN_FORMAT} (generated answers)",
                where=where,
                hint="Use the version of cotune that made it, or run again with this one.",
            )
        base = _Keys(table.take("base_model", dict), where, "base_model.")
        engine = _Keys(table.take("engine", dict), where, "engine.")
        try:
            decision = Decision.from_json(table.take("decision", dict))
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError("the decision rule is invalid", where=f"{where}, key decision", hint=COPY_AGAIN) from error
        found = cls(
            task=table.take("task", str),
            files=table.texts_by_name("files"),
            base_model=BaseModel(base.take("name", str), base.take("fingerprint", str), base.take("revision", str, None)),
            adapter_id=table.take("adapter_id", str),
            prompt_id=table.take("prompt_id", str),
            decision=decision,
            labels=table.texts("labels") if version == FORMAT else (),
            input_fields=table.texts("input_fields"),
            output_field=table.take("output_field", str),
            metric=table.take("metric", str),
            max_tokens=engine.take("max_tokens", int),
            versions=table.texts_by_name("versions"),
            # Older bundles do not say.
            truncate=engine.take("truncate", str, "end"),
            written=_written(table, where) if version == WRITTEN_FORMAT else None,
            answer_tokens=engine.take("answer_tokens", int) if version == WRITTEN_FORMAT else 0,
            label_type=table.take("label_type", str, "text") if version == FORMAT else "text",
        )
        for keys in (table, base, engine):
            keys.end()
        if decision.bias and len(decision.bias) != len(found.labels):
            table.wrong("decision", f"has {len(decision.bias)} numbers for {len(found.labels)} labels")
        if found.label_type not in LABEL_TYPES:
            table.wrong("label_type", "is not one of " + ", ".join(LABEL_TYPES))
        if not 1 <= found.max_tokens <= 10_000_000:
            table.wrong("engine.max_tokens", "is out of range")
        if found.truncate not in TRUNCATIONS:
            table.wrong("engine.truncate", "is not one of " + ", ".join(TRUNCATIONS))
        if version == WRITTEN_FORMAT and not (found.fields is None) <= found.answer_tokens <= 1_000_000:
            table.wrong("engine.answer_tokens", "is out of range")
        return found


def _made_by(data: Mapping[str, Any]) -> str:
    """The version that made a bundle, if it is safe to show."""
    versions = data.get("versions")
    named = versions.get("cotune") if isinstance(versions, dict) else None
    return f"cotune {named}" if isinstance(named, str) and _VERSION.fullmatch(named) else "another version of cotune"


def _written(table: _Keys, where: str) -> Output:
    output = Output.from_json(table.take("output", dict))
    if not output.kind.written:
        raise InputError("the output is not one of generated answers", where=f"{where}, key output", hint=COPY_AGAIN)
    return output


def bundle_folder(folder: str | Path) -> Path:
    """The bundle in a folder: the folder itself, or ``best`` in a run's folder."""
    folder = expanded(folder)
    nested = folder / BUNDLE
    return nested if not os.path.lexists(folder / MANIFEST) and (nested / MANIFEST).is_file() else folder


def read_manifest(folder: Path) -> Manifest:
    """Read and validate a manifest, without checking the files that it names."""
    if not folder.is_dir():
        what = "this is a file, not the folder of a bundle" if folder.exists() else "there is no such bundle"
        raise InputError(what, where=str(folder), hint="Give the folder of a run or of a bundle.")
    if not os.path.lexists(folder / MANIFEST):
        if (folder / JOURNAL).is_file():
            hint = "A run writes one after its first verdict: run the same cotune run command again."
            raise InputError("this run has no bundle yet", where=str(folder), hint=hint)
        hint = "Give the folder of a run, or a copy of its folder best/."
        raise InputError("this folder is not a bundle: it has no manifest.json", where=str(folder), hint=hint)
    return Manifest.from_json(read_json(folder / MANIFEST), str(folder / MANIFEST))


def verify(folder: Path, manifest: Manifest) -> None:
    """Check that a bundle contains exactly the files of its manifest, byte for byte.

    Raises:
        InputError: a name leads out of the folder or has a forbidden ending (such as pickle files); a file is missing,
            unexpected, a link, not a regular file, or changed. The message names the file.
    """
    folder = folder.resolve()
    found = list_files(folder) - {MANIFEST}
    for name, digest in manifest.files.items():
        check_name(folder, name)
        if not _SHA256.fullmatch(digest):
            raise InputError(f"the sha256 of {name} is invalid", where=str(folder / MANIFEST), hint=COPY_AGAIN)
    probed = f"{ADAPTER}/{PROBE}" in manifest.files
    # The folder of a probe on the untuned model contains only the probe.
    tuned = manifest.adapter_id != "base" and (manifest.has_adapter or not probed)
    needed = {*manifest.files, *NEEDED, *(ADAPTER_FILES if tuned else ())}
    if lost := sorted(needed - found):
        raise InputError("the file is missing", where=str(folder / lost[0]), hint=COPY_AGAIN)
    if added := sorted(found - set(manifest.files)):
        raise InputError(
            "the file is not in the bundle's manifest", where=str(folder / added[0]), hint="Move it out of the bundle."
        )
    by_probe = manifest.decision.kind == "probe"
    if by_probe != probed or (by_probe and (not manifest.choices or manifest.adapter_id == "base")):
        raise InputError(
            "a bundle has a probe if and only if its decision rule is probe, and then needs labels or fields, and the "
            "probe's adapter id",
            where=str(folder / ADAPTER / PROBE),
            hint=COPY_AGAIN,
        )
    if manifest.adapter_id == "base" and (odd := sorted(n for n in found if n.startswith(f"{ADAPTER}/"))):
        raise InputError("a bundle of the base model must not contain an adapter", where=str(folder / odd[0]), hint=COPY_AGAIN)
    for name, digest in sorted(manifest.files.items()):
        try:
            same = file_sha256(folder / name) == digest
        except OSError as error:
            _unreadable(folder / name, error)
        if not same:
            raise InputError("the file has changed since the bundle was made", where=str(folder / name), hint=COPY_AGAIN)


def check_name(folder: Path, name: str) -> None:
    """Refuse a file whose name could lead out of the bundle's folder, or whose ending is forbidden."""
    if not _NAME.fullmatch(name) or name == MANIFEST:
        raise InputError(f"the name {name!r} is not allowed in a bundle", where=str(folder / MANIFEST), hint=COPY_AGAIN)
    if not name.endswith(ENDINGS):
        raise InputError(
            "a bundle may only contain JSON, Markdown and safetensors, since other files can run code when they are read",
            where=str(folder / name),
            hint=COPY_AGAIN,
        )
    inside(folder, name)


def list_files(folder: Path) -> set[str]:
    """Relative POSIX names of all files below a folder; an :class:`InputError` for a link or device, or far too many files."""
    names: set[str] = set()
    entries = 0
    for current, folders, files in os.walk(folder, onerror=lambda error: _unreadable(Path(error.filename), error)):
        entries += len(folders) + len(files)
        if entries > _MOST_ENTRIES:
            raise InputError("the folder has too many files for a bundle", where=str(folder), hint=COPY_AGAIN)
        for path in (Path(current, name) for name in (*folders, *files)):
            try:
                kind = path.lstat().st_mode
            except OSError as error:
                _unreadable(path, error)
            if stat.S_ISREG(kind):
                names.add(path.relative_to(folder).as_posix())
            elif not stat.S_ISDIR(kind):
                _irregular(path)
    return names


def read_json(path: Path) -> Any:
    """Read a JSON file of a bundle; an :class:`InputError` if it is not regular, too large, nested too deeply, or not JSON."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            _irregular(path)
        if status.st_size > LARGEST_JSON:
            raise InputError(
                f"the file has {status.st_size:,} bytes, and {LARGEST_JSON:,} are allowed", where=str(path), hint=COPY_AGAIN
            )
        return load_json(path, finite=True)
    except OSError as error:
        _unreadable(path, error)
    except ValueError as error:
        raise InputError(f"the file is not valid JSON ({error})", where=str(path), hint=COPY_AGAIN) from error


class _Keys:
    """Reads keys of a JSON object one by one, each checked."""

    def __init__(self, data: Any, where: str, before: str = "") -> None:
        self.where, self.before = where, before
        if not isinstance(data, dict):
            raise InputError("this is not a JSON object", where=where, hint=COPY_AGAIN)
        self.left = dict(data)

    def take(self, key: str, kind: type, *default: Any) -> Any:
        if default and self.left.get(key) is None:
            self.left.pop(key, None)
            return default[0]
        if key not in self.left:
            self.wrong(key, "is missing")
        value = self.left.pop(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            self.wrong(key, "has a value of the wrong type")
        self._check_texts(key, value)
        return value

    def _check_texts(self, key: str, value: Any) -> None:
        """Refuse very long texts, and lone surrogates, which cannot be encoded."""
        texts = [value] if isinstance(value, str) else [*value, *value.values()] if isinstance(value, dict) else value
        for text in texts if isinstance(texts, list) else ():
            if isinstance(text, str) and (len(text) > _LONGEST_TEXT or has_half_character(text)):
                self.wrong(key, "contains half a character (a lone surrogate) or a very long text")

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.take(key, list)
        if not value or not all(isinstance(item, str) for item in value) or len(set(value)) < len(value):
            self.wrong(key, "must be a list of different texts")
        return tuple(value)

    def texts_by_name(self, key: str) -> dict[str, str]:
        value = self.take(key, dict)
        if not all(isinstance(item, str) for item in value.values()):
            self.wrong(key, "must contain only texts")
        return dict(value)

    def end(self) -> None:
        if self.left:
            self.wrong(min(self.left), "is unknown")

    def wrong(self, key: str, what: str) -> NoReturn:
        raise InputError(f"the key {self.before}{key} {what}", where=self.where, hint=COPY_AGAIN)


def _irregular(path: Path) -> NoReturn:
    what = "a link" if path.is_symlink() else "not a regular file"
    raise InputError(f"this is {what}, and a bundle must contain the files themselves", where=str(path), hint=COPY_AGAIN)


def _unreadable(path: Path, error: OSError) -> NoReturn:
    raise InputError(
        f"the file cannot be read ({error.strerror or error})",
        where=str(path),
        hint="Check that it exists, and its permissions.",
    ) from error
