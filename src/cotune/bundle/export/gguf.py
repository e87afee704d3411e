"""Export to GGUF files for llama.cpp and programs built on it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cotune.bundle.export.check import check_weights
from cotune.bundle.export.gguf_files import weights_in, write_adapter, write_model
from cotune.bundle.export.gguf_layout import Layout
from cotune.bundle.export.gguf_tokenizer import GgufTokenizer
from cotune.bundle.export.request import OLLAMA, REQUEST, Asking
from cotune.bundle.export.weights import copy_model, merge
from cotune.bundle.predictor import Predictor
from cotune.files import write_json, write_text

BASE, MERGED, MODELFILE = "base.gguf", "model.gguf", "Modelfile"
_ESCAPED = re.compile(r'["\\\x00-\x1f\x7f]')


@dataclass(frozen=True)
class GgufExport:
    """Writes the GGUF files of a bundle.

    The base model's file is made from the folder that the adapter was tuned on. This holds for the bundled model too, although
    it came from a GGUF file with 4-bit matrices: llama.cpp multiplies such matrices with activations rounded to 8 bits, which
    changes log-probabilities over ten times more than rounding the weights to float16 does (docs/export.md). Besides, the
    folder always exists, while that file would have to be fetched again.

    Attributes:
        predictor: the bundle, in float32.
        source: the base model's folder.
        adapter: the adapter's folder; None for the base model.
    """

    predictor: Predictor
    asking: Asking
    source: Path
    adapter: Path | None
    layout: Layout
    tokenizer: GgufTokenizer

    @classmethod
    def of(cls, predictor: Predictor, asking: Asking, source: Path, adapter: Path | None) -> GgufExport:
        """Prepare the files before anything is written; an :class:`InputError` names a part that GGUF does not support."""
        return cls(predictor, asking, source, adapter, Layout.of(source), GgufTokenizer.of(predictor.model.renderer))

    def cut(self, source: Path, adapter: Path | None) -> GgufExport:
        """The same files for a model and an adapter cut after the probe's layer."""
        return replace(self, source=source, adapter=adapter, layout=Layout.of(source))

    @property
    def adapter_file(self) -> str | None:
        return None if self.adapter is None else f"adapter-{self.predictor.adapter_id}.gguf"

    def options(self, *, merged: bool) -> str:
        """Options with which llama.cpp loads the files."""
        apart = f" --lora FOLDER/{self.adapter_file}" if self.adapter_file and not merged else ""
        return f"-m FOLDER/{MERGED if merged else BASE}{apart}"

    def write(self, out: Path) -> None:
        """Write base model and adapter to a file each, and check their answers."""
        dtype = write_model(self.source, out / BASE, self.layout, self.tokenizer, self.predictor.model.fingerprint[:16])
        if self.adapter is not None and self.adapter_file is not None:
            write_adapter(self.adapter, out / self.adapter_file, self.layout, self.asking.name)
        self._check(out / BASE, None if self.adapter_file is None else out / self.adapter_file, dtype)
        self._write_requests(out, BASE)

    def write_merged(self, out: Path) -> None:
        """Write a single file with the adapter added to the weights, and check its answers."""
        with tempfile.TemporaryDirectory(dir=out, prefix=".merged-") as name:
            folder = Path(name) / "model"
            merge(self.source, self.adapter, folder)
            dtype = write_model(folder, out / MERGED, self.layout, self.tokenizer, self.asking.name)
        self._check(out / MERGED, None, dtype)
        self._write_requests(out, MERGED)

    def _check(self, model: Path, adapter: Path | None, dtype: str) -> None:
        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory(dir=model.parent, prefix=".check-") as name:
            folder = Path(name) / "model"
            copy_model(self.source, folder, weights=False)
            save_file(weights_in(self.source, self.layout, model, adapter), folder / "model.safetensors", {"format": "pt"})
            check_weights(self.predictor, folder, dtype)

    def _write_requests(self, out: Path, model: str) -> None:
        write_json(out / REQUEST, self.request())
        # Ollama returns no raw states, and no longer supports adapters.
        if self.predictor.probe is not None or (model == BASE and self.adapter is not None):
            return
        write_json(out / OLLAMA, self.asking.ollama())
        local = self.predictor.model
        stop = local.tokenizer.convert_ids_to_tokens(local.renderer.stop_id)
        lines = [
            f"FROM ./{model}",
            'TEMPLATE "{{ .Prompt }}"',
            "PARAMETER temperature 0",
            "PARAMETER repeat_penalty 1",
            f"PARAMETER num_predict {self.asking.tokens}",
            f"PARAMETER num_ctx {local.settings.max_tokens + self.asking.tokens}",
            f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}",
        ]
        write_text(out / MODELFILE, "\n".join(lines) + "\n")

    def request(self) -> dict[str, Any]:
        """A request body for llama.cpp's server at ``/completion``, or at ``/embedding`` for a probe."""
        if self.predictor.probe is not None:
            return {"content": self.asking.text, "embd_normalize": -1}
        body: dict[str, Any] = {"prompt": self.asking.text, "temperature": 0, "n_predict": self.asking.tokens}
        if self.asking.words:
            body["grammar"] = label_grammar(self.asking.words)
            body["n_predict"] = self.asking.spelt_tokens
            if self.asking.label_bias:
                body["logit_bias"] = [list(pair) for pair in self.asking.label_bias]
        elif self.asking.held is not None:
            body["json_schema"] = dict(self.asking.held)
        return body


def label_grammar(words: Sequence[str]) -> str:
    """A grammar in GBNF, llama.cpp's notation, of exactly these words."""
    return "root ::= " + " | ".join(f'"{_ESCAPED.sub(_escape, word)}"' for word in words)


def _escape(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}" if match[0] < " " or match[0] == "\x7f" else f"\\{match[0]}"
