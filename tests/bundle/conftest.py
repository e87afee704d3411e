"""The bench is made once: it takes a second."""

from __future__ import annotations

import pytest
from bundles import Bench, make_bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"))
