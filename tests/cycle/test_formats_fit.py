from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cotune.cycle.diagnostics.allowance import variants_of
from cotune.errors import InputError
from cotune.model.base import EVERYTHING
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import Renderer
from tiny import tiny_tokenizer

PROMPT = Prompt(
    instruction="Classify the question. Say one of these: {labels}. " * 4, input_template="Question: {input}", cue="Label:"
)


def context(most: int) -> Any:
    task = SimpleNamespace(input_fields=("input",), labels=("person", "place"))
    renderer = Renderer(tiny_tokenizer(), max_tokens=most)
    answering = SimpleNamespace(render=lambda prompt, rows: renderer.render(prompt, [r.fields for r in rows], task.labels))
    return cast(
        Any, SimpleNamespace(seed=0, task=task, model=SimpleNamespace(renderer=renderer), answering=answering, can=EVERYTHING)
    )


def test_a_format_that_leaves_no_room_for_a_row_is_not_measured() -> None:
    everything = variants_of(context(4000), PROMPT)
    assert len(everything) >= 3
    renderer = context(4000).model.renderer
    lengths = sorted(len(renderer.render(v, [{"input": "x"}], ("person", "place"))[0].prompt_ids) for v in everything)
    most = (lengths[0] + lengths[-1]) // 2
    assert lengths[0] < lengths[-1]
    fewer = variants_of(context(most * 8 // 7 + 1), PROMPT)
    assert 0 < len(fewer) < len(everything)
    with pytest.raises(InputError):
        context(lengths[-1] // 2).model.renderer.render(everything[0], [{"input": "x"}], ("person", "place"))
    assert variants_of(context(lengths[0] // 2), PROMPT) == []
