"""A real language-model server for tests that are marked ``llama``: llama-cpp-python's."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from free_port import free_port


@contextmanager
def llama_server(model: Path, name: str, log: Path, *, adapter: Path | None = None, context: int = 512) -> Iterator[str]:
    """Serves a GGUF model, and an adapter on it, under a name on a free port; yields the base URL."""
    port = free_port()
    files = ["--model", str(model), "--model_alias", name, *(["--lora_path", str(adapter)] if adapter else [])]
    threads = ["--n_threads", "1", "--n_threads_batch", "1"]
    settings = ["--port", str(port), *threads, "--n_ctx", str(context), "--verbose", "false"]
    with log.open("wb") as stream:
        server = subprocess.Popen([sys.executable, "-m", "llama_cpp.server", *files, *settings], stdout=stream, stderr=stream)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        for _ in range(1000):
            assert server.poll() is None, log.read_text(errors="replace")
            try:
                urllib.request.urlopen(f"{url}/models", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            raise AssertionError(f"the server does not listen: {log.read_text(errors='replace')}")
        yield url
    finally:
        server.terminate()
        server.wait(120)
