"""Code in pages begins with the imports that it needs, and no others."""

from __future__ import annotations

import ast
from collections.abc import Sequence

import pytest

from cotune.bundle.snippets import Ids, code_block, filled_lines, model_lines, probe_lines, prompt_lines, python_block, row_code


@pytest.mark.parametrize(
    ("lines", "imports"),
    [
        (prompt_lines(), ["import json"]),
        (filled_lines("pipeline", "'a'", "folder"), ["import sys"]),
        (["urlopen(Request(json.dumps({})))"], ["import json", "from urllib.request import Request, urlopen"]),
        (
            [*model_lines("AutoModel", "base", ", dtype=torch.float32", adapter="'a'"), *Ids(True, 2).lines()],
            ["import torch", "from peft import PeftModel", "from transformers import AutoModel, AutoTokenizer"],
        ),
        (probe_lines("FOLDER/probe.safetensors"), ["import json", "from safetensors import safe_open"]),
        (["found = model().numpy()", "text = 'torch.json' + \"sys.\" + '/x/json.py'"], []),
    ],
)
def test_a_block_imports_what_its_lines_use(lines: Sequence[str], imports: Sequence[str]) -> None:
    block = python_block(*lines)
    assert block.startswith("```python\n") and block.endswith("\n".join([*lines, "```"]))
    tree = ast.parse(block.removeprefix("```python\n").removesuffix("```"))
    found = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [line for line in found if line != "from pipeline import load"] == imports


def test_a_row_is_a_text_or_a_mapping() -> None:
    marks = {"title": "THE TITLE", "text": "THE TEXT", "text_2": "THE TEXT_2"}

    def of(*fields: str) -> dict[str, str]:
        return {name: marks[name] for name in fields}

    assert row_code(of("text")) == "'THE TEXT'" and row_code(of("text"), "it's") == '"it\'s"'
    assert row_code(of("title", "text")) == "{'title': 'THE TITLE', 'text': 'THE TEXT'}"
    lines = ["prompt_text = 'THE TEXT and THE TEXT_2'", *prompt_lines(of("text", "text_2"))[2:]]
    lines = [line.replace("'THE TEXT')", "'one')").replace("'THE TEXT_2')", "'two')") for line in lines]
    names: dict[str, str] = {}
    exec("\n".join(lines), names)
    assert names["prompt_text"] == "one and two"
    *_, title, text = prompt_lines(of("title", "text"), "Hi")
    assert title.startswith("prompt_text = prompt_text.replace(\"THE TITLE\", 'Hi')") and '"THE TEXT"' in text


def test_a_fence_is_longer_than_those_in_its_text() -> None:
    assert code_block("text", "a", "````") == "`````text\na\n````\n`````"
