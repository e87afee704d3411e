"""Reading of a run's folder: its config, its summary, its model and its adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cotune.config import RunConfig
from cotune.cycle.budget.budget import parse_budget
from cotune.errors import InputError
from cotune.files import inside, known_json, load_json
from cotune.model.loading.folder import model_fingerprint
from cotune.plain import fields
from cotune.run_files import SUMMARY

if TYPE_CHECKING:
    from cotune.model.adapters.slots import AdapterSlot


def read_config(path: Path) -> tuple[RunConfig, Mapping[str, Any]]:
    """The config in a run's ``config.json``, and the content hashes that identify the run.

    Raises:
        OSError: it cannot be read.
        ValueError: its content is invalid.
    """
    stored = load_json(path)
    if not isinstance(stored, dict) or not isinstance(identity := stored.get("identity"), dict) or "config" not in stored:
        raise ValueError("it has no config and identity")
    return _validated(stored["config"]), identity


def with_spelling_of(before: RunConfig, config: RunConfig) -> RunConfig:
    """``config`` with the budget as ``before`` spells it, if both are the same amount, as ``60s`` and ``1m`` are."""
    if parse_budget(before.budget) != parse_budget(config.budget):
        return config
    return config.model_copy(update={"budget": before.budget})


def _validated(values: Any) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ValueError(f"it has the setting {key}, which this version of cotune does not know") from None
        raise ValueError(f"{key}: {first['msg']}" if key else first["msg"]) from None


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of an ended run; None if it is missing or cannot be read."""
    found = known_json(folder / SUMMARY)
    return found if isinstance(found, dict) and found else None


@contextmanager
def reading_steps(where: str) -> Iterator[None]:
    """Convert errors in reading values of journal steps, because a folder from elsewhere may hold anything.

    Raises:
        InputError: the values are not those that a run writes.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"the journal's steps do not hold what this version writes there ({type(error).__name__}: {error})",
            where=where,
            hint="Copy the run's folder again from its source, or start a new run with another --out.",
        ) from error


def recorded(events: Sequence[Mapping[str, Any]], kind: str, where: str) -> Any:
    """The value of the first step of a kind.

    Raises:
        InputError: there is none.
    """
    for event in events:
        if event["kind"] == kind:
            return event["value"]
    raise InputError(f"the journal holds no step {kind!r}", where=where, hint="Copy the run's folder again from its source.")


def chosen_length(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The value of the last ``length`` step that was kept: how far a run reads its rows; empty if it never looked."""
    values = [fields(event["value"]) for event in events if event["kind"] == "length"]
    return next((dict(value) for value in reversed(values) if value.get("kept")), {})


def check_model(events: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Check before loading that a model is the one that the run started with; a new run takes any model.

    Raises:
        InputError: its files have changed since.
    """
    for event in events:
        if event["kind"] == "start" and isinstance(event["value"], Mapping):
            before, now = event["value"].get("model_fingerprint"), model_fingerprint(folder)
            if before != now:
                raise InputError(
                    f"the model is not the one that the run was made with (content hash {now[:12]}, and it was"
                    f" {str(before)[:12]})",
                    where=str(folder),
                    hint="Restore its files or name the folder of the unchanged model, or start a new run with another --out.",
                )


def register_kept(adapters: AdapterSlot, run: Path, adapter_id: str) -> None:
    """Register an adapter in a run's folder.

    Raises:
        InputError: its files are missing, or differ from the journal's content hash.
    """
    folder, wrong = inside(run / "adapters", adapter_id), ""
    if not folder.is_dir():
        wrong = "the trained weights that the journal names are missing"
    elif adapters.register(folder) != adapter_id:
        wrong = "the trained weights are not the ones that the journal names"
    if wrong:
        hint = "Copy adapters/ of the run again from its source, or start a new run with another --out."
        raise InputError(wrong, where=str(folder), hint=hint)
