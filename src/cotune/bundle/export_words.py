"""A bundle without its classification head, for programs that have no place for one: there the labels' words answer."""

from __future__ import annotations

import copy
from dataclasses import replace

from cotune.bundle.manifest import Manifest
from cotune.bundle.predictor import Predictor
from cotune.errors import InputError
from cotune.evaluate.decision import rule_of_words
from cotune.model.local import LocalModel


def in_words(predictor: Predictor, manifest: Manifest) -> tuple[Predictor, Manifest, str]:
    """The bundle as it answers by its labels' words, with the decision rule that goes with these.

    Returns:
        Predictor, manifest, and a sentence for people; the same two and nothing where the bundle has no head.

    Raises:
        InputError: what the head says of the words is no decision rule.
    """
    model = predictor.scorer
    head = model.adapters.head(predictor.adapter_id) if isinstance(model, LocalModel) else None
    if head is None or not isinstance(model, LocalModel):
        return predictor, manifest, ""
    decision = rule_of_words(head.words)
    if decision.bias and len(decision.bias) != len(manifest.labels):
        raise InputError("the decision rule for words is not of these labels", where=manifest.task)
    other = copy.copy(predictor)
    other.adapter_id, other.decision = model.adapters.without_head(predictor.adapter_id), decision
    score = head.words.get("score")
    reached = f", which reached {score:.3f} on dev" if isinstance(score, float) else ""
    told = (
        "In cotune a classification head chooses among the labels (`adapter/classification_head.safetensors` of the bundle). "
        f"Other programs have no place for it: here the labels' words answer{reached}."
    )
    return other, replace(manifest, adapter_id=other.adapter_id, decision=decision), told
