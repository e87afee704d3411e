"""The served bundles by name, each with its kinds of work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cotune.bundle.collect import Collector
from cotune.bundle.predictor import Predictor
from cotune.bundle.serve.errors import ApiError
from cotune.bundle.serve.schemas import ModelCard, OutputCard
from cotune.bundle.serve.work import Drawing, Embedding, Scoring
from cotune.errors import InputError


@dataclass(frozen=True)
class Served:
    """A served bundle.

    Attributes:
        id: ``task@hash``.
        best: work for answers without probabilities.
        full: work for answers with all probabilities.
        sure: the same, without an answer to undecided rows if the server runs with ``unsure``.
        drawn: work for sampled answers; None unless the bundle generates free text.
        embedding: work for its base model, the same object for all bundles of one.
    """

    id: str
    predictor: Predictor
    best: Scoring
    full: Scoring
    sure: Scoring
    drawn: Drawing | None
    embedding: Embedding

    @property
    def parent(self) -> str:
        return self.predictor.model.name


class Shelf:
    """The served bundles.

    Args:
        unsure: error rate of ``/predict``; None answers every row.
        collectors: one for each bundle, if rows are collected.

    Raises:
        InputError: if a bundle is given twice, or has no calibration for ``unsure``.
    """

    def __init__(
        self, predictors: Sequence[Predictor], unsure: float | None = None, collectors: Sequence[Collector] = ()
    ) -> None:
        self.created = int(time.time())
        self.served: dict[str, Served] = {}
        embeddings: dict[str, Embedding] = {}
        self._collectors = tuple(collectors)
        kept: Sequence[Collector | None] = collectors or [None] * len(predictors)
        for predictor, collector in zip(predictors, kept, strict=True):
            name = f"{predictor.task}@{predictor.bundle_id}"
            if name in self.served:
                raise InputError(f"the bundle {name!r} is given twice", where="serve", hint="Name each bundle once.")
            model = predictor.model
            embedding = embeddings.setdefault(model.fingerprint, Embedding(model))
            if unsure is not None:
                predictor.doubt(unsure)
            best = Scoring(predictor, probabilities=False, collector=collector)
            full = Scoring(predictor, probabilities=True, collector=collector)
            sure = full if unsure is None else Scoring(predictor, probabilities=True, unsure=unsure, collector=collector)
            drawn = Drawing(predictor) if predictor.output.kind.sampled else None
            self.served[name] = Served(name, predictor, best, full, sure, drawn, embedding)

    def warm_up(self) -> None:
        """Compute the prefix of every bundle's prompt in advance. Call it from the model's thread."""
        for served in self.served.values():
            predictor, model = served.predictor, served.predictor.model
            if model.settings.threads:
                torch.set_num_threads(model.settings.threads)
            model.keep_prefix(predictor.prompt, predictor.input_fields, predictor.labels, adapter=predictor.adapter_id)
        for collector in self._collectors:
            collector.prepare()

    def find(self, name: str, param: str = "model") -> Served:
        """A bundle by its id, or by its task's name if that is unique; an :class:`ApiError` 404 otherwise."""
        if name in self.served:
            return self.served[name]
        named = [each for each in self.served.values() if each.predictor.task == name]
        if len(named) == 1:
            return named[0]
        what = f"{len(named)} bundles have this task" if named else "there is no such bundle"
        raise ApiError(404, f"{what}; /v1/models lists their ids.", code="model_not_found", param=param)

    def embedding(self, name: str) -> Embedding:
        """The embedding work of a base model, by its own name or that of a bundle."""
        found = {id(each.embedding): each.embedding for each in self.served.values() if each.parent == name}
        return next(iter(found.values())) if len(found) == 1 else self.find(name).embedding

    def card(self, served: Served) -> ModelCard:
        predictor = served.predictor
        schema = predictor.output.schema
        if schema is not None and predictor.fields is not None and not predictor.output.kind.by_field:
            # If all labelled numbers are whole, the mean that is answered may have decimals.
            schema = {**schema, "type": "number"}
        return ModelCard(
            id=served.id,
            created=self.created,
            parent=served.parent,
            root=served.parent,
            adapter=predictor.adapter_id,
            task=predictor.task,
            bundle=predictor.bundle_id,
            input_fields=list(predictor.input_fields),
            labels=list(predictor.output.labels),
            output=OutputCard(type=predictor.output.type, schema=schema),
        )
