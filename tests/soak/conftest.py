"""Long tests, bounded in count and in time; ``pytest -m soak tests/soak`` runs them, and nothing else does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

for _room in ("bundle", "cycle"):
    sys.path.append(str(Path(__file__).parents[1] / _room))

from bundles import Bench, make_bench  # noqa: E402


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"))
