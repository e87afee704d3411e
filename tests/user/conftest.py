"""The user's folder, made once: its two runs take some seconds."""

from __future__ import annotations

import pytest
from desk import Cotune, Desk, call, make_desk


@pytest.fixture
def cotune() -> Cotune:
    return call


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return make_desk(tmp_path_factory.mktemp("user"))
