"""The folder that ``cotune push`` uploads: exported model, bundle and model card."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cotune.bundle.export.command import CARD as EXPORT_CARD
from cotune.bundle.export.command import TARGETS, Target, export_bundle
from cotune.bundle.export.probe import TEMPLATE, TERMS
from cotune.bundle.hub.card import AT_THE_TOP, EXPORT_PAGE, HubCard
from cotune.bundle.hub.fetch import BUNDLE_FOLDER
from cotune.bundle.load import OpenedBundle, resolve_base
from cotune.bundle.manifest import CARD, list_files
from cotune.bundle.place import atomic_folder, check_new
from cotune.bundle.snippets import EXAMPLE, Ids
from cotune.errors import InputError, counted
from cotune.files import load_json, write_text
from cotune.model.loading.bundled import BUNDLED_MODEL

AUTO, BUNDLE_ALONE = "auto", "bundle"
FORMS = (AUTO, *(target for target in TARGETS if target in AT_THE_TOP), BUNDLE_ALONE)
"""Forms of the exported model."""


@dataclass(frozen=True)
class Repository:
    """The content of a repository on the hub.

    Attributes:
        name: ``org/name``.
        form: form of the exported model; None for the bundle alone.
        base: folder or name of the base model if it has moved.
        licence: licence of the base model, if the user gives it.
    """

    name: str
    bundle: OpenedBundle
    form: Target | None
    base: str | Path | None = None
    licence: str | None = None

    @classmethod
    def of(
        cls, name: str, bundle: Path, *, to: str = AUTO, base: str | Path | None = None, licence: str | None = None
    ) -> Repository:
        """Open a bundle for pushing.

        Args:
            bundle: its folder, or its run's.
            to: one of :data:`FORMS`.
            base: as for :func:`cotune.bundle.load`.
            licence: licence of the base model as the hub spells it; None to use that of its model card.

        Raises:
            InputError: if the name or the bundle is invalid, or the form is unknown.
        """
        _check_name(name)
        if to not in FORMS:
            raise InputError(f"unknown format {to!r}", where="--to", hint=f"Use one of {', '.join(FORMS)}.")
        opened = OpenedBundle.read(bundle)
        form = form_of(opened) if to == AUTO else next((t for t in TARGETS if t == to), None)
        if form is not None and opened.manifest.fields is not None:
            raise InputError(
                "the bundle reads several fields off hidden states, and only such bundles themselves can be pushed",
                where="--to",
                hint="Use --to bundle; cotune export --to transformers writes a folder that you can upload yourself.",
            )
        return cls(name, opened, form, base, licence)

    @property
    def rows(self) -> int:
        """Number of rows of the user's data that the prompt shows."""
        return len(self.bundle.prompt.demonstrations)

    def told(self) -> list[str]:
        """Sentences for the user about the private data that readers of the repository will see."""
        found = []
        if self.rows:
            found.append(f"The prompt shows {counted(self.rows, 'row')} of your data, word for word.")
        if (server := self.bundle.server) is not None:
            found.append(f"The bundle contains the address of the model's server, {server[0]}.")
        elif Path(self.bundle.manifest.base_model.name).is_absolute():
            found.append(f"The bundle contains the path of the base model, {self.bundle.manifest.base_model.name}.")
        return found

    def write(self, out: Path) -> list[str]:
        """Write all files into a new or empty folder; returns their names. Errors as in :func:`export_bundle`."""
        check_new(out)
        bundle = self.bundle
        with atomic_folder(out) as temporary:
            if self.form is not None:
                with tempfile.TemporaryDirectory(dir=temporary, prefix=".export-") as aside:
                    exported = export_bundle(bundle.folder, Path(aside) / "model", self.form, base=self.base)
                    (exported / EXPORT_CARD).rename(exported / EXPORT_PAGE)
                    for path in exported.iterdir():
                        path.rename(temporary / path.name)
            shutil.copytree(bundle.folder, temporary / BUNDLE_FOLDER)
            write_text(temporary / CARD, self._card(temporary if self.form is not None else None).page())
            return sorted(list_files(temporary))

    def _card(self, exported: Path | None) -> HubCard:
        """The card of a repository with an export in that folder; None for the bundle alone."""
        marks: dict[str, str] = {}
        text, ids, terms = None, None, False
        if exported is not None:
            example = load_json(exported / EXAMPLE)
            text, marks, terms = example["prompt_text"], example["fields"], (exported / TERMS).is_file()
            if self.form == "transformers":
                template = load_json(exported / TEMPLATE)
                ids = Ids(template["add_special_tokens"], template["beyond"])
        licence = self.licence or licence_of(self.bundle, self.base)
        return HubCard(self.name, self.bundle, self.form, licence, text, marks, ids, terms)


def form_of(bundle: OpenedBundle) -> Target | None:
    """The default form: a classifier for bundles with a probe, else one merged model."""
    if bundle.has_endpoint or bundle.prompt.nearest or bundle.manifest.fields is not None:
        return None
    return "transformers" if bundle.manifest.decision.kind == "probe" else "merged"


def licence_of(bundle: OpenedBundle, base: str | Path | None = None) -> str | None:
    """The licence in the base model's card; None if the card is not on this machine or names none."""
    if bundle.manifest.base_model.name.lower() == BUNDLED_MODEL:
        return "apache-2.0"
    if bundle.has_endpoint:
        return None
    from huggingface_hub import ModelCard

    try:
        card = ModelCard.load(resolve_base(bundle.manifest, base) / CARD, ignore_metadata_errors=True)
    except (InputError, OSError, ValueError):
        return None
    found = card.data.license
    return found if isinstance(found, str) else None


def _check_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        what = f"{name!r} is not a valid name of a repository"
        raise InputError(what, where="REPOSITORY", hint="Names look like org/name.") from error
    if name.count("/") != 1:
        raise InputError(
            f"{name!r} has no owner", where="REPOSITORY", hint="Write your user name or organization in front of it: org/name."
        )
