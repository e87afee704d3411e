"""The small model behind llama-cpp-python's server, for peers that talk to an endpoint."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request

from contract import Job

NAME = "smollm2-135m"
CONTEXT = 8192
"""What the model was trained to read."""
_START_S = 120


def start_server(job: Job) -> str:
    """Start the server in this process group, which the harness ends as a whole, and return its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "model": job.extra["gguf"],
        "model_alias": NAME,
        "host": "127.0.0.1",
        "port": port,
        "n_ctx": CONTEXT,
        "n_threads": job.threads,
        "n_threads_batch": job.threads,
        "verbose": "false",
    }
    command = [job.extra["server_python"], "-m", "llama_cpp.server"]
    command += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    with (job.folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/v1"
    for _ in range(_START_S * 5):
        if server.poll() is not None:
            raise SystemExit(f"error: the server ended: {(job.folder / 'server.log').read_text(errors='replace')[-300:]}")
        try:
            urllib.request.urlopen(f"{url}/models", timeout=5).close()
            return url
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"error: the server did not start within {_START_S} s")
