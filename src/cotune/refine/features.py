"""What can be read off a prompt without a model: its format as numbers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cotune.prompt.prompt import Prompt

FORMAT_FEATURES = (
    "instruction",
    "instruction_length",
    "cue",
    "cue_length",
    "cue_ends_in_mark",
    "system",
    "empty_system",
    "names_field",
    "lists_labels",
    "input_first",
    "line_breaks",
    "own_label_words",
    "capital_label_words",
    "demonstrations",
    "demonstration_length",
)
"""Names of the columns of :func:`format_features`."""


def format_features(prompts: list[Prompt]) -> NDArray[np.float64]:
    """Format of each prompt, ``[prompts, features]``; lengths in characters and counts are on a logarithmic scale."""
    return np.array([_features(prompt) for prompt in prompts], dtype=np.float64).reshape(-1, len(FORMAT_FEATURES))


def _features(prompt: Prompt) -> list[float]:
    words = [word for _, word in prompt.label_words]
    own = [word for label, word in prompt.label_words if word != label]
    shown = sum(len(text) for shown in prompt.demonstrations for _, text in shown.fields)
    asked = f"{prompt.system or ''}\n{prompt.instruction}"
    return [
        float(bool(prompt.instruction)),
        math.log1p(len(prompt.instruction)),
        float(bool(prompt.cue)),
        math.log1p(len(prompt.cue)),
        float(prompt.cue.endswith((":", "=", "->", "?"))),
        float(bool(prompt.system)),
        float(prompt.system == ""),
        float(not prompt.input_template.startswith("{")),
        float("{labels}" in asked),
        float(prompt.order == "input_first"),
        float("\n" in prompt.separator),
        float(bool(own)),
        float(any(word[:1].isupper() for word in words)),
        math.log1p(len(prompt.demonstrations)),
        math.log1p(shown),
    ]
