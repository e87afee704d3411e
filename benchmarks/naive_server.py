"""The server that one writes first: transformers' ``generate`` for each request, one after the other.

    python benchmarks/naive_server.py BUNDLE --base FOLDER --dtype float32 --threads 2

It reads the same prompt as the bundle does, token by token, with the adapter merged into the weights, and answers
``POST /v1/chat/completions`` on a free port of 127.0.0.1, which it prints as JSON.
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cotune.bundle.manifest import read_manifest
from cotune.prompt.prompt import Prompt
from cotune.prompt.render import Renderer
from cotune.web import LOOPBACK, ReadyServer, listen


class Generator:
    """Answers one text at a time.

    Args:
        bundle: the bundle's folder; its task has one input field.
        base: the base model's folder.
        dtype: of the weights.
    """

    def __init__(self, bundle: Path, base: Path, dtype: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        manifest = read_manifest(bundle)
        self._prompt = Prompt.from_json(json.loads((bundle / "prompt.json").read_text(encoding="utf-8"))["prompt"])
        self._labels, (self._field,) = manifest.labels, manifest.input_fields
        self._tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), local_files_only=True)
        if manifest.adapter_id != "base":
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, bundle / "adapter").merge_and_unload()
        self._model = model.eval()
        longest = getattr(model.config, "max_position_embeddings", None) or manifest.max_tokens
        self._renderer = Renderer(self._tokenizer, max_tokens=min(manifest.max_tokens, longest - 32))
        self._lock = threading.Lock()

    def answer(self, text: str) -> str:
        """What the model writes, as a label where it is one."""
        with self._lock, torch.inference_mode():
            (row,) = self._renderer.render(self._prompt, [{self._field: text}], self._labels)
            ids = torch.tensor([row.prompt_ids])
            made = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max(map(len, row.completions)),
                do_sample=False,
                eos_token_id=self._renderer.stop_id,
                pad_token_id=self._renderer.stop_id,
            )[0, ids.shape[1] :].tolist()
        for label, completion in zip(self._labels, row.completions, strict=True):
            if tuple(made[: len(completion)]) == completion:
                return label
        written: str = self._tokenizer.decode(made, skip_special_tokens=True)
        return written


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    generator = Generator(given.bundle, given.base, given.dtype)

    async def chat(request: Request) -> Response:
        asked = await request.json()
        answer = await run_in_threadpool(generator.answer, asked["messages"][-1]["content"])
        return JSONResponse({"choices": [{"index": 0, "message": {"role": "assistant", "content": answer}}]})

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    with listen(0) as listening:
        address = f"http://{LOOPBACK}:{listening.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", ws="none")
        ReadyServer(config, lambda: print(json.dumps({"url": address}), flush=True)).run(sockets=[listening])


if __name__ == "__main__":
    main()
