"""Uploading a folder to the hub in one commit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cotune.bundle.hub.fetch import BUNDLE_FOLDER
from cotune.bundle.manifest import MANIFEST
from cotune.errors import CotuneError, InputError
from cotune.model.loading.folder import network_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_OF_THE_HUB = ".gitattributes"
"""Created by the hub in every repository."""
_EXISTS, _UPDATE = "the repository already exists", "Add --update to add a commit to it, or choose another name."


@dataclass(frozen=True)
class Pushed:
    """The commit of an upload: its URL and its hash."""

    url: str
    commit: str


def check_target(repository: str, *, update: bool, private: bool) -> HfApi:
    """Check that a repository can be pushed to, before anything is computed.

    Args:
        update: whether it may exist; it must then be a repository that was pushed by cotune.
        private: whether only some people may read it; an existing repository must then be private already.

    Raises:
        InputError: if there is no token or the hub rejects it; the hub cannot be reached; or the repository exists without
            ``update``, was not pushed by cotune, or is public although it should be private.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise InputError(
            "there is no token for the hub",
            where=repository,
            hint="Set HF_TOKEN to a token with write permission, or run `hf auth login`; --dry-run needs no token.",
        )
    api = HfApi(token=token)
    with _readable_errors(api, repository):
        api.whoami()
        if not api.repo_exists(repository):
            return api
        if not update:
            raise InputError(_EXISTS, where=repository, hint=_UPDATE)
        there = set(api.list_repo_files(repository)) - {_OF_THE_HUB}
        if private and not api.repo_info(repository).private:
            raise InputError(
                "the repository is public, and --private would not change that",
                where=repository,
                hint="Make it private on the hub first, or omit --private.",
            )
    if there and f"{BUNDLE_FOLDER}/{MANIFEST}" not in there:
        raise InputError(
            "the repository contains no cotune bundle, and --update would delete its files",
            where=repository,
            hint="Choose another name.",
        )
    return api


def upload(api: HfApi, repository: str, folder: Path, files: Sequence[str], *, private: bool, update: bool) -> Pushed:
    """Create a repository and commit a folder's files to it; with ``update``, other files in it are deleted.

    Args:
        api: client from :func:`check_target`.
        private: whether a new repository is private; an existing one is not changed.
        update: whether it may exist.

    Raises:
        InputError: if the token has no permission, the name was taken meanwhile, or the hub cannot be reached.
        CotuneError: if the hub rejects a file.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _readable_errors(api, repository):
        # None applies the organization's default for new repositories.
        api.create_repo(repository, private=private or None, exist_ok=update)
        gone = set(api.list_repo_files(repository)) - {_OF_THE_HUB, *files} if update else set()
        done = api.create_commit(
            repository,
            [
                *(CommitOperationDelete(path_in_repo=name) for name in sorted(gone)),
                *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in files),
            ],
            commit_message="Push a cotune bundle",
        )
    return Pushed(done.commit_url, done.oid)


@contextlib.contextmanager
def _readable_errors(api: HfApi, repository: str) -> Iterator[None]:
    """Convert exceptions of the hub's client to errors for users."""
    try:
        yield
    except network_errors() as error:
        raise _error(error, api.endpoint, repository) from error
    except (RuntimeError, ValueError) as error:
        # For large files, the client's error only names the file; its cause holds the reason.
        if isinstance(error.__cause__, network_errors()):
            raise _error(error.__cause__, api.endpoint, repository) from error
        raise CotuneError(f"{repository}: the hub did not accept the files: {error}") from error


def _error(error: BaseException, endpoint: str, repository: str) -> InputError:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return InputError(
            "the hub cannot be used, because HF_HUB_OFFLINE is set", where=repository, hint="Unset it, or use --dry-run."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = getattr(error, "server_message", None)
    owner = repository.partition("/")[0]
    what, hint = {
        401: ("the hub refused the token", f"Create one with write permission at {endpoint}/settings/tokens and set HF_TOKEN."),
        403: (
            f"the token has no permission to write to {owner}",
            "Use a token with this permission, or your own user name before the slash.",
        ),
        409: (_EXISTS, _UPDATE),
        None: (
            f"the hub at {endpoint} cannot be reached ({type(error).__name__})",
            "Check the network; --dry-run writes the files without it.",
        ),
    }.get(status, (f"the hub answered with {status}{f': {said}' if said else ''}", "Try again; --dry-run writes the files."))
    return InputError(what, where=repository, hint=hint)
