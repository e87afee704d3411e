"""A server that speaks S3, for tests of storage at a URL; skips where moto and s3fs are not installed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def bucket() -> Iterator[str]:
    """URL of an empty bucket; credentials and the server's address are in the environment, as on a node."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    from cotune.executor.storage import _opened

    _opened.cache_clear()
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "tests")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "tests-secret")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            # Instances are kept by their arguments, among which the address is not.
            s3fs.S3FileSystem.clear_instance_cache()
            name = f"cotune-{secrets.token_hex(4)}"
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
            yield f"s3://{name}"
    finally:
        server.stop()
