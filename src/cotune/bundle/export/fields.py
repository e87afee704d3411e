"""The parts of an export whose answers are read off several fields: the description of the fields and the code for them."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

from cotune.bundle.predictor import Predictor
from cotune.files import write_json, write_text
from cotune.prompt import reads, truncate
from cotune.task.reading import cells
from cotune.task.values.tags import Tags

FIELDS, CODE = "fields.json", "fields"
"""Files of such an export: the type of the answers with their schema, and the folder of modules that make answers."""
_ABOUT = '"""Modules of cotune, which wrote this folder; only their imports of each other were changed."""\n'
# Every module of cotune in the package imports others by this form.
_IMPORT = re.compile(r"^(\s*from )(cotune(?:\.\w+)*\.)(\w+)(?= import )", re.MULTILINE)


def write_fields(predictor: Predictor, out: Path) -> None:
    """Write the type of the answers, and the modules of cotune that turn log-probabilities into answers.

    These modules need numpy alone, except for :func:`needs_validator`.
    """
    write_json(out / FIELDS, predictor.output.to_json())
    (out / CODE).mkdir()
    write_text(out / CODE / "__init__.py", _ABOUT)
    used = [inspect.getmodule(type(predictor.fields)), cells, truncate, *([reads] if predictor.reads_words else [])]
    for path, source in _sources([module for module in used if module is not None]).items():
        write_text(out / CODE / path, source)


def needs_validator(predictor: Predictor) -> bool:
    """Whether answers need the package jsonschema_rs, for keywords such as a pattern in a copied part."""
    return isinstance(predictor.fields, Tags) and predictor.fields.needs_validator


def _sources(modules: list[ModuleType]) -> dict[str, str]:
    """The source of modules and of those of cotune that they import, by file name, as parts of one package."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = Path(str(module.__file__))
        if path.name in found:
            continue
        source = path.read_text(encoding="utf-8")
        waiting += [importlib.import_module(f"{place}{name}") for _, place, name in _IMPORT.findall(source)]
        found[path.name] = _IMPORT.sub(r"\1.\3", source)
    return found
