"""Export to an MLflow model, for ``mlflow.pyfunc.load_model`` and ``mlflow models serve``."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from cotune.bundle.export.check import check_pyfunc
from cotune.bundle.export.weights import copy_model
from cotune.bundle.load import OpenedBundle, base_folder, load
from cotune.bundle.manifest import CARD, Manifest, read_manifest
from cotune.bundle.place import atomic_folder
from cotune.bundle.snippets import code_block
from cotune.errors import not_installed
from cotune.files import write_text
from cotune.prompt.prompt import held_rows

_SCRIPT = Path(__file__).with_name("pyfunc.py")
_QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
_SOURCE = Path(__file__).parents[2]


@contextmanager
def pyfunc_model(bundle: Path, base: Path | None = None) -> Iterator[dict[str, Any]]:
    """Arguments of MLflow's ``save_model`` and ``log_model`` for a bundle; valid until the block ends.

    The model contains cotune's source and lists its requirements, so that it runs without cotune installed. Nothing is pickled.

    Args:
        bundle: the bundle's folder.
        base: folder of its base model, which is then included; otherwise the base model is found as by :func:`cotune.load`.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, ParamSchema, ParamSpec, Schema

    manifest = read_manifest(bundle)
    with tempfile.TemporaryDirectory() as aside:
        # MLflow keeps file names when it copies, and refuses links, such as those in the hub's cache.
        artifacts = {"bundle": shutil.copytree(bundle, f"{aside}/bundle")}
        if base is not None:
            artifacts["base"] = f"{aside}/base"
            copy_model(base, Path(aside) / "base")
        yield {
            "python_model": str(_SCRIPT),
            "artifacts": artifacts,
            "code_paths": [str(_SOURCE)],
            "pip_requirements": [*_requirements(), f"mlflow=={mlflow.__version__}"],
            # A cell may hold a number or a list, as in training.
            "signature": ModelSignature(
                inputs=Schema([ColSpec(AnyType(), name) for name in manifest.input_fields]),
                outputs=Schema([ColSpec(AnyType(), "answer")]),
                params=ParamSchema([ParamSpec("probabilities", "boolean", False)]),
            ),
            "metadata": {"cotune_bundle": manifest.id},
        }


def export_mlflow(bundle: Path, out: Path, base: str | Path | None = None) -> Path:
    """Write a bundle as an MLflow model folder with its base model, and check that it gives the same answers.

    Raises:
        InputError: MLflow is not installed, or the bundle or its base model is wrong.
        CotuneError: the model gives other answers than the bundle.
    """
    try:
        import mlflow.pyfunc
    except ImportError as error:
        raise not_installed("mlflow", "--to", error) from error
    opened = OpenedBundle.read(bundle)
    source = None if opened.has_endpoint else base_folder(opened, base)
    with atomic_folder(out) as temporary, quiet_mlflow():
        with pyfunc_model(bundle, source) as parts:
            mlflow.pyfunc.save_model(str(temporary), **parts)
        if source is not None:
            path = list(sys.path)
            try:
                # MLflow puts the model's own source on the path.
                found = mlflow.pyfunc.load_model(str(temporary))
            finally:
                sys.path[:] = path
            check_pyfunc(load(bundle, base=base), found)
        held = held_rows(len(opened.prompt.demonstrations), "folder")
        write_text(temporary / CARD, _card(opened.manifest) + (f"\n**{held}**\n" if held else ""))
    return out


@contextmanager
def quiet_mlflow(**settings: str) -> Iterator[None]:
    """Suppress warnings and logs of MLflow and its HTTP libraries; errors are still raised.

    Args:
        settings: defaults of MLflow's environment variables.
    """
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3.connectionpool")]
    before = [logger.level for logger in loggers]
    given = {name: value for name, value in (_QUIET | settings).items() if name not in os.environ}
    os.environ.update(given)
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # MLflow resets warning filters, so record the warnings and discard them.
        with warnings.catch_warnings(record=True):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        for name in given:
            os.environ.pop(name, None)


def _card(manifest: Manifest) -> str:
    """The README of the folder: how MLflow runs it."""
    fields = ", ".join(manifest.input_fields)
    rows = json.dumps([dict.fromkeys(manifest.input_fields, "...")])
    parts = (
        f"# {manifest.task}, for MLflow",
        f"From the cotune bundle `{manifest.id}`: {fields} in, {manifest.output.summary} out.",
        code_block(
            "python",
            "import mlflow",
            "",
            'model = mlflow.pyfunc.load_model("FOLDER")',
            f"print(model.predict({rows}))",
            f'print(model.predict({rows}, params={{"probabilities": True}}))',
        ),
        code_block(
            "sh",
            "mlflow models serve -m FOLDER --env-manager local --port 5000",
            "curl http://127.0.0.1:5000/invocations -H 'Content-Type: application/json' \\",
            f"  -d '{{\"dataframe_records\": {rows}}}'",
        ),
        "`--env-manager local` uses the installed packages; without it, MLflow installs those in `requirements.txt`. "
        "cotune itself is in `code/`.",
    )
    return "\n\n".join(parts) + "\n"


def _requirements() -> list[str]:
    """Requirements of cotune without extras."""
    needed = map(Requirement, metadata.requires("cotune") or ())
    return [str(each) for each in needed if each.marker is None]
