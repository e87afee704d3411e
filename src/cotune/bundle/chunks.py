"""Answering the rows of a file on an executor: each batch of rows is a job."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from cotune.bundle.load import OpenedBundle, base_folder, load
from cotune.bundle.predictor import Prediction, Predictor
from cotune.errors import InputError
from cotune.executor import Done, Executor, Job, engine_of, run_all, unlike
from cotune.files import absolute, canonical_json
from cotune.garbage import collection_paused
from cotune.model.loading.folder import FROM_HUB


def open_for_workers(bundle: Path, base: Path | None, *, here: bool) -> OpenedBundle:
    """Open and check a bundle before any worker starts.

    Args:
        base: as for :func:`cotune.bundle.load`.
        here: whether the workers run on this machine, so that the base model is prepared for them once.

    Raises:
        InputError: the bundle cannot be loaded, or its model is behind an endpoint.
    """
    opened = OpenedBundle.read(bundle)
    if opened.has_endpoint:
        raise InputError(
            "the bundle's model is behind an endpoint, which workers do not support",
            where="--executor",
            hint="Remove --executor: an endpoint is sent concurrent requests anyway.",
        )
    if here:
        base_folder(opened, base)
    return opened


def answer_on(
    executor: Executor,
    bundle: OpenedBundle,
    rows: Sequence[Mapping[str, str]],
    *,
    base: Path | None,
    probabilities: bool,
    unsure: float | None,
    batch: int,
    told: Callable[[Done], None],
) -> tuple[list[Prediction], str]:
    """Answer rows on an executor.

    Each job is one batch, the same as in :func:`cotune.bundle.answer_sheet.answer_sheet`. On the same processor and with the
    same number of threads, the answers are therefore exactly the same.

    Args:
        bundle: from :func:`open_for_workers`.
        rows: the rows, from :func:`cotune.bundle.answer_sheet.askable`.
        base: as for :func:`cotune.bundle.load`.
        unsure: error rate, as for :meth:`cotune.bundle.Predictor.predict`.
        batch: number of rows in a job.
        told: called with each job when it is finished.

    Returns:
        The answers, and the facts in which the workers' engines differ (empty if they agree).
    """
    engine = engine_of(executor)
    place = None if base is None else FROM_HUB if str(base) == FROM_HUB else absolute(base)
    places = {"bundle": absolute(bundle.folder), "base": place}
    about = {"bundle": bundle.manifest.id, "probabilities": probabilities, "unsure": unsure, "engine": engine}
    parts = (rows[start : start + batch] for start in range(0, len(rows), batch))
    done = run_all(executor, (Job(answer_chunk, {**about, "rows": part}, places, len(part)) for part in parts), told)
    found: list[Prediction] = []
    engines = []
    names = bundle.manifest.shown
    for one in done:
        result = _read(one)
        engines.append(result["engine"])
        for answer, shares, truncated, ended, possible, confidence in result["answers"]:
            by_name = dict(zip(names, shares, strict=True)) if shares else {}
            found.append(Prediction(answer, by_name, truncated, ended, tuple(possible), confidence))
    return found, unlike(engines)


def answer_chunk(given: Mapping[str, Any], places: Mapping[str, Any]) -> bytes:
    """Job that answers one batch of rows."""
    engine = given["engine"]
    on = (engine["device"], engine["dtype"], engine["threads"])
    predictor = _loaded(places["bundle"], given["bundle"], places["base"], *on)

    found = predictor.answers(given["rows"], probabilities=given["probabilities"], unsure=given["unsure"])
    facts = predictor.model.facts()
    told = [
        [one.answer, [*one.probabilities.values()], one.truncated, one.ended, one.possible, one.confidence] for one in found
    ]
    return canonical_json({"answers": told, "engine": facts}).encode()


@lru_cache(maxsize=1)
def _loaded(bundle: str, id: str, base: str | None, device: str, dtype: str, threads: int) -> Predictor:
    with collection_paused():
        predictor = load(bundle, base=base, device=device, dtype=dtype, threads=threads)
    if predictor.bundle_id != id:
        raise InputError(
            "a worker has a different bundle here than the command",
            where=bundle,
            hint="Put the bundle into a folder that every node has under the same path.",
        )
    return predictor


def _read(done: Done) -> Any:
    try:
        return json.loads(done.read())
    except ValueError as error:
        raise InputError(
            "the answers in this file are damaged", where=done.where, hint="Remove it and run the same command again."
        ) from error
