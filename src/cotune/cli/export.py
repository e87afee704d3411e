"""``cotune export``: write a bundle for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotune.cli.program import Base, Bundle, Json, app, echo_json, option, tell
from cotune.cli.terminal import interrupted_by_sigterm

_CHECKED = ("transformers", "onnx", "merged")
"""Formats whose answers are always compared with the bundle's; of the others some files are."""
_SHORTENING = ("transformers", "onnx", "mlflow")
"""Formats with a program that shortens long rows as the bundle does."""


@app.command(
    epilog="Examples:\n\n  cotune export runs/mine --to merged --out mine-merged\n"
    "  cotune export runs/mine --to transformers --out mine-classifier\n"
    "  cotune export runs/mine --to gguf --out mine-gguf\n"
    "  cotune export runs/mine --to mlflow --out mine-mlflow"
)
@interrupted_by_sigterm()
def export(
    bundle: Bundle,
    out: Annotated[Path, option("FOLDER", "A new folder.")],
    to: Annotated[
        str,
        option(
            "FORMAT",
            "merged (one model), peft (base model and adapter), gguf-merged or gguf (the same for llama.cpp), mlflow (a "
            "pyfunc); if the bundle answers by a probe also transformers or onnx (a classifier), or for JSON and numbers "
            "transformers alone.",
        ),
    ] = "merged",
    base: Base = None,
    as_json: Json = False,
) -> None:
    """Export a bundle for transformers, ONNX, vLLM, llama.cpp or MLflow.

    Writes a folder with the model and a README.md that says how to run it, and checks that it answers as the bundle does.
    """
    from cotune.bundle.export.command import export_bundle
    from cotune.bundle.load import OpenedBundle
    from cotune.model.engine.settings import MOST_TOKENS
    from cotune.probe.readout import PROBE
    from cotune.prompt.prompt import held_rows

    written = export_bundle(bundle, out, to, base=base)  # type: ignore[arg-type]
    probe = PROBE if (written / PROBE).is_file() else None
    if as_json:
        echo_json({"out": str(written), "to": to, "probe": probe})
        return
    if probe and to not in ("transformers", "onnx"):
        typer.echo(
            f"The bundle answers by a probe ({probe}) on the model's hidden state. Programs that only generate text "
            "cannot use it; README.md has the code for it.",
            err=True,
        )
    opened = OpenedBundle.read(bundle)
    if to not in _SHORTENING and (most := opened.manifest.max_tokens) < MOST_TOKENS:
        typer.echo(
            f"The bundle shortens rows whose prompt is longer than {most} tokens. Other programs read whole rows, so "
            "shorten long ones yourself.",
            err=True,
        )
    if held := held_rows(len(opened.prompt.demonstrations), "folder"):
        typer.echo(held, err=True)
    checked = "It answers sample texts as the bundle does. " if to in _CHECKED else ""
    tell(f"Written: {written}. {checked}Its README.md says how to run it.")
