"""A Ray cluster of small nodes on this machine, for tests; skips where Ray is not installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import cotune

TESTS = Path(__file__).parent
NODE = {"num_cpus": 1, "object_store_memory": 150 << 20}


@contextmanager
def nodes(count: int = 2) -> Iterator[Any]:
    """A cluster of nodes with one CPU each, whose workers find cotune and the tests' modules."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    places = [Path(cotune.__file__).parents[1], TESTS, TESTS / "executor", TESTS / "bundle"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        try:
            for _ in range(count - 1):
                cluster.add_node(**NODE)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
