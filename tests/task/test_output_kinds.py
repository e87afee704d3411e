"""The registry of output kinds, and that no other room asks for a kind by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

import cotune
from cotune.config.output import OutputConfig
from cotune.task.metrics.metric import METRICS
from cotune.task.values.kinds.registry import KINDS, OUTPUT_TYPES, WRITTEN_TYPES
from cotune.task.values.output import Output

ROOT = Path(cotune.__file__).parent
_CHECK = re.compile(r"\b(?:output|written|kind)(?:\.type)? (?:==|!=|in|not in) \(?[\"'](?:label|text|number|json)[\"']")
# Speaks of the kinds of values that JSON Schema has.
_OTHER = {"task/values/schema.py"}


def test_every_type_has_its_kind() -> None:
    assert set(KINDS) == set(OUTPUT_TYPES)
    assert {*get_args(OutputConfig.model_fields["type"].annotation)} == {None.__class__, Literal[OUTPUT_TYPES]}
    assert all(kind.name == name for name, kind in KINDS.items())
    assert set(WRITTEN_TYPES) == {name for name in OUTPUT_TYPES if Output(name).kind.written} == {"text", "number", "json"}
    assert all(name in METRICS[KINDS[name].default_metric].types for name in OUTPUT_TYPES)


def test_no_room_asks_for_a_kind_by_name() -> None:
    asking = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if "kinds" not in path.parts and _CHECK.search(path.read_text(encoding="utf-8"))
    }
    assert asking == _OTHER
